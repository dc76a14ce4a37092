"""The sample workload: a small shop that has run for a while, and a namespace off limits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Final

from mcp_ops.lab.kubernetes.access import RESTRICTED
from mcp_ops.lab.kubernetes.controller import Controller, settled
from mcp_ops.lab.kubernetes.defaults import apply_defaults
from mcp_ops.lab.kubernetes.kinds import (
    AUTOSCALER,
    COUNTED,
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    EVENT,
    JOB,
    NAMESPACE,
    POD,
    STATEFUL_SET,
    Kind,
    Obj,
)
from mcp_ops.lab.kubernetes.managed import with_manager
from mcp_ops.lab.kubernetes.podstatus import is_over
from mcp_ops.lab.kubernetes.store import new_uid
from mcp_ops.lab.kubernetes.world import World

SHOP: Final = "shop"
BAD_TAG: Final = "2.8.0-broken"
AGE_S: Final = 3 * 86_400
LOG_LINES: Final = 60
LOG_EVERY_S: Final = 20
MOST_STEPS: Final = 50
LONG_S: Final = 5 * 3_600
SYNC: Final = "lab/shop-sync:3.2.0"
SYNC_BROKEN: Final = "lab/shop-sync:3.1.9-broken"

_RESOURCES: Final = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"memory": "256Mi"},
}

_DEPLOYMENTS: Final = (
    ("api", "lab/shop-api:2.7.1", 3, 30),
    ("worker", "lab/shop-worker:1.4.0", 2, 30),
    ("web", "lab/shop-web:5.0.2", 2, 600),
)


def seed(world: World, controller: Controller) -> None:
    """Fill the world, and let it run until everything is ready; none of it is logged."""
    present = world.store.now
    world.silent = True
    world.store.now = lambda: present() - AGE_S
    for name in ("default", SHOP, RESTRICTED):
        _add(world, NAMESPACE, "", name, {})
    for name, image, replicas, deadline in _DEPLOYMENTS:
        spec = {"replicas": replicas, "progressDeadlineSeconds": deadline}
        _add(world, DEPLOYMENT, SHOP, name, {**spec, **_template(name, image)})
    database = {"replicas": 1, "serviceName": "postgres"}
    template = _template("postgres", "lab/postgres:18.1")
    _add(world, STATEFUL_SET, SHOP, "postgres", {**database, **template})
    _add(world, DAEMON_SET, SHOP, "agent", _agent())
    _add(world, AUTOSCALER, SHOP, "api", _autoscaler())
    _add(
        world, DEPLOYMENT, RESTRICTED, "vault", {"replicas": 1, **_template("vault", "lab/vault:3")}
    )
    steps = 0
    while steps < 8 or not settled(world):
        controller.step()
        steps += 1
        if steps > MOST_STEPS:
            raise RuntimeError("the sample workload does not settle")
    _seed_jobs(world, controller, present)
    world.store.now = present
    for event in world.store.all(EVENT):
        world.store.remove(EVENT, event)
    _write_logs(world)
    world.store.forget_changes()
    world.silent = False


def add_namespace(world: World, name: str) -> None:
    """Another namespace, empty."""
    _add(world, NAMESPACE, "", name, {})


def _seed_jobs(world: World, controller: Controller, present: Callable[[], float]) -> None:
    """Let the cron jobs look back on their nights, and leave two jobs at work."""
    sync = _add(world, CRON_JOB, SHOP, "nightly-sync", _cron_job("0 2 * * *", SYNC_BROKEN))
    report = _cron_job("30 6 * * 1", "lab/shop-report:1.9.0")
    _add(world, CRON_JOB, SHOP, "report", {**report, "suspend": True})
    reindex = _cron_job("15 */6 * * *", "lab/shop-reindex:2.2.0", forever=True)
    reindex = _add(world, CRON_JOB, SHOP, "reindex", {**reindex, "concurrencyPolicy": "Forbid"})

    def go_to(ago_s: float) -> float:
        world.store.now = lambda: present() - ago_s
        return present() - ago_s

    def repair(edited: Obj) -> None:
        spec = edited["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        spec["containers"][0]["image"] = SYNC
        edited["metadata"]["generation"] += 1

    at = go_to(2 * 86_400)
    controller.cron_jobs.start(sync, at)
    _steps(controller)
    sync = world.store.get(CRON_JOB, SHOP, "nightly-sync") or sync
    sync = world.edit(CRON_JOB, sync, repair)
    at = go_to(86_400)
    controller.cron_jobs.start(sync, at)
    _steps(controller)
    at = go_to(LONG_S)
    controller.cron_jobs.start(reindex, at)
    backfill = _job("lab/shop-backfill:0.3.0", forever=True)
    _add(world, JOB, SHOP, "backfill", {**backfill, "backoffLimit": 2})
    _steps(controller)


def _steps(controller: Controller) -> None:
    """As many steps as a job needs to fail twice."""
    for _ in range(12):
        controller.step()


def _job(image: str, *, forever: bool = False) -> Obj:
    container: Obj = {"name": "main", "image": image, "resources": _RESOURCES}
    if forever:
        container["env"] = [{"name": "LAB_RUN", "value": "forever"}]
    pod = {"restartPolicy": "Never", "containers": [container]}
    return {"template": {"metadata": {}, "spec": pod}}


def _cron_job(schedule: str, image: str, *, forever: bool = False) -> Obj:
    template = {"metadata": {}, "spec": {**_job(image, forever=forever), "backoffLimit": 1}}
    return {"schedule": schedule, "jobTemplate": template}


def _autoscaler() -> Obj:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"}
    return {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 10}


def _agent() -> Obj:
    """A daemon set with an init container and two others."""
    spec = _template("agent", "lab/agent:0.9.4")
    pod = spec["template"]["spec"]
    pod["initContainers"] = [{"name": "setup", "image": "lab/agent-setup:0.9.4"}]
    pod["containers"].append({"name": "shipper", "image": "lab/log-shipper:3.3.0"})
    return spec


def _template(name: str, image: str) -> Obj:
    container = {
        "name": name,
        "image": image,
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": "LOG_LEVEL", "value": "info"}],
        "resources": _RESOURCES,
    }
    return {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
    }


def _add(world: World, kind: Kind, namespace: str, name: str, spec: Obj) -> Obj:
    now = world.store.timestamp()
    obj: Obj = {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {
            "name": name,
            "uid": new_uid(),
            "creationTimestamp": now,
            "labels": {"app": name} if spec else {},
        },
    }
    if spec:
        obj["metadata"]["namespace"] = namespace
        obj.update(spec=copy.deepcopy(spec), status={})
    if kind in COUNTED:
        obj["metadata"]["generation"] = 1
    apply_defaults(kind, obj)
    obj["metadata"]["managedFields"] = with_manager(None, obj, "delivery", "", now)
    return world.store.put(kind, obj)


def _write_logs(world: World) -> None:
    """Let every pod look back on some minutes of work."""
    now = world.store.now()
    for pod in world.store.all(POD):
        if is_over(pod):
            continue
        for back in range(LOG_LINES, 0, -1):
            for container in pod["spec"]["containers"]:
                at = now - back * LOG_EVERY_S
                world.output.serve(pod["metadata"]["uid"], container["name"], at)
