"""The guard while the shared hot store is away, through the front door; the Redis is killed."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from mcp_ops.lab.redis import Valkey, valkey
from mcp_ops.ports import Mode
from mcp_ops.settings import GuardSettings
from tests.adapters.redis_lab import free_port
from tests.guard.bench import AGENT, OPEN, OPEN_LIMITS, WHY, Bench, bench, shelf_target
from tests.guard.shelf import Item


@asynccontextmanager
async def shared(
    path: Path, settings: GuardSettings = OPEN, **target: Any
) -> AsyncIterator[tuple[Bench, Valkey]]:
    (path / "redis").mkdir()
    async with (
        valkey(path / "redis", free_port()) as server,
        bench(
            path / "state",
            settings=settings,
            infos=(shelf_target(links={"endpoint": "depot"}, **target), shelf_target("depot")),
            hot=server.url,
        ) as b,
    ):
        yield b, server


async def test_reads_go_on_and_writes_are_refused_without_touching_the_target(
    tmp_path: Path,
) -> None:
    async with shared(tmp_path) as (b, server):
        await b.put(name="before")
        await server.crash()
        assert await b.code("look_at_item", name="a") == "ok"
        error = await b.error("put_item", name="a", reason=WHY)
        assert (error["code"], error["executed"], error["retryable"]) == (
            "store_unavailable",
            "no",
            True,
        )
        assert b.world.effects == ["put before"]
        assert await b.ends(tool="put_item") == [("ok", ""), ("failed", "store_unavailable")]


async def test_the_same_write_is_answered_from_the_ledger_all_the_same(tmp_path: Path) -> None:
    async with shared(tmp_path) as (b, server):
        first = await b.put(idempotency_key="once")
        await server.crash()
        again = await b.put(idempotency_key="once")
        assert again["replayed"] is True
        assert again["audit_id"] == first["audit_id"]
        assert b.world.effects == ["put a"]


async def test_lists_are_of_twenty_on_a_target_that_is_not_metered(tmp_path: Path) -> None:
    async with shared(tmp_path) as (b, server):
        b.world.items = [Item(name=str(number)) for number in range(30)]
        assert len((await b.ok("list_items", limit=30))["items"]) == 30
        await server.crash()
        page = await b.ok("list_items", limit=30)
        assert (len(page["items"]), page["truncated"], page["next_cursor"]) == (20, True, "20")


async def test_lists_are_refused_on_a_metered_target(tmp_path: Path) -> None:
    async with shared(tmp_path, metered=True) as (b, server):
        await server.crash()
        error = await b.error("list_items", limit=1)
        assert error["code"] == "restricted"
        assert "the guard's shared store does not answer" in error["message"]
        assert error["hint"] == (
            "It ends by itself when the store answers again; the operator brings back the Redis "
            "of store.hot."
        )
        assert error["details"] == {"mode": "restrictive", "source": "store"}
        assert await b.code("look_at_item", name="a") == "ok"


async def test_the_agent_sees_why_and_how_much_is_left(tmp_path: Path) -> None:
    async with shared(tmp_path, OPEN, per_minute=40) as (b, server):
        await b.code("look_at_item", name="a")
        await server.crash()
        status = await b.ok("get_guard_status")
        (mode,) = status["modes"]
        assert (mode["mode"], mode["source"], mode["scope"]) == ("restrictive", "store", "*")
        assert mode["reason"] == "the guard's shared store does not answer"
        rates = {each["name"]: each["per_minute"] for each in status["limits"]}
        assert rates["calls to shelf"] == 10
        assert status["elevations"] == []


async def test_reads_of_one_principal_are_limited_to_a_quarter(tmp_path: Path) -> None:
    limits = OPEN_LIMITS.model_copy(update={"principal_per_minute": 16})
    async with shared(tmp_path, GuardSettings(limits=limits)) as (b, server):
        await server.crash()
        codes = [await b.code("look_at_item", name="a") for _ in range(30)]
        admitted = codes.index("rate_limited")
        error = await b.error("look_at_item", name="a")
        assert error["code"] == "rate_limited"
        assert error["retry_after_s"] > 0
        assert len(b.world.asked) == admitted
        b.clock.advance(15)  # four a minute
        assert await b.code("look_at_item", name="a") == "ok"
        assert await b.code("look_at_item", name="a") == "rate_limited"


async def test_a_lockdown_holds_on_and_what_reads_the_server_itself_passes(tmp_path: Path) -> None:
    async with shared(tmp_path) as (b, server):
        await b.set_mode(Mode.LOCKDOWN)
        await server.crash()
        assert await b.code("look_at_item", name="a") == "locked_down"
        assert await b.code("put_item", name="a", reason=WHY) != "ok"
        assert await b.code("search_audit") == "ok"
        assert await b.code("get_guard_status") == "ok"
        assert b.world.asked == []


async def test_nobody_makes_the_guard_looser_or_stricter_meanwhile(tmp_path: Path) -> None:
    async with shared(tmp_path) as (b, server):
        await server.crash()
        for mode in ("lockdown", "normal"):
            code = await b.code("set_guard_mode", mode=mode, target="shelf", reason=WHY)
            assert code == "store_unavailable"


async def test_it_ends_with_the_outage(tmp_path: Path) -> None:
    async with shared(tmp_path) as (b, server):
        await server.crash()
        assert await b.code("put_item", AGENT, name="a", reason=WHY) == "store_unavailable"
        await server.start()
        # Noticed with the next looks; and limits begin with no credit: the first are refused.
        not_yet = ("rate_limited", "store_unavailable")
        with anyio.fail_after(20):
            while await b.code("put_item", name="b", reason=WHY) in not_yet:
                await anyio.lowlevel.checkpoint()
        assert b.world.effects == ["put b"]
        assert not await b.guard.hot.modes()


async def test_a_status_that_cannot_be_told_whole_is_not_told_in_part(tmp_path: Path) -> None:
    """The embedded store is never away: what it cannot read is wrong."""
    async with bench(tmp_path) as b:
        other = sqlite3.connect(b.path / "s.db", isolation_level=None)
        other.execute("DROP TABLE approvals")
        other.close()
        assert await b.code("get_guard_status") == "store_unavailable"
