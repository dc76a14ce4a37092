"""Restart, stop and start of a unit: asked for once, and followed by what systemd shows.

systemd gives each start of a unit an id of its own (InvocationID). A plan holds the one that was
looked at: another one means that somebody else acted meanwhile, except where systemd restarted the
unit by itself, which its counter of automatic restarts (NRestarts) tells.
"""

from __future__ import annotations

import re
from typing import Any, Final

import anyio

from mcp_ops.adapters.systemd.commands import Commands
from mcp_ops.adapters.systemd.marks import Mark, Marks
from mcp_ops.adapters.systemd.units import EXITED, Unit, get_unit
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import Conflict, Failed, Rejected, Upstream
from mcp_ops.wire.marked import end_left_over

RESTART: Final = "restart"
STOP: Final = "stop"
START: Final = "start"
_JOB: Final = re.compile(r"anchor job (\d{1,10}) ")


def plan_restart(unit: Unit) -> Plan:
    """Stop and start it; raises `Conflict` for one that does not run and did not fail."""
    if unit.active == "inactive" and not unit.moving:
        raise Conflict(
            "The unit is stopped: a restart would replace nothing.",
            hint="Start it with start_deployment.",
        )
    return _plan(RESTART, unit, lines=[f"Restart {unit.name}: it is away for a moment."])


def plan_stop(unit: Unit) -> Plan:
    """Stop it until somebody starts it."""
    lines = [f"Stop {unit.name}: it serves nobody until it is started."]
    if unit.triggered_by:
        lines.append(f"It starts again by itself when {unit.triggered_by} asks for it.")
    gone = unit.active in ("inactive", "failed") and not unit.moving
    return _plan(
        STOP,
        unit,
        lines=lines,
        undo=Undo(tool="start_deployment", arguments={"name": unit.name.lower()}),
        nothing=f"it is {unit.active} already" if gone else "",
    )


def plan_start(unit: Unit) -> Plan:
    """Start it; the failures that systemd remembers are forgotten first."""
    lines = [f"Start {unit.name}."]
    if unit.active == "failed":
        lines.append("Its failure is reset first, so that the limit of starts does not refuse it.")
    return _plan(
        START,
        unit,
        lines=lines,
        undo=Undo(tool="stop_deployment", arguments={"name": unit.name.lower()}),
        nothing="it is active already" if unit.up else "",
    )


def _plan(action: str, unit: Unit, *, lines: list[str], **more: Any) -> Plan:
    if unit.load == "masked":
        raise Rejected(
            "The unit is masked: somebody forbade that it runs.",
            hint="A person has to unmask it on the machine.",
        )
    if (unit.no_stop and action != START) or (unit.no_start and action != STOP):
        raise Rejected("The unit's file forbids to start or stop it by hand.")
    if unit.moving:
        lines = [*lines, f"systemd is at work on it now: {unit.active} ({unit.sub})."]
    evidence = {"invocation_before": unit.invocation, **seen(unit, "_before")}
    return Plan(
        action=action,
        name=unit.name.lower(),
        lines=[*lines, f"Now: {unit.explained()}"],
        state={"active": unit.active, "invocation": unit.invocation},
        lock=f"{unit.invocation}/{unit.restarts}",
        values={"active": unit.active},
        evidence=evidence,
        repeatable=True,
        **more,
    )


def seen(unit: Unit, suffix: str = "") -> dict[str, Any]:
    """What a look tells people of a unit."""
    found: dict[str, Any] = {"state": f"{unit.active} ({unit.sub})", "pid": unit.pid}
    if unit.result != "success":
        found["result"] = unit.result
    if unit.restarts:
        found["automatic_restarts"] = unit.restarts
    return {f"{key}{suffix}": value for key, value in found.items()}


async def begin(
    commands: Commands,
    marks: Marks,
    unit: str,
    plan: Plan,
    *,
    call_id: str,
    clock: Clock,
) -> Begun:
    """Ask systemd once for what was planned; see `Changeable.begin`.

    systemd has no request that is locked to a state: between the look here and the request another
    one can slip in, for some milliseconds.
    """
    mark = await marks.read(unit)
    if mark is not None and mark.call_id == call_id:  # of a process that was lost
        # Its systemctl may still stand somewhere: it must not ask for the same later on.
        await anyio.to_thread.run_sync(end_left_over, _run_of(call_id))
        earlier = await find(commands, marks, unit, plan, call_id, clock=clock)
        if earlier is not None:
            return earlier
    now = await get_unit(commands, unit, clock=clock)
    _allow(now, plan)
    at = rfc3339(clock.now())
    if plan.action != STOP and now.active == "failed":
        await _forget_failure(commands, unit)
    await marks.write(unit, Mark(call_id=call_id, action=plan.action, at=clock.now()))
    try:
        told = await commands.enqueue(plan.action, unit, mark=_run_of(call_id))
    except Upstream as error:
        if error.executed == "no":
            await marks.write(unit, Mark(call_id="", action="", at=clock.now()))
        raise
    job = _JOB.search(told)
    return Begun(
        name=plan.name,
        at=at,
        id=f"job {job[1]}" if job else "",
        evidence={"asked_at": at},
    )


