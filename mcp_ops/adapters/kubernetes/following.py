"""How far a change is that replaces instances: by generation, and by which pods are others."""

from __future__ import annotations

from typing import Any, Final, Literal

from mcp_ops.adapters.kubernetes.changing import names_of
from mcp_ops.adapters.kubernetes.pods import Pod
from mcp_ops.adapters.kubernetes.rollout import RolloutState
from mcp_ops.capabilities.changes import Begun, Plan, Progress

_HOPELESS: Final = frozenset({"crash_loop", "image_pull", "oom_killed"})
_End = Literal["pending", "verified", "failed", "superseded"]


def follow_replacement(plan: Plan, begun: Begun, now: RolloutState) -> Progress:
    """Verified when every instance that is wanted is another one than before, and ready."""
    before = set(plan.values["uids"])
    fresh = [pod for pod in now.pods if pod.uid not in before]
    old = [pod for pod in now.pods if pod.uid in before]
    ready = [pod for pod in fresh if pod.ready]
    state, why = _judge(begun, now, fresh=fresh, ready=len(ready), old=len(old))
    return Progress(
        state=state,
        why=why,
        done=len(ready),
        wanted=now.desired,
        evidence={**seen(now), "old_instances_left": len(old), "ages_s": ages(fresh)},
    )


def seen(now: RolloutState) -> dict[str, Any]:
    """What a look tells people of the workload's instances."""
    return {"observed_generation": now.observed_generation, "instances": names_of(now.pods)}


def ages(pods: list[Pod]) -> dict[str, int]:
    """The ages of instances in seconds, of the first ten by name."""
    return {pod.name: pod.age_s for pod in sorted(pods, key=lambda pod: pod.name)[:10]}


def _judge(
    begun: Begun, now: RolloutState, *, fresh: list[Pod], ready: int, old: int
) -> tuple[_End, str]:
    broken = [pod for pod in fresh if pod.trouble in _HOPELESS]
    if str(now.generation) != begun.version:
        return "superseded", "The workload was changed again after this change."
    if now.done and old <= now.kept and ready >= now.desired - now.kept:
        return "verified", ""
    if now.failed:
        return "failed", "The rollout made no progress within the platform's deadline."
    if broken:
        return "failed", f"{len(broken)} new instances don't start: {broken[0].trouble}."
    if now.done:
        return "pending", f"{old} old instances have not ended"
    return "pending", now.why
