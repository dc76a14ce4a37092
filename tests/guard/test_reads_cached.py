"""Answers that are remembered by setting, and what makes them be forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_ops.app import open_app
from mcp_ops.call import parse
from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.clock import ManualClock
from mcp_ops.errors import (
    ConfigurationError,
    DeadlineExceeded,
)
from mcp_ops.guard.reads import Reads, check_cache
from mcp_ops.ports import Mode
from mcp_ops.settings import CacheSettings, GuardSettings, Settings
from tests.guard.bench import AGENT, OPEN, WHY, bench, shelf_target
from tests.guard.shelf import SHELF_TOOLS
from tests.guard.test_reads import many

CACHED = OPEN.model_copy(update={"cache": CacheSettings(tools={"look_at_item": 30})})


async def test_a_tool_that_is_cached_by_setting_answers_again_for_so_many_seconds(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, settings=CACHED) as b:
        assert "cached_age_s" not in await b.ok("look_at_item", name="x")
        b.clock.advance(30)
        assert (await b.ok("look_at_item", name="x"))["cached_age_s"] == 30.0
        other = replace(AGENT, principal="agent:other@host")
        assert "cached_age_s" not in await b.ok("look_at_item", other, name="x")
        assert "cached_age_s" not in await b.ok("look_at_item", name="y")
        b.clock.advance(1)
        assert "cached_age_s" not in await b.ok("look_at_item", name="x")
        assert b.world.asked == ["look x", "look x", "look y", "look x"]


async def test_a_cached_tool_is_asked_once_by_many_at_the_same_moment(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CACHED, infos=(shelf_target(concurrent=20),)) as b:
        await many(b, 10, name="x")
        assert "cached_age_s" in await b.ok("look_at_item", name="x")
        assert b.world.asked == ["look x"]


async def test_where_usage_costs_nothing_a_restrictive_mode_gives_no_old_answers(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.RESTRICTIVE)
        for _ in range(2):
            assert "cached_age_s" not in await b.ok("look_at_item", name="x")
        assert b.world.asked == ["look x", "look x"]


async def test_a_refused_call_gets_no_cached_answer(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CACHED) as b:
        await b.ok("look_at_item", name="x")
        await b.set_mode(Mode.LOCKDOWN)
        assert await b.code("look_at_item", name="x") == "locked_down"


async def test_a_plan_is_never_a_cached_one(tmp_path: Path) -> None:
    settings = OPEN.model_copy(update={"cache": CacheSettings(tools={"put_item": 30})})
    async with bench(tmp_path, settings=settings) as b:
        for _ in range(2):
            assert "cached_age_s" not in await b.put(name="x", dry_run=True)


async def test_the_servers_own_look_at_the_usage_is_never_a_cached_one(tmp_path: Path) -> None:
    from tests.guard.test_modes import reading

    settings = OPEN.model_copy(update={"cache": CacheSettings(tools={"check_api_usage": 30})})
    async with bench(tmp_path, settings=settings, infos=(shelf_target(metered=True),)) as b:
        b.world.reading = reading(60)
        await b.ok("check_api_usage", target="shelf")
        assert "cached_age_s" in await b.ok("check_api_usage", target="shelf")
        await b.inside.read_usage("shelf")
        await b.inside.read_usage("shelf")
        assert b.world.asked == ["usage"] * 3


async def test_what_was_read_while_a_write_ran_is_not_remembered(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CACHED) as b:
        read, write = b.world.hold(), b.world.hold()

        async def look() -> None:
            await b.ok("look_at_item", name="x")

        async def put() -> None:
            await b.put(name="x")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            with anyio.fail_after(5):
                await read.arrived.wait()
            tasks.start_soon(put)
            with anyio.fail_after(5):
                await write.arrived.wait()
            read.released.set()
            await anyio.wait_all_tasks_blocked()
            write.released.set()
        assert "cached_age_s" not in await b.ok("look_at_item", name="x")


async def test_what_was_asked_before_a_write_is_not_remembered_after_it(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CACHED) as b:
        old = b.world.hold()

        async def look() -> None:
            await b.ok("look_at_item", name="x")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            with anyio.fail_after(5):
                await old.arrived.wait()
            await b.put(name="x")
            old.released.set()
        assert "cached_age_s" not in await b.ok("look_at_item", name="x")


async def test_a_read_after_a_write_does_not_share_one_from_before_it(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        old = b.world.hold()

        async def look() -> None:
            await b.ok("look_at_item", name="x")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            with anyio.fail_after(5):
                await old.arrived.wait()
            await b.put(name="x")
            with anyio.fail_after(5):
                await b.ok("look_at_item", name="x")
            old.released.set()
        assert b.world.asked == ["look x", "put x", "look x"]


async def test_a_write_through_a_link_is_forgotten_there_too(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CACHED) as b:
        reads = b.guard._reads
        before = reads._changes.get("depot", 0)
        await b.ok("copy_item", name="x", reason=WHY)
        assert reads._changes["depot"] == before + 2  # as it begins, and as it ends


async def test_who_waits_for_others_reads_waits_no_longer_than_for_an_own_one(
    tmp_path: Path,
) -> None:
    """Leaders that are given up one after the other must not hold a follower for ever."""
    async with bench(tmp_path) as b:
        reads = Reads(ManualClock(), attempts=1)
        call = parse(
            SHELF_TOOLS["look_at_item"],
            {"name": "x"},
            caller=AGENT,
            call_id="c",
            targets=("shelf",),
        )
        scope = anyio.CancelScope()

        async def endless() -> None:
            with scope:
                await reads.share(call, anyio.sleep_forever, metered=False, within_s=60)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(endless)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(DeadlineExceeded, match=r"shelf gave no answer within 0\.05 s"):
                await reads.share(call, anyio.sleep_forever, metered=False, within_s=0.05)
            scope.cancel()
        assert b.world.asked == []


@pytest.mark.parametrize("name", ["restart_deployment", "get_health", "no_such_tool"])
def test_only_reads_of_targets_can_be_cached(name: str) -> None:
    check_cache({"check_api_usage": 30.0}, ALL_TOOLS)
    with pytest.raises(ConfigurationError, match=f"guard.cache.tools.{name}: expected"):
        check_cache({name: 30.0}, ALL_TOOLS)


async def test_a_cache_for_a_tool_that_is_none_ends_the_start(tmp_path: Path) -> None:
    guard = GuardSettings(cache=CacheSettings(tools={"restart_deployment": 30}))
    with pytest.raises(ConfigurationError, match=r"guard\.cache\.tools\.restart_deployment"):
        async with open_app(Settings(state_dir=tmp_path, guard=guard), environ={}):
            raise AssertionError("never")
