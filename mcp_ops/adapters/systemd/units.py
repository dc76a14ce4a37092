"""What `systemctl show` says of a unit, and how it is judged."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mcp_ops.adapters.systemd.commands import Commands
from mcp_ops.capabilities.deployments import Problem
from mcp_ops.clock import Clock
from mcp_ops.errors import BadAnswer, NotFound
from mcp_ops.redact import tame

PROPERTIES: Final = (
    "Id,Names,Description,LoadState,ActiveState,SubState,Result,UnitFileState,Type,MainPID,"
    "NRestarts,ExecMainStartTimestampMonotonic,ExecMainCode,ExecMainStatus,MemoryCurrent,"
    "MemoryMax,TasksCurrent,InvocationID,ActiveEnterTimestampMonotonic,"
    "StateChangeTimestampMonotonic,StatusText,NeedDaemonReload,Job,RefuseManualStart,"
    "RefuseManualStop,Restart,ExecStart,TriggeredBy,ConditionResult,"
    "ConditionTimestampMonotonic"
)
_EXECUTABLE: Final = re.compile(r"path=(\S{1,300}) ;")
_NOT_LOADED: Final[Mapping[str, str]] = {
    "masked": "The unit is masked: somebody forbade that it runs.",
    "not-found": "systemd has no such unit, although the target lists it.",
    "error": "systemd can't load the unit: its file is wrong.",
    "bad-setting": "systemd can't load the unit: its file is wrong.",
}
# ExecMainCode as waitid(2) has it: the process ended by itself.
EXITED: Final = 1
_NO_NUMBER: Final = frozenset({"", "[not set]", "infinity"})
_LARGEST: Final = 2**63
_RESULTS: Final[Mapping[str, str]] = {
    "exit-code": "its process ended with an error code",
    "signal": "its process was ended by a signal",
    "core-dump": "its process crashed",
    "oom-kill": "the kernel ended it because memory was short",
    "timeout": "it did not start or stop in time",
    "watchdog": "it no longer reported to its watchdog",
    "start-limit-hit": "it was started too often in a short time",
    "resources": "systemd had not the resources for it",
    "protocol": "it did not do what its type promises",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One unit as systemd has it now. Moments are Unix seconds, sizes bytes."""

    name: str
    id: str
    description: str
    load: str
    active: str
    sub: str
    result: str
    enabled: str
    restart_policy: str
    executable: str
    pid: int
    restarts: int
    started: float | None
    active_since: float | None
    changed: float | None
    exit_code: int
    exit_status: int
    memory: int | None
    memory_max: int | None
    tasks: int | None
    invocation: str
    status: str
    job: str
    triggered_by: str
    stale: bool
    no_start: bool
    no_stop: bool
    conditions_met: bool
    forgotten: bool

    @property
    def up(self) -> bool:
        """Whether it does what it is there for."""
        return self.active in ("active", "reloading", "refreshing")

    @property
    def moving(self) -> bool:
        """Whether systemd is still at work on it."""
        return bool(self.job) or self.active in ("activating", "deactivating")

    @property
    def again(self) -> bool:
        """Whether it died and waits for its automatic restart."""
        return self.sub in ("auto-restart", "auto-restart-queued")

    def problem(self) -> Problem:
        """What is wrong with it, in the words of all platforms."""
        if self.load in _NOT_LOADED:
            return "not_ready"
        if self.result == "oom-kill":
            return "oom_killed"
        if self.active == "failed" or self.again:
            return "crash_loop" if self.restarts or self.again else "not_ready"
        if self.moving:
            return "rolling_out"
        return "none" if self.up else "scaled_to_zero"

    def explained(self) -> str:
        """What is wrong with it as sentences."""
        if self.load in _NOT_LOADED:
            return _NOT_LOADED[self.load]
        why = _RESULTS.get(self.result, f"its result is {tame(self.result, 40)}")
        if self.active == "failed":
            tried = f" after {self.restarts} automatic restarts" if self.restarts else ""
            return f"It failed{tried}: {why}{self._exit()}."
        if self.again:
            return f"It dies again and again ({self.restarts} restarts): {why}{self._exit()}."
        if self.moving:
            return f"systemd is at work on it: {self.active} ({self.sub})."
        if self.up:
            return f"It is {self.active} ({self.sub})." + self._note()
        return "It is stopped."

    def last_exit(self) -> str:
        """How its main process ended, or empty while it runs."""
        if self.exit_code == EXITED:
            return f"exit code {self.exit_status}"
        if self.exit_code in (2, 3):
            return f"ended by {_signal(self.exit_status)}"
        return ""

    def _exit(self) -> str:
        ended = self.last_exit()
        return f" ({ended})" if ended else ""

    def _note(self) -> str:
        notes = []
        if self.restarts:
            notes.append(f" It was restarted automatically {self.restarts} times.")
        if self.stale:
            notes.append(" Its file changed; systemd has not read it yet (daemon-reload).")
        return "".join(notes)


