"""How far a rollout is, by the rules of `kubectl rollout status` (docs/targets/kubernetes.md)."""

from __future__ import annotations

from dataclasses import dataclass

from mcp_ops.adapters.kubernetes.fields import Obj, condition
from mcp_ops.adapters.kubernetes.pods import Pod
from mcp_ops.adapters.kubernetes.workloads import (
    DAEMON_SET,
    DEPLOYMENT,
    NO_PROGRESS,
    STATEFUL_SET,
    Counts,
    Kind,
    counts_of,
    on_delete,
    partition_of,
    paused,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """How far a rollout is. `why` is what is still missing, `blocked` why new instances would not
    be made at all (else empty), `kept` how many the workload leaves on their old version."""

    generation: int
    observed_generation: int
    desired: int
    updated: int
    ready: int
    available: int
    kept: int
    done: bool
    failed: bool
    blocked: str
    why: str
    pods: list[Pod]


def judge(kind: Kind, workload: Obj, pods: list[Pod]) -> RolloutState:
    """The state of the rollout to the newest generation."""
    counts = counts_of(kind, workload)
    failed = _failed(kind, workload, counts)
    missing = failed or _missing(kind, workload, counts)
    return RolloutState(
        generation=counts.generation,
        observed_generation=counts.observed,
        desired=counts.desired,
        updated=counts.updated,
        ready=counts.ready,
        available=counts.available,
        kept=min(partition_of(kind, workload), counts.desired),
        done=not missing,
        failed=bool(failed),
        blocked=blocked(kind, workload, counts),
        why=missing or "complete",
        pods=pods,
    )


def blocked(kind: Kind, workload: Obj, counts: Counts) -> str:
    """Why a restart would replace nothing now; empty when it would."""
    if paused(workload):
        return "its rollouts are paused"
    if on_delete(kind, workload):
        return "its update strategy is OnDelete: instances are replaced only when deleted"
    if counts.desired == 0:
        return "it has no instances: zero are wanted"
    if partition_of(kind, workload) >= counts.desired > 0:
        return "its partition keeps every instance on the old version"
    return ""


def _failed(kind: Kind, workload: Obj, counts: Counts) -> str:
    if kind is not DEPLOYMENT or counts.generation > counts.observed:
        return ""
    if condition(workload, "Progressing").get("reason") == NO_PROGRESS:
        return "the rollout made no progress within its deadline"
    return ""


def _missing(kind: Kind, workload: Obj, counts: Counts) -> str:
    if counts.generation > counts.observed:
        return "the platform has not looked at the new generation yet"
    if kind is STATEFUL_SET:
        return _missing_stateful(workload, counts)
    if counts.updated < counts.desired:
        return f"{counts.updated} of {counts.desired} instances are of the new generation"
    if kind is not DAEMON_SET and counts.olds > 0:
        return f"{counts.olds} old instances have not ended"
    wanted = counts.desired if kind is DAEMON_SET else counts.updated
    if counts.available < wanted:
        return f"{counts.available} of {wanted} new instances are available"
    return ""


def _missing_stateful(workload: Obj, counts: Counts) -> str:
    if counts.ready < counts.desired:
        return f"{counts.ready} of {counts.desired} instances are ready"
    # `currentRevision` says nothing more: it moves when all instances are available, and never
    # where they are replaced by hand (OnDelete).
    wanted = max(counts.desired - partition_of(STATEFUL_SET, workload), 0)
    if counts.updated < wanted:
        return f"{counts.updated} of {wanted} instances are of the new generation"
    return ""
