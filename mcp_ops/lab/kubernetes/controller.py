"""The controllers: one step moves everything that moves, and a task makes a step now and then."""

from __future__ import annotations

import anyio

from mcp_ops.lab.kubernetes.autoscaling import sync_autoscalers
from mcp_ops.lab.kubernetes.cronjobs import CronJobs
from mcp_ops.lab.kubernetes.deployments import Deployments
from mcp_ops.lab.kubernetes.ending import begin_termination
from mcp_ops.lab.kubernetes.jobs import Jobs
from mcp_ops.lab.kubernetes.kinds import DEPLOYMENT, OWNED, OWNERS, POD
from mcp_ops.lab.kubernetes.kubelet import Kubelet
from mcp_ops.lab.kubernetes.replicasets import sync_replica_sets
from mcp_ops.lab.kubernetes.stateful import sync_stateful
from mcp_ops.lab.kubernetes.world import World, controller_uid


class Controller:
    """What works on the objects without being asked."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kubelet = Kubelet(world)
        self._deployments = Deployments(world)
        self._jobs = Jobs(world)
        self.cron_jobs = CronJobs(world)

    def step(self) -> None:
        """One step: pods move on, then their owners see it and act."""
        self._kubelet.step()
        self._collect_garbage()
        sync_autoscalers(self._world)
        self._deployments.roll()
        sync_replica_sets(self._world)
        self._deployments.tell()
        sync_stateful(self._world)
        self._jobs.sync()
        self.cron_jobs.sync()

    async def run(self, settle_s: float) -> None:
        """Make a step every `settle_s` seconds until cancelled."""
        while True:
            await anyio.sleep(settle_s)
            self.step()

    def _collect_garbage(self) -> None:
        """Remove what belongs to an owner that is gone."""
        store = self._world.store
        alive = {obj["metadata"]["uid"] for kind in OWNERS for obj in store.all(kind)}
        for kind in OWNED:
            for obj in store.all(kind):
                owner = controller_uid(obj)
                if not owner or owner in alive or "deletionTimestamp" in obj["metadata"]:
                    continue
                if kind is POD:
                    begin_termination(self._world, obj)
                else:
                    store.remove(kind, obj)
                    alive.discard(obj["metadata"]["uid"])
                self._world.effect("controller.garbage_collected", kind, obj)


def settled(world: World) -> bool:
    """Whether every deployment is complete; the seed is set up until it is."""
    return all(
        any(
            one["type"] == "Progressing" and one["reason"] == "NewReplicaSetAvailable"
            for one in (deployment.get("status") or {}).get("conditions", [])
        )
        for deployment in world.store.all(DEPLOYMENT)
    )
