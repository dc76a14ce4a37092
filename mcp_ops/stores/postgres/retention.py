"""How long the ledger in PostgreSQL keeps its lines: by age, and by how much room they take.

Lines leave from the start of the order only. A month of which all lines may go is dropped as a
whole, the rest in steps of a thousand between which others write. Every line is held against its
seals before it goes: what cleans up must not clean away a trace. Lines of an operation that is not
over stay, with all that follow them. One server at a time does it, whoever has the lease.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio

from mcp_ops.clock import rfc3339
from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Entry, EntryKind
from mcp_ops.stores.postgres import schema
from mcp_ops.stores.postgres.connections import Connection, Connections, Row, rows
from mcp_ops.stores.postgres.jobs import Change
from mcp_ops.stores.postgres.lines import Head, found_bad, move_head, writer_key
from mcp_ops.stores.postgres.sealing import NO_ENDS, Ends, lines_after, look, walk
from mcp_ops.stores.postgres.time import StoreTime
from mcp_ops.stores.postgres.writer import Writer

DAY_S = 86_400.0
EVERY_S = 60.0
LEASE = "retention of the ledger"
_LINE_BYTES = 350  # what a line takes beside its body and its texts: row, hashes, four indexes
_ENOUGH = 0.9  # of the bound: not every minute anew
_SAMPLE = 500
_log = logging.getLogger("mcp_ops.stores")

Lock = Callable[[str, str, float], Awaitable[int | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long lines are kept, in seconds, and how many bytes they may take.

    The bytes are counted by lines: what PostgreSQL has allotted shrinks later, or by whole months.
    They never take lines of the last `least_s`: a flood must not wash away what came before it.
    """

    keep_s: float = 90 * DAY_S
    most_bytes: int = 1024 * 1024 * 1024
    least_s: float = DAY_S


