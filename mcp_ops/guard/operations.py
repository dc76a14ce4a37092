"""Writes run in a task of their own, which outlives the request that asked for them.

The request waits, shielded from nothing: when it is cancelled, the write goes on to its end and
its record. A lease says to other processes that it is alive; it is renewed for all at once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskGroup

from mcp_ops.call import Call, Caller, new_id
from mcp_ops.clock import Clock
from mcp_ops.errors import Conflict, Internal, OpsError, StoreUnavailable
from mcp_ops.records import Ledger, Operation
from mcp_ops.tool import Interrupted

_log = logging.getLogger("mcp_ops.guard")
LEASE_S = 15.0
_RENEW_S = 5.0
_KEEP_ATTEMPTS, _KEEP_PAUSE_S = 10, 1.0


@dataclass(slots=True)
class Running:
    """A write in flight. Exactly one of `result` and `error` is set once `done` is.

    `fenced` means that its lease was lost: another process has taken it over, or given it up.
    `since` is when a process that is lost began it.
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
    since: float | None = None
    leases: dict[str, int] = field(default_factory=dict)

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
    """The writes of this process. `owner` names it among those that share the store."""

    def __init__(self, tasks: TaskGroup, ledger: Ledger, clock: Clock) -> None:
        self._tasks = tasks
        self._ledger = ledger
        self._clock = clock
        self._running: dict[str, Running] = {}
        self._by_id: dict[str, Running] = {}
        self.stopping = False
        self.owner = new_id()
        self.keep_pause_s = _KEEP_PAUSE_S

    @property
    def count(self) -> int:
        """How many run here."""
        return len(self._by_id)

    def steps(self, call: Call, running: Running) -> StoredSteps:
        """What a write of many steps survives its process by."""
        return StoredSteps(self, self._ledger, running, target=call.target)

    def find(self, key: str) -> Running | None:
        """The write that runs under a key here."""
        return self._running.get(key)

    def get(self, operation_id: str) -> Running | None:
        """A running write by id."""
        return self._by_id.get(operation_id)

    def start(
        self,
        call: Call,
        key: str,
        body: Callable[[Running], Awaitable[dict[str, Any]]],
        *,
        taken_over: Operation | None = None,
    ) -> Running:
        """Start a write under its key, in its own task; or go on with one that was taken over."""
        running = Running(id=call.id, key=key, tool=call.tool.name, digest=call.digest)
        if taken_over is not None:
            running.began = True
            running.fence, running.checkpoint = taken_over.fence, taken_over.checkpoint
            running.since = taken_over.started_at
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
            await self.release(running)
            self._running.pop(running.key, None)
            self._by_id.pop(running.id, None)
            running.done.set()
            running.move()

    async def release(self, running: Running) -> None:
        """Give back what the write was the only one to work on; else its leases run out."""
        with anyio.CancelScope(shield=True), suppress(StoreUnavailable):
            while running.leases:
                await self._ledger.unlock(*running.leases.popitem())

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

    async def keep(self, running: Running, *, lease_s: float = LEASE_S) -> None:
        """Say durably how far a write is, and keep what it holds; learn whether it is to stop.

        A lease that another took meanwhile stops it: `fenced`. Raises `StoreUnavailable`.
        """
        until = self._clock.now() + lease_s
        kept = await self._ledger.renew(
            running.id,
            fence=running.fence,
            lease_until=until,
            progress=running.shown(),
            checkpoint=running.checkpoint,
        )
        running.fenced = running.fenced or kept is None
        running.cancelled = running.cancelled or kept is None or bool(kept.cancel_by)

    def age_of(self, moment: float) -> float:
        """Seconds since a moment."""
        return max(0.0, self._clock.now() - moment)

    def lease_until(self) -> float:
        """Until when a lease holds that is taken now."""
        return self._clock.now() + LEASE_S

    async def cancel(self, operation_id: str, *, by: str) -> Operation | None:
        """Ask a write to stop between its steps, in whatever process it runs; None if it does not
        run any more."""
        asked = await self._ledger.cancel(operation_id, by=by)
        running = self._by_id.get(operation_id)
        if asked is not None and running is not None:
            running.cancelled = True
        return asked

    async def _renew(self, running: Running) -> None:
        try:
            # What it holds ends before it can be taken over: whoever goes on gets a new token.
            for name, fence in list(running.leases.items()):
                until = self._clock.now() + LEASE_S
                if await self._ledger.lock(name, running.id, until) != fence:
                    running.fenced = running.cancelled = True
            await self.keep(running)
        except OpsError as error:
            # Not renewed, it may be given up as unknown: its end is then recorded as a correction.
            _log.warning("the lease of %s was not renewed: %s", running.id, error.code)

    async def drain(self, seconds: float) -> int:
        """Wait for what runs to end, and let writes of many steps go on elsewhere; answers how
        many did not end."""
        self.stopping = True
        with anyio.move_on_after(seconds):
            for running in list(self._by_id.values()):
                await running.done.wait()
        return len(self._by_id)


class StoredSteps:
    """The `Steps` of one operation, kept in the ledger's store."""

    def __init__(
        self, operations: Operations, ledger: Ledger, running: Running, *, target: str
    ) -> None:
        self._target = target
        self._operations = operations
        self._ledger = ledger
        self._running = running
        self._fact = pinned_by(running.id)
        self.before = running.checkpoint

    @property
    def age_s(self) -> float:
        """Seconds since a lost process began the write; 0 on its first run."""
        return 0.0 if self._running.since is None else self._operations.age_of(self._running.since)

    async def pin(self, text: str) -> str:
        """Durably keep what the write works on; on a later run the text of the first one."""
        known = (await self._ledger.facts()).get(self._fact) if self.before else None
        if known is None:
            await self._ledger.put_fact(self._fact, text)
        return text if known is None else known

    async def at(self, where: str) -> None:
        """Durably say where the write is, before its next step. Raises `Interrupted`."""
        running = self._running
        running.checkpoint = where
        await self._kept(running)
        if running.fenced or (self._operations.stopping and not running.cancelled):
            raise Interrupted

    async def _kept(self, running: Running) -> None:
        """A store that is away for a moment is waited for, as long as nobody can take over."""
        for _ in range(_KEEP_ATTEMPTS):
            try:
                await self._operations.keep(running)
            except StoreUnavailable as error:
                _log.warning("%s waits for the store: %s", running.id, error.message)
                await anyio.sleep(self._operations.keep_pause_s)
            else:
                return
        await self._operations.keep(running)

    async def lease(self, name: str) -> int:
        """Be the only one that works on something. Raises `Conflict` while another write is."""
        until = self._operations.lease_until()
        name = f"{name}|{self._target}"
        fence = await self._ledger.lock(name, self._running.id, until)
        if fence is None:
            raise Conflict(
                "Another operation works on this at the moment; one at a time.",
                hint="search_audit shows it; wait for its end, or stop it with cancel_operation.",
                retry_after_s=LEASE_S,
            )
        self._running.leases[name] = fence
        await self._kept(self._running)  # so that the operation can't be taken over before it
        return fence


def pinned_by(operation_id: str) -> str:
    """The name of the fact that keeps what an operation works on."""
    return f"pinned|{operation_id}"
