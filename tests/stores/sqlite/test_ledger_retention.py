"""Old lines leave by themselves; what cleans up hides nothing and forges nothing."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import AuditQuery, Verification
from mcp_ops.stores.chain import End, Start, link
from mcp_ops.stores.sqlite.database import Database
from mcp_ops.stores.sqlite.files import load_key
from mcp_ops.stores.sqlite.ledger import Ledger
from mcp_ops.stores.sqlite.retention import DAY_S, Bounds, Retention
from tests.stores import records

MIB = 1024 * 1024


@asynccontextmanager
async def opened(
    path: Path, clock: ManualClock, bounds: Bounds | None = None
) -> AsyncIterator[tuple[Database, Ledger]]:
    async with (
        Database.open(path / "ops.db", clock) as database,
        Ledger.open(database, path / "ops.key", bounds=bounds) as ledger,
    ):
        yield database, ledger


async def fill(path: Path, clock: ManualClock, *, old: int = 100, new: int = 100) -> None:
    """Old lines, pruned, and new ones."""
    async with opened(path, clock) as (_, ledger):
        for number in range(old):
            ledger.note(records.entry(clock, f"old{number}"))
        clock.advance(DAY_S)
        for number in range(new):
            ledger.note(records.entry(clock, f"new{number}"))
        assert await ledger.prune(clock.now()) == old


def change(path: Path, sql: str, *values: object) -> None:
    connection = sqlite3.connect(path / "ops.db", isolation_level=None)
    try:
        connection.execute(sql, values)
    finally:
        connection.close()


async def verify(path: Path, clock: ManualClock) -> Verification:
    async with opened(path, clock) as (_, ledger):
        return await ledger.verify()


async def test_a_pruned_ledger_verifies_from_its_new_start(
    tmp_path: Path, clock: ManualClock
) -> None:
    await fill(tmp_path, clock)
    assert await verify(tmp_path, clock) == Verification(ok=True, entries=101)


async def test_each_removal_is_a_line_that_says_what_and_why(
    tmp_path: Path, clock: ManualClock
) -> None:
    await fill(tmp_path, clock, old=501)
    async with opened(tmp_path, clock) as (_, ledger):
        found = await ledger.search(AuditQuery(tool="prune_ledger"))
    assert [(e.kind, e.evidence["removed"], e.evidence["up_to"]) for e in found] == [
        ("changed", 1, 501),
        ("changed", 500, 500),
    ]
    assert {e.principal for e in found} == {"system:retention"}


def shifted(path: Path, to: int, key: bytes) -> None:
    """What a forger writes who wants the chain to begin later: all of it right but the key."""
    connection = sqlite3.connect(path / "ops.db", isolation_level=None)
    row = connection.execute("SELECT seq, hash, hash FROM entries WHERE seq = ?", (to,)).fetchone()
    start = Start(writer="", end=End(*row), pruned=to)
    connection.execute("DELETE FROM entries WHERE seq <= ?", (to,))
    connection.execute(
        "REPLACE INTO starts VALUES ('', ?, ?, ?, ?, ?)",
        (to, start.end.hash, start.end.mac, to, start.seal(key)),
    )
    connection.close()


FORGERIES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "forged start": (lambda p: shifted(p, 150, b"wrong" * 8), 151, "start of the chain was not"),
    "moved start": (
        lambda p: change(p, "UPDATE starts SET seq = 99"),
        100,
        "start of the chain was not",
    ),
    "start removed": (lambda p: change(p, "DELETE FROM starts"), 1, "line 1 is missing"),
    "first line removed": (
        lambda p: change(p, "DELETE FROM entries WHERE seq = 101"),
        101,
        "line 101 is missing",
    ),
    "all lines removed": (
        lambda p: change(p, "DELETE FROM entries"),
        101,
        "line 101 is missing: the tail was cut",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_start_is_found(tmp_path: Path, clock: ManualClock, name: str) -> None:
    forge, line, words = FORGERIES[name]
    await fill(tmp_path, clock)
    forge(tmp_path)
    found = await verify(tmp_path, clock)
    assert not found.ok
    assert found.first_bad_seq == line
    assert words in found.problem


async def test_a_start_of_an_earlier_time_is_found(tmp_path: Path, clock: ManualClock) -> None:
    """A start that was sealed once, put back after more was removed."""
    await fill(tmp_path, clock)
    connection = sqlite3.connect(tmp_path / "ops.db", isolation_level=None)
    row = connection.execute("SELECT * FROM starts").fetchone()
    connection.close()
    clock.advance(DAY_S)
    async with opened(tmp_path, clock) as (_, ledger):
        assert await ledger.prune(clock.now()) == 101
    change(tmp_path, "REPLACE INTO starts VALUES (?, ?, ?, ?, ?, ?)", *row)
    assert (await verify(tmp_path, clock)).problem == "line 101 is missing"


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entries SET tool = 'innocent' WHERE seq = 120",
        "DELETE FROM entries WHERE seq = 120",
        "UPDATE starts SET pruned = 0",
    ],
)
async def test_lines_that_were_changed_are_not_cleaned_away(
    tmp_path: Path, clock: ManualClock, sql: str
) -> None:
    await fill(tmp_path, clock)
    change(tmp_path, sql)
    clock.advance(DAY_S)
    async with opened(tmp_path, clock) as (_, ledger):
        with pytest.raises(StoreUnavailable, match="not as they were sealed"):
            await ledger.prune(clock.now())
        assert not (await ledger.verify()).ok
        assert len(await ledger.search(AuditQuery(limit=1_000))) >= 99


async def test_lines_leave_after_the_configured_days(tmp_path: Path, clock: ManualClock) -> None:
    async with opened(tmp_path, clock, Bounds(keep_s=7 * DAY_S)) as (_, ledger):
        ledger.note(records.entry(clock, "first"))
        clock.advance(6 * DAY_S)
        ledger.note(records.entry(clock, "second"))
        assert await ledger.retain() == 0
        clock.advance(2 * DAY_S)
        assert await ledger.retain() == 1
        found = await ledger.search(AuditQuery())
    assert [e.call_id for e in found if e.kind == "ended"] == ["second"]


async def test_the_oldest_lines_leave_a_file_that_is_too_large_and_it_shrinks(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    bounds = Bounds(most_bytes=2 * MIB)
    async with opened(tmp_path, clock, bounds) as (database, ledger):
        for number in range(4_000):
            ledger.note(records.entry(clock, f"c{number}", reason="x" * 600))
        await ledger.flush()
        # All of them are of the last day: a flood must not wash away what came before it.
        assert await ledger.retain() == 0
        assert "too young" in caplog.text
        clock.advance(DAY_S + 1)
        removed = await ledger.retain()
        assert 1_000 < removed < 4_000
        pages = await database.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        assert pages * 4_096 < 2 * MIB + 300 * 4_096
        assert (await ledger.verify()).ok
        assert await ledger.retain() == 0
        (newest,) = await ledger.search(AuditQuery(call_id="c3999"))
        assert newest.call_id == "c3999"


async def test_a_file_that_cannot_shrink_uses_its_free_pages_again(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Files of an earlier version have no map of their pages."""
    connection = sqlite3.connect(tmp_path / "ops.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE earlier (x)")
    connection.close()
    async with opened(tmp_path, clock, Bounds(most_bytes=2 * MIB)) as (database, ledger):

        async def pages() -> int:
            return int(await database.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0]))

        async def burst() -> None:
            for number in range(4_000):
                ledger.note(records.entry(clock, f"c{number}", reason="x" * 600))
            await ledger.flush()
            clock.advance(DAY_S + 1)
            await ledger.retain()

        await burst()
        largest = await pages()
        await burst()
        assert await pages() < largest * 1.6


