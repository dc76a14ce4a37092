"""The embedded ledger's seals: check the chain, hold it against anchors, hand out its lines."""

from __future__ import annotations

import hmac
import sqlite3
from dataclasses import dataclass

from mcp_ops.clock import rfc3339
from mcp_ops.records import Anchor, Line, Verification
from mcp_ops.stores.chain import End, Start, Walk, decode, sealed
from mcp_ops.stores.sqlite import chain
from mcp_ops.stores.sqlite.database import Database

WRITER = ""  # all processes that share the file write one chain
_WALK = 500
_MOST_LINES = 1_000


@dataclass(frozen=True, slots=True)
class _State:
    """One look at both ends of the chain. `forged`: the start is not sealed with the key."""

    start: End
    forged: bool
    end: End | None
    highest: int


class Sealing:
    """The chain of one file, to be read."""

    def __init__(self, database: Database, key: bytes) -> None:
        self._database = database
        self._key = key

    async def verify(self) -> Verification:
        """Walk the chain from its start to its present end, in pieces: memory stays bounded."""
        state = await self._state()
        if state.forged:
            return _bad(state.start.seq, 0, "the start of the chain was not sealed with the key")
        if state.end is None:
            return Verification(ok=False, entries=0, problem="the anchor is missing")
        walk = Walk(self._key, state.start)
        stop, problem = state.end.seq, ""
        while walk.end.seq < stop and not problem:
            problem = await self._database.read(lambda c: _walk_on(c, walk, stop))
        problem = problem or walk.finish(state.end, state.highest)
        if not problem:
            return Verification(ok=True, entries=walk.end.seq - state.start.seq)
        if (await self._state()).start != state.start:
            return await self.verify()  # retention moved the start meanwhile: it looks like a cut
        return _bad(walk.end.seq, walk.end.seq - state.start.seq, problem)

    async def lines(self, *, after: int, limit: int, since: float | None) -> list[Line]:
        """Lines with a number above `after`, oldest first, at most a thousand."""

        def job(connection: sqlite3.Connection) -> list[Line]:
            # "+at": by number, not by the index of times, so that each page goes on from the last.
            rows = connection.execute(
                "SELECT seq, body, prev_hash, hash FROM entries "
                "WHERE seq > ? AND +at >= ? ORDER BY seq LIMIT ?",
                (after, since if since is not None else -1e300, max(1, min(limit, _MOST_LINES))),
            )
            return [
                Line(
                    entry=decode(row["body"], row["seq"]),
                    previous=row["prev_hash"].hex(),
                    hash=row["hash"].hex(),
                    body=row["body"],
                )
                for row in rows
            ]

        return await self._database.read(job)

    async def anchors(self) -> list[Anchor]:
        """Where the chain stands now."""
        end = (await self._state()).end
        if end is None:
            return []
        return [self._anchor(end.seq, end.hash, round(self._database.time.now(), 3))]

    async def contradiction(self, anchor: Anchor) -> str:
        """What of the present ledger contradicts an earlier anchor; empty for nothing."""
        try:
            known = bytes.fromhex(anchor.hash)
        except ValueError:
            known = b""
        when = f"the anchor of {rfc3339(anchor.at)}"
        made = self._anchor(anchor.seq, known, anchor.at)
        if anchor.writer != WRITER or not hmac.compare_digest(
            made.mac, anchor.mac.encode("ascii", "replace").decode()
        ):
            return f"{when} was changed, or was not made with this ledger's key"
        state = await self._state()
        if state.forged or state.end is None:
            return "the ledger has lost its start or its end"
        if anchor.seq > state.end.seq:
            return (
                f"{when} knows line {anchor.seq}, and the ledger ends with line {state.end.seq}: "
                "it was cut, or put back to an earlier copy"
            )
        if anchor.seq < state.start.seq or known == await self._hash(anchor.seq, state):
            return ""
        return (
            f"line {anchor.seq} is not the one that {when} knows: the ledger was put back to an "
            "earlier copy, or written anew"
        )

    def _anchor(self, seq: int, digest: bytes, at: float) -> Anchor:
        mac = sealed(self._key, "anchor", WRITER, End(seq, digest), at)
        return Anchor(writer=WRITER, seq=seq, hash=digest.hex(), at=at, mac=mac.hex())

    async def _hash(self, seq: int, state: _State) -> bytes:
        if seq == state.start.seq:
            return state.start.hash

        def job(connection: sqlite3.Connection) -> bytes:
            row = connection.execute("SELECT hash FROM entries WHERE seq = ?", (seq,)).fetchone()
            return b"" if row is None else bytes(row["hash"])

        return await self._database.read(job)

    async def _state(self) -> _State:
        def job(connection: sqlite3.Connection) -> _State:
            connection.execute("BEGIN")
            try:
                start, sound = begin(connection, self._key)
                end = chain.anchor(connection)
                highest = connection.execute("SELECT max(seq) FROM entries").fetchone()[0]
            finally:
                connection.execute("ROLLBACK")
            return _State(start=start.end, forged=not sound, end=end, highest=highest or 0)

        return await self._database.read(job)


def begin(connection: sqlite3.Connection, key: bytes) -> tuple[Start, bool]:
    """Where the chain starts, and whether that is sealed with the key."""
    row = connection.execute(
        "SELECT seq, hash, mac, pruned, seal FROM starts WHERE writer = ?", (WRITER,)
    ).fetchone()
    if row is None:
        return Start(writer=WRITER, end=End(), pruned=0), True
    end = End(row["seq"], row["hash"], row["mac"])
    start = Start(writer=WRITER, end=end, pruned=row["pruned"])
    return start, hmac.compare_digest(row["seal"], start.seal(key))


def _bad(last: int, entries: int, problem: str) -> Verification:
    return Verification(ok=False, entries=entries, problem=problem, first_bad_seq=last + 1)


def _walk_on(connection: sqlite3.Connection, walk: Walk, stop: int) -> str:
    rows = connection.execute(
        "SELECT * FROM entries WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
        (walk.end.seq, stop, _WALK),
    ).fetchall()
    if not rows:
        return f"line {walk.end.seq + 1} is missing: the tail was cut"
    return next((problem for row in rows if (problem := walk.step(row))), "")