def _run_of(call_id: str) -> str:
    """The mark of the systemctl that asks for what this call wants."""
    return f"systemctl {call_id}"


async def _forget_failure(commands: Commands, unit: str) -> None:
    try:
        await commands.control("reset-failed", "--", unit)
    except Failed as error:
        error.executed = "no"  # the unit itself was not touched
        raise


async def find(
    commands: Commands, marks: Marks, unit: str, plan: Plan, call_id: str, *, clock: Clock
) -> Begun | None:
    """What this call asked for, when its mark is there and systemd shows the effect or a job."""
    mark = await marks.read(unit)
    if mark is None or mark.call_id != call_id or mark.action != plan.action:
        return None
    now = await get_unit(commands, unit, clock=clock)
    if not now.job and not _took(now, plan):
        return None
    return Begun(
        name=plan.name,
        at=rfc3339(mark.at),
        id=f"job {now.job}" if now.job else "",
        evidence={
            "asked_at": rfc3339(mark.at),
            "found_by": "this server's own mark and the unit's state; the answer was lost",
        },
    )


def follow(plan: Plan, unit: Unit, *, now: float, settle_s: float) -> Progress:
    """How far it is: verified only when the unit has been so for `settle_s` seconds."""
    state, why = _JUDGES[plan.action](plan, unit, now, settle_s)
    evidence = {"invocation": unit.invocation, **seen(unit)}
    if unit.active_since is not None and unit.up:
        evidence["active_since"] = rfc3339(unit.active_since)
    done = 1 if state == "verified" else 0
    return Progress.model_validate(
        {"state": state, "why": why, "done": done, "wanted": 1, "evidence": evidence}
    )


def _invocation(plan: Plan) -> str:
    return plan.lock.partition("/")[0]


def _by_somebody(unit: Unit, plan: Plan) -> bool:
    """Whether it was started by a request since the look. An automatic restart counts up, a
    request sets the counter back."""
    invocation, _, restarts = plan.lock.partition("/")
    return unit.invocation not in ("", invocation) and unit.restarts <= int(restarts or 0)


def _took(unit: Unit, plan: Plan) -> bool:
    if plan.action == STOP:
        return unit.active in ("inactive", "deactivating", "failed")
    if plan.action == START:
        again = unit.invocation not in ("", _invocation(plan))
        return again or unit.up or unit.active == "activating"
    return _by_somebody(unit, plan)


def _allow(now: Unit, plan: Plan) -> None:
    changed = _by_somebody(now, plan)
    if plan.action in (RESTART, STOP) and not changed:
        # A stopped unit keeps its id: its state tells.
        changed = now.active in ("inactive", "failed") and plan.values["active"] != now.active
    if plan.action == START and not changed:
        changed = now.up
    if changed:
        raise Conflict(
            "The unit was started or stopped since it was looked at; nothing was done.",
            hint="Look with get_deployment, then decide again.",
        )


def _restarted(plan: Plan, unit: Unit, now: float, settle_s: float) -> tuple[str, str]:
    if unit.invocation in ("", _invocation(plan)):
        return _not_started(unit)
    return _came_up(unit, now, settle_s)


def _started(plan: Plan, unit: Unit, now: float, settle_s: float) -> tuple[str, str]:
    if unit.invocation in ("", _invocation(plan)) and not unit.up:
        return _not_started(unit)
    return _came_up(unit, now, settle_s)


def _not_started(unit: Unit) -> tuple[str, str]:
    """What it means that systemd shows no new run."""
    if unit.job or unit.moving:
        return "pending", f"systemd is at work on it: {unit.active} ({unit.sub})"
    if unit.forgotten:
        return "superseded", (
            "It does not run, and systemd keeps nothing of a run that ended well (as a oneshot's):"
            " its log tells whether it ran."
        )
    met = "" if unit.conditions_met else " The conditions in its file are not met."
    return "failed", f"systemd did not start it: {unit.explained()}{met}"


def _stopped(plan: Plan, unit: Unit, now: float, settle_s: float) -> tuple[str, str]:
    if unit.active in ("inactive", "failed") and not unit.job:
        return "verified", ""
    if unit.up and not unit.job and unit.invocation != _invocation(plan):
        return "superseded", "The unit was started again after it was stopped."
    return "pending", f"it is {unit.active} ({unit.sub})"


def _came_up(unit: Unit, now: float, settle_s: float) -> tuple[str, str]:
    """Whether a new run stands. One that ended well at once did what it is for (a oneshot)."""
    if unit.job:
        return "pending", f"systemd is at work on it: {unit.active} ({unit.sub})"
    if unit.active == "failed" or unit.again:
        return "failed", unit.explained()
    if unit.active == "inactive":
        # A signal that counts as success (SIGTERM) is how somebody stops it.
        if unit.result == "success" and unit.exit_code == EXITED:
            return "verified", ""
        return "superseded", "The unit was stopped after it was started."
    if not unit.up:
        return "pending", f"it is {unit.active} ({unit.sub})"
    since = unit.active_since
    if since is not None and now - since < settle_s:
        return "pending", f"it is active, but not for {settle_s:g} seconds yet"
    return "verified", ""


_JUDGES: Final = {RESTART: _restarted, STOP: _stopped, START: _started}
