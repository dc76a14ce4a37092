"""How far the change of a workload is: by generation, by the rollout, by which pods there are."""

from __future__ import annotations

from typing import Any, Final, Literal

from mcp_ops.adapters.kubernetes.changing import (
    Seen,
    ages_of,
    look,
    names_of,
    revision_evidence,
)
from mcp_ops.adapters.kubernetes.pods import Pod
from mcp_ops.adapters.kubernetes.rollout import RolloutState
from mcp_ops.adapters.kubernetes.site import Site
from mcp_ops.capabilities.changes import Begun, Plan, Progress

AGAIN: Final = "The workload was changed again after this change."
_HOPELESS: Final = frozenset({"crash_loop", "image_pull", "oom_killed"})
_LATE: Final = "The rollout made no progress within the platform's deadline."
_End = Literal["pending", "verified", "failed", "superseded"]
_Judged = tuple[_End, str]


async def follow_replacement(site: Site, plan: Plan, begun: Begun) -> Progress:
    """Verified when every instance that is wanted is another one than before, and ready."""
    seen = await look(site, plan.name)
    before = set(plan.values["uids"])
    fresh = [pod for pod in seen.pods if pod.uid not in before]
    old = [pod for pod in seen.pods if pod.uid in before]
    ready = [pod for pod in fresh if pod.ready]
    state, why = _replaced(begun, seen.now, fresh=fresh, ready=len(ready), old=len(old))
    more = {"old_instances_left": len(old), "ages_s": ages_of(fresh)}
    return _progress(seen, state, why, done=len(ready), more=more)


async def follow_rollout(site: Site, plan: Plan, begun: Begun) -> Progress:
    """Verified when the rollout is complete and no instance ends any more; instances that were
    of the wanted version already may stay."""
    seen = await look(site, plan.name)
    now, before = seen.now, set(plan.values["uids"])
    fresh = [pod for pod in seen.pods if pod.uid not in before]
    state, why = _rolled_out(begun, now, fresh)
    more = {"new_instances": len(fresh), "ages_s": ages_of(seen.pods)}
    return _progress(seen, state, why, done=min(now.ready, now.updated), more=more)


async def follow_count(site: Site, plan: Plan, begun: Begun) -> Progress:
    """Verified when as many instances as wanted are there, ready, and none is too much."""
    seen = await look(site, plan.name)
    before = set(plan.values["uids"])
    fresh = [pod for pod in seen.pods if pod.uid not in before]
    # Of more pods than were read, the workload's own count has to do.
    there = seen.now.ready if seen.family.cut else len(seen.pods)
    state, why = _counted(begun, seen.now, fresh, there=there, wanted=int(plan.values["replicas"]))
    return _progress(seen, state, why, done=seen.now.ready, more={"ages_s": ages_of(seen.pods)})


def _progress(seen: Seen, state: _End, why: str, *, done: int, more: dict[str, Any]) -> Progress:
    evidence = {
        "observed_generation": seen.now.observed_generation,
        "instances": names_of(seen.pods),
        **revision_evidence(seen.kind, seen.workload, "revision"),
        **more,
    }
    return Progress(state=state, why=why, done=done, wanted=seen.now.desired, evidence=evidence)


def _replaced(
    begun: Begun, now: RolloutState, *, fresh: list[Pod], ready: int, old: int
) -> _Judged:
    if str(now.generation) != begun.version:
        return "superseded", AGAIN
    if now.done and old <= now.kept and ready >= now.desired - now.kept:
        return "verified", ""
    if hopeless := _hopeless(now, fresh):
        return hopeless
    if now.done:
        return "pending", f"{old} old instances have not ended"
    return "pending", now.why


def _rolled_out(begun: Begun, now: RolloutState, fresh: list[Pod]) -> _Judged:
    if str(now.generation) != begun.version:
        return "superseded", AGAIN
    ending = sum(pod.ending for pod in now.pods)
    if now.done and not ending and now.ready >= now.desired:
        return "verified", ""
    if hopeless := _hopeless(now, fresh):
        return hopeless
    if not now.done:
        return "pending", now.why
    if ending:
        return "pending", f"{ending} old instances have not ended"
    return "pending", f"{now.ready} of {now.desired} instances are ready"


def _counted(
    begun: Begun, now: RolloutState, fresh: list[Pod], *, there: int, wanted: int
) -> _Judged:
    if str(now.generation) != begun.version or now.desired != wanted:
        return "superseded", AGAIN
    observed = now.observed_generation >= now.generation
    if observed and there == now.ready == wanted:
        return "verified", ""
    if there > wanted:
        return "pending", f"{there - wanted} instances have not ended"
    if hopeless := _hopeless(now, fresh):
        return hopeless
    return "pending", f"{now.ready} of {wanted} instances are ready"


def _hopeless(now: RolloutState, fresh: list[Pod]) -> _Judged | None:
    if now.failed:
        return "failed", _LATE
    broken = [pod for pod in fresh if pod.trouble in _HOPELESS]
    if broken:
        return "failed", f"{len(broken)} new instances don't start: {broken[0].trouble}."
    return None
