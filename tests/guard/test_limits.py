"""Rates, action budgets and places at a target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.guard.explain import supposed
from mcp_ops.guard.limits import budgets_of
from mcp_ops.ports import Mode
from mcp_ops.settings import GuardSettings, PolicyRule
from tests.guard.bench import AGENT, OPEN, OPEN_LIMITS, WHY, bench, modern, shelf_target
from tests.guard.shelf import SHELF_TOOLS, World


def limits(**values: object) -> GuardSettings:
    return GuardSettings.model_validate({"limits": values})


async def test_a_principals_rate_is_its_own_and_comes_back(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=limits(principal_per_minute=3)) as b:
        for _ in range(3):
            assert await b.code("look_at_item", name="x") == "ok"
        refusal = await b.error("look_at_item", name="x")
        assert refusal["code"] == "rate_limited"
        assert refusal["retry_after_s"] == pytest.approx(20, abs=0.2)
        assert refusal["details"]["per_minute"] == 3
        other = replace(AGENT, principal="agent:other@host")
        assert await b.code("look_at_item", other, name="x") == "ok"
        b.clock.advance(20.1)
        assert await b.code("look_at_item", name="x") == "ok"
        assert await b.code("look_at_item", name="x") == "rate_limited"
        assert len(b.world.asked) == 5


async def test_a_metered_target_has_a_rate_that_modes_slow_down(tmp_path: Path) -> None:
    infos = (shelf_target(metered=True),)
    async with bench(tmp_path, settings=limits(metered_per_minute=8), infos=infos) as b:
        await b.set_mode(Mode.RESTRICTIVE)
        for number in range(8):
            await b.code("look_at_item", name=f"x{number}")
        refusal = await b.error("look_at_item", name="last")
        assert refusal["details"] == {"limit": "calls to shelf", "per_minute": 2.0}
        assert refusal["retry_after_s"] == pytest.approx(30, abs=0.5)


async def test_an_object_takes_three_writes_in_half_an_hour(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=limits(principal_per_minute=1000)) as b:
        for number in range(3):
            await b.put(idempotency_key=f"k{number}")
        refusal = await b.error("put_item", name="a", reason=WHY, idempotency_key="k4")
        assert refusal["code"] == "budget_exhausted"
        assert refusal["details"] == {"budget": "writes on a", "limit": 3, "used": 3}
        assert refusal["retry_after_s"] == pytest.approx(1800, abs=2)
        assert await b.code("put_item", name="b", reason=WHY) == "ok"
        b.clock.advance(1801)
        assert await b.code("put_item", name="a", reason=WHY, idempotency_key="k5") == "ok"


def object_budget(of: str, target: str, **arguments: object) -> tuple[str, str]:
    """The key and the name of the budget that a write on an object is charged to."""
    tool = {**ALL_TOOLS, **SHELF_TOOLS}[of]
    call = supposed(tool, {"target": target, **arguments}, AGENT, ("shelf", "depot"))
    budget, *_ = budgets_of(call, OPEN_LIMITS, tightening=False)
    return budget.key, budget.name


def test_all_tools_share_the_budget_of_an_object_but_the_steps_of_a_recovery() -> None:
    put, name = object_budget("put_item", "shelf", name="a")
    assert name == "writes on a"
    assert object_budget("put_one", "shelf", name="a") == (put, name)
    assert object_budget("put_item", "depot", name="a")[0] != put
    assert object_budget("put_item", "shelf", name="b")[0] != put
    mend, name = object_budget("mend_shelf", "shelf")
    assert (mend.endswith("|mend_shelf"), name) == (True, "writes on shelf")
    assert not put.endswith("|put_item")


def test_what_is_done_about_a_target_is_charged_to_that_target() -> None:
    shelf, name = object_budget("set_guard_mode", "shelf", mode="normal")
    assert name == "writes on shelf"
    assert shelf.startswith("object|shelf|")
    every, _ = object_budget("set_guard_mode", "all", mode="normal")
    assert every.startswith("object|mcp-ops|")


async def test_destroys_have_a_budget_beside_that_of_writes(tmp_path: Path) -> None:
    rules = (PolicyRule(require="none"),)
    settings = limits(destroys_per_hour=2, writes_per_hour=3, principal_per_minute=1000)
    async with bench(tmp_path, settings=settings, rules=rules) as b:
        for number in range(2):
            assert await b.code("drop_item", name=f"x{number}", reason=WHY) == "ok"
        refusal = await b.error("drop_item", name="x3", reason=WHY)
        assert refusal["details"]["budget"] == "destroys of this principal"
        assert await b.code("put_item", name="y", reason=WHY) == "ok"
        refusal = await b.error("put_item", name="z", reason=WHY)
        assert refusal["details"]["budget"] == "writes of this principal"


async def test_nobody_is_asked_about_what_no_budget_has_room_for(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=limits(writes_per_object=1)) as b:
        await b.put()
        asking = {"name": "a", "reason": WHY, "idempotency_key": "two"}
        assert await b.code("put_item", modern(), **asking) == "budget_exhausted"
        assert await b.stores.approvals.recent(5) == []


async def test_a_runaway_agent_reaches_the_cap_and_no_further(tmp_path: Path) -> None:
    rules = (PolicyRule(require="none"),)
    settings = limits(principal_per_minute=100_000)
    # Places for all of them: it is the budget that has to hold.
    infos = (shelf_target(concurrent=1_000),)
    async with bench(tmp_path, settings=settings, rules=rules, infos=infos) as b:
        codes: list[str] = []

        async def call(number: int) -> None:
            codes.append(await b.code("drop_item", name=f"x{number}", reason=WHY))

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(call, number)
        assert codes.count("ok") == len(b.world.effects) == 5
        assert codes.count("budget_exhausted") == 195
        assert (await b.stores.ledger.verify()).ok


async def test_the_status_shows_what_is_left(tmp_path: Path) -> None:
    infos = (shelf_target(per_minute=7.0), shelf_target("depot"))
    async with bench(tmp_path, infos=infos, worlds={"shelf": World()}) as b:
        await b.put()
        status = await b.ok("get_guard_status")
        names = {limit["name"]: limit["per_minute"] for limit in status["limits"]}
        assert names == {"calls of this principal": 10_000.0, "calls to shelf": 7.0}
        budget = status["budgets"][0]
        assert (budget["name"], budget["used"]) == ("writes of this principal", 1)
        assert "frees_at" in budget
        assert OPEN.limits.writes_per_hour == budget["limit"]


async def test_a_used_up_limit_says_when_it_is_free(tmp_path: Path) -> None:
    infos = (shelf_target(per_minute=1.0),)
    async with bench(tmp_path, infos=infos) as b:
        await b.ok("look_at_item", name="x")
        status = await b.ok("get_guard_status")
        shelf = next(limit for limit in status["limits"] if limit["name"] == "calls to shelf")
        assert (shelf["remaining"], shelf["retry_after_s"]) == (0, 60.0)
