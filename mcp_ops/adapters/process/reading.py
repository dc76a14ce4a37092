"""A command as the deployment tools show it: whether it is ready, its facts, its log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anyio

from mcp_ops.adapters.process.changing import explained, last_exit, problem_of
from mcp_ops.adapters.process.control import Record
from mcp_ops.adapters.process.ring import LOG, OLD_LOG
from mcp_ops.adapters.process.settings import CommandSettings
from mcp_ops.capabilities.deployments import (
    Condition,
    Deployment,
    DeploymentDetail,
    DeploymentLogs,
    Instance,
)
from mcp_ops.clock import rfc3339
from mcp_ops.errors import NotFound, Upstream
from mcp_ops.redact import tame
from mcp_ops.wire.http import HttpClient
from mcp_ops.wire.log_lines import Line, Wanted, level_of, page

LINES: Final = 5_000
BYTES: Final = 4 * 1024 * 1024
_PROBE_S: Final = 2.0
_MATCHED_CHARS: Final = 4_000


async def unready(record: Record, command: CommandSettings, http: HttpClient, *, now: float) -> str:
    """Why a running command is not ready, as the end of a sentence; empty when it is, and when it
    does not run."""
    facts = record.facts
    if record.phase != "running":
        return ""
    if command.ready_log and not facts["ready"]:
        return "it has not written the words that it is ready"
    if command.ready_port is not None and not await _listens(command.ready_port):
        return f"nothing listens on port {command.ready_port}"
    if command.ready_url:
        return await _answers(http, command.ready_url)
    if command.ready_log or command.ready_port is not None:
        return ""
    lived = now - float(facts["started"])
    return (
        f"it runs, but not for {command.settle_s:g} seconds yet" if lived < command.settle_s else ""
    )


async def _listens(port: int) -> bool:
    with anyio.move_on_after(_PROBE_S):
        try:
            stream = await anyio.connect_tcp("127.0.0.1", port)
        except OSError:
            return False
        await stream.aclose()
        return True
    return False


async def _answers(http: HttpClient, url: str) -> str:
    try:
        answer = await http.send("GET", url)
    except Upstream:
        return "its check gets no answer"
    return "" if answer.ok else f"its check is answered with {answer.status}"


def listed(name: str, command: CommandSettings, record: Record, waits: str) -> Deployment:
    """A line of the list; `image` is the program."""
    return Deployment(
        name=name,
        image=command.argv[0],
        desired=_desired(record),
        ready=_ready(record, waits),
        updated=_ready(record, waits),
        restarts=int(record.facts["restarts"]),
        problem=problem_of(record, waits),
    )


def detail(
    name: str, command: CommandSettings, record: Record, waits: str, *, now: float
) -> DeploymentDetail:
    """A command in full."""
    facts, ready = record.facts, _ready(record, waits)
    return DeploymentDetail(
        name=name,
        image=command.argv[0],
        revision=f"run {facts['run']}" if facts["run"] else None,
        generation=facts["generation"],
        desired=_desired(record),
        ready=ready,
        updated=ready,
        available=ready,
        restarts=int(facts["restarts"]),
        oom_kills=int(facts["oom_kills"]),
        last_restart=rfc3339(facts["started"]) if facts["started"] else None,
        conditions=_conditions(command, record),
        instances=_instances(record, waits, now=now),
        problem=problem_of(record, waits),
        explanation=explained(record, waits),
    )


def _ready(record: Record, waits: str) -> int:
    return int(record.phase == "running" and not waits)


def _desired(record: Record) -> int:
    return 0 if record.phase == "stopped" else 1


def _instances(record: Record, waits: str, *, now: float) -> list[Instance]:
    facts = record.facts
    if not facts["pid"] and not facts["exit"]:
        return []
    pid = facts["pid"] if record.kept else 0
    return [
        Instance(
            name=f"pid {pid}" if pid else "ended",
            ready=bool(_ready(record, waits)),
            phase=record.phase,
            restarts=int(facts["restarts"]),
            age_s=max(0, int(now - facts["started"])) if pid else 0,
            waiting=waits or None,
            last_exit=last_exit(record) or None,
        )
    ]


def _conditions(command: CommandSettings, record: Record) -> list[Condition]:
    facts = record.facts
    found = [
        Condition(
            type="State",
            status=record.phase,
            reason=f"restart {command.restart}",
            message="",
            since=rfc3339(facts["changed"]) if facts["changed"] else None,
        )
    ]
    memory = _memory(int(facts["pid"])) if record.kept and facts["pid"] else ""
    if memory:
        found.append(Condition(type="Memory", status=memory, reason="resident", message=""))
    return found


def _memory(pid: int) -> str:
    """Resident memory, of the process alone; its keeper holds the number while it runs."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        size = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
        return f"{int(size.split()[1]) / 1_024:.1f} MiB"
    except (OSError, ValueError, StopIteration, IndexError):
        return ""


async def read_logs(
    folder: Path,
    record: Record,
    wanted: Wanted,
    *,
    since_minutes: int,
    previous: bool,
    now: float,
) -> DeploymentLogs:
    """The newest lines, oldest first; of the run before with `previous`.

    Raises `NotFound` when nothing of an earlier run is left.
    """
    raw, cut = await anyio.to_thread.run_sync(_read, folder)
    entries = list(_entries(raw))
    run = int(record.facts["run"])
    if previous:
        before = run - 1 if record.phase in ("running", "stopping") else run
        entries = [each for each in entries if each["r"] == before]
        span = f"the run before ({before})"
        if not entries:
            raise NotFound(
                "Nothing is kept of a run before this one.", hint="Read without previous."
            )
    else:
        since = now - since_minutes * 60
        entries = [each for each in entries if each["t"] >= since]
        span = f"the last {since_minutes} minutes"
    lines = _lines(entries[-LINES:])
    return page(
        lines,
        wanted,
        searched=f"{span} of what is kept of its output, at most {LINES} lines",
        cut=cut or len(entries) > LINES,
    )


def _read(folder: Path) -> tuple[bytes, bool]:
    """The newest bytes of both files, and whether there are more."""
    found, more = b"", False
    for name in (LOG, OLD_LOG):
        room = BYTES - len(found)
        try:
            with (folder / name).open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - room))
                found = file.read(room) + found
        except OSError:
            continue
        more = more or size > room
    return found, more


def _entries(raw: bytes) -> Iterator[dict[str, Any]]:
    for line in raw.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the piece of a line at the beginning, or one that a full disk cut
        if isinstance(entry, dict) and isinstance(entry.get("m"), str):
            yield {"t": 0.0, "r": 0, "s": "", **entry}


def _lines(entries: list[dict[str, Any]]) -> list[Line]:
    """Newest first. A line that names no level has that of the one before it."""
    found: list[Line] = []
    inherited = 1
    for entry in entries:
        text = tame(entry["m"], _MATCHED_CHARS)
        inherited = level_of(text, inherited)
        instance = f"run {entry['r']} {entry['s']}"
        found.append(Line(at=entry["t"], instance=instance, text=text, level=inherited))
    found.reverse()
    return found
