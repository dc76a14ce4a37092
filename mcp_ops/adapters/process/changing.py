"""Restart, stop and start of a command: once a call, and followed until it is ready."""

from __future__ import annotations

import signal
from typing import Any, Final, Literal

from mcp_ops.adapters.process.control import Record
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.capabilities.deployments import Problem
from mcp_ops.clock import rfc3339
from mcp_ops.errors import Conflict

RESTART: Final = "restart"
STOP: Final = "stop"
START: Final = "start"
_End = Literal["pending", "verified", "failed", "superseded"]
_UP: Final = ("running",)


def plan(action: str, name: str, record: Record) -> Plan:
    """The plan of a change; raises `Conflict` for a restart of what does not run."""
    running = record.phase in ("running", "backoff", "stopping")
    if action == RESTART and not running:
        raise Conflict(
            f"It does not run ({record.phase}): a restart would replace nothing.",
            hint="Start it with start_deployment.",
        )
    nothing = ""
    if action == STOP and record.phase in ("stopped", "failed"):
        nothing = "it does not run"
    if action == START and running:
        nothing = "it runs already" if record.phase in _UP else "its keeper is starting it"
    facts = record.facts
    return Plan(
        action=action,
        name=name,
        lines=[_LINES[action].format(name=name), f"Now: {explained(record)}"],
        state={"phase": record.phase, "generation": facts["generation"]},
        lock=str(facts["generation"]),
        evidence={"generation_before": facts["generation"], **seen(record, "_before")},
        undo=None if action == RESTART else Undo(tool=_UNDO[action], arguments={"name": name}),
        nothing=nothing,
        repeatable=True,
    )


_LINES: Final = {
    RESTART: "Restart {name}: it is away until the new process is ready.",
    STOP: "Stop {name}: it serves nobody until it is started.",
    START: "Start {name}.",
}
_UNDO: Final = {STOP: "start_deployment", START: "stop_deployment"}


def begun_of(plan: Plan, note: dict[str, Any]) -> Begun:
    """What the keeper noted of a call."""
    at = rfc3339(float(note["at"]))
    return Begun(
        name=plan.name,
        at=at,
        version=str(note["generation"]),
        evidence={"asked_at": at, "run_before": note["run"]},
    )


def seen(record: Record, suffix: str = "") -> dict[str, Any]:
    """What a look tells people."""
    facts = record.facts
    found: dict[str, Any] = {"state": record.phase, "pid": facts["pid"], "run": facts["run"]}
    if facts["restarts"]:
        found["automatic_restarts"] = facts["restarts"]
    if facts["exit"] and record.phase not in _UP:
        found["last_exit"] = last_exit(record)
    return {f"{key}{suffix}": value for key, value in found.items()}


def follow(plan: Plan, begun: Begun, record: Record, *, unready: str) -> Progress:
    """How far it is; `unready` says why a running command is not ready, or is empty."""
    state, why = _judge(plan, begun, record, unready)
    return Progress(
        state=state, why=why, done=int(state == "verified"), wanted=1, evidence=seen(record)
    )


def _judge(plan: Plan, begun: Begun, record: Record, unready: str) -> tuple[_End, str]:
    facts, phase = record.facts, record.phase
    if str(facts["generation"]) != begun.version:
        return "superseded", "The command was started or stopped again after this change."
    if plan.action == STOP:
        if phase in ("stopped", "failed"):
            return "verified", ""
        return ("pending", "it has not ended yet") if phase == "stopping" else _gone(record)
    if phase == "stopping":
        return "pending", "the process before has not ended yet"
    if phase in ("failed", "stopped", "lost", "backoff"):
        return "failed", explained(record)
    if facts["run"] <= begun.evidence["run_before"] or phase not in _UP:
        return "pending", "its new process has not been started yet"
    return ("pending", unready) if unready else ("verified", "")


def _gone(record: Record) -> tuple[_End, str]:
    return "pending", f"it is {record.phase}"


def problem_of(record: Record, unready: str) -> Problem:
    """What is wrong with it, in the words of all platforms."""
    facts, phase = record.facts, record.phase
    how = facts["exit"] or {}
    if phase in ("failed", "backoff", "lost") and how.get("oom"):
        return "oom_killed"
    if phase == "backoff":
        return "crash_loop"
    if phase in ("failed", "lost"):
        return "crash_loop" if facts["restarts"] else "not_ready"
    if phase == "stopping":
        return "rolling_out"
    if phase == "stopped":
        return "scaled_to_zero"
    return "not_ready" if unready else "none"


def explained(record: Record, unready: str = "") -> str:
    """What is wrong with it as a sentence."""
    facts, phase = record.facts, record.phase
    how = last_exit(record)
    if phase == "lost":
        return "Its keeper is gone (killed, or the machine started anew): the command is not kept."
    if phase == "failed":
        return f"It ended and is not started again: {how}."
    if phase == "backoff":
        return f"It dies again and again ({facts['restarts']} restarts): {how}."
    if phase == "stopping":
        return "It was told to end and has not yet."
    if phase == "stopped":
        return f"It is stopped ({how})." if how else "It was not started yet."
    again = (
        f" It was restarted automatically {facts['restarts']} times." if facts["restarts"] else ""
    )
    return (f"It runs, but is not ready: {unready}." if unready else "It runs.") + again


def last_exit(record: Record) -> str:
    """How its process ended last, or empty."""
    how = record.facts["exit"] or {}
    if how.get("lost"):
        return "ended with its keeper, which was killed"
    if how.get("oom"):
        return "ended by the kernel because memory was short"
    if "signal" in how:
        by = "" if how.get("by_us") else ", which nobody sent from here"
        return f"ended by {_name(how['signal'])}{by}"
    return f"exit code {how['code']}" if "code" in how else ""


def _name(number: Any) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
