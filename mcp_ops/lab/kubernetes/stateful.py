"""StatefulSets and DaemonSets: pods with fixed names, replaced one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mcp_ops.lab.kubernetes.kinds import (
    DAEMON_SET,
    POD,
    STATEFUL_SET,
    Kind,
    Obj,
)
from mcp_ops.lab.kubernetes.owned import (
    create_pod,
    end_pod,
    pods_by_owner,
    random_suffix,
    without_zeros,
)
from mcp_ops.lab.kubernetes.podstatus import is_over, is_ready
from mcp_ops.lab.kubernetes.revisions import REVISION_LABEL, former, pod_label, sync_revisions
from mcp_ops.lab.kubernetes.troubles import NODES
from mcp_ops.lab.kubernetes.world import World, controller_uid

_LONGEST_SLOT: Final = 10
SLOT_LABEL: Final = "apps.kubernetes.io/pod-index"


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What a set has: its pods by slot, and the revision they shall be of."""

    revision: str
    pods: dict[int, Obj]

    @property
    def updated(self) -> list[Obj]:
        """The pods that are of the wanted revision."""
        return [pod for pod in self.pods.values() if _revision(pod) == self.revision]

    @property
    def ready(self) -> list[Obj]:
        """The pods that serve."""
        return [pod for pod in self.pods.values() if is_ready(pod)]


def _revision(pod: Obj) -> str:
    return str(pod["metadata"].get("labels", {}).get(REVISION_LABEL, ""))


def _slot(pod: Obj) -> int:
    """The place of a pod in its set; its name tells it where a client took the label away."""
    text = (pod["metadata"].get("labels") or {}).get(SLOT_LABEL, "")
    text = text if text.isdecimal() else pod["metadata"]["name"].rpartition("-")[2]
    return int(text) if text.isdecimal() and len(text) < _LONGEST_SLOT else -1


def sync_stateful(world: World) -> None:
    """One step of every StatefulSet and DaemonSet."""
    _clear(world)
    owned = pods_by_owner(world)
    for kind in (STATEFUL_SET, DAEMON_SET):
        for workload in world.store.all(kind):
            _sync(world, kind, workload, owned[workload["metadata"]["uid"]])


def _clear(world: World) -> None:
    """Take away the pods that failed, an evicted one for example: their names are needed."""
    sets = {o["metadata"]["uid"] for k in (STATEFUL_SET, DAEMON_SET) for o in world.store.all(k)}
    for pod in world.store.all(POD):
        if is_over(pod) and controller_uid(pod) in sets:
            world.store.remove(POD, pod)
            world.effect("controller.pod_deleted", POD, pod, uid=pod["metadata"]["uid"])


def _sync(world: World, kind: Kind, workload: Obj, pods: list[Obj]) -> None:
    if "deletionTimestamp" in workload["metadata"]:
        return
    sync_revisions(world, kind, workload)
    revision = pod_label(kind, workload)
    slots = {_slot(pod): pod for pod in pods if _slot(pod) >= 0}
    state = _State(revision=revision, pods=slots)
    wanted = workload["spec"]["replicas"] if kind is STATEFUL_SET else len(NODES)
    _step(world, kind, workload, state, wanted)
    if kind is STATEFUL_SET:
        _tell_stateful(world, workload, state)
    else:
        _tell_daemon(world, workload, state)


def _step(world: World, kind: Kind, workload: Obj, state: _State, wanted: int) -> None:
    """Do the one thing that is next: end what is too many, fill a gap, replace one old pod."""
    surplus = sorted((slot for slot in state.pods if slot >= wanted), reverse=True)
    if surplus:
        end_pod(world, kind, workload, state.pods.pop(surplus[0]))
        return
    gaps = [slot for slot in range(wanted) if slot not in state.pods]
    ordered = kind is STATEFUL_SET
    if gaps and not (ordered and len(state.ready) < len(state.pods)):
        for slot in gaps[:1] if ordered else gaps:
            _fill(world, kind, workload, state, slot)
        return
    if gaps or _by_hand(workload):
        return
    kept = _partition(kind, workload)
    olds = [s for s, pod in state.pods.items() if s >= kept and _revision(pod) != state.revision]
    stuck = [slot for slot in olds if not is_ready(state.pods[slot])]
    if olds and (stuck or len(state.ready) == wanted):
        end_pod(world, kind, workload, state.pods.pop(max(stuck or olds)))


def _fill(world: World, kind: Kind, workload: Obj, state: _State, slot: int) -> None:
    name = workload["metadata"]["name"]
    pod_name = f"{name}-{slot if kind is STATEFUL_SET else random_suffix()}"
    if world.store.get(POD, workload["metadata"]["namespace"], pod_name) is not None:
        return
    owner, revision = workload, state.revision
    if slot < _partition(kind, workload):
        owner, revision = former(world, workload, state.revision)
    labels = {REVISION_LABEL: revision, SLOT_LABEL: str(slot)}
    state.pods[slot] = create_pod(world, kind, owner, pod_name, labels)


def _by_hand(workload: Obj) -> bool:
    """Whether pods are replaced only when somebody deletes them; nobody says then that all are."""
    return (workload["spec"].get("updateStrategy") or {}).get("type") == "OnDelete"


def _partition(kind: Kind, workload: Obj) -> int:
    """The pods below this number keep the version that they have."""
    strategy = workload["spec"].get("updateStrategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    return int(rolling.get("partition") or 0) if kind is STATEFUL_SET else 0


def _tell_stateful(world: World, workload: Obj, state: _State) -> None:
    before = (workload.get("status") or {}).get("currentRevision", state.revision)
    ready = len([pod for pod in state.pods.values() if is_ready(pod)])
    complete = len(state.updated) == len(state.pods) == ready == workload["spec"]["replicas"]
    done = before == state.revision or (complete and not _by_hand(workload))
    status = {
        "observedGeneration": workload["metadata"].get("generation", 1),
        "replicas": len(state.pods),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "updatedReplicas": len(state.updated),
        "currentReplicas": len(state.updated) if done else len(state.pods) - len(state.updated),
        "currentRevision": state.revision if done else before,
        "updateRevision": state.revision,
        "collisionCount": 0,
    }
    world.edit(STATEFUL_SET, workload, lambda one: one.update(status=without_zeros(status)))


def _tell_daemon(world: World, workload: Obj, state: _State) -> None:
    ready = len(state.ready)
    status = {
        "observedGeneration": workload["metadata"].get("generation", 1),
        "desiredNumberScheduled": len(NODES),
        "currentNumberScheduled": len(state.pods),
        "numberMisscheduled": 0,
        "numberReady": ready,
        "numberAvailable": ready,
        "numberUnavailable": len(NODES) - ready,
        "updatedNumberScheduled": len(state.updated),
    }
    world.edit(DAEMON_SET, workload, lambda one: one.update(status=without_zeros(status)))
