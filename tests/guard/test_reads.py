"""Reads: shared, tried again, remembered; never on the disk."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.errors import (
    ConnectionLost,
    NotFound,
    OpsError,
    Unreachable,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mcp_ops.guard.reads import CACHE_ITEMS, Reads
from mcp_ops.ports import Mode
from mcp_ops.settings import GuardSettings
from tests.guard.bench import AGENT, OPEN, WHY, Bench, bench, shelf_target
from tests.guard.shelf import Hold, Item, World


async def many(b: Bench, number: int, **arguments: Any) -> list[dict[str, Any]]:
    """So many identical reads at once, all in flight before the first gets its answer."""
    hold = b.world.hold()
    answers: list[dict[str, Any]] = []

    async def call() -> None:
        reply = await b.reply("look_at_item", **arguments)
        answers.append(orjson.loads(reply.text))

    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(call)
        with anyio.fail_after(5):
            await hold.arrived.wait()
        await anyio.wait_all_tasks_blocked()
        hold.released.set()
    return answers


async def test_identical_reads_in_flight_share_one_upstream_call(tmp_path: Path) -> None:
    infos = (shelf_target(concurrent=20),)
    async with bench(tmp_path, infos=infos) as b:
        answers = await many(b, 10, name="x")
        assert b.world.asked == ["look x"]
        assert all(answer == answers[0] for answer in answers)
        assert sorted(e.upstream_calls for e in await b.entries()) == [0] * 9 + [1]


async def test_followers_share_the_leaders_error(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        hold = Hold()

        async def fail() -> None:
            await hold.wait()
            raise NotFound("There is no such item.")

        b.world.plans.append(fail)
        codes: list[str] = []

        async def call() -> None:
            codes.append(await b.code("look_at_item", name="x"))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(call)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            await anyio.wait_all_tasks_blocked()
            hold.released.set()
        assert codes == ["not_found"] * 3
        assert b.world.asked == ["look x"]


async def test_followers_survive_a_cancelled_leader(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        first, second = b.world.hold(), b.world.hold()
        scope = anyio.CancelScope()
        codes: list[str] = []

        async def leader() -> None:
            with scope:
                await b.code("look_at_item", name="x")

        async def follower() -> None:
            codes.append(await b.code("look_at_item", name="x"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leader)
            with anyio.fail_after(5):
                await first.arrived.wait()
            tasks.start_soon(follower)
            tasks.start_soon(follower)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            with anyio.fail_after(5):
                await second.arrived.wait()
            second.released.set()
        assert codes == ["ok", "ok"]
        assert b.world.asked == ["look x", "look x"]


@pytest.mark.parametrize("different", ["principal", "arguments"])
async def test_reads_that_differ_are_not_shared(tmp_path: Path, different: str) -> None:
    async with bench(tmp_path) as b:
        hold, other = b.world.hold(), b.world.hold()
        caller = replace(AGENT, principal="agent:b@h") if different == "principal" else AGENT
        async with anyio.create_task_group() as tasks:

            async def one() -> None:
                await b.ok("look_at_item", name="x")

            async def two() -> None:
                await b.ok("look_at_item", caller, name="x" if caller is not AGENT else "y")

            tasks.start_soon(one)
            tasks.start_soon(two)
            with anyio.fail_after(5):
                await hold.arrived.wait()
                await other.arrived.wait()
            hold.released.set()
            other.released.set()


@pytest.mark.parametrize(
    "error", [Unreachable, UpstreamUnavailable, ConnectionLost, UpstreamRateLimited]
)
async def test_a_read_is_tried_again_after_an_error_that_passes(
    tmp_path: Path, error: type[OpsError]
) -> None:
    async with bench(tmp_path) as b:
        b.world.plans += [error("not now"), error("not now")]
        assert await b.code("look_at_item", name="x") == "ok"
        assert len(b.world.asked) == 3


@pytest.mark.parametrize("error", [NotFound, UpstreamTimeout])
async def test_a_read_is_not_tried_again_after_any_other_error(
    tmp_path: Path, error: type[OpsError]
) -> None:
    async with bench(tmp_path) as b:
        b.world.plans.append(error("no"))
        assert await b.code("look_at_item", name="x") == error.code
        assert len(b.world.asked) == 1


async def test_a_write_is_never_tried_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.world.plans.append(Unreachable("no"))
        assert await b.code("put_item", name="x", reason=WHY) == "unreachable"
        assert b.world.asked == ["put x"]


async def test_a_retry_after_that_is_too_long_is_told(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.world.plans.append(UpstreamRateLimited("slow down", retry_after_s=3600))
        refusal = await b.error("look_at_item", name="y")
        assert (refusal["code"], refusal["retry_after_s"]) == ("upstream_rate_limited", 3600)
        assert len(b.world.asked) == 1


async def waits(*asked: float | None, jitter: float = 0.5) -> list[float]:
    """How long a read waits before each of its tries, when the target asks so."""
    waited: list[float] = []
    answers = [UpstreamRateLimited("slow down", retry_after_s=each) for each in asked]

    async def body() -> str:
        if answers:
            raise answers.pop(0)
        return "fine"

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    reads = Reads(ManualClock(), attempts=5, jitter=lambda: jitter, pause=pause)
    with suppress(UpstreamRateLimited):
        assert await reads.retry("shelf", body) == "fine"
    return waited


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, 0.1),
        (0.0, 0.1),
        (2.0, 2.1),
        (5.0, 5.1),
        (-3.0, 0.1),
        (math.nan, 0.1),
    ],
)
async def test_retry_after_is_honoured_and_what_makes_no_sense_is_not(
    asked: float | None, expected: float
) -> None:
    assert await waits(asked) == [pytest.approx(expected)]


@pytest.mark.parametrize("asked", [5.1, 3_600.0, 1e300, math.inf])
async def test_a_read_does_not_sit_out_what_is_too_long(asked: float) -> None:
    assert await waits(asked) == []


async def test_the_wait_doubles_and_is_spread(tmp_path: Path) -> None:
    assert await waits(None, None, None, None) == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert await waits(2.0, jitter=0.0) == [pytest.approx(2.05)]
    assert await waits(2.0, jitter=1.0) == [pytest.approx(2.15)]


async def test_retries_add_at_most_a_fifth_to_a_targets_calls() -> None:
    async def pause(_seconds: float) -> None:
        return None

    reads = Reads(ManualClock(), attempts=2, pause=pause)
    calls = 0

    async def body() -> None:
        nonlocal calls
        calls += 1
        raise Unreachable("down")

    for _ in range(100):
        with pytest.raises(Unreachable):
            await reads.retry("shelf", body)
    # Five at first, and a fifth of what each of the hundred calls adds: 0.2, but to the first.
    assert calls == 100 + 5 + 19


async def test_no_retry_is_saved_up_beyond_five() -> None:
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    async def fine() -> None:
        return None

    async def broken() -> None:
        raise Unreachable("down")

    reads = Reads(ManualClock(), attempts=20, pause=pause)
    for _ in range(100):
        await reads.retry("shelf", fine)
    with pytest.raises(Unreachable):
        await reads.retry("shelf", broken)
    assert len(waited) == 5


async def test_a_page_that_is_still_too_large_at_the_third_time_is_asked_for_item_by_item(
    tmp_path: Path,
) -> None:
    """Most of the bytes are in the first items, so that the mean says too much each time."""
    items = [Item(name=f"i{n}", text="x" * (7_900 if n < 3 else 10)) for n in range(100)]
    async with bench(tmp_path, worlds={"shelf": World(items=items)}, settings=OPEN) as b:
        page = await b.ok("list_items", limit=50)
        assert [item["name"] for item in page["items"]] == ["i0"]
        assert len(b.world.asked) == 4
        assert b.world.asked[-1] == "page 1 from 0"


async def test_in_restrictive_mode_a_recent_answer_is_given_again_and_marked(
    tmp_path: Path,
) -> None:
    infos = (shelf_target(metered=True, per_minute=10.0),)
    async with bench(tmp_path, infos=infos) as b:
        fresh = await b.ok("look_at_item", name="x")
        assert "cached_age_s" not in fresh
        await b.ok("look_at_item", name="x")  # normal mode asks again
        assert len(b.world.asked) == 2
        await b.set_mode(Mode.RESTRICTIVE)
        b.clock.advance(30)
        found = await b.ok("look_at_item", name="x")
        assert found["cached_age_s"] == 30.0
        assert len(b.world.asked) == 2
        assert (await b.ends())[-1] == ("ok", "cached")
        other = replace(AGENT, principal="agent:other@host")
        assert "cached_age_s" not in await b.ok("look_at_item", other, name="x")
        b.clock.advance(31)
        assert "cached_age_s" not in await b.ok("look_at_item", name="x")


async def test_a_cached_answer_costs_nothing(tmp_path: Path) -> None:
    infos = (shelf_target(metered=True, per_minute=4.0),)
    async with bench(tmp_path, infos=infos) as b:
        await b.ok("look_at_item", name="x")
        await b.set_mode(Mode.RESTRICTIVE)
        for _ in range(10):
            await b.ok("look_at_item", name="x")
        assert len(b.world.asked) == 1


async def test_what_was_read_before_a_write_is_forgotten(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=(shelf_target(metered=True),)) as b:
        await b.ok("look_at_item", name="x")
        await b.set_mode(Mode.RESTRICTIVE)
        await b.put(name="x")
        assert "cached_age_s" not in await b.ok("look_at_item", name="x")


async def test_the_memory_of_answers_is_bounded(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=(shelf_target(metered=True),)) as b:
        for number in range(CACHE_ITEMS + 5):
            await b.ok("look_at_item", name=f"x{number}")
        await b.set_mode(Mode.RESTRICTIVE)
        assert "cached_age_s" not in await b.ok("look_at_item", name="x0")
        assert "cached_age_s" in await b.ok("look_at_item", name="x200")


async def test_a_usage_reading_is_never_a_cached_one(tmp_path: Path) -> None:
    from tests.guard.test_modes import reading

    async with bench(tmp_path, infos=(shelf_target(metered=True),)) as b:
        for percent in (85, 85, 60):
            b.world.reading = reading(percent)
            found = await b.ok("check_api_usage", target="shelf")
        assert found["guard"] == {"mode": "normal", "changed": True}


async def test_a_read_touches_no_disk_on_its_way(tmp_path: Path) -> None:
    """Property 13: with the writer and all readers of the file held, reads are answered."""
    async with bench(tmp_path) as b:
        await b.ok("look_at_item", name="warm")
        database = b.stores.ledger._database
        async with anyio.create_task_group() as tasks:
            blocked, release = anyio.Event(), anyio.Event()

            async def hold_readers() -> None:
                for _ in range(3):
                    await database._limiter.acquire_on_behalf_of(object())
                blocked.set()
                await release.wait()

            tasks.start_soon(hold_readers)
            await blocked.wait()
            with anyio.fail_after(5):
                for number in range(50):
                    assert await b.code("look_at_item", name=f"x{number}") == "ok"
            tasks.cancel_scope.cancel()


async def test_a_page_that_is_too_large_is_asked_for_again_and_its_cursor_loses_nothing(
    tmp_path: Path,
) -> None:
    """Few small items first, then large ones: the mean says more than fits."""
    sizes = [6_000] * 6 + [10] * 60 + [7_900] * 5
    items = [Item(name=f"i{n}", text="x" * size) for n, size in enumerate(sizes)]
    async with bench(tmp_path, worlds={"shelf": World(items=items)}, settings=OPEN) as b:
        seen: list[str] = []
        cursor = ""
        for _ in range(100):
            page = await b.ok("list_items", limit=50, cursor=cursor)
            assert len(orjson.dumps(page)) <= 16_384
            assert all("cut" not in item["text"] for item in page["items"])
            seen += [item["name"] for item in page["items"]]
            cursor = page.get("next_cursor", "")
            if not cursor:
                break
        assert seen == [f"i{n}" for n in range(len(sizes))]


async def test_one_item_that_is_too_large_is_cut_and_says_so(tmp_path: Path) -> None:
    settings = GuardSettings.model_validate({"limits": {"result_bytes": 4096}})
    items = [Item(name="big", text="y" * 8_000), Item(name="next", text="z" * 7_000)]
    async with bench(tmp_path, worlds={"shelf": World(items=items)}, settings=settings) as b:
        page = await b.ok("list_items")
        assert len(orjson.dumps(page)) <= 4096
        assert [item["name"] for item in page["items"]] == ["big"]
        assert "[cut to fit]" in page["items"][0]["text"]
        assert (page["truncated"], page["next_cursor"]) == (True, "1")
        look = await b.ok("look_at_item", name="x")
        assert len(orjson.dumps(look)) <= 4096


async def test_a_defect_in_a_leader_is_each_callers_own(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        hold = Hold()

        async def break_down() -> None:
            await hold.wait()
            raise ZeroDivisionError

        b.world.plans.append(break_down)
        codes: list[str] = []

        async def call() -> None:
            codes.append(await b.code("look_at_item", name="x"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            tasks.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            hold.released.set()
        assert sorted(codes) == ["internal_error", "ok"]
