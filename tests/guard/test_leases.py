"""The leases of writes: kept while they run, lost to others, and what a store that is away does."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from mcp_ops.errors import StoreUnavailable
from mcp_ops.guard.operations import LEASE_S
from mcp_ops.records import Operation
from tests.guard.bench import AGENT, WHY, Bench, bench, shelf_target
from tests.guard.shelf import World
from tests.guard.test_resume import QUICK, begin, ended


@asynccontextmanager
async def away(b: Bench) -> AsyncIterator[None]:
    """The store takes no writes."""
    database = b.stores.ledger._database
    with suppress(StoreUnavailable):  # a renewal in the same batch finds it on already
        await database.write(lambda c: c.execute("PRAGMA query_only = ON"))
    try:
        yield
    finally:
        database._connection.execute("PRAGMA query_only = OFF")


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not holds():
            await anyio.sleep(0.001)


@asynccontextmanager
async def renewing(b: Bench) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(b.operations.keep_leases, 0.001)
        yield
        tasks.cancel_scope.cancel()


def release(b: Bench) -> None:
    b.held.released.set()  # type: ignore[attr-defined]


async def stored(b: Bench, operation: str) -> Operation:
    found = await b.stores.ledger.get_operation(operation)
    assert found is not None
    return found


async def test_what_runs_keeps_its_leases_and_nobody_takes_it_over(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        operation = await begin(b)
        async with renewing(b):
            for _ in range(9):
                # A third: the test may be a round ahead of the second lease, on its work.
                b.clock.advance(LEASE_S / 3)
                renewed = b.clock.now() + LEASE_S
                with anyio.fail_after(5):
                    while (await stored(b, operation)).lease_until < renewed:
                        await anyio.sleep(0.001)
        assert await b.stores.ledger.lock("fill|shelf", "other", b.clock.now() + 1) is None
        assert await b.resumer.take() == 0
        release(b)
        assert (await ended(b, operation))["outcome"] == "verified"
        assert b.world.effects == ["put 0", "put 1", "put 2"]


async def test_what_has_not_begun_has_no_lease_to_keep(tmp_path: Path) -> None:
    """Another process holds the store's file: the intent waits for it."""
    async with bench(tmp_path) as b:
        await b.put(name="first")
        holder = sqlite3.connect(b.path / "s.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: b.put(name="second"))
            await until(lambda: bool(b.operations._by_id))
            async with renewing(b):
                await anyio.sleep(0.02)
                (running,) = b.operations._by_id.values()
                assert not running.began
                assert not running.fenced
            holder.execute("COMMIT")
            holder.close()
        assert b.world.effects == ["put first", "put second"]


async def test_a_write_whose_lease_on_its_work_was_lost_stops_and_leaves_its_record(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        operation = await begin(b)
        b.clock.advance(LEASE_S + 1)
        fence = await b.stores.ledger.lock("fill|shelf", "other", b.clock.now() + LEASE_S)
        assert fence == 2
        running = b.operations.get(operation)
        assert running is not None
        async with renewing(b):
            await until(lambda: running.fenced)
        lease = (await stored(b, operation)).lease_until
        release(b)
        with anyio.fail_after(5):
            await running.done.wait()
        assert b.world.effects == ["put 0", "put 1"]
        after = await stored(b, operation)
        assert after.state == "running"
        assert after.lease_until >= lease  # not handed over: another one has its work
        assert [e.kind for e in await b.entries(call_id=operation)] == ["began"]


async def test_a_lease_that_cannot_be_renewed_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        operation = await begin(b)
        async with renewing(b):
            async with away(b):
                await until(lambda: "was not renewed: store_unavailable" in caplog.text)
            b.clock.advance(1)
            renewed = b.clock.now() + LEASE_S
            with anyio.fail_after(5):
                while (await stored(b, operation)).lease_until < renewed:
                    await anyio.sleep(0.001)
        release(b)
        assert (await ended(b, operation))["outcome"] == "verified"


async def test_a_step_waits_for_a_store_that_is_away_for_a_moment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        b.operations.keep_pause_s = 0.05
        operation = await begin(b)
        async with away(b):
            release(b)
            await until(lambda: f"{operation} waits for the store" in caplog.text)
        status = await ended(b, operation)
        assert (status["state"], status["outcome"]) == ("done", "verified")
        assert b.world.effects == ["put 0", "put 1", "put 2"]


async def test_a_write_whose_store_stays_away_stops_and_goes_on_elsewhere(tmp_path: Path) -> None:
    world = World()
    async with bench(tmp_path, settings=QUICK, worlds={"shelf": world}) as first:
        first.operations.keep_pause_s = 0.001
        operation = await begin(first)
        running = first.operations.get(operation)
        assert running is not None
        async with away(first):
            release(first)
            with anyio.fail_after(5):
                await running.done.wait()
        assert running.error is not None
        assert (running.error.code, running.error.executed) == ("store_unavailable", "unknown")
        assert world.effects == ["put 0", "put 1"]
        first.clock.advance(LEASE_S + 1)
        async with bench(tmp_path, clock=first.clock, worlds={"shelf": world}) as second:
            assert await second.resumer.take() == 1
            assert (await ended(second, operation))["outcome"] == "verified"
    # The step that was made but not noted is made again: its own fence and check must bear it.
    assert world.effects == ["put 0", "put 1", "put 1", "put 2"]


async def test_a_write_is_stopped_by_who_asks_in_its_own_process(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        operation = await begin(b)
        running = b.operations.get(operation)
        assert running is not None
        await b.ok("cancel_operation", operation_id=operation, reason=WHY)
        assert running.cancelled  # at once, not with its next step
        release(b)
        status = await ended(b, operation)
        assert (status["state"], status["answer"]["problem"]) == ("done", "cancelled")


async def test_a_write_that_lost_its_process_is_shown_as_unknown(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=QUICK) as first:
        hold = first.world.hold()
        operation = (await first.ok("put_item", name="a", reason=WHY))["operation_id"]
        async with bench(tmp_path, clock=first.clock) as second:
            status = await second.ok("get_operation", operation_id=operation)
            assert status["state"] == "running"
            first.clock.advance(LEASE_S + 1)
            status = await second.ok("get_operation", operation_id=operation)
            assert (status["state"], status["outcome"]) == ("unknown", "unknown")
        hold.released.set()


async def test_a_write_that_another_process_will_go_on_with_is_shown_as_running(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, settings=QUICK) as first:
        operation = await begin(first)
        async with bench(tmp_path, clock=first.clock) as second:
            first.clock.advance(LEASE_S + 1)
            status = await second.ok("get_operation", operation_id=operation)
            assert (status["state"], status["progress"]) == ("running", "1/3 put")
            await second.ok("cancel_operation", operation_id=operation, reason=WHY)
            assert (await stored(second, operation)).cancel_by == AGENT.principal


async def test_lost_operations_are_looked_for_again_when_the_store_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    async with bench(tmp_path, settings=QUICK, worlds={"shelf": world}) as first:
        operation = await begin(first)
        first.clock.advance(LEASE_S + 1)
        async with (
            bench(tmp_path, clock=first.clock, worlds={"shelf": world}) as second,
            anyio.create_task_group() as tasks,
        ):
            async with away(second):
                tasks.start_soon(second.resumer.follow, 0.001)
                await until(lambda: "were not looked for: store_unavailable" in caplog.text)
            assert (await ended(second, operation))["outcome"] == "verified"
            tasks.cancel_scope.cancel()


async def test_an_operation_on_a_target_that_is_not_here_is_left_to_another(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, settings=QUICK) as first:
        operation = await begin(first)
        first.clock.advance(LEASE_S + 1)
        infos = (shelf_target("other"),)
        async with bench(tmp_path, clock=first.clock, infos=infos) as second:
            assert await second.resumer.take() == 1
            found = await stored(second, operation)
            assert (found.state, found.checkpoint) == ("running", "1")
            assert found.lease_until > second.clock.now()
            assert second.worlds["other"].asked == []
