"""How far a change is that makes a deployment, and one that acts on the running one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from mcp_ops.adapters.railway.changing import Driver, Made, deployment_of, newer, seen
from mcp_ops.adapters.railway.state import GONE, Deployment, Service, wanted
from mcp_ops.capabilities.changes import Begun, Plan, Progress

Matches = Callable[[Plan, Deployment], bool]
State = Literal["pending", "verified", "failed", "superseded"]

_PENDING: Final = {
    "QUEUED": "it is queued at Railway",
    "INITIALIZING": "it is not built yet",
    "BUILDING": "it is being built",
    "DEPLOYING": "it is starting",
    "WAITING": "it waits for checks or another service",
    "NEEDS_APPROVAL": "it waits for an approval at Railway",
}


def trace_new(plan: Plan, service: Service, matches: Matches) -> Made | None:
    """The deployment that the change made, by what it is: the first one that was not there."""
    for one in reversed(newer(plan, service)):
        if matches(plan, one):
            return Made(id=one.id, evidence=seen(one))
    return None


def follow_new(
    driver: Driver, plan: Plan, begun: Begun, service: Service, matches: Matches
) -> Progress:
    """Verified when the deployment of the change runs, steadily, with all its instances."""
    later = newer(plan, service)
    mine = deployment_of(service, begun.id) if begun.id else None
    if mine is None and not begun.id:
        made = trace_new(plan, service, matches)
        mine = deployment_of(service, made.id) if made is not None else None
    if mine is None:
        if begun.id and len(later) > 1:
            return Progress(state="superseded", why="Many newer deployments were made since.")
        return Progress(state="pending", why="Railway does not show the deployment yet")
    after = [one for one in later if one.created > mine.created and one.status not in _LOST]
    state, why = _judge(driver, plan, mine, replaced=bool(after))
    return progress(state, why, mine, of=wanted(mine) or plan.values["wanted"])


def progress(state: State, why: str, one: Deployment, *, of: int) -> Progress:
    """A look, with what it saw of a deployment."""
    return Progress(state=state, why=why, done=len(one.running), wanted=of, evidence=seen(one))


_LOST: Final = frozenset({"FAILED", "SKIPPED"})


def _judge(driver: Driver, plan: Plan, mine: Deployment, *, replaced: bool) -> tuple[State, str]:
    if replaced or mine.status in ("REMOVED", "REMOVING"):
        return "superseded", "The service was deployed again after this change."
    if mine.status in _PENDING:
        return "pending", f"the deployment is {mine.status}: {_PENDING[mine.status]}"
    if mine.status == "FAILED":
        return "failed", "The deployment failed to build or to start; its build log says why."
    if mine.status in GONE:
        return "failed", "Railway skipped the deployment."
    return running(driver, mine, of=wanted(mine) or plan.values["wanted"])


def running(driver: Driver, one: Deployment, *, of: int, mark: str = "") -> tuple[State, str]:
    """Whether a deployment that was started runs, and does not end right after."""
    key = f"{one.id}{mark}"
    if one.status == "SLEEPING":
        return "verified", ""
    if one.status == "CRASHED":
        return "failed", "The deployment crashed after it started; its log says why."
    if one.status != "SUCCESS":
        return "pending", f"the deployment is {one.status}"
    whole = len(one.running) >= of
    if driver.steady(key, whole):
        return "verified", ""
    if whole:
        return "pending", f"all {of} instances run, not yet for {driver.steady_s:g} s"
    return "pending", f"{len(one.running)} of {of} instances run"
