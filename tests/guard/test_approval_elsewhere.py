"""Approvals by a person elsewhere: used once, final when denied, bounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_ops.call import Answer, Question
from mcp_ops.guard.approval import MAX_PENDING
from mcp_ops.settings import GuardSettings, PolicyRule
from tests.guard.bench import (
    AGENT,
    OPEN_LIMITS,
    OPERATOR,
    SCOPES,
    WHY,
    answering,
    bench,
)
from tests.guard.test_approval import X

# ---- approve


async def test_an_approval_by_another_person_is_used_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        refusal = await b.error("drop_item", **X)
        asked = refusal["details"]["approval_id"]
        assert refusal["retry_after_s"] == 15
        assert f"mcp-ops approvals approve {asked}" in refusal["hint"]
        assert (await b.ok("get_operation", operation_id=asked))["state"] == "pending"
        assert (await b.error("drop_item", **X))["details"]["approval_id"] == asked
        await b.approve(asked)
        assert (await b.ok("get_operation", operation_id=asked))["state"] == "approved"
        assert (await b.ok("drop_item", **X))["outcome"] == "verified"
        assert (await b.ok("get_operation", operation_id=asked))["state"] == "redeemed"
        began = [e for e in await b.entries() if e.kind == "began"]
        assert began[0].approval == f"approve {asked} by operator:ada"
        other = {**X, "idempotency_key": "again"}
        again = await b.error("drop_item", **other)
        assert again["code"] == "approval_required"
        assert again["details"]["approval_id"] != asked
        assert b.world.effects == ["drop x"]


async def test_fifty_redemptions_at_once_have_one_effect(tmp_path: Path) -> None:
    """With keys of their own, so that nothing but the approval stops them."""
    async with bench(tmp_path) as b:
        await b.approve((await b.error("drop_item", **X))["details"]["approval_id"])
        hold = b.world.hold()
        codes: list[str] = []

        async def call(number: int) -> None:
            codes.append(await b.code("drop_item", **X, idempotency_key=f"key-{number}"))

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(call, number)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            hold.released.set()
        assert b.world.effects == ["drop x"]
        assert codes.count("ok") == 1
        assert codes.count("approval_required") == 49


async def test_the_losers_of_a_redemption_give_back_what_they_took(tmp_path: Path) -> None:
    settings = GuardSettings.model_validate({"limits": {"destroys_per_hour": 5}})
    async with bench(tmp_path, settings=settings) as b:
        await b.approve((await b.error("drop_item", **X))["details"]["approval_id"])
        codes: list[str] = []

        async def call(number: int) -> None:
            codes.append(await b.code("drop_item", **X, idempotency_key=f"key-{number}"))

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(call, number)
        status = await b.ok("get_guard_status")
        used = {budget["name"]: budget["used"] for budget in status["budgets"]}
        assert used["destroys of this principal"] == 1


async def test_a_denial_by_a_person_is_final(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        asked = (await b.error("drop_item", **X))["details"]["approval_id"]
        await b.approve(asked, approved=False)
        refusal = await b.error("drop_item", **X)
        assert refusal["code"] == "approval_denied"
        assert refusal["details"] == {"approval_id": asked}
        b.clock.advance(300)
        refusal = await b.error("drop_item", **X)
        assert refusal["retry_after_s"] == pytest.approx(300, abs=1)


async def test_an_approved_plan_is_no_approval_of_the_write(tmp_path: Path) -> None:
    rules = (PolicyRule(tool="put_item", require="approve"),)
    async with bench(tmp_path, rules=rules) as b:
        plan = {**X, "dry_run": True}
        await b.approve((await b.error("put_item", **plan))["details"]["approval_id"])
        assert (await b.ok("put_item", **plan))["outcome"] == "planned"
        assert await b.code("put_item", **X) == "approval_required"
        assert b.world.effects == []


async def test_an_approval_of_a_read_is_used_once_too(tmp_path: Path) -> None:
    rules = (PolicyRule(tool="look_at_item", require="approve"),)
    async with bench(tmp_path, rules=rules) as b:
        await b.approve((await b.error("look_at_item", name="x"))["details"]["approval_id"])
        assert await b.code("look_at_item", name="x") == "ok"
        assert await b.code("look_at_item", name="x") == "approval_required"


async def test_a_principal_has_a_bounded_number_of_open_questions(tmp_path: Path) -> None:
    settings = GuardSettings(limits=OPEN_LIMITS)
    async with bench(tmp_path, settings=settings) as b:
        for number in range(MAX_PENDING):
            await b.code("drop_item", name=f"x{number}", reason=WHY)
        refusal = await b.error("drop_item", name="more", reason=WHY)
        assert "open questions" in refusal["message"]
        other = replace(AGENT, principal="agent:other@host")
        assert "approval_id" in (await b.error("drop_item", other, **X))["details"]


async def test_an_operator_at_a_terminal_decides_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        yes = replace(OPERATOR, ask=answering("accept"))
        assert (await b.ok("drop_item", yes, **X))["outcome"] == "verified"
        no = replace(OPERATOR, ask=answering("decline"))
        assert await b.code("drop_item", no, name="y", reason=WHY) == "approval_denied"
        nobody = replace(OPERATOR, ask=answering(None))
        assert await b.code("drop_item", nobody, name="z", reason=WHY) == "approval_required"
        assert b.world.effects == ["drop x"]


async def test_without_the_right_to_approve_a_terminal_decides_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        caller = replace(OPERATOR, scopes=SCOPES, ask=answering("accept"))
        assert await b.code("drop_item", caller, **X) == "approval_required"


async def test_a_question_decided_elsewhere_while_the_terminal_asked_is_denied_here(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:

        async def ask(question: Question) -> Answer:
            await b.approve(question.id, approved=False)
            return "accept"

        assert await b.code("drop_item", replace(OPERATOR, ask=ask), **X) == "approval_denied"


async def test_questions_are_not_open_ended(tmp_path: Path) -> None:
    rules = (PolicyRule(effect="write", require="approve", execute_s=60),)
    async with bench(tmp_path, rules=rules) as b:
        await b.approve((await b.error("put_item", **X))["details"]["approval_id"])
        b.clock.advance(61)
        assert await b.code("put_item", **X) == "approval_required"
