"""What the ledger in PostgreSQL removes by itself, and what it holds on to."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from mcp_ops.clock import SystemClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.lab.postgres import DATABASE
from mcp_ops.records import Anchored, AuditQuery, Entry
from mcp_ops.stores.postgres import schema
from mcp_ops.stores.postgres.batch import Keeping
from mcp_ops.stores.postgres.connections import Connections, rows
from mcp_ops.stores.postgres.opening import LedgerStores, open_ledger
from mcp_ops.stores.postgres.retention import DAY_S, LEASE, Bounds, Retention
from mcp_ops.stores.postgres.time import StoreTime
from mcp_ops.stores.postgres.writer import Writer
from tests.stores import records
from tests.stores.backends import KEY, Postgres
from tests.stores.postgres.server import Running

NOW = SystemClock().now()
CLOCK = SystemClock()


@asynccontextmanager
async def retaining(store: Postgres, bounds: Bounds) -> AsyncIterator[Retention]:
    """Retention alone, with bounds of the test's."""
    connections, time = Connections(store.url), StoreTime(CLOCK)
    keeping = Keeping(replay_s=600, lookup_s=600)
    try:
        async with Writer.open(connections, KEY, keeping=keeping, time=time) as writer:
            yield Retention(connections, writer, KEY, bounds=bounds, time=time)
    finally:
        await connections.close()


def line(name: str, at: float, **more: object) -> Entry:
    return replace(records.entry(CLOCK, name), at=at, **more)  # type: ignore[arg-type]


async def write(
    store: Postgres, server: Running, *days_ago: float, each: int = 2, **more: object
) -> None:
    """Lines of some days in the past, written when the database's clock showed that."""
    for days in days_ago:
        at = NOW - days * DAY_S
        server.set_clock(repr(at))
        async with open_ledger(store.url, CLOCK, key=KEY) as kept:
            for number in range(each):
                await kept.ledger.change(line(f"d{days}-{number}", at, **more))
    server.set_clock("")


async def calls(store: Postgres) -> list[str]:
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        assert (await kept.ledger.verify()).ok
        return [e.call_id for e in await kept.ledger.search(AuditQuery(limit=1_000))][::-1]


async def months_with_lines_or_not(store: Postgres) -> int:
    """How many past months have a table."""
    connections = Connections(store.url)
    try:
        async with connections.one() as connection:
            return len(await schema.past_months(connection))
    finally:
        await connections.close()


async def test_old_months_are_dropped_and_the_days_before_the_bound_removed(
    store: Postgres, postgresql: Running
) -> None:
    await write(store, postgresql, 200, 160, 40, 31, 29, 0)
    assert await months_with_lines_or_not(store) >= 3
    async with retaining(store, Bounds(keep_s=30 * DAY_S)) as retention:
        assert await retention.keep() == 8
        assert await retention.keep() == 0
    assert await calls(store) == ["d29-0", "d29-1", "d0-0", "d0-1", "prune-8"]
    assert await months_with_lines_or_not(store) <= 2


async def test_the_line_on_a_removal_says_why_and_how_much(
    store: Postgres, postgresql: Running
) -> None:
    await write(store, postgresql, 200, 0)
    async with retaining(store, Bounds()) as retention:
        await retention.keep()
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        (said,) = await kept.ledger.search(AuditQuery(tool="prune_ledger"))
    assert said.reason == "older than store.ledger_days"
    assert said.principal == "system:retention"
    assert (said.evidence["removed"], said.evidence["up_to"]) == (2, 2)


async def test_too_much_goes_from_the_old_end_but_not_the_last_day(
    store: Postgres, postgresql: Running, caplog: pytest.LogCaptureFixture
) -> None:
    big = {"note": secrets.token_hex(1_500)}
    await write(store, postgresql, 3, 2, each=10, evidence=big)
    await write(store, postgresql, 0, each=10, evidence=big)
    async with retaining(store, Bounds(most_bytes=70_000)) as retention:
        removed = await retention.keep()
        assert 5 < removed < 20
        assert len(await calls(store)) == 30 - removed + 1
    async with retaining(store, Bounds(most_bytes=100)) as retention:
        with caplog.at_level(logging.ERROR):
            assert await retention.keep() == 20 - removed
            assert await retention.keep() == 0
    assert [call[:2] for call in await calls(store)] == ["d0"] * 10 + ["pr"] * 2
    assert caplog.text.count("too young") == 1


