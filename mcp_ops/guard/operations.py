"""Writes run in a task of their own, which outlives the request that asked for them.

The request waits, shielded from nothing: when it is cancelled, the write goes on to its end and
its record. A lease says to other processes that it is alive; it is renewed for all at once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskGroup

from mcp_ops.call import Call, Caller
from mcp_ops.clock import Clock
from mcp_ops.errors import Internal, OpsError
from mcp_ops.records import Ledger

_log = logging.getLogger("mcp_ops.guard")
LEASE_S = 15.0
_RENEW_S = 5.0


@dataclass(slots=True)
class Running:
    """A write in flight. Exactly one of `result` and `error` is set once `done` is.

    `fenced` means that its lease was lost: another process has taken it over, or given it up.
    """

    id: str
    key: str
    tool: str
    digest: str
    done: anyio.Event = field(default_factory=anyio.Event)
    moved: anyio.Event = field(default_factory=anyio.Event)
    result: dict[str, Any] | None = None
    error: OpsError | None = None
    at: tuple[int, int, str] = (0, 0, "")
    began: bool = False
    cancelled: bool = False
    fence: int = 1
    checkpoint: str = ""
    fenced: bool = False

    def progress(self, done: int, total: int, message: str) -> None:
        """Say how far the write is; cheap, keeps only the newest."""
        self.at = (done, total, message)
        self.move()

    def move(self) -> None:
        """Wake all who wait; the next step has an event of its own."""
        moved, self.moved = self.moved, anyio.Event()
        moved.set()

    def shown(self) -> str:
        """How far it is, in words."""
        done, total, message = self.at
        return f"{done}/{total} {message}".strip() if total else message


class Operations:
    """The writes of this process."""

    def __init__(self, tasks: TaskGroup, ledger: Ledger, clock: Clock) -> None:
        self._tasks = tasks
        self._ledger = ledger
        self._clock = clock
        self._running: dict[str, Running] = {}
        self._by_id: dict[str, Running] = {}

    def find(self, key: str) -> Running | None:
        """The write that runs under a key here."""
        return self._running.get(key)

    def get(self, operation_id: str) -> Running | None:
        """A running write by id."""
        return self._by_id.get(operation_id)

    def start(
        self, call: Call, key: str, body: Callable[[Running], Awaitable[dict[str, Any]]]
    ) -> Running:
        """Start a write under its key, in its own task."""
        running = Running(id=call.id, key=key, tool=call.tool.name, digest=call.digest)
        self._running[running.key] = running
        self._by_id[running.id] = running
        self._tasks.start_soon(self._run, running, body)
        return running

    async def _run(
        self, running: Running, body: Callable[[Running], Awaitable[dict[str, Any]]]
    ) -> None:
        try:
            running.result = await body(running)
        except OpsError as error:
            running.error = error
        finally:
            if running.result is None and running.error is None:
                running.error = Internal("The write was stopped before its end was recorded.")
            self._running.pop(running.key, None)
            self._by_id.pop(running.id, None)
            running.done.set()
            running.move()

    async def wait(self, running: Running, caller: Caller, seconds: float) -> dict[str, Any] | None:
        """The write's answer, or None when it is not done after `seconds`. Reports progress."""
        told = (0, 0, "")
        with anyio.move_on_after(seconds):
            while not running.done.is_set():
                if caller.progress is None or running.at == told:
                    await running.moved.wait()
                else:
                    told = running.at
                    await caller.progress(*told)
        if not running.done.is_set():
            return None
        if running.error is not None:
            raise running.error
        return running.result

    async def keep_leases(self, every_s: float = _RENEW_S) -> None:
        """Renew the leases of what runs, for as long as the server does."""
        while True:
            await anyio.sleep(every_s)
            for running in list(self._by_id.values()):
                if running.began:
                    await self._renew(running)

    async def _renew(self, running: Running) -> None:
        try:
            kept = await self._ledger.renew(
                running.id,
                fence=running.fence,
                lease_until=self._clock.now() + LEASE_S,
                progress=running.shown(),
                checkpoint=running.checkpoint,
            )
            running.fenced = kept is None
            running.cancelled = running.cancelled or kept is None or bool(kept.cancel_by)
        except OpsError as error:
            # Not renewed, it may be given up as unknown: its end is then recorded as a correction.
            _log.warning("the lease of %s was not renewed: %s", running.id, error.code)

    async def drain(self, seconds: float) -> int:
        """Wait for what runs to end; answers how many did not."""
        with anyio.move_on_after(seconds):
            for running in list(self._by_id.values()):
                await running.done.wait()
        return len(self._by_id)
