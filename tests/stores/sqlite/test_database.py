"""The file, its writer and its faults: it fails closed, never hangs and never corrupts."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.errors import Health, StoreUnavailable
from mcp_ops.ports import CircuitPolicy, CircuitState
from mcp_ops.records import AuditQuery
from mcp_ops.stores.background import running
from mcp_ops.stores.sqlite.circuits import Circuit
from mcp_ops.stores.sqlite.database import Database
from mcp_ops.stores.sqlite.embedded import open_stores
from mcp_ops.stores.sqlite.files import create_database, load_key
from mcp_ops.stores.sqlite.hot import HotStore
from mcp_ops.stores.sqlite.ledger import MOST_NOTED, Ledger
from mcp_ops.stores.sqlite.snapshot import Snapshot
from tests.stores import records


def insert(key: str) -> str:
    return f"INSERT INTO budget_events VALUES ('{key}', 1.0, 2.0, 'c')"


def inserting(key: str) -> Callable[[sqlite3.Connection], object]:
    return lambda connection: connection.execute(insert(key))


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM budget_events").fetchone()[0])


async def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        async with open_stores(tmp_path / "state" / "ops.db", ManualClock()) as stores:
            await stores.ledger.change(records.entry(ManualClock()))
            files = sorted((tmp_path / "state").iterdir())
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert modes == {"ops.db": 0o600, "ops.db-shm": 0o600, "ops.db-wal": 0o600, "ops.key": 0o600}


async def test_writes_that_wait_share_a_commit(tmp_path: Path, clock: ManualClock) -> None:
    commits: list[str] = []
    async with Database.open(tmp_path / "ops.db", clock) as database:
        started, go = anyio.Event(), anyio.Event()

        def hold(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(commits.append)
            anyio.from_thread.run_sync(started.set, token=token)
            anyio.from_thread.run(go.wait, token=token)

        token = anyio.lowlevel.current_token()
        holding = database.submit(hold)
        with anyio.fail_after(5):
            await started.wait()
            waiting = [database.submit(inserting(f"k{number}")) for number in range(64)]
            go.set()
            await holding
            for future in waiting:
                await future
        assert await database.read(count) == 64
    assert commits.count("COMMIT") == 2


async def test_a_failing_job_leaves_no_trace_and_hurts_no_other(
    tmp_path: Path, clock: ManualClock
) -> None:
    def defect(connection: sqlite3.Connection) -> None:
        connection.execute(insert("defect"))
        raise ValueError("a defect")

    def contradiction(connection: sqlite3.Connection) -> None:
        connection.execute(insert("contradiction"))
        connection.execute("INSERT INTO anchor SELECT * FROM anchor")

    async with Database.open(tmp_path / "ops.db", clock) as database:
        bad = database.submit(defect)
        contradicting = database.submit(contradiction)
        good = database.submit(inserting("good"))
        with pytest.raises(ValueError, match="a defect"):
            await bad
        with pytest.raises(StoreUnavailable, match="contradicts"):
            await contradicting
        await good
        assert await database.read(count) == 1
        with pytest.raises(StoreUnavailable, match="SQLite reports an error"):
            await database.write(lambda c: c.execute("SELECT * FROM nowhere"))
        await database.write(inserting("after"))
        assert await database.read(count) == 2


async def test_a_full_disk_fails_all_writes_of_the_batch_and_heals(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with open_stores(tmp_path / "ops.db", clock) as stores:
        database = stores.approvals._database
        pages = await database.write(_limit_pages)
        big = records.entry(clock, "big", reason="x" * 100_000)
        stores.ledger.note(records.entry(clock, "noted"))
        with pytest.raises(StoreUnavailable, match="disk is full") as caught:
            await stores.ledger.change(big)
        assert caught.value.retryable
        assert caught.value.executed == "no"
        assert str(tmp_path) not in str(caught.value)
        await database.write(lambda c: c.execute(f"PRAGMA max_page_count = {pages + 1_000}"))
        await stores.ledger.change(big)
        found = await stores.ledger.search(AuditQuery())
        assert [line.call_id for line in found] == ["big", "noted"]
        assert (await stores.ledger.verify()).ok


def _limit_pages(connection: sqlite3.Connection) -> int:
    pages = int(connection.execute("PRAGMA page_count").fetchone()[0])
    connection.execute(f"PRAGMA max_page_count = {pages}")
    return pages


async def test_a_read_only_file_fails_closed(tmp_path: Path, clock: ManualClock) -> None:
    asked = records.request(rates=(records.rate(),), target="failing")
    async with open_stores(tmp_path / "ops.db", clock) as stores:
        for _ in range(3):
            await stores.hot.record(
                "failing", Health.FAILED, error="x", probe=False, policy=CircuitPolicy()
            )
        clock.advance(60)
        database = stores.approvals._database
        await database.write(lambda c: c.execute("PRAGMA query_only = ON"))
        with pytest.raises(StoreUnavailable, match="read-only"):
            await stores.ledger.begin(records.began(clock), records.operation(clock))
        with pytest.raises(StoreUnavailable, match="read-only"):
            await stores.hot.admit(asked)
        assert (await stores.hot.rates(asked.rates))[0].remaining == 3
        assert (await stores.hot.admit(records.request())).granted


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process holds the file for writing."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


async def test_notes_are_kept_while_nothing_can_be_written_and_never_dropped(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with (
        Database.open(tmp_path / "ops.db", clock) as database,
        Ledger.open(database, tmp_path / "ops.key") as ledger,
    ):
        await database.write(lambda c: c.execute("PRAGMA busy_timeout = 0"))
        with locked(tmp_path / "ops.db"):
            for index in range(MOST_NOTED):
                ledger.note(records.entry(clock, f"c{index}"))
            with pytest.raises(StoreUnavailable, match="ten thousand"):
                ledger.note(records.entry(clock))
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="another process"):
                    await ledger.flush()
        newest = await ledger.search(AuditQuery(limit=1))
        assert (newest[0].seq, newest[0].call_id) == (MOST_NOTED, f"c{MOST_NOTED - 1}")


async def test_a_store_that_can_not_write_its_last_lines_says_so(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with Database.open(tmp_path / "ops.db", clock) as database:
        await database.write(lambda c: c.execute("PRAGMA busy_timeout = 0"))
        opened = Ledger.open(database, tmp_path / "ops.key")
        ledger = await opened.__aenter__()
        ledger.note(records.entry(clock))
        with locked(tmp_path / "ops.db"), pytest.raises(StoreUnavailable, match="another process"):
            await opened.__aexit__(None, None, None)


async def test_the_background_goes_on_writing_when_the_store_is_back(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with (
        Database.open(tmp_path / "ops.db", clock) as database,
        Ledger.open(database, tmp_path / "ops.key", flush_s=0) as ledger,
    ):
        await database.write(lambda c: c.execute("PRAGMA busy_timeout = 0"))
        with locked(tmp_path / "ops.db"):
            ledger.note(records.entry(clock))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(StoreUnavailable):
                await ledger.flush()
        with anyio.fail_after(5):
            while not await database.read(_lines):
                await anyio.sleep(0)


def _lines(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])


async def test_another_process_that_holds_the_file_too_long_is_named(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with Database.open(tmp_path / "ops.db", clock) as database:
        await database.write(lambda c: c.execute("PRAGMA busy_timeout = 10"))
        with (
            locked(tmp_path / "ops.db"),
            pytest.raises(StoreUnavailable, match="another process holds it"),
        ):
            await database.write(inserting("k"))
        await database.write(inserting("k"))


async def test_reads_that_can_not_be_made_refuse_everything_after_ten_tries(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with (
        Database.open(tmp_path / "ops.db", clock) as database,
        HotStore.open(database, refresh_s=0) as hot,
    ):
        assert (await hot.admit(records.request())).granted
        await database.write(lambda c: c.execute("ALTER TABLE modes RENAME TO gone"))
        with anyio.fail_after(5):
            while "cannot be read" not in await _refusal(hot):
                await anyio.sleep(0)
        with pytest.raises(StoreUnavailable, match="SQLite reports an error"):
            await hot.modes()
        await database.write(lambda c: c.execute("ALTER TABLE gone RENAME TO modes"))
        with anyio.fail_after(5):
            while await _refusal(hot):
                await anyio.sleep(0)


async def _refusal(hot: HotStore) -> str:
    try:
        assert (await hot.admit(records.request())).granted
    except StoreUnavailable as error:
        return error.message
    return ""


async def test_an_older_circuit_does_not_replace_a_newer_one(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with Database.open(tmp_path / "ops.db", clock) as database:
        snapshot = Snapshot(database)
        async with snapshot.opened():
            for version in (5, 3):
                snapshot.adopt(Circuit(state=CircuitState(target="shop", version=version)))
            assert snapshot.circuit("shop").state.version == 5


async def test_a_jump_is_followed_without_any_write(tmp_path: Path, clock: ManualClock) -> None:
    async with (
        Database.open(tmp_path / "ops.db", clock) as database,
        HotStore.open(database, refresh_s=0) as hot,
    ):
        await hot.set_mode(records.mode(clock, expires_at=clock.now() + 60))
        clock.jump(3_600)
        with anyio.fail_after(5):
            while (await hot.admit(records.request())).at != clock.now():
                await anyio.sleep(0)
        assert (await hot.modes())[0].expires_at == clock.now() + 60


async def test_the_monotonic_clock_is_noted_now_and_then(
    tmp_path: Path, clock: ManualClock
) -> None:
    def noted(connection: sqlite3.Connection) -> float:
        return float(connection.execute("SELECT monotonic FROM clock").fetchone()[0])

    async with Database.open(tmp_path / "ops.db", clock) as database:
        first = await database.write(noted)
        clock.advance(61)
        assert await database.write(noted) == first + 61


async def test_a_closed_store_says_so(tmp_path: Path, clock: ManualClock) -> None:
    async with Database.open(tmp_path / "ops.db", clock) as database:
        last = database.submit(lambda c: c.execute(insert("last")))
    assert last.done()
    for use in (database.write, database.read):
        with pytest.raises(StoreUnavailable, match="closed"):
            await use(count)
    with pytest.raises(StoreUnavailable, match="closed"):
        database.read_now(count)
    async with Database.open(tmp_path / "ops.db", clock) as database:
        assert await database.read(count) == 1


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "ops.db").write_text("not a database" * 100, encoding="utf-8")
    with pytest.raises(StoreUnavailable, match="no database"):
        async with Database.open(tmp_path / "ops.db", clock):
            pass


async def test_a_directory_that_can_not_be_made_is_refused(
    tmp_path: Path, clock: ManualClock
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="directory or file"):
        async with Database.open(tmp_path / "file" / "ops.db", clock):
            pass


async def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path, clock: ManualClock) -> None:
    create_database(tmp_path / "ops.db")
    connection = sqlite3.connect(tmp_path / "ops.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreUnavailable, match="newer version"):
        async with Database.open(tmp_path / "ops.db", clock):
            pass


async def test_an_empty_file_becomes_a_store(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "ops.db").touch()
    async with Database.open(tmp_path / "ops.db", clock) as database:
        assert await database.read(count) == 0


async def test_a_damaged_key_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    for content in ("not hexadecimal", "abcd"):
        (tmp_path / "ops.key").write_text(content, encoding="utf-8")
        with pytest.raises(StoreUnavailable, match="key file"):
            async with open_stores(tmp_path / "ops.db", clock):
                pass
        assert (tmp_path / "ops.key").read_text(encoding="utf-8") == content


def test_a_key_is_made_once(tmp_path: Path) -> None:
    key = load_key(tmp_path / "ops.key")
    assert load_key(tmp_path / "ops.key") == key
    assert [path.name for path in tmp_path.iterdir()] == ["ops.key"]


async def test_a_defect_of_background_work_is_seen_at_its_end() -> None:
    async def ends() -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        async with running(ends):
            await anyio.wait_all_tasks_blocked()


async def test_errors_of_who_uses_the_stores_come_through_bare(
    tmp_path: Path, clock: ManualClock
) -> None:
    with pytest.raises(KeyError):
        async with open_stores(tmp_path / "ops.db", clock):
            raise KeyError("theirs")
