"""The ledger's lines in PostgreSQL: a chain for each writer, and one order over all of them.

Each open store is a writer with a chain of its own, sealed with a key made for it, so that a line
cannot move to another chain. `seq` numbers the lines of all writers without gaps, in the order of
their commits; each line's `place` seals that number. The head seals the first and the last number.
So a line, a whole writer or the tail cannot go, and nothing can come between, without a trace.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Entry
from mcp_ops.stores.chain import End, Start, Walk, columns, encode, keyed, link
from mcp_ops.stores.postgres.connections import Row, Values

Statement = tuple[str, Values]

_COLUMNS = (
    *("seq bigint", "writer text", "number bigint", "kind text", "at float8", "tool text"),
    *("principal text", "target text", "verdict text", "trace_id text", "call_id text"),
    *("upstream_calls bigint", "body bytea", "prev_hash bytea", "hash bytea", "tag bytea"),
    "place bytea",
)
_NAMES = ", ".join(column.split()[0] for column in _COLUMNS)
_ARRAYS = ", ".join(f"%s::{column.split()[1]}[]" for column in _COLUMNS)
_INSERT = (
    f"INSERT INTO mcp_ops.entries (written, {_NAMES}) "  # noqa: S608 - names of ours
    f"SELECT to_timestamp(%s), * FROM unnest({_ARRAYS})"
)


@dataclass(frozen=True, slots=True)
class Head:
    """Where the order of all lines begins and ends: the last removed and the last line."""

    start: int
    seq: int

    def seal(self, key: bytes) -> bytes:
        """What only a holder of the key can make of it."""
        said = orjson.dumps(["head", self.start, self.seq])
        return hmac.digest(key, b"mcp-ops " + said, "sha256")


@dataclass(frozen=True, slots=True)
class Chain:
    """One writer's chain: where it begins and ends."""

    start: Start
    end: End

    def moved(self, start: End) -> Chain:
        """The chain after its lines up to there were removed."""
        pruned = self.start.pruned + start.seq - self.start.end.seq
        return Chain(Start(writer=self.start.writer, end=start, pruned=pruned), self.end)

    @classmethod
    def of(cls, row: Row) -> Chain:
        """As a row of `writers` has it."""
        start = End(row["start_number"], bytes(row["start_hash"]), bytes(row["start_mac"]))
        return cls(
            start=Start(writer=row["writer"], end=start, pruned=row["pruned"]),
            end=End(row["number"], bytes(row["hash"]), bytes(row["mac"])),
        )


def writer_key(key: bytes, writer: str) -> bytes:
    """The key of one writer's seals."""
    return hmac.digest(key, b"mcp-ops writer " + writer.encode(), "sha256")


def append(
    key: bytes, head: Head, chain: Chain, entries: Sequence[Entry], *, now: float
) -> tuple[list[Statement], int]:
    """What writes these lines at the end of a writer's chain and of the order, and the number of
    the last one in its chain."""
    writer = chain.start.writer
    own, seq, end = writer_key(key, writer), head.seq, chain.end
    rows: list[tuple[Any, ...]] = []
    for entry in entries:
        body = encode(replace(entry, writer=writer))
        previous, seq = end.hash, seq + 1
        end, tag = link(own, end, body)
        sealed = place(own, end.seq, seq)
        search = columns(entry)
        rows.append((seq, writer, end.seq, *search, body, previous, end.hash, tag, sealed))
    statements: list[Statement] = [
        (_INSERT, (now, *(list(column) for column in zip(*rows, strict=True)))),
        (
            "UPDATE mcp_ops.writers SET number = %s, hash = %s, mac = %s WHERE writer = %s",
            (end.seq, end.hash, end.mac, writer),
        ),
        move_head(key, Head(head.start, seq)),
    ]
    return statements, end.seq


def move_head(key: bytes, head: Head) -> Statement:
    """What sets both ends of the order."""
    sql = "UPDATE mcp_ops.head SET start = %s, seq = %s, seal = %s"
    return sql, (head.start, head.seq, head.seal(key))


def new_writer(key: bytes, writer: str, now: float) -> tuple[Statement, Chain]:
    """What begins a chain."""
    chain = Chain(Start(writer=writer, end=End(), pruned=0), End())
    start = chain.start
    values = (
        *(writer, now, 0, start.end.hash, start.end.mac, 0, start.end.hash, start.end.mac),
        *(0, start.seal(writer_key(key, writer))),
    )
    sql = "INSERT INTO mcp_ops.writers VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    return (sql, values), chain


def place(own: bytes, number: int, seq: int) -> bytes:
    """The seal of a line's number over all writers."""
    return keyed(own, b"place" + orjson.dumps([number, seq]))[:16]


class Walker:
    """A check of the lines of all writers in their order, in memory for the writers alone."""

    def __init__(self, key: bytes, head: Head, chains: Iterable[Chain]) -> None:
        self._key = key
        self._head = head
        self.seq = head.start
        self.chains = {chain.start.writer: chain for chain in chains}
        self.walks: dict[str, Walk] = {}

    def begin(self, head_seal: bytes, start_seals: dict[str, bytes]) -> str:
        """Look at the seals of the ends; answers what is wrong with them, or nothing."""
        if not hmac.compare_digest(self._head.seal(self._key), head_seal):
            return "the ends of the ledger were not sealed with its key: cut or key replaced"
        for writer, chain in self.chains.items():
            own = writer_key(self._key, writer)
            if not hmac.compare_digest(chain.start.seal(own), start_seals[writer]):
                return f"the start of the chain of writer {writer} was not sealed with the key"
        return ""

    def step(self, row: Row) -> str:
        """Look at the next line; answers what is wrong with it, or nothing."""
        expected, writer = self.seq + 1, row["writer"]
        if row["seq"] != expected:
            return f"line {expected} is missing"
        chain = self.chains.get(writer)
        if chain is None:
            return f"line {expected} is of a writer that the ledger does not know"
        own = writer_key(self._key, writer)
        walk = self.walks.setdefault(writer, Walk(own, chain.start.end))
        problem = walk.step({**row, "seq": row["number"]})
        if problem:
            return f"line {expected}: {problem} (numbers of writer {writer})"
        if not hmac.compare_digest(place(own, row["number"], expected), row["place"]):
            return f"line {expected} was moved: its number over all writers is not its own"
        self.seq = expected
        return ""

    def finish(self, highest: int) -> str:
        """Compare where the walk ended with the ends; `highest` is the last number there is."""
        if highest > self._head.seq:
            return f"line {self._head.seq + 1} was added round the ends of the ledger"
        if self.seq < self._head.seq:
            return f"line {self.seq + 1} is missing: the tail was cut"
        for writer, chain in self.chains.items():
            walk = self.walks.get(writer)
            reached = chain.start.end if walk is None else walk.end
            if reached != chain.end:
                return f"the end of the chain of writer {writer} was forged"
        return ""


def found_bad(problem: str) -> StoreUnavailable:
    """Lines that should be removed are not as they were sealed: what cleans up must not clean
    away a trace."""
    return StoreUnavailable(
        f"The oldest lines of the ledger are not as they were sealed: {problem}. None of them "
        "is removed.",
        hint="Keep a copy of the ledger and find out who changed it: mcp-ops audit verify.",
    )