async def test_an_operation_that_is_not_over_keeps_its_lines_and_all_after_them(
    store: Postgres, postgresql: Running
) -> None:
    await write(store, postgresql, 200)
    postgresql.set_clock(repr(NOW - 150 * DAY_S))
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        mine = records.operation(
            CLOCK, "o1", key="k1", lease_until=CLOCK.now() + 400 * DAY_S, resume="steps"
        )
        begun = replace(records.began(CLOCK, "o1"), at=NOW - 150 * DAY_S)
        assert (await kept.ledger.begin(begun, mine)).claimed
    await write(store, postgresql, 140)
    async with retaining(store, Bounds()) as retention:
        assert await retention.keep() == 2
        assert await retention.keep() == 0
    assert (await calls(store))[:3] == ["o1", "d140-0", "d140-1"]


async def test_a_month_that_was_tampered_with_stays_and_is_said_once(
    store: Postgres, postgresql: Running, caplog: pytest.LogCaptureFixture
) -> None:
    await write(store, postgresql, 200, 0)

    async def tamper() -> None:
        async with postgresql.server.admin(DATABASE) as admin:
            await admin.execute("UPDATE mcp_ops.entries SET tool = 'innocent' WHERE seq = 2")

    await postgresql.call(tamper)
    async with retaining(store, Bounds()) as retention:
        with pytest.raises(StoreUnavailable, match="None of them is removed"):
            await retention.keep()
        with caplog.at_level(logging.ERROR):
            await passes(retention, 3)
    assert caplog.text.count("not as they were sealed") == 1
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        assert len(await kept.ledger.lines(after=0, limit=10)) == 4


async def passes(retention: Retention, count: int, *, leased: bool = True) -> None:
    """Let retention follow until it has asked so many times for its lease."""
    asked = 0
    done = anyio.Event()

    async def lock(name: str, holder: str, until: float) -> int | None:
        nonlocal asked
        assert name == LEASE
        assert until > CLOCK.now()
        asked += 1
        if asked > count:
            done.set()
            await anyio.sleep_forever()
        return 1 if leased else None

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(retention.follow, lock, 0.01)
            await done.wait()
            group.cancel_scope.cancel()


async def test_only_the_server_with_the_lease_removes(store: Postgres, postgresql: Running) -> None:
    await write(store, postgresql, 200, 0)
    async with retaining(store, Bounds()) as retention:
        await passes(retention, 2, leased=False)
        assert len(await calls(store)) == 4
        await passes(retention, 1)
        assert await calls(store) == ["d0-0", "d0-1", "prune-2"]


async def test_a_month_waits_for_those_who_read_it_and_goes_the_next_time(
    store: Postgres, postgresql: Running
) -> None:
    await write(store, postgresql, 200, 0)
    readers = Connections(store.url)
    async with retaining(store, Bounds()) as retention:
        async with readers.snapshot() as connection:
            await rows(connection, "SELECT 1 FROM mcp_ops.entries")
            with anyio.fail_after(5), pytest.raises(StoreUnavailable, match="lock for too long"):
                await retention.keep()
        assert await retention.keep() == 2
    await readers.close()


