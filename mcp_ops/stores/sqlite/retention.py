"""How long the embedded ledger keeps its lines: by age, and by the size of the file.

Lines leave from the start of the chain only, in small jobs between which others write. Each job
seals the new start with the key and adds a line on what it removed. Lines of an operation that is
not over stay, with all that follow them. Lines that are not as they were sealed stay too: what
cleans up must not clean away a trace.
"""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass

import anyio

from mcp_ops.clock import rfc3339
from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Entry, EntryKind
from mcp_ops.stores.chain import Start, Walk
from mcp_ops.stores.sqlite import chain
from mcp_ops.stores.sqlite.database import Database
from mcp_ops.stores.sqlite.sealing import WRITER, begin

DAY_S = 86_400.0
EVERY_S = 60.0
_BATCH = 500
_PAGES = 2_000
_SPARE_PAGES = 256
_ENOUGH = 0.9  # of the bound: not every minute anew
_log = logging.getLogger("mcp_ops.stores")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long lines are kept, in seconds, and how large the file may grow, in bytes.

    The size never takes lines of the last `least_s`: a flood must not wash away what came before
    it, so that the file may be larger than its bound after a busy day.
    """

    keep_s: float = 90 * DAY_S
    most_bytes: int = 1024 * 1024 * 1024
    least_s: float = DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class _Old:
    """What may go: lines older than `before` with a number up to `last`, and why."""

    before: float
    last: int
    why: str


class Retention:
    """Removes the oldest lines of one file's ledger."""

    def __init__(self, database: Database, key: bytes, bounds: Bounds) -> None:
        self._database = database
        self._key = key
        self._bounds = bounds
        self._said = ""

    async def follow(self, every_s: float = EVERY_S) -> None:
        """Keep the bounds for as long as the store is open. What goes wrong is in the log."""
        while True:
            await anyio.sleep(every_s)
            try:
                await self.keep()
            except StoreUnavailable as error:
                self._say(error.message)

    async def keep(self) -> int:
        """Remove what is too old, then the oldest while the file is too large; answers how many."""
        now = self._database.time.now()
        removed = await self.prune(now - self._bounds.keep_s, why="age")
        if await self._bytes() > self._bounds.most_bytes:
            removed += await self._shrink(now - self._bounds.least_s)
        if removed:
            await self._return_pages()
        return removed

    async def prune(self, before: float, *, why: str = "asked") -> int:
        """Remove lines older than `before`; answers how many. Raises `StoreUnavailable`, also when
        the lines are not as they were sealed."""
        # Each removal adds a line: those of this pass stay, however far `before` is ahead.
        last = await self._database.read(_last)
        removed = 0
        while count := await self._remove(before, why, last):
            removed += count
        return removed

    async def _shrink(self, before: float) -> int:
        removed = 0
        last = await self._database.read(_last)
        while await self._bytes() > self._bounds.most_bytes * _ENOUGH:
            count = await self._remove(before, "size", last)
            if not count:
                self._say("the ledger is larger than store.ledger_mb, and its lines are too young")
                break
            removed += count
        return removed

    async def _remove(self, before: float, why: str, last: int) -> int:
        def job(connection: sqlite3.Connection) -> int:
            old = _Old(before=before, last=last, why=why)
            return _remove(connection, self._key, old, self._database.time.now())

        return await self._database.write(job)

    async def _bytes(self) -> int:
        """The pages in use, in bytes: free ones are used again."""
        return await self._database.read(
            lambda connection: (
                (_pragma(connection, "page_count") - _pragma(connection, "freelist_count"))
                * _pragma(connection, "page_size")
            )
        )

    async def _return_pages(self) -> None:
        """Give free pages back to the file system, a few at a time; a file that was made without
        this keeps them and uses them again."""
        free = await self._free()
        while free > _SPARE_PAGES:
            await self._database.write(_vacuum)
            left = await self._free()
            if left >= free:
                break
            free = left

    async def _free(self) -> int:
        return await self._database.read(lambda c: _pragma(c, "freelist_count"))

    def _say(self, problem: str) -> None:
        if problem != self._said:  # every minute the same is said once
            _log.error("retention of the ledger: %s", problem)
        self._said = problem


def _remove(connection: sqlite3.Connection, key: bytes, old: _Old, now: float) -> int:
    start, sound = begin(connection, key)
    walk = Walk(key, start.end)
    problem = "" if sound else "the start of the chain was not sealed with the key"
    for row in _candidates(connection, start.end.seq, old):
        problem = problem or walk.step(row)
    if problem:
        raise StoreUnavailable(
            f"The oldest lines of the ledger are not as they were sealed: {problem}. None of "
            "them is removed.",
            hint="Keep a copy of the ledger and find out who changed it: mcp-ops audit verify.",
        )
    count = walk.end.seq - start.end.seq
    if count:
        moved = Start(writer=WRITER, end=walk.end, pruned=start.pruned + count)
        _move(connection, key, moved)
        chain.append(connection, key, [_line(moved, count, old, now)])
    return count


def _candidates(connection: sqlite3.Connection, after: int, old: _Old) -> list[sqlite3.Row]:
    """The next lines that may go, up to the first of an operation that is not over."""
    held = connection.execute(
        "SELECT min(entries.seq) FROM operations JOIN entries USING (call_id) "
        "WHERE operations.ended_at IS NULL"
    ).fetchone()[0]
    rows = connection.execute(
        "SELECT * FROM entries WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
        (after, old.last, _BATCH),
    ).fetchall()
    stop = next(
        (n for n, row in enumerate(rows) if row["at"] >= old.before or row["seq"] == held),
        len(rows),
    )
    return rows[:stop]


def _move(connection: sqlite3.Connection, key: bytes, start: Start) -> None:
    end = start.end
    connection.execute("DELETE FROM entries WHERE seq <= ?", (end.seq,))
    connection.execute(
        "REPLACE INTO starts (writer, seq, hash, mac, pruned, seal) VALUES (?, ?, ?, ?, ?, ?)",
        (WRITER, end.seq, end.hash, end.mac, start.pruned, start.seal(key)),
    )


def _line(start: Start, count: int, old: _Old, now: float) -> Entry:
    return Entry(
        kind=EntryKind.CHANGED,
        call_id=f"prune-{start.end.seq}",
        at=now,
        tool="prune_ledger",
        principal="system:retention",
        reason=_REASONS[old.why],
        evidence={
            "removed": count,
            "up_to": start.end.seq,
            "older_than": rfc3339(min(old.before, now)),
            "hash": start.end.hash.hex(),
        },
    )


def _last(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0])


_REASONS = {
    "age": "older than store.ledger_days",
    "size": "the ledger is larger than store.ledger_mb",
    "asked": "asked for",
}


def _vacuum(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
