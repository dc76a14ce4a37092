"""Several processes that serve one port: started, told to stop, and started again when one dies.

The sockets are bound here and inherited, so that a connection that no worker has taken yet is taken
by one that lives, and one that was given to a worker by the next of that number. A worker's
standard input is a pipe that nobody writes to: when this process goes, however it goes, the pipe
ends, and the worker stops as on SIGTERM.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE
from typing import Final

import anyio
import anyio.abc

from mcp_ops.commands.exits import Exit
from mcp_ops.transport_inbox import Inboxes

FIRST_PAUSE_S: Final = 0.5
"""Seconds before a worker that died is started again; doubled each time, at most to the next."""

LONGEST_PAUSE_S: Final = 30.0

STEADY_S: Final = 60.0
"""A worker that lived so long did not die of its start: the pause begins anew."""

STOP_S: Final = 60.0
"""Seconds that workers have to end; those that did not are killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How one worker is started: its command, and the descriptors that it inherits."""

    command: Sequence[str]
    descriptors: tuple[int, ...] = ()


class Workers:
    """The workers, numbered from 1 on; `gone` is told the number of each that ended."""

    def __init__(
        self,
        starts: Sequence[Start],
        *,
        say: Callable[[str], None],
        gone: Callable[[int], None],
    ) -> None:
        self._starts = starts
        self._say = say
        self._gone = gone
        self._stop = anyio.Event()
        self._running: dict[int, anyio.abc.Process] = {}
        self._code = 0

    async def run(self) -> int:
        """Keep them until SIGTERM or SIGINT, and until they have ended; the exit code."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._listen_for_signals)
            async with anyio.create_task_group() as keepers:
                for number in range(1, len(self._starts) + 1):
                    keepers.start_soon(self._keep, number)
                keepers.start_soon(self._end)
            tasks.cancel_scope.cancel()
        return self._code

    async def _listen_for_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                self._stop.set()

    async def _keep(self, number: int) -> None:
        pause = FIRST_PAUSE_S
        while not self._stop.is_set():
            begun = time.monotonic()
            code = await self._one(number)
            if self._stop.is_set():
                self._code = self._code or max(0, code)
                return
            if code == Exit.CONFIGURATION:  # it would be wrong the next time as well
                self._code = code
                self._stop.set()
                return
            if time.monotonic() - begun >= STEADY_S:
                pause = FIRST_PAUSE_S
            self._say(f"worker {number} ended with {code}; the next one starts in {pause:g} s")
            with anyio.move_on_after(pause):
                await self._stop.wait()
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _one(self, number: int) -> int:
        start = self._starts[number - 1]
        try:
            process = await anyio.open_process(
                start.command,
                stdin=PIPE,
                stdout=DEVNULL,
                stderr=None,
                pass_fds=start.descriptors,
                # Ctrl-C reaches this process alone, which tells them once.
                start_new_session=True,
            )
        except OSError as error:  # no memory or descriptors left: the others serve on
            self._say(f"worker {number} could not be started: {error.strerror}")
            return 1
        async with process:
            self._running[number] = process
            if self._stop.is_set():
                process.terminate()
            try:
                return await process.wait()
            finally:
                del self._running[number]
                self._gone(number)

    async def _end(self) -> None:
        await self._stop.wait()
        for process in list(self._running.values()):
            process.terminate()
        with anyio.move_on_after(STOP_S):
            while self._running:
                await next(iter(self._running.values())).wait()
        for process in list(self._running.values()):
            process.kill()


def starts(
    count: int, listener: socket.socket, inboxes: Inboxes, options: Sequence[str]
) -> list[Start]:
    """How the workers are started, with the options that this process was given."""
    program = [sys.executable, "-m", "mcp_ops.commands.worker"]
    made = []
    for number in range(1, count + 1):
        inherited = (listener.fileno(), inboxes.descriptor(number))
        place = [str(number), *map(str, inherited), str(inboxes.directory)]
        made.append(Start(command=[*program, *place, *options], descriptors=inherited))
    return made