async def test_retention_runs_by_itself_and_outlives_its_failures(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    await fill(tmp_path, clock)
    clock.advance(DAY_S)
    async with opened(tmp_path, clock, Bounds(keep_s=DAY_S / 2)) as (database, ledger):
        change(tmp_path, "UPDATE starts SET pruned = 0")
        key = load_key(tmp_path / "ops.key")
        retention = Retention(database, key, Bounds(keep_s=DAY_S / 2))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(retention.follow, 0.001)
            with anyio.fail_after(5):
                while "not as they were sealed" not in caplog.text:
                    await anyio.sleep(0)
            change(tmp_path, "UPDATE starts SET pruned = 100")
            with anyio.fail_after(5):
                while len(await ledger.search(AuditQuery(limit=1_000))) > 1:
                    await anyio.sleep(0)
            tasks.cancel_scope.cancel()
        assert (await ledger.verify()).ok


async def test_a_walk_that_retention_overtakes_begins_again(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with opened(tmp_path, clock) as (_, ledger):
        for number in range(5_000):
            ledger.note(records.entry(clock, f"c{number}"))
        await ledger.flush()
        clock.advance(DAY_S)
        found: list[Verification] = []

        async def check() -> None:
            found.append(await ledger.verify())

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(check)
                tasks.start_soon(ledger.prune, clock.now())
        assert [each.ok for each in found] == [True] * 4


async def test_an_anchor_finds_a_ledger_that_was_put_back(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with opened(tmp_path, clock) as (_, ledger):
        ledger.note(records.entry(clock, "c1"))
        await ledger.change(records.entry(clock, "c2"))
    backup = (tmp_path / "ops.db").read_bytes()
    async with opened(tmp_path, clock) as (_, ledger):
        await ledger.change(records.entry(clock, "the evil deed"))
        (anchor,) = await ledger.anchors()
        assert (anchor.seq, await ledger.contradiction(anchor)) == (3, "")
    for name in ("ops.db-wal", "ops.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "ops.db").write_bytes(backup)
    async with opened(tmp_path, clock) as (_, ledger):
        assert (await ledger.verify()).ok  # from the file alone it cannot be found
        assert "ends with line 2" in await ledger.contradiction(anchor)
        await ledger.change(records.entry(clock, "an innocent deed"))
        assert "line 3 is not the one" in await ledger.contradiction(anchor)


async def test_anchors_outlive_pruning_and_are_sealed_themselves(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with opened(tmp_path, clock) as (_, ledger):
        (empty,) = await ledger.anchors()
        await ledger.change(records.entry(clock, "c1"))
        (first,) = await ledger.anchors()
        await ledger.change(records.entry(clock, "c2"))
        (second,) = await ledger.anchors()
        clock.advance(60)
        assert await ledger.prune(clock.now()) == 2
        for anchor in (empty, first, second):
            assert await ledger.contradiction(anchor) == ""
        for forged in (
            replace(second, hash="00" * 32),
            replace(second, seq=1),
            replace(second, at=1.0),
            replace(second, writer="else"),
            replace(second, mac="ü"),
            replace(second, hash="no hash"),
        ):
            assert "was changed" in await ledger.contradiction(forged)
        change(tmp_path, "UPDATE starts SET pruned = 0")
        assert "lost its start" in await ledger.contradiction(second)
        change(tmp_path, "DELETE FROM anchor")
        assert await ledger.anchors() == []


def test_a_seal_is_good_for_one_place_and_one_purpose() -> None:
    end, _ = link(b"k" * 32, End(), b"{}")
    start = Start(writer="w", end=end, pruned=1)
    seals = {
        start.seal(b"k" * 32),
        start.seal(b"l" * 32),
        Start(writer="v", end=end, pruned=1).seal(b"k" * 32),
        Start(writer="w", end=end, pruned=2).seal(b"k" * 32),
        Start(writer="w", end=End(), pruned=1).seal(b"k" * 32),
    }
    assert len(seals) == 5
