"""ReplicaSets: as many pods as asked for."""

from __future__ import annotations

from typing import Final

from mcp_ops.lab.kubernetes.kinds import REPLICA_SET, Obj
from mcp_ops.lab.kubernetes.owned import (
    create_pod,
    end_pod,
    is_available,
    pods_by_owner,
    random_suffix,
    without_zeros,
)
from mcp_ops.lab.kubernetes.podstatus import is_ready
from mcp_ops.lab.kubernetes.world import World

HASH_LABEL: Final = "pod-template-hash"
# The lab's cluster is full then; a number without bound would take the machine down.
MOST_PODS: Final = 1_000


def sync_replica_sets(world: World) -> None:
    """Create and end pods until each ReplicaSet has its number; tell its status."""
    owned = pods_by_owner(world)
    for replica_set in world.store.all(REPLICA_SET):
        pods = owned[replica_set["metadata"]["uid"]]
        missing = min(replica_set["spec"]["replicas"], MOST_PODS) - len(pods)
        for _ in range(missing):
            name = f"{replica_set['metadata']['name']}-{random_suffix()}"
            pods.append(create_pod(world, REPLICA_SET, replica_set, name, {}))
        for pod in sorted(pods, key=_worth)[: max(-missing, 0)]:
            end_pod(world, REPLICA_SET, replica_set, pod)
            pods.remove(pod)
        _tell(world, replica_set, pods)


def _worth(pod: Obj) -> tuple[bool, int]:
    """The order in which pods go: those not ready first, then the newest."""
    return is_ready(pod), -int(pod["metadata"]["resourceVersion"])


def _tell(world: World, replica_set: Obj, pods: list[Obj]) -> None:
    wait = replica_set["spec"].get("minReadySeconds", 0)
    status = {
        "replicas": len(pods),
        "fullyLabeledReplicas": len(pods),
        "readyReplicas": sum(is_ready(pod) for pod in pods),
        "availableReplicas": sum(is_available(world, pod, wait) for pod in pods),
        "observedGeneration": replica_set["metadata"].get("generation", 1),
    }
    world.edit(REPLICA_SET, replica_set, lambda rs: rs.update(status=without_zeros(status)))
