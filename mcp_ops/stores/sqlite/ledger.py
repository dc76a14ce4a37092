"""The embedded ledger: every call's lines in one hash chain, and the operations under their keys.

Lines on writes and on changes of the guard are durable before the caller goes on. Lines on reads
and refusals (`note`) wait in memory, at most half a second or until the next durable line. A line
takes about one kilobyte with its indexes and none is ever removed: a million calls are a gigabyte.
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
from mcp_ops.records import (
    AuditQuery,
    Begun,
    Budget,
    BudgetState,
    Entry,
    Operation,
    Redemption,
    Spent,
    Verification,
)
from mcp_ops.stores.sqlite import approvals, budgets, chain, leases, operations
from mcp_ops.stores.sqlite.background import running
from mcp_ops.stores.sqlite.database import Database, Job
from mcp_ops.stores.sqlite.files import load_key

T = TypeVar("T")

FLUSH_S = 0.5
MOST_NOTED = 10_000
_FLUSH_AT = 1_000
_WALK = 500
_MOST_FOUND = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Intent:
    entry: Entry
    operation: Operation
    budgets: tuple[Budget, ...]
    approval: Redemption | None


class Ledger:
    """The record of every call. Made by `open`, which also gives up operations that were lost."""

    def __init__(self, database: Database, key: bytes, keeping: operations.Keeping) -> None:
        self._database = database
        self._key = key
        self._keeping = keeping
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
    ) -> AsyncIterator[Ledger]:
        """Open the ledger in a database; on the way out all noted lines are written.

        `key_path` holds the key of the seals, made on first use. Ended operations answer replays
        for `replay_s` and look-ups by id for `lookup_s` seconds. Raises `StoreUnavailable`.
        """
        key = await database.read(lambda _: load_key(key_path))
        ledger = cls(database, key, operations.Keeping(replay_s=replay_s, lookup_s=lookup_s))
        await ledger.recover()
        try:
            async with running(lambda: ledger._flush_often(flush_s)):
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
        where, values = _conditions(query)
        sql = f"SELECT seq, body FROM entries {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608 - names of ours
        limit = max(1, min(query.limit, _MOST_FOUND))

        def job(connection: sqlite3.Connection) -> list[Entry]:
            rows = connection.execute(sql, (*values, limit))
            return [chain.decode(row["body"], row["seq"]) for row in rows]

        return await self._database.read(job)

    async def spent(self, since: float, limit: int) -> list[Spent]:
        """Who spent the most upstream calls since then."""
        await self.flush()

        def job(connection: sqlite3.Connection) -> list[Spent]:
            rows = connection.execute(
                "SELECT tool, principal, count(*) AS calls, sum(upstream_calls) AS upstream_calls, "
                "sum(verdict = 'refused') AS refused FROM entries "
                "WHERE kind = 'ended' AND at >= ? GROUP BY tool, principal "
                "ORDER BY 4 DESC, 3 DESC, 1, 2 LIMIT ?",
                (since, limit),
            )
            return [Spent(**dict(row)) for row in rows]

        return await self._database.read(job)

    async def verify(self) -> Verification:
        """Walk the chain up to its present end, in pieces: memory and waits stay bounded."""
        await self.flush()
        anchor, highest = await self._database.read(_ends)
        if anchor is None:
            return Verification(ok=False, entries=0, problem="the anchor is missing")
        walk = chain.Walk(self._key)
        problem = ""
        while walk.seq < anchor["seq"] and not problem:
            problem = await self._database.read(lambda c: _walk_on(c, walk, anchor["seq"]))
        problem = problem or walk.finish(anchor, highest)
        return Verification(
            ok=not problem,
            entries=walk.seq,
            problem=problem,
            first_bad_seq=walk.seq + 1 if problem else None,
        )

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
        lines = operations.give_up_lost(connection, self._database.time.now())
        chain.append(connection, self._key, lines)
        return len(lines)

    def _replayed_since(self) -> float:
        return self._database.time.now() - self._keeping.replay_s

    def _start_flush(self) -> asyncio.Future[None]:
        if self._flushing is None:
            self._writing = lines = tuple(self._noted)
            self._noted.clear()
            self._flushing = self._database.submit(
                lambda connection: chain.append(connection, self._key, lines), durable=False
            )
            self._flushing.add_done_callback(self._flushed)
        return self._flushing

    def _flushed(self, future: asyncio.Future[None]) -> None:
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


def _conditions(query: AuditQuery) -> tuple[str, list[object]]:
    conditions: list[tuple[str, object]] = [
        (f"{column} = ?", chain.clean(value))
        for column in ("principal", "tool", "target", "verdict", "trace_id", "call_id")
        if (value := getattr(query, column))
    ]
    bounds = (("at >= ?", query.since), ("at < ?", query.until), ("seq < ?", query.before_seq))
    conditions += [(text, value) for text, value in bounds if value is not None]
    where = " AND ".join(text for text, _ in conditions)
    return (f"WHERE {where}" if where else ""), [value for _, value in conditions]


def _ends(connection: sqlite3.Connection) -> tuple[sqlite3.Row | None, int]:
    connection.execute("BEGIN")
    try:
        anchor = connection.execute("SELECT seq, count, hash, mac FROM anchor").fetchone()
        highest = connection.execute("SELECT max(seq) FROM entries").fetchone()[0]
    finally:
        connection.execute("ROLLBACK")
    return anchor, highest or 0


def _walk_on(connection: sqlite3.Connection, walk: chain.Walk, stop: int) -> str:
    rows = connection.execute(
        "SELECT * FROM entries WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
        (walk.seq, stop, _WALK),
    ).fetchall()
    if not rows:
        return f"line {walk.seq + 1} is missing: the tail was cut"
    return next((problem for row in rows if (problem := walk.step(row))), "")
