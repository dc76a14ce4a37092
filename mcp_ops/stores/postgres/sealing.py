"""The ledger's seals in PostgreSQL: check all lines, hand them out, remove the oldest."""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from mcp_ops.clock import rfc3339
from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Entry, EntryKind, Line, Verification
from mcp_ops.stores.chain import decode
from mcp_ops.stores.postgres import schema
from mcp_ops.stores.postgres.connections import ANSWER_S, Connection, Connections, Row, rows
from mcp_ops.stores.postgres.lines import (
    Chain,
    Head,
    Walker,
    found_bad,
    move_head,
    writer_key,
)

_WALK = 1_000
_MOST_LINES = 1_000
_ENDS = "the ends of the ledger are missing"


@dataclass(frozen=True, slots=True)
class _State:
    """One look at the ends of everything."""

    walker: Walker
    head: Head
    highest: int
    problem: str


class Sealing:
    """The lines of all writers, to be checked."""

    def __init__(self, connections: Connections, key: bytes) -> None:
        self._connections = connections
        self._key = key

    async def verify(self) -> Verification:
        """Walk all lines as they are at this moment, in pieces: memory stays bounded."""
        async with self._connections.one() as connection:
            await rows(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                return await self._verify(connection)
            finally:
                with anyio.move_on_after(ANSWER_S, shield=True):
                    await rows(connection, "ROLLBACK")

    async def lines(self, *, after: int, limit: int, since: float | None) -> list[Line]:
        """Lines with a number above `after`, oldest first, at most a thousand."""
        found = await self._connections.fetch(
            "SELECT seq, body, prev_hash, hash FROM mcp_ops.entries "
            "WHERE seq > %s AND at >= %s ORDER BY seq LIMIT %s",
            (after, since if since is not None else float("-inf"), max(1, min(limit, _MOST_LINES))),
        )
        return [
            Line(
                entry=decode(bytes(row["body"]), row["seq"]),
                previous=bytes(row["prev_hash"]).hex(),
                hash=bytes(row["hash"]).hex(),
                body=bytes(row["body"]),
            )
            for row in found
        ]

    async def prune(self, before: float) -> tuple[int, Entry | None]:
        """Remove lines older than `before`, a thousand in one go; answers how many, and the line
        that says so. Months that are empty then are dropped."""
        (top,) = await self._connections.fetch("SELECT seq, mcp_ops.now() AS now FROM mcp_ops.head")
        removed, reached = 0, 0
        while True:
            async with self._connections.transaction() as connection:
                count, reached = await self._remove(connection, before, top["seq"])
            removed += count
            if count < _WALK:
                break
        if not removed:
            return 0, None
        await schema.drop_partitions(self._connections)
        line = Entry(
            kind=EntryKind.CHANGED,
            call_id=f"prune-{reached}",
            at=top["now"],
            tool="prune_ledger",
            principal="system:retention",
            evidence={
                "removed": removed,
                "up_to": reached,
                "older_than": rfc3339(min(before, top["now"])),
            },
        )
        return removed, line

    async def _verify(self, connection: Connection) -> Verification:
        state = await self._state(connection)
        if state is None:
            return Verification(ok=False, entries=0, problem=_ENDS)
        walker, problem = state.walker, state.problem
        while not problem and walker.seq < state.head.seq:
            found = await _next(connection, walker.seq, state.head.seq)
            if not found:
                break
            problem = _walk(walker, found)
        problem = problem or walker.finish(state.highest)
        return Verification(
            ok=not problem,
            entries=walker.seq - state.head.start,
            problem=problem,
            first_bad_seq=walker.seq + 1 if problem else None,
        )

    async def _state(self, connection: Connection) -> _State | None:
        found = await rows(connection, "SELECT * FROM mcp_ops.head")
        writers = await rows(connection, "SELECT * FROM mcp_ops.writers")
        highest = await rows(
            connection, "SELECT seq FROM mcp_ops.entries ORDER BY seq DESC LIMIT 1"
        )
        if not found:
            return None
        head = Head(found[0]["start"], found[0]["seq"])
        walker = Walker(self._key, head, [Chain.of(row) for row in writers])
        seals = {row["writer"]: bytes(row["start_seal"]) for row in writers}
        problem = walker.begin(bytes(found[0]["seal"]), seals)
        return _State(walker, head, highest[0]["seq"] if highest else head.start, problem)

    async def _remove(self, connection: Connection, before: float, last: int) -> tuple[int, int]:
        await rows(connection, "SELECT 1 FROM mcp_ops.head FOR UPDATE")
        state = await self._state(connection)
        if state is None:
            raise found_bad(_ENDS)
        start = state.head.start
        old = await self._candidates(connection, start, before, last)
        problem = state.problem or _walk(state.walker, old)
        if problem:
            raise found_bad(problem)
        if old:
            await self._move(connection, state)
        return len(old), state.walker.seq

    async def _candidates(
        self, connection: Connection, start: int, before: float, last: int
    ) -> list[Row]:
        """The next lines that may go, up to the first of an operation that is not over."""
        held = await rows(
            connection,
            "SELECT min(seq) AS seq FROM mcp_ops.entries JOIN mcp_ops.operations USING (call_id) "
            "WHERE ended_at IS NULL",
        )
        found = await _next(connection, start, last)
        stop = next(
            (
                n
                for n, row in enumerate(found)
                if row["at"] >= before or row["seq"] == held[0]["seq"]
            ),
            len(found),
        )
        return found[:stop]

    async def _move(self, connection: Connection, state: _State) -> None:
        walker = state.walker
        await rows(connection, "DELETE FROM mcp_ops.entries WHERE seq <= %s", (walker.seq,))
        for writer, walk in walker.walks.items():
            start = walker.chains[writer].moved(walk.end).start
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
        sql, values = move_head(self._key, Head(walker.seq, state.head.seq))
        await rows(connection, sql, values)


async def ends_of(connections: Connections, key: bytes) -> None:
    """Make the ends of an empty ledger, and hold the ends of any other against the key.

    Raises `StoreUnavailable` for a ledger that was sealed with another key.
    """
    head = Head(0, 0)
    await connections.fetch(
        "INSERT INTO mcp_ops.head SELECT true, %s, %s, %s "
        "WHERE NOT EXISTS (SELECT 1 FROM mcp_ops.writers) ON CONFLICT DO NOTHING",
        (head.start, head.seq, head.seal(key)),
    )
    for row in await connections.fetch("SELECT start, seq, seal FROM mcp_ops.head"):
        if Head(row["start"], row["seq"]).seal(key) != bytes(row["seal"]):
            raise StoreUnavailable(
                "The ledger in PostgreSQL was sealed with another key than this server's.",
                hint="Give all servers that share the ledger the same key (store.key).",
            )


async def _next(connection: Connection, after: int, last: int) -> list[Row]:
    return await rows(
        connection,
        "SELECT * FROM mcp_ops.entries WHERE seq > %s AND seq <= %s ORDER BY seq LIMIT %s",
        (after, last, _WALK),
    )


def _walk(walker: Walker, found: list[Row]) -> str:
    return next((problem for row in found if (problem := walker.step(row))), "")
