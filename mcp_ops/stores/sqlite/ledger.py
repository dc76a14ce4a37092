"""The embedded ledger: every call's lines in one hash chain, and the operations under their keys.

Lines on writes and on changes of the guard are durable before the caller goes on. Lines on reads
and refusals (`note`) wait in memory, at most half a second or until the next durable line. A line
takes about one kilobyte with its indexes: a million calls are a gigabyte. Old ones are removed
(`retention.py`), and those of a flood of refused calls share lines (`floods.py`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio

from mcp_ops.errors import StoreUnavailable
from mcp_ops.questions import Redemption
from mcp_ops.records import (
    Anchor,
    AuditQuery,
    Begun,
    Budget,
    BudgetState,
    Entry,
    Line,
    Operation,
    Spent,
    Verification,
)
from mcp_ops.stores.background import running
from mcp_ops.stores.floods import Floods
from mcp_ops.stores.sqlite import approvals, budgets, chain, leases, operations, queries
from mcp_ops.stores.sqlite.database import Database, Job
from mcp_ops.stores.sqlite.files import load_key
from mcp_ops.stores.sqlite.retention import Bounds, Retention
from mcp_ops.stores.sqlite.sealing import Sealing

T = TypeVar("T")

FLUSH_S = 0.5
MOST_NOTED = 10_000
_FLUSH_AT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Intent:
    entry: Entry
    operation: Operation
    budgets: tuple[Budget, ...]
    approval: Redemption | None


class Ledger:
    """The record of every call. Made by `open`, which also gives up operations that were lost."""

    def __init__(
        self,
        database: Database,
        key: bytes,
        keeping: operations.Keeping,
        bounds: Bounds | None = None,
    ) -> None:
        self._database = database
        self._key = key
        self._keeping = keeping
        self._sealing = Sealing(database, key)
        self._retention = Retention(database, key, bounds or Bounds())
        self._floods = Floods()
        self._noted: deque[Entry] = deque()
        self._writing: tuple[Entry, ...] = ()
        self._flushing: asyncio.Future[None] | None = None
        self._wake = anyio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        database: Database,
        key_path: Path,
        *,
        replay_s: float = 600,
        lookup_s: float = 604_800,
        flush_s: float = FLUSH_S,
        bounds: Bounds | None = None,
    ) -> AsyncIterator[Ledger]:
        """Open the ledger in a database; on the way out all noted lines are written.

        `key_path` holds the key of the seals, made on first use. Ended operations answer replays
        for `replay_s` and look-ups by id for `lookup_s` seconds. `bounds` say how long lines are
        kept. Raises `StoreUnavailable`.
        """
        key = await database.read(lambda _: load_key(key_path))
        keeping = operations.Keeping(replay_s=replay_s, lookup_s=lookup_s)
        ledger = cls(database, key, keeping, bounds)
        await ledger.recover()
        try:
            async with (
                running(lambda: ledger._flush_often(flush_s)),
                running(ledger._retention.follow),
            ):
                yield ledger
        finally:
            with anyio.CancelScope(shield=True):
                await ledger.flush()

    def note(self, entry: Entry) -> None:
        """Add a line that is written within a second: no waiting, no disk.

        Raises `StoreUnavailable` when ten thousand lines wait for a store that takes none: a line
        is never dropped in silence.
        """
        if len(self._noted) + len(self._writing) >= MOST_NOTED:
            raise StoreUnavailable(
                "The ledger is behind by ten thousand lines and takes no more.",
                hint="An operator must look at the server's state directory.",
            )
        self._noted.append(entry)
        self._wake.set()
        if len(self._noted) >= _FLUSH_AT:
            self._start_flush()

    @property
    def unwritten(self) -> int:
        """How many noted lines are not in the file yet."""
        return len(self._noted) + len(self._writing)

    async def flush(self) -> None:
        """Write all noted lines now. Raises `StoreUnavailable`; they are kept for the next try."""
        while self._noted or self._writing:
            await asyncio.shield(self._start_flush())

    async def begin(
        self,
        entry: Entry,
        operation: Operation,
        *,
        budgets: tuple[Budget, ...] = (),
        approval: Redemption | None = None,
    ) -> Begun:
        """Durably write the intent, claim the key, charge the budgets and use up the approval, or
        say what stands in the way."""
        intent = _Intent(entry=entry, operation=operation, budgets=budgets, approval=approval)
        return await self._write(lambda connection: self._begin(connection, intent))

    async def end(self, entry: Entry, operation: Operation | None, *, keep: bool) -> None:
        """Durably write the end; `keep` false frees the key and the budgets, because nothing was
        executed.

        If the operation was given up or taken over meanwhile the line is a correction.
        """

        def job(connection: sqlite3.Connection) -> None:
            line, at = entry, self._database.time.now()
            if operation and not operations.finish(connection, operation, keep=keep, at=at):
                line = operations.late(entry)
            elif operation and not keep:
                budgets.give_back(connection, operation.id)
            chain.append(connection, self._key, [line])

        await self._write(job)

    async def change(self, entry: Entry) -> None:
        """Durably add a line on a change of the guard."""
        await self._write(lambda connection: chain.append(connection, self._key, [entry]))

    async def budgets(self, requests: tuple[Budget, ...]) -> tuple[BudgetState, ...]:
        """Look at budgets without charging."""
        now = self._database.time.now()
        return self._database.read_now(lambda connection: budgets.look(connection, requests, now))

    async def renew(
        self,
        operation_id: str,
        *,
        fence: int,
        lease_until: float,
        progress: str,
        checkpoint: str = "",
    ) -> Operation | None:
        """Keep a running operation's lease and say how far it is; None when this fence does not
        hold it any more."""
        return await self._write(
            lambda connection: operations.renew(
                connection,
                operation_id,
                fence=fence,
                lease_until=lease_until,
                progress=progress,
                checkpoint=checkpoint,
            )
        )

    async def cancel(self, operation_id: str, *, by: str) -> Operation | None:
        """Ask a running operation to stop; None if it does not run."""
        return await self._write(lambda connection: operations.cancel(connection, operation_id, by))

    async def take_over(self, owner: str, lease_until: float) -> list[Operation]:
        """Resumable operations whose process was lost, now this owner's, under a new fence each."""
        await self.recover()
        now = self._database.time.now()
        return await self._write(
            lambda connection: operations.take_over(connection, owner, now, lease_until)
        )

    async def lock(self, name: str, holder: str, until: float) -> int | None:
        """A lease on a name, with its fencing token; None while another one holds it."""
        return await self._write(
            lambda connection: leases.lock(
                connection, name, holder, now=self._database.time.now(), until=until
            )
        )

    async def unlock(self, name: str, fence: int) -> None:
        """Give a lease back; one that another has taken since stays."""
        await self._write(lambda connection: leases.unlock(connection, name, fence))

    async def facts(self) -> dict[str, str]:
        """What the hot store wants to find again if it loses everything."""

        def job(connection: sqlite3.Connection) -> dict[str, str]:
            rows = connection.execute("SELECT name, value FROM facts ORDER BY name")
            return {row["name"]: row["value"] for row in rows}

        return await self._database.read(job)

    async def put_fact(self, name: str, value: str) -> None:
        """Durably keep a fact in the place of the one with its name; an empty one is removed."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM facts WHERE name = ?", (name,))
            if value:
                connection.execute("INSERT INTO facts VALUES (?, ?)", (name, value))

        await self._write(job)

    async def recover(self) -> None:
        """Turn running operations whose lease passed into `unknown`, with their last lines."""
        while await self._write(self._give_up_lost):
            pass

    async def find_operation(self, key: str) -> Operation | None:
        """The operation under a key: unfinished, or ended within the time for replays."""
        return await self._current(
            lambda connection: operations.holder(connection, key, self._replayed_since())
        )

    async def get_operation(self, operation_id: str) -> Operation | None:
        """An operation by id, for a week after its end."""
        return await self._current(lambda connection: operations.by_id(connection, operation_id))

    async def search(self, query: AuditQuery) -> list[Entry]:
        """Lines, newest first, at most a thousand; lines noted before are among them."""
        await self.flush()
        return await self._database.read(lambda connection: queries.search(connection, query))

    async def spent(self, since: float, limit: int) -> list[Spent]:
        """Who spent the most upstream calls since then."""
        await self.flush()
        return await self._database.read(lambda connection: queries.spent(connection, since, limit))

    async def verify(self) -> Verification:
        """Walk the chain from its sealed start to its present end."""
        await self.flush()
        return await self._sealing.verify()

    async def lines(self, *, after: int, limit: int, since: float | None = None) -> list[Line]:
        """Lines with their hashes, oldest first, at most a thousand; lines noted before too."""
        await self.flush()
        return await self._sealing.lines(after=after, limit=limit, since=since)

    async def prune(self, before: float) -> int:
        """Remove lines older than `before` from the start of the chain; answers how many.

        Lines of an operation that is not over stay, with all that follow them. Raises
        `StoreUnavailable`, also when the lines are not as they were sealed.
        """
        await self.flush()
        return await self._retention.prune(before)

    async def retain(self) -> int:
        """Remove what the bounds say now, as happens every minute; answers how many."""
        await self.flush()
        return await self._retention.keep()

    async def anchors(self) -> list[Anchor]:
        """Where the chain stands now."""
        await self.flush()
        return await self._sealing.anchors()

    async def contradiction(self, anchor: Anchor) -> str:
        """What of the present ledger contradicts an earlier anchor; empty for nothing."""
        await self.flush()
        return await self._sealing.contradiction(anchor)

    async def _write(self, job: Job[T]) -> T:
        if self._noted:
            self._start_flush()  # earlier lines come first, and share the commit
        return await self._database.write(job)

    async def _current(self, look: Job[Operation | None]) -> Operation | None:
        found = self._database.read_now(look)
        if found is not None and operations.lost(found, self._database.time.now()):
            await self.recover()
            found = await self._database.read(look)
        return found

    def _begin(self, connection: sqlite3.Connection, intent: _Intent) -> Begun:
        """The key first, then the budgets, then the approval: a job that says no wrote nothing."""
        held = self._holder(connection, intent.operation)
        if held is not None:
            return Begun(claimed=False, holder=held)
        now = self._database.time.now()
        states = budgets.look(connection, intent.budgets, now)
        if not all(state.allowed for state in states):
            return Begun(claimed=False, budgets=states)
        if intent.approval and not approvals.use(connection, intent.approval, now):
            return Begun(claimed=False, budgets=states, approved=False)
        if intent.budgets:
            budgets.take(connection, intent.budgets, intent.operation.id, now)
        operations.claim(connection, intent.operation, intent.entry.call_id)
        chain.append(connection, self._key, [intent.entry])
        return Begun(claimed=True, budgets=states)

    def _holder(self, connection: sqlite3.Connection, operation: Operation) -> Operation | None:
        now = self._database.time.now()
        operations.forget_old(connection, now - self._keeping.lookup_s)
        held = operations.holder(connection, operation.key, self._replayed_since())
        if held is not None and operations.lost(held, now):
            while self._give_up_lost(connection):
                pass
            held = operations.holder(connection, operation.key, self._replayed_since())
        return held

    def _give_up_lost(self, connection: sqlite3.Connection) -> int:
        lost = operations.give_up_lost(connection, self._database.time.now())
        lines = [queries.ended_like_begun(connection, line) for line in lost]
        chain.append(connection, self._key, lines)
        return len(lines)

    def _replayed_since(self) -> float:
        return self._database.time.now() - self._keeping.replay_s

    def _start_flush(self) -> asyncio.Future[None]:
        if self._flushing is not None and self._flushing.done():
            # Its callback comes with the loop's next turn; who awaits a future that is done gets
            # no such turn, and would come back here for ever.
            self._flushed(self._flushing)
        if self._flushing is None:
            self._writing = lines = self._floods.joined(self._noted)
            self._noted.clear()
            self._flushing = self._database.submit(
                lambda connection: chain.append(connection, self._key, lines)
            )
            self._flushing.add_done_callback(self._flushed)
        return self._flushing

    def _flushed(self, future: asyncio.Future[None]) -> None:
        if future is not self._flushing:
            return
        if future.exception() is not None:
            self._noted.extendleft(reversed(self._writing))
        self._writing, self._flushing = (), None

    async def _flush_often(self, interval_s: float) -> None:
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            await anyio.sleep(interval_s)
            try:
                await self.flush()
            except StoreUnavailable:
                self._wake.set()  # the lines are kept; the next try comes after the interval
