"""What control looks back at and for how long, and who may look at an operation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_ops.ports import OWN_TARGET, Mode
from mcp_ops.reach import Reach
from mcp_ops.settings import GuardSettings
from tests.guard.bench import AGENT, OPEN_LIMITS, OPERATOR, WHY, bench

QUICK = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"write_wait_s": 0.05}))
OTHER = replace(AGENT, principal="key:other", channel="http", scopes=frozenset({"ops:read"}))


async def test_health_says_since_when_it_runs_and_the_mode_of_all(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.clock.advance(90)
        await b.set_mode(Mode.READ_ONLY, scope="*")
        health = await b.ok("get_health")
        assert (health["uptime_s"], health["mode"]) == (90, "read_only")


async def test_what_is_older_than_the_window_is_not_shown(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.ok("look_at_item", name="old")
        b.clock.advance(10 * 60 + 1)
        await b.ok("look_at_item", name="new")
        asked = {"since_minutes": 10, "tool": "look_at_item"}
        assert len((await b.ok("search_audit", **asked))["items"]) == 1
        wider = await b.ok("search_audit", **{**asked, "since_minutes": 11})
        assert len(wider["items"]) == 2
        calls = [
            sum(
                item["calls"]
                for item in (await b.ok("list_hot_tools", since_minutes=minutes))["items"]
                if item["tool"] == "look_at_item"
            )
            for minutes in (10, 11)
        ]
        assert calls == [1, 2]


async def test_a_full_page_that_is_the_last_one_says_so(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in range(3):
            await b.ok("look_at_item", name=f"{number}")
        asked = {"tool": "look_at_item", "limit": 2}
        first = await b.ok("search_audit", **asked)
        assert (len(first["items"]), first["truncated"]) == (2, True)
        rest = await b.ok("search_audit", **asked, cursor=first["next_cursor"])
        assert (len(rest["items"]), rest["truncated"], rest["next_cursor"]) == (1, False, "")
        whole = await b.ok("search_audit", **{**asked, "limit": 3})
        assert (len(whole["items"]), whole["truncated"]) == (3, False)


async def test_a_closed_circuit_is_what_a_reset_makes_when_nothing_is_said(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        control = b.control(OPERATOR)
        await control.isolate("shelf", reason=WHY)
        assert (await control.reset_circuit("shelf", reason=WHY)).state == "closed"


@pytest.mark.parametrize(
    ("scope", "reach", "sees"),
    [
        ("ops:read", (), False),
        ("ops:approve", (), True),
        ("ops:admin", (), True),
        ("ops:admin", (Reach(scopes=frozenset({"ops:admin"}), targets=("shelf",)),), True),
        ("ops:admin", (Reach(scopes=frozenset({"ops:admin"}), targets=("depot",)),), False),
    ],
)
async def test_who_decides_or_operates_there_sees_the_operation_of_somebody_else(
    tmp_path: Path, scope: str, reach: tuple[Reach, ...], *, sees: bool
) -> None:
    reads = Reach(scopes=frozenset({"ops:read"}))
    caller = replace(
        OTHER, scopes=frozenset({"ops:read", scope}), reach=(reads, *reach) if reach else ()
    )
    async with bench(tmp_path, settings=QUICK) as b:
        hold = b.world.hold()
        found = await b.ok("put_item", name="x", reason=WHY, target="shelf")
        assert found["outcome"] == "in_progress"
        wanted = {"operation_id": found["operation_id"]}
        assert await b.code("get_operation", caller, **wanted) == ("ok" if sees else "not_found")
        hold.released.set()
        with anyio.fail_after(5):
            assert await b.operations.drain(5) == 0


async def test_an_operation_on_this_server_itself_is_seen_by_its_operator(tmp_path: Path) -> None:
    own = Reach(scopes=frozenset({"ops:admin"}), targets=(OWN_TARGET,))
    async with bench(tmp_path) as b:
        await b.ok("set_guard_mode", OPERATOR, mode="read_only", reason=WHY)
        (line, *_) = await b.entries(tool="set_guard_mode")
        operation = await b.stores.ledger.get_operation(line.call_id)
        assert operation is not None
        assert operation.target == ""
        admin = replace(
            OTHER,
            scopes=frozenset({"ops:read", "ops:admin"}),
            reach=(Reach(scopes=frozenset({"ops:read"})), own),
        )
        assert await b.code("get_operation", admin, operation_id=operation.id) == "ok"
        assert await b.code("get_operation", OTHER, operation_id=operation.id) == "not_found"


async def test_what_a_cancellation_stopped_is_recorded(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        hold = b.world.hold()
        found = await b.ok("put_item", name="x", reason=WHY, target="shelf")
        operation = found["operation_id"]
        status = await b.control(OPERATOR).operation(operation)
        assert status.progress == "1/2 putting"
        await b.ok("cancel_operation", OPERATOR, operation_id=operation, reason="enough")
        (line,) = [e for e in await b.entries() if e.kind == "changed"]
        assert line.evidence == {"operation": operation, "tool": "put_item"}
        hold.released.set()
        assert await b.operations.drain(5) == 0