class Retention:
    """Removes the oldest lines. All methods raise `StoreUnavailable`, also when the lines are not
    as they were sealed; none is removed then."""

    def __init__(
        self,
        connections: Connections,
        writer: Writer,
        key: bytes,
        *,
        bounds: Bounds,
        time: StoreTime,
    ) -> None:
        self._connections = connections
        self._writer = writer
        self._key = key
        self._bounds = bounds
        self._time = time
        self._holder = secrets.token_hex(8)
        self._said = ""

    async def follow(self, lock: Lock, every_s: float = EVERY_S) -> None:
        """Keep the bounds for ever, in the one server that has the lease. What goes wrong is in
        the log."""
        while True:
            await anyio.sleep(every_s)
            try:
                # The lease outlives a pass, so that it stays with the one that lives.
                until = self._time.to_caller_at(self._time.now() + 3 * every_s)
                if await lock(LEASE, self._holder, until) is not None:
                    await self.keep()
            except StoreUnavailable as error:
                self._say(error.message)

    async def keep(self) -> int:
        """Remove what is too old, then the oldest while there is too much; answers how many."""
        now = self._time.now()
        removed = await self.prune(now - self._bounds.keep_s, why="age")
        excess = await self._excess()
        if excess:
            count = await self.prune(now - self._bounds.least_s, why="size", most=excess)
            if count < excess:
                self._say("the ledger is larger than store.ledger_mb, and its lines are too young")
            removed += count
        return removed

    async def prune(self, before: float, *, why: str = "asked", most: int | None = None) -> int:
        """Remove lines older than `before`, at most so many; answers how many."""
        (top,) = await self._connections.fetch(
            "SELECT coalesce(max(start), 0) AS start, coalesce(max(seq), 0) AS seq "
            "FROM mcp_ops.head"
        )
        # Each removal adds a line: those of this pass stay, however far `before` is ahead.
        last = top["seq"] if most is None else min(top["seq"], top["start"] + most)
        removed = 0
        while count := await self._drop_month(before, last):
            removed += count
        while count := await self._step(before, last):
            removed += count
        if removed:
            await self._writer.do(Change(self._line(removed, top["start"] + removed, before, why)))
            with suppress(StoreUnavailable):  # somebody reads: they can go the next time
                await schema.drop_partitions(self._connections)
        return removed

    async def _excess(self) -> int:
        """How many lines are too many for the room that they may take."""
        (found,) = await self._connections.fetch(
            "SELECT (SELECT seq - start FROM mcp_ops.head) AS lines, (SELECT avg(bytes)::float8 "
            "FROM (SELECT pg_column_size(entries.*) AS bytes FROM mcp_ops.entries "
            "ORDER BY seq DESC LIMIT %s) AS sample) AS bytes",
            (_SAMPLE,),
        )
        lines, each = found["lines"] or 0, (found["bytes"] or 0.0) + _LINE_BYTES
        if lines * each <= self._bounds.most_bytes:
            return 0
        return int(lines - self._bounds.most_bytes * _ENOUGH / each)

    async def _drop_month(self, before: float, last: int) -> int:
        """Drop the oldest month if all its lines may go; answers how many they were."""
        async with self._connections.snapshot() as connection:
            ends = await self._ends(connection)
            found = await self._old_month(connection, before)
            if found is None or found["last"] > last:
                return 0
            walker, problem = ends.walker, ends.problem
            while not problem and walker.seq < found["last"]:
                # The last one is there, and steps over it say what is missing before it.
                problem = walk(walker, await lines_after(connection, walker.seq, found["last"]))
        if problem:
            raise found_bad(problem)
        async with self._connections.transaction() as connection:
            # Those who read hold the table, and nobody can write meanwhile: the next time, then.
            await rows(connection, "SET LOCAL lock_timeout = 300")
            head = await rows(
                connection,
                "SELECT seq FROM mcp_ops.head WHERE start = %s FOR UPDATE",
                (ends.head.start,),
            )
            if not head:  # somebody else was quicker
                return 0
            await rows(connection, f"DROP TABLE mcp_ops.entries_{found['month']}")
            await self._move(connection, ends, head[0]["seq"])
        return walker.seq - ends.head.start

    async def _ends(self, connection: Connection) -> Ends:
        ends = await look(connection, self._key)
        if ends is None:
            raise found_bad(NO_ENDS)
        return ends

    async def _old_month(self, connection: Connection, before: float) -> Row | None:
        """The first month with lines if all of them are older than `before` and none is needed."""
        for month in await schema.past_months(connection):
            (found,) = await rows(
                connection,
                "SELECT min(seq) AS first, max(seq) AS last, max(at) AS at "  # noqa: S608 - a month
                f"FROM mcp_ops.entries_{month}",
            )
            if found["first"] is None:
                continue
            (others,) = await rows(
                connection,
                "SELECT count(*) AS lines FROM mcp_ops.entries "
                "WHERE seq <= %s AND tableoid <> %s::regclass",
                (found["last"], f"mcp_ops.entries_{month}"),
            )
            held = await _first_needed(connection)
            needed = held is not None and held <= found["last"]
            young = found["at"] >= before
            return None if needed or young or others["lines"] else {**found, "month": month}
        return None

    async def _step(self, before: float, last: int) -> int:
        """Remove the next lines that may go, at most a thousand; answers how many."""
        async with self._connections.transaction() as connection:
            await rows(connection, "SELECT 1 FROM mcp_ops.head FOR UPDATE")
            ends = await self._ends(connection)
            old = await _candidates(connection, ends.head.start, before, last)
            problem = ends.problem or walk(ends.walker, old)
            if problem:
                raise found_bad(problem)
            if old:
                sql = "DELETE FROM mcp_ops.entries WHERE seq <= %s"
                await rows(connection, sql, (ends.walker.seq,))
                await self._move(connection, ends, ends.head.seq)
        return len(old)

    async def _move(self, connection: Connection, ends: Ends, seq: int) -> None:
        """Seal the new starts, of each writer and of the order, which ends with `seq`."""
        walker = ends.walker
        for writer, walked in walker.walks.items():
            start = walker.chains[writer].moved(walked.end).start
            await rows(
                connection,
                "UPDATE mcp_ops.writers SET start_number = %s, start_hash = %s, start_mac = %s, "
                "pruned = %s, start_seal = %s WHERE writer = %s",
                (
                    *(start.end.seq, start.end.hash, start.end.mac, start.pruned),
                    *(start.seal(writer_key(self._key, writer)), writer),
                ),
            )
        # A writer of which nothing is left is forgotten; if it lives it begins a new chain.
        await rows(connection, "DELETE FROM mcp_ops.writers WHERE start_number = number")
        sql, values = move_head(self._key, Head(walker.seq, seq))
        await rows(connection, sql, values)

    def _line(self, removed: int, reached: int, before: float, why: str) -> Entry:
        now = self._time.now()
        return Entry(
            kind=EntryKind.CHANGED,
            call_id=f"prune-{reached}",
            at=now,
            tool="prune_ledger",
            principal="system:retention",
            reason=_REASONS[why],
            evidence={
                "removed": removed,
                "up_to": reached,
                "older_than": rfc3339(min(before, now)),
            },
        )

    def _say(self, problem: str) -> None:
        if problem != self._said:  # every minute the same is said once
            _log.error("retention of the ledger: %s", problem)
        self._said = problem


async def _first_needed(connection: Connection) -> int | None:
    """The first line of an operation that is not over."""
    (held,) = await rows(
        connection,
        "SELECT min(seq) AS seq FROM mcp_ops.entries JOIN mcp_ops.operations USING (call_id) "
        "WHERE ended_at IS NULL",
    )
    return held["seq"] if held["seq"] is None else int(held["seq"])


async def _candidates(connection: Connection, start: int, before: float, last: int) -> list[Row]:
    """The next lines that may go, up to the first of an operation that is not over."""
    held = await _first_needed(connection)
    found = await lines_after(connection, start, last)
    stop = (n for n, row in enumerate(found) if row["at"] >= before or row["seq"] == held)
    return found[: next(stop, len(found))]


_REASONS = {
    "age": "older than store.ledger_days",
    "size": "the ledger is larger than store.ledger_mb",
    "asked": "asked for",
}
