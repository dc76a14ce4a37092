"""A unit's lines in the journal, and what systemd itself wrote about the unit."""

from __future__ import annotations

import json
from typing import Any, Final

from mcp_ops.adapters.systemd.commands import Commands
from mcp_ops.adapters.systemd.units import Unit
from mcp_ops.capabilities.deployments import DeploymentLogs, Event
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import BadAnswer, Forbidden, NotFound
from mcp_ops.redact import tame
from mcp_ops.wire.log_lines import Line, Wanted, level_of, page

LINES: Final = 5_000
BYTES: Final = 4 * 1024 * 1024
_MATCHED_CHARS: Final = 4_000
_EVENTS: Final = 10
_FIELDS: Final = "--output-fields=MESSAGE,PRIORITY,_PID,SYSLOG_IDENTIFIER,_SYSTEMD_INVOCATION_ID"
_LEFT_OUT: Final = "(a line that journalctl does not print: longer than 4096 bytes)"
# syslog's priorities, from emerg to debug, as the levels of all platforms.
_LEVELS: Final = {"0": 3, "1": 3, "2": 3, "3": 3, "4": 2, "5": 1, "6": 1, "7": 0}


async def read_logs(
    commands: Commands,
    unit: Unit,
    wanted: Wanted,
    *,
    since_minutes: int,
    previous: bool,
    clock: Clock,
) -> DeploymentLogs:
    """The newest lines of a unit, oldest first; of its run before with `previous`.

    Raises `NotFound` when the journal has no earlier run, `Forbidden` when it can't be read.
    """
    most = LINES if wanted.filters else wanted.tail
    matches = [_own(commands, unit)]
    if previous:
        invocation = await _before(commands, unit)
        matches += [f"_SYSTEMD_INVOCATION_ID={invocation}"]
        span = "the run before the last crash or restart"
    else:
        since = clock.now() - since_minutes * 60
        matches = [f"--since=@{int(since)}", *matches]
        span = f"the last {since_minutes} minutes"
    ran = await commands.journal("--all", f"--lines={most}", _FIELDS, *matches, max_bytes=BYTES)
    _readable(ran.errors)
    lines = _lines(_entries(ran.out))
    searched = f"{span} of {unit.name} in the journal, at most {most} lines"
    if ran.cut:
        searched += "; only the newest part, because lines are long"
    return page(lines, wanted, searched=searched, cut=ran.cut or len(lines) >= most)


async def events_of(commands: Commands, unit: Unit) -> list[Event]:
    """What systemd wrote about a unit, newest first, at most ten; raises `Forbidden`."""
    field = "USER_UNIT" if commands.user else "UNIT"
    ran = await commands.journal(
        f"--lines={_EVENTS}",
        "--output-fields=MESSAGE,PRIORITY,JOB_RESULT,UNIT_RESULT",
        f"{field}={unit.id}",
        max_bytes=256 * 1024,
    )
    _readable(ran.errors)
    return [
        Event(
            at=_moment(entry),
            type="Warning" if _level(entry) > 1 else "Normal",
            reason=_text(entry.get("UNIT_RESULT") or entry.get("JOB_RESULT") or ""),
            message=_text(entry.get("MESSAGE")),
            count=1,
        )
        for entry in _entries(ran.out)
    ]


def _own(commands: Commands, unit: Unit) -> str:
    """The match of what the unit's processes wrote, under its own name and not an alias."""
    return f"{'_SYSTEMD_USER_UNIT' if commands.user else '_SYSTEMD_UNIT'}={unit.id}"


async def _before(commands: Commands, unit: Unit) -> str:
    """The run before: of a unit that does not run, the one that ended last."""
    if not unit.up and not unit.moving and unit.invocation:
        return unit.invocation
    ran = await commands.journal(
        f"--lines={LINES}",
        "--output-fields=_SYSTEMD_INVOCATION_ID",
        _own(commands, unit),
        max_bytes=BYTES,
    )
    _readable(ran.errors)
    for entry in _entries(ran.out):
        found = entry.get("_SYSTEMD_INVOCATION_ID")
        if isinstance(found, str) and found != unit.invocation and _hexadecimal(found):
            return found
    raise NotFound(
        "The journal has no run before the present one.",
        hint=f"Its newest {LINES} lines were looked at; read without previous.",
    )


def _readable(errors: str) -> None:
    """An empty answer because of missing rights, or of no journal, must not look like silence."""
    if "No journal files were found" in errors:
        raise NotFound(
            "This machine keeps no journal.", hint="See Storage= in journald.conf of the machine."
        )
    if "not seeing messages" in errors:
        raise Forbidden(
            "The journal is not readable for the server.",
            hint="Add the server's user to the group systemd-journal, and start the server again.",
        )


def _entries(out: bytes) -> list[dict[str, Any]]:
    """The complete entries of JSON lines, newest first; a last one that was cut is left out."""
    found: list[dict[str, Any]] = []
    for raw in out.splitlines():
        try:
            entry = json.loads(raw)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            found.append(entry)
    if out and not found:
        raise BadAnswer("journalctl did not write the JSON that it should.")
    return found


def _lines(entries: list[dict[str, Any]]) -> list[Line]:
    """The lines, newest first. One that names no level has that of the line before it (a stack
    trace has no priority of its own), and none is lower than its priority."""
    found: list[Line] = []
    inherited: dict[str, int] = {}
    for entry in reversed(entries):
        pid, name = entry.get("_PID"), entry.get("SYSLOG_IDENTIFIER")
        instance = tame(f"{name}[{pid}]" if isinstance(name, str) else str(pid or ""), 80)
        text = _text(entry.get("MESSAGE"), _MATCHED_CHARS)
        own = inherited[instance] = level_of(text, inherited.get(instance, 1))
        at, level = _seconds(entry), max(own, _level(entry))
        found.append(Line(at=at, instance=instance, text=text, level=level))
    found.reverse()
    return found


def _text(value: Any, most: int = 300) -> str:
    """A field as journalctl writes it: text, an array of bytes where it is none, null where it
    is left out, an array of those where it is there several times."""
    if isinstance(value, str):
        return tame(value, most)
    if value is None:
        return _LEFT_OUT
    if isinstance(value, list) and value and all(_byte(each) for each in value):
        return tame(bytes(value[: most * 4]).decode("utf-8", "replace"), most)
    if isinstance(value, list):
        return tame(" ".join(each for each in value if isinstance(each, str)), most)
    return ""


def _byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 256


def _level(entry: dict[str, Any]) -> int:
    priority = entry.get("PRIORITY")
    return _LEVELS.get(priority, 1) if isinstance(priority, str) else 1


def _seconds(entry: dict[str, Any]) -> float | None:
    stamp = entry.get("__REALTIME_TIMESTAMP")
    if isinstance(stamp, str) and stamp.isascii() and stamp.isdigit() and len(stamp) <= 17:
        return int(stamp) / 1e6
    return None


def _moment(entry: dict[str, Any]) -> str | None:
    at = _seconds(entry)
    return rfc3339(at) if at is not None else None


def _hexadecimal(text: str) -> bool:
    return len(text) == 32 and all(each in "0123456789abcdef" for each in text)