async def get_units(commands: Commands, names: Sequence[str], *, clock: Clock) -> list[Unit]:
    """The units of these names, in one question; raises `BadAnswer` when some are missing."""
    if not names:
        return []
    out = await commands.control("show", f"--property={PROPERTIES}", "--", *names)
    blocks = parse_show(out.decode("utf-8", "replace"))
    if len(blocks) != len(names):
        raise BadAnswer(
            f"systemd described {len(blocks)} of {len(names)} units.",
            hint="Look at the machine with systemctl status.",
        )
    offset = clock.now() - clock.monotonic()
    found = []
    for name, block in zip(names, blocks, strict=True):
        if name not in block.get("Names", "").split():
            raise BadAnswer("systemd described another unit than the one that was asked for.")
        found.append(read_unit(name, block, offset=offset))
    return found


async def get_unit(commands: Commands, name: str, *, clock: Clock) -> Unit:
    """One unit; raises `NotFound` for one that systemd can't load."""
    (found,) = await get_units(commands, [name], clock=clock)
    if found.load == "not-found":
        raise NotFound(
            "systemd has no such unit, although the target lists it.",
            hint="Check its name in `units`, and that it is installed.",
        )
    return found


def parse_show(text: str) -> list[dict[str, str]]:
    """The blocks of `systemctl show`, one a unit; of a property with several lines the first."""
    blocks: list[dict[str, str]] = []
    for part in text.split("\n\n"):
        block: dict[str, str] = {}
        # Not `splitlines`: a unit's own status text may hold other characters that part lines for
        # Python, and what follows them would be read as properties.
        for line in part.split("\n"):
            key, equals, value = line.partition("=")
            if equals:
                block.setdefault(key, value)
        if block:
            blocks.append(block)
    return blocks


def read_unit(name: str, block: Mapping[str, str], *, offset: float) -> Unit:
    """A unit of its properties; `offset` makes a monotonic time one of the wall clock."""

    def text(key: str, most: int = 300) -> str:
        return tame(block.get(key, ""), most)

    def moment(key: str) -> float | None:
        at = _number(block.get(key, ""))
        return offset + at / 1e6 if at else None

    checked = bool(_number(block.get("ConditionTimestampMonotonic", "")))
    executable = _EXECUTABLE.search(block.get("ExecStart", "")[:2_000])
    return Unit(
        name=name,
        id=text("Id"),
        description=text("Description"),
        load=text("LoadState", 40),
        active=text("ActiveState", 40),
        sub=text("SubState", 40),
        result=text("Result", 40),
        enabled=text("UnitFileState", 40),
        restart_policy=text("Restart", 40),
        executable=tame(executable[1], 300) if executable else "",
        pid=_number(block.get("MainPID", "")) or 0,
        restarts=_number(block.get("NRestarts", "")) or 0,
        started=moment("ExecMainStartTimestampMonotonic"),
        active_since=moment("ActiveEnterTimestampMonotonic"),
        changed=moment("StateChangeTimestampMonotonic"),
        exit_code=_number(block.get("ExecMainCode", "")) or 0,
        exit_status=_number(block.get("ExecMainStatus", "")) or 0,
        memory=_number(block.get("MemoryCurrent", "")),
        memory_max=_number(block.get("MemoryMax", "")),
        tasks=_number(block.get("TasksCurrent", "")),
        invocation=text("InvocationID", 64),
        status=text("StatusText"),
        job=str(_number(block.get("Job", "")) or ""),
        triggered_by=text("TriggeredBy"),
        stale=block.get("NeedDaemonReload") == "yes",
        no_start=block.get("RefuseManualStart") == "yes",
        no_stop=block.get("RefuseManualStop") == "yes",
        conditions_met=block.get("ConditionResult") != "no" or not checked,
        # systemd unloads what neither runs nor failed, and with it what it knew of its last run.
        forgotten=not checked,
    )


def _number(text: str) -> int | None:
    if text in _NO_NUMBER or not (text.isascii() and text.isdigit()) or len(text) > 19:
        return None
    number = int(text)
    return number if number < _LARGEST else None


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
