"""A process of the lab that ends with the lab, however the lab ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import anyio
import anyio.abc

# The shell is the watchdog: its standard input is a pipe from the lab. When the lab ends, even by
# SIGKILL, the pipe closes and the process is told to stop, by the signal that it ends on. When the
# process ends by itself, so does the shell; the watcher goes first, so that it never signals a
# number that was given anew.
_WATCHDOG = (
    'exec 3<&0; "$@" </dev/null >/dev/null 3<&- & child=$!; echo $child; exec >/dev/null; '
    '(cat <&3; kill -s {stop} "$child") 2>/dev/null & watcher=$!; '
    'wait "$child"; code=$?; kill "$watcher" 2>/dev/null; exit $code'
)


@dataclass(slots=True)
class Child:
    """One process under its watchdog, in a session of its own: Ctrl-C does not reach it."""

    process: anyio.abc.Process
    pid: int

    async def ended(self) -> int:
        """Wait until it has ended; the exit code."""
        return await self.process.wait()

    async def stop(self, *, within_s: float) -> None:
        """Ask it to end, and kill it where it takes longer."""
        with anyio.CancelScope(shield=True):
            if self.process.stdin is not None:
                await self.process.stdin.aclose()
            with anyio.move_on_after(within_s):
                await self.process.wait()
            if self.process.returncode is None:
                self.kill()
                await self.process.wait()
            await self.process.aclose()

    def kill(self) -> None:
        """End it as an out-of-memory killer would."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


async def start_child(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    quiet: bool = True,
    keep_open: Sequence[int] = (),
    stop: Literal["TERM", "INT"] = "TERM",
) -> Child:
    """Start a command; `quiet` drops what it says on stderr.

    `keep_open` are file descriptors above 9 that it inherits: a lock that is held through one of
    them is held until the last process has ended. `stop` is the signal that asks it to end.
    """
    process = await anyio.open_process(
        ["/bin/sh", "-c", _WATCHDOG.replace("{stop}", stop), "sh", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        env=env,
        start_new_session=True,
        pass_fds=keep_open,
    )
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    return Child(process=process, pid=int((await process.stdout.receive(64)).split()[0]))
