"""What a person is told when the plan of a call cannot look at the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.capabilities.base import Effect
from mcp_ops.errors import RefusalCode, Refused, Unreachable
from mcp_ops.ports import Mode
from mcp_ops.settings import PolicyRule
from mcp_ops.tool import Write, tool
from tests.guard.bench import WHY, Bench, bench, shelf_target
from tests.guard.shelf import ItemPut, Name, Shelf, World

ASK = (PolicyRule(effect="write", require="approve"),)
COPY = {"name": "a", "reason": WHY}
LOOK_REFUSED = (
    Mode.LOCKDOWN,
    "The present state could not be looked at (locked_down).",
)


@tool(effect=Effect.WRITE)
async def odd_item(shelf: Shelf, name: Name, write: Write) -> ItemPut:
    """See what is no text."""
    if write.dry_run:
        write.saw({"text": "\ud800", "name": name}, None)
        return ItemPut(outcome="planned")
    return ItemPut(outcome="verified", evidence=await shelf.put(name))


async def asked(b: Bench, tool_name: str = "copy_item", **arguments: Any) -> dict[str, Any]:
    """What people are shown of the question that a call ends in."""
    error = await b.error(tool_name, **{**COPY, **arguments})
    assert error["code"] == "approval_required"
    approval = await b.stores.approvals.get(error["details"]["approval_id"])
    assert approval is not None
    return dict(approval.seen_shown)


async def test_a_target_that_fails_is_said_and_a_person_may_decide_all_the_same(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, rules=ASK) as b:
        b.worlds["depot"].plans.append(Unreachable("No connection."))
        shown = await asked(b)
        assert shown["problem"] == "The present state could not be looked at (unreachable)."
        assert "plan" not in shown


async def test_a_look_that_the_guard_refuses_is_said(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=ASK) as b:
        mode, says = LOOK_REFUSED
        await b.set_mode(mode, scope="depot")
        assert (await asked(b))["problem"] == says
        assert b.worlds["depot"].asked == []


@pytest.mark.parametrize("code", [RefusalCode.RATE_LIMITED, RefusalCode.BULKHEAD_FULL])
async def test_nobody_is_asked_while_a_look_would_be_possible_in_a_moment(
    tmp_path: Path, code: RefusalCode
) -> None:
    async with bench(tmp_path, rules=ASK) as b:
        b.worlds["depot"].plans.append(Refused(code, "Too much.", hint="Wait."))
        assert await b.code("copy_item", **COPY) == code.value
        assert await b.stores.approvals.recent(5) == []


async def test_a_target_that_admits_no_more_looks_is_not_asked_about(tmp_path: Path) -> None:
    depot = shelf_target("depot", per_minute=1)
    infos = (shelf_target(links={"endpoint": "depot"}), depot)
    async with bench(tmp_path, rules=ASK, infos=infos) as b:
        codes = [await b.code("copy_item", **COPY, dry_run=True) for _ in range(20)]
        assert "rate_limited" in codes
        assert await b.code("copy_item", **COPY) == "rate_limited"
        assert await b.stores.approvals.recent(5) == []


async def test_a_defect_of_the_plan_has_its_record_and_asks_nobody(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=ASK) as b:
        b.worlds["depot"].plans.append(ValueError("a defect"))
        assert await b.code("copy_item", **COPY) == "internal_error"
        assert await b.stores.approvals.recent(5) == []
        ends = [(e.dry_run, e.verdict, e.code) for e in await b.entries() if e.kind == "ended"]
        assert (True, "error", "internal_error") in ends


async def test_a_look_whose_client_goes_away_is_recorded_as_cancelled(tmp_path: Path) -> None:
    depot = World()
    async with bench(tmp_path, rules=ASK, worlds={"depot": depot}) as b:
        hold = depot.hold()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: b.code("copy_item", **COPY))
                await hold.arrived.wait()
                tasks.cancel_scope.cancel()
        ends = [(e.dry_run, e.verdict, e.code) for e in await b.entries() if e.kind == "ended"]
        assert sorted(ends) == [(False, "failed", "cancelled"), (True, "failed", "cancelled")]
        assert await b.stores.approvals.recent(5) == []


async def test_what_is_no_text_is_shown_as_far_as_it_can_be_and_compared(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=ASK, extra_tools={"odd_item": odd_item}) as b:
        shown = await asked(b, "odd_item", target="shelf")
        assert "ud800" in shown["unreadable"]
        (approval,) = await b.stores.approvals.recent(5)
        await b.approve(approval.id)
        assert await b.code("odd_item", target="shelf", **COPY) == "ok"
        assert b.world.effects == ["put a"]
