"""The adapter of plain processes, with real commands and their keepers."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from mcp_ops.adapter import Wiring
from mcp_ops.adapters.process.adapter import ProcessAdapter
from mcp_ops.adapters.process.record import LOCK, STATE, read_state
from mcp_ops.adapters.process.settings import ProcessSettings
from mcp_ops.clock import SystemClock
from mcp_ops.redact import Redactor
from mcp_ops.tool import Write
from mcp_ops.wire.marked import end_left_over

SERVE = 'echo "effect start $$" >> {log}; echo ready $$; exec sleep 600'


def wiring(directory: Path) -> Wiring:
    """What the composition root would give the adapter."""
    return Wiring(
        target="local",
        clock=SystemClock(),
        redactor=Redactor(),
        report_usage=lambda name, percent: None,
        directory=directory,
    )


def write(
    *,
    call_id: str = "call-1",
    dry_run: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
) -> Write:
    """The frame of a write; a second of its waits is a fiftieth of one."""
    return Write(
        reason="it is wedged",
        dry_run=dry_run,
        call_id=call_id,
        principal="agent:test",
        progress=lambda done, total, text: None,
        cancelled=cancelled,
        pause=lambda seconds: anyio.sleep(seconds / 50),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """An adapter on real commands, and what they did."""

    platform: ProcessAdapter
    directory: Path

    def folder(self, name: str = "crm") -> Path:
        """Where the keeper of a command keeps its things."""
        return self.directory / "process" / "local" / name

    def record(self, name: str = "crm") -> dict[str, Any]:
        """What the keeper wrote last."""
        return read_state(self.folder(name))

    def starts(self) -> list[int]:
        """The processes that were really started, by their own word."""
        path = self.directory / "effects"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [int(line.split()[-1]) for line in lines]

    def keeper(self, name: str = "crm") -> int:
        """The keeper's process: the one that holds its lock."""
        inode = (self.folder(name) / LOCK).stat().st_ino
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                for handle in os.listdir(f"/proc/{entry}/fd"):
                    if os.stat(f"/proc/{entry}/fd/{handle}").st_ino == inode:
                        return int(entry)
        return 0

    async def until(self, holds: Callable[[dict[str, Any]], bool], name: str = "crm") -> None:
        """Look until what the keeper wrote is so."""
        with anyio.fail_after(20):
            while not holds(self.record(name)):
                await anyio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(pid: int) -> None:
    """Wait until a process is no more."""
    with anyio.fail_after(20):
        while alive(pid):
            await anyio.sleep(0.01)


def shell(script: str, **more: Any) -> dict[str, Any]:
    """A command that is a line of shell, for tests."""
    quick = {"settle_s": 0.0, "backoff_s": 0.05, "max_backoff_s": 0.05, "grace_s": 5.0}
    return {"argv": ["/bin/sh", "-c", script], **quick, **more}


def serving() -> dict[str, Any]:
    """A command that notes each of its starts before it says that it is ready."""
    return shell(SERVE, ready_log="ready")


@asynccontextmanager
async def stage(
    directory: Path, commands: dict[str, Any] | None = None, *, timeout_s: float = 5.0, **one: Any
) -> AsyncIterator[Stage]:
    """A platform with these commands; what was started is ended at the end."""
    log = shlex.quote(str(directory / "effects"))
    given: dict[str, Any] = {**(commands or {}), **one} or {"crm": serving()}
    described = {
        name: {**one, "argv": [each.replace("{log}", log) for each in one["argv"]]}
        for name, one in given.items()
    }
    settings = ProcessSettings.model_validate({"commands": described, "timeout_s": timeout_s})
    async with ProcessAdapter.open(settings, wiring(directory)) as platform:
        place = Stage(platform=platform, directory=directory)
        try:
            with anyio.fail_after(60):
                yield place
        finally:
            for name in given:
                end(place, name)


def end(place: Stage, name: str) -> None:
    """End a keeper and what it started."""
    if not (place.folder(name) / STATE).exists():
        return
    token = place.record(name)["token"]
    if keeper := place.keeper(name):
        os.kill(keeper, signal.SIGKILL)
    end_left_over(token)
