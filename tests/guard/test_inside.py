"""The server as a caller of its own guard: who it is, how often it asks, and how retries end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.capabilities.base import Effect
from mcp_ops.capabilities.usage import UsageLimit, UsageReading
from mcp_ops.errors import Unreachable
from mcp_ops.guard.act import Passage, current
from mcp_ops.guard.consent import Consent
from mcp_ops.guard.inside import SERVER
from mcp_ops.settings import PolicyRule
from mcp_ops.tool import Write, tool
from tests.guard.bench import WHY, Bench, bench
from tests.guard.shelf import ItemPut, Name, Shelf
from tests.guard.test_reruns import retry


async def test_a_probe_is_answered_from_memory_for_ten_seconds(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        asked = []
        for wait in (0, 10, 0.001, 10, 0.001):
            b.clock.advance(wait)
            assert (await b.inside.health(b.control())).overall == "healthy"
            asked.append(len(b.world.asked))
    assert asked == [1, 1, 2, 2, 3]


async def test_what_was_found_last_is_kept_for_those_who_do_not_ask(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert b.inside.last_health is None
        assert b.inside.usage_read == {}
        found = await b.inside.health(b.control())
        assert b.inside.last_health is found
        limit = UsageLimit(
            name="calls", used=30, max=100, remaining=70, used_percent=30, level="ok"
        )
        b.world.reading = UsageReading(limits=[limit], drives="calls")
        await b.inside.read_usage("shelf")
        assert b.inside.usage_read == {"shelf": 30}


async def test_who_asked_as_the_server_is_nobody_afterwards(tmp_path: Path) -> None:
    seen: list[Passage] = []

    async def see() -> None:
        seen.append(current.get())

    async with bench(tmp_path) as b:
        for ask in (b.inside.components, lambda: b.inside.health(b.control())):
            b.world.plans.append(see)
            await ask()
            assert current.get(None) is None
        assert {each.call.caller for each in seen} == {SERVER}
        assert [each.consent for each in seen] == [Consent(how="none", record="server")] * 2
        assert [e for e in await b.entries() if e.kind == "ended"] == []


async def test_usage_by_timer_is_recorded_as_read_by_the_server(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.world.reading = UsageReading(limits=[], drives="")
        await b.inside.read_usage("shelf")
        await b.inside.read_usage("gone")  # asked of nobody
        (ended,) = [e for e in await b.entries() if e.kind == "ended"]
    assert (ended.principal, ended.channel, ended.tool, ended.verdict) == (
        "server:mcp-ops",
        "cli",
        "check_api_usage",
        "ok",
    )


async def test_usage_by_timer_that_is_stopped_is_recorded_as_cancelled(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        hold = b.world.hold()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(b.inside.read_usage, "shelf")
                await hold.arrived.wait()
                tasks.cancel_scope.cancel()
        assert await b.ends() == [("failed", "cancelled")]


async def test_usage_by_timer_that_fails_is_recorded_and_told(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.world.plans += [Unreachable("down")] * 5
        with pytest.raises(Unreachable):
            await b.inside.read_usage("shelf")
        assert await b.ends() == [("failed", "unreachable")]


def ending(outcome: Any, problem: str = "") -> Any:
    """A tool whose calls end so, once the shelf answers."""

    @tool(effect=Effect.WRITE)
    async def place_item(shelf: Shelf, name: Name, write: Write) -> ItemPut:
        """Place an item."""
        if write.dry_run:
            await shelf.look(name)
            return ItemPut(outcome="planned")
        return ItemPut(outcome=outcome, problem=problem, evidence=await shelf.put(name))

    return {"place_item": place_item}


async def kept(b: Bench) -> str:
    b.world.plans.append(Unreachable("down"))
    assert await b.code("place_item", target="shelf", name="x", reason=WHY) == "unreachable"
    (item,) = (await b.ok("list_deadletters", target="mcp-ops"))["items"]
    return str(item["id"])


async def test_a_retry_that_says_that_it_failed_tells_why(tmp_path: Path) -> None:
    async with bench(tmp_path, extra_tools=ending("failed", "no room left")) as b:
        found = await retry(b, await kept(b))
        assert (found["retried"], found["failed"]) == (0, 1)
        assert "no room left" in str(found["problems"])
        assert await b.stores.failed.count() == 1


@pytest.mark.parametrize("outcome", ["unknown", "in_progress"])
async def test_a_retry_whose_end_is_not_known_is_not_counted_as_done(
    tmp_path: Path, outcome: str
) -> None:
    async with bench(tmp_path, extra_tools=ending(outcome)) as b:
        found = await retry(b, await kept(b))
        assert (found["outcome"], found["retried"]) == ("unknown", 0)


async def test_a_retry_that_is_stopped_before_it_begins_is_recorded_as_cancelled(
    tmp_path: Path,
) -> None:
    """The server is closed while the guard looks at what a person would be asked about."""
    rules = (
        PolicyRule(tool="retry_deadletters", require="none"),
        PolicyRule(tool="place_item", require="approve"),
    )
    async with bench(tmp_path, extra_tools=ending("verified")) as b:
        await kept(b)
    async with bench(tmp_path, rules=rules, extra_tools=ending("verified"), clock=b.clock) as b:
        (item,) = (await b.ok("list_deadletters", target="mcp-ops"))["items"]
        hold = b.world.hold()
        b.tasks.start_soon(retry, b, str(item["id"]))
        with anyio.fail_after(20):
            await hold.arrived.wait()
    async with bench(tmp_path, extra_tools=ending("verified"), clock=b.clock) as b:
        ends = [e for e in await b.entries(tool="place_item") if e.kind == "ended"][1:]
        assert [(e.verdict, e.code) for e in ends if not e.dry_run] == [("failed", "cancelled")]


async def test_a_retry_that_did_nothing_wrong_leaves_the_queue(tmp_path: Path) -> None:
    async with bench(tmp_path, extra_tools=ending("verified")) as b:
        found = await retry(b, await kept(b))
        assert (found["retried"], found["failed"]) == (1, 0)
        assert await b.stores.failed.count() == 0
