"""How far a change of a job is, by its status alone.

A run is told from the one before by its id, its start or the last success: whichever the status
has. Whether a run was started by this call the service does not say, unless its answer named it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from mcp_ops.adapters.http_jobs.looking import Look
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.clock import rfc3339

RUN: Final = "run"
CANCEL: Final = "cancel"
SUSPEND: Final = "suspend"
RESUME: Final = "resume"
_End = Literal["pending", "verified", "failed", "superseded"]


def another_run(plan: Plan, look: Look) -> bool:
    """Whether the newest run is another one than when the plan was made."""
    before = plan.values["marks"]
    return any(now and now != then for now, then in zip(look.marks, before, strict=True))


def took(plan: Plan, look: Look) -> bool:
    """Whether the status shows the effect that was planned."""
    if plan.action == RUN:
        return another_run(plan, look) or (bool(look.running) and not plan.values["running"])
    if plan.action == CANCEL:
        return look.running is False
    return look.suspended is (plan.action == SUSPEND)


def follow(plan: Plan, begun: Begun, look: Look) -> Progress:
    """How far it is."""
    judge = {RUN: _run, CANCEL: _cancel}.get(plan.action, _hold)
    state, why = judge(plan, begun, look)
    return Progress(
        state=state,
        why=why,
        done=int(state == "verified"),
        wanted=1,
        evidence=seen(look),
    )


def seen(look: Look, suffix: str = "") -> dict[str, Any]:
    """What a look tells people."""
    found: dict[str, Any] = {"running": look.running}
    if look.run_id:
        found["run_id"] = look.run_id
    if look.started is not None:
        found["last_start"] = rfc3339(look.started)
    if look.last_success is not None:
        found["last_success"] = rfc3339(look.last_success)
    if look.suspended is not None:
        found["suspended"] = look.suspended
    return {f"{key}{suffix}": value for key, value in found.items()}


def _run(plan: Plan, begun: Begun, look: Look) -> tuple[_End, str]:
    if look.running is None:
        return "pending", "its status does not say whether it runs"
    if _other(plan, begun, look):
        return "superseded", "Another run began after this one; how this one ended is not shown."
    if look.running:
        age = look.age_s()
        return "pending", "it runs" + (f", since {age} seconds" if age is not None else "")
    if not another_run(plan, look):
        return "pending", "its status does not show the run yet"
    return _ended(plan, look)


def _ended(plan: Plan, look: Look) -> tuple[_End, str]:
    if look.failed:
        return "failed", f"The run failed: {look.said}" if look.said else "The run failed."
    if look.succeeded or (look.marks[2] and look.marks[2] != plan.values["marks"][2]):
        return "verified", ""
    return "superseded", "The run ended; its status does not say how."


def _other(plan: Plan, begun: Begun, look: Look) -> bool:
    ours, now = begun.id, look.run_id
    return bool(ours and now and now not in (ours, plan.values["marks"][0]))


def _cancel(plan: Plan, begun: Begun, look: Look) -> tuple[_End, str]:
    if look.running is False:
        return "verified", ""
    if look.running and another_run(plan, look):
        return "superseded", "It runs again: another run began after this one was ended."
    return "pending", "it still runs" if look.running else "its status does not say whether it runs"


def _hold(plan: Plan, begun: Begun, look: Look) -> tuple[_End, str]:
    if took(plan, look):
        return "verified", ""
    if look.suspended is None:
        return "pending", "its status does not say whether its schedule is held"
    return "pending", "its schedule is " + ("held" if look.suspended else "not held")