async def test_of_two_servers_that_clean_at_once_one_removes_and_the_other_finds_nothing(
    store: Postgres, postgresql: Running
) -> None:
    """Both have looked before one of them begins: a lease can pass while its holder works."""
    await write(store, postgresql, 200, 0)
    holder = Connections(store.url)
    waiting = "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    removed: list[int] = []

    async def keep(retention: Retention) -> None:
        removed.append(await retention.keep())

    with anyio.fail_after(20):
        async with (
            retaining(store, Bounds()) as one,
            retaining(store, Bounds()) as other,
            anyio.create_task_group() as group,
            holder.transaction() as connection,
        ):
            await rows(connection, "LOCK TABLE mcp_ops.operations IN ACCESS EXCLUSIVE MODE")
            group.start_soon(keep, one)
            group.start_soon(keep, other)
            while (await holder.fetch(waiting))[0]["n"] < 2:
                await anyio.sleep(0.01)
    await holder.close()
    assert sorted(removed) == [0, 2]
    assert await calls(store) == ["d0-0", "d0-1", "prune-2"]


async def test_a_ledger_without_ends_is_not_cleaned(store: Postgres, postgresql: Running) -> None:
    await write(store, postgresql, 200)

    async def tamper() -> None:
        async with postgresql.server.admin(DATABASE) as admin:
            await admin.execute("DELETE FROM mcp_ops.head")

    async with retaining(store, Bounds()) as retention:
        await postgresql.call(tamper)
        with pytest.raises(StoreUnavailable, match="the ends of the ledger are missing"):
            await retention.keep()


def ledger_of(kept: LedgerStores) -> Anchored:
    assert isinstance(kept.ledger, Anchored)
    return kept.ledger


async def test_an_anchor_finds_a_ledger_that_was_put_back(
    store: Postgres, postgresql: Running
) -> None:
    async def run(sql: str) -> None:
        async def work() -> None:
            async with postgresql.server.admin(DATABASE) as admin:
                await admin.execute(sql.encode())

        await postgresql.call(work)

    tables = ("head", "writers", "entries")
    copies = "; ".join(f"CREATE TABLE public.old_{t} AS TABLE mcp_ops.{t}" for t in tables)
    back = "; ".join(f"TRUNCATE mcp_ops.{t}" for t in tables) + "; "
    back += "; ".join(f"INSERT INTO mcp_ops.{t} SELECT * FROM public.old_{t}" for t in tables)
    drop = "; ".join(f"DROP TABLE public.old_{t}" for t in tables)
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        (empty,) = await kept.ledger.anchors()
        await kept.ledger.change(records.entry(CLOCK, "c1"))
        await run(copies)
        kept.ledger.note(records.entry(CLOCK, "c2"))
        (anchor,) = await kept.ledger.anchors()
        assert (empty.seq, anchor.seq) == (0, 2)
        for each in (empty, anchor):
            assert await kept.ledger.contradiction(each) == ""
        await run(back)
        assert (await kept.ledger.verify()).ok
        assert "ends with line 1: it was cut, or put back" in await kept.ledger.contradiction(
            anchor
        )
        await kept.ledger.change(records.entry(CLOCK, "another c2"))
        assert (await kept.ledger.verify()).ok
        assert "line 2 is not the one" in await kept.ledger.contradiction(anchor)
        assert await kept.ledger.contradiction(empty) == ""
        await run(drop)


async def test_an_anchor_that_was_changed_or_has_lost_its_line_says_so_or_nothing(
    store: Postgres, postgresql: Running
) -> None:
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        ledger = ledger_of(kept)
        await kept.ledger.change(records.entry(CLOCK, "c1"))
        (anchor,) = await ledger.anchors()
        for changed in (
            replace(anchor, seq=7),
            replace(anchor, hash="no hash"),
            replace(anchor, mac="\u00e9"),
            replace(anchor, writer="main"),
        ):
            assert "was not made with this ledger's key" in await ledger.contradiction(changed)
        await kept.ledger.change(records.entry(CLOCK, "c2"))
        assert await kept.ledger.prune(CLOCK.now() + 60) == 2
        assert await ledger.contradiction(anchor) == ""

        async def tamper() -> None:
            async with postgresql.server.admin(DATABASE) as admin:
                await admin.execute("DELETE FROM mcp_ops.head")

        await postgresql.call(tamper)
        assert "lost its start or its end" in await ledger.contradiction(anchor)
        assert await ledger.anchors() == []
