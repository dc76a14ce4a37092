"""The ledger's seals in PostgreSQL: check all lines, hold them against anchors, hand them out."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from mcp_ops.clock import rfc3339
from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Anchor, Line, Verification
from mcp_ops.stores.chain import End, decode, sealed
from mcp_ops.stores.postgres.connections import Connection, Connections, Row, rows
from mcp_ops.stores.postgres.lines import Chain, Head, Walker

WALK = 1_000
_MOST_LINES = 1_000
# Anchors are of the order of all writers.
ALL = "all"
NO_ENDS = "the ends of the ledger are missing"


@dataclass(frozen=True, slots=True)
class Ends:
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
        async with self._connections.snapshot() as connection:
            return await self._verify(connection)

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

    async def anchors(self) -> list[Anchor]:
        """Where the order of all lines stands now; nothing when its ends are missing."""
        found = await self._connections.fetch(
            "SELECT head.seq, hash, mcp_ops.now() AS now FROM mcp_ops.head "
            "LEFT JOIN mcp_ops.entries USING (seq)"
        )
        return [
            self._anchor(row["seq"], bytes(row["hash"] or b""), round(row["now"], 3))
            for row in found
        ]

    async def contradiction(self, anchor: Anchor) -> str:
        """What of the present ledger contradicts an earlier anchor; empty for nothing."""
        try:
            known = bytes.fromhex(anchor.hash)
        except ValueError:
            known = b""
        when = f"the anchor of {rfc3339(anchor.at)}"
        made = self._anchor(anchor.seq, known, anchor.at)
        if anchor.writer != ALL or not hmac.compare_digest(
            made.mac, anchor.mac.encode("ascii", "replace").decode()
        ):
            return f"{when} was changed, or was not made with this ledger's key"
        return await self._against(anchor, known, when)

    async def _against(self, anchor: Anchor, known: bytes, when: str) -> str:
        found = await self._connections.fetch(
            "SELECT head.*, hash FROM mcp_ops.head LEFT JOIN mcp_ops.entries ON entries.seq = %s",
            (anchor.seq,),
        )
        head = Head(found[0]["start"], found[0]["seq"]) if found else None
        if head is None or not hmac.compare_digest(head.seal(self._key), bytes(found[0]["seal"])):
            return "the ledger has lost its start or its end"
        if anchor.seq > head.seq:
            return (
                f"{when} knows line {anchor.seq}, and the ledger ends with line {head.seq}: "
                "it was cut, or put back to an earlier copy"
            )
        if anchor.seq <= head.start or known in (b"", bytes(found[0]["hash"] or b"")):
            return ""
        return (
            f"line {anchor.seq} is not the one that {when} knows: the ledger was put back to an "
            "earlier copy, or written anew"
        )

    def _anchor(self, seq: int, digest: bytes, at: float) -> Anchor:
        mac = sealed(self._key, "anchor", ALL, End(seq, digest), at)
        return Anchor(writer=ALL, seq=seq, hash=digest.hex(), at=at, mac=mac.hex())

    async def _verify(self, connection: Connection) -> Verification:
        state = await look(connection, self._key)
        if state is None:
            return Verification(ok=False, entries=0, problem=NO_ENDS)
        walker, problem = state.walker, state.problem
        while not problem and walker.seq < state.head.seq:
            found = await lines_after(connection, walker.seq, state.head.seq)
            if not found:
                break
            problem = walk(walker, found)
        problem = problem or walker.finish(state.highest)
        return Verification(
            ok=not problem,
            entries=walker.seq - state.head.start,
            problem=problem,
            first_bad_seq=walker.seq + 1 if problem else None,
        )


async def look(connection: Connection, key: bytes) -> Ends | None:
    """Look at the ends of everything; None when they are missing."""
    found = await rows(connection, "SELECT * FROM mcp_ops.head")
    writers = await rows(connection, "SELECT * FROM mcp_ops.writers")
    highest = await rows(connection, "SELECT seq FROM mcp_ops.entries ORDER BY seq DESC LIMIT 1")
    if not found:
        return None
    head = Head(found[0]["start"], found[0]["seq"])
    walker = Walker(key, head, [Chain.of(row) for row in writers])
    seals = {row["writer"]: bytes(row["start_seal"]) for row in writers}
    problem = walker.begin(bytes(found[0]["seal"]), seals)
    return Ends(walker, head, highest[0]["seq"] if highest else head.start, problem)


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


async def lines_after(connection: Connection, after: int, last: int) -> list[Row]:
    """The next lines in the order of all writers, at most a thousand, none behind `last`."""
    return await rows(
        connection,
        "SELECT * FROM mcp_ops.entries WHERE seq > %s AND seq <= %s ORDER BY seq LIMIT %s",
        (after, last, WALK),
    )


def walk(walker: Walker, found: list[Row]) -> str:
    """Step over these lines; answers what is wrong with the first bad one, or nothing."""
    return next((problem for row in found if (problem := walker.step(row))), "")
