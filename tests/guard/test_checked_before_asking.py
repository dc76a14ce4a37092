"""Nobody is asked about a call that would be refused, whatever way there is to ask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_ops.call import Answer, Caller, Question
from mcp_ops.guard import bulkhead
from mcp_ops.guard.act import current
from mcp_ops.guard.approval import MAX_PENDING
from mcp_ops.ports import Mode
from mcp_ops.questions import Approval
from mcp_ops.settings import GuardSettings, PolicyRule
from tests.guard.bench import AGENT, OPEN_LIMITS, OPERATOR, WHY, Bench, answering, bench, modern
from tests.guard.test_approval_people import asked, say

X = {"name": "x", "reason": WHY}
CONFIRM = (PolicyRule(effect="write", require="confirm"),)
APPROVE = (PolicyRule(effect="write", require="approve"),)
SILENT = replace(AGENT, client_confirms=False)


async def never(question: Question) -> Answer:
    raise AssertionError(f"a person was asked: {question.message}")


@pytest.mark.parametrize(
    ("rules", "caller"),
    [
        (CONFIRM, replace(AGENT, ask=never)),
        (CONFIRM, modern()),
        (CONFIRM, modern(answered=("0123456789abcdef", "accept"))),
        (CONFIRM, SILENT),
        (APPROVE, AGENT),
        (APPROVE, replace(OPERATOR, ask=never, client_confirms=True)),
    ],
)
async def test_what_a_mode_refuses_is_asked_of_nobody(
    tmp_path: Path, rules: tuple[PolicyRule, ...], caller: Caller
) -> None:
    settings = GuardSettings(limits=OPEN_LIMITS, confirm_fallback="client")
    async with bench(tmp_path, rules=rules, settings=settings) as b:
        await b.set_mode(Mode.READ_ONLY)
        assert await b.code("put_item", caller, **X) == "read_only"
        assert await b.stores.approvals.recent(10) == []
        assert b.world.asked == []


async def test_a_read_that_needs_a_yes_is_looked_at_before_the_question(tmp_path: Path) -> None:
    rules = (PolicyRule(effect="read", require="confirm"),)
    async with bench(tmp_path, rules=rules) as b:
        await b.set_mode(Mode.LOCKDOWN)
        assert await b.code("look_at_item", replace(AGENT, ask=never), name="x") == "locked_down"
        assert await b.stores.approvals.recent(10) == []


async def test_a_no_after_the_yes_is_no_yes(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=CONFIRM) as b:
        question = await b.question("put_item", modern(), **X)
        await b.stores.approvals.decide(
            question.id, approved=True, by="x (client)", note="", at=b.clock.now()
        )
        for answer in ("decline", "cancel"):
            late = modern(answered=(question.id, answer))
            refusal = await b.error("put_item", late, **X)
            assert refusal["message"] == "The question was answered before, or has expired."
        assert b.world.effects == []


async def open_questions(b: Bench, count: int) -> list[str]:
    return [await asked(b, "put_item", name=f"n{number}") for number in range(count)]


async def test_an_approved_call_runs_though_many_questions_are_open(tmp_path: Path) -> None:
    settings = GuardSettings(limits=OPEN_LIMITS)
    async with bench(tmp_path, rules=APPROVE, settings=settings) as b:
        first, *_ = await open_questions(b, MAX_PENDING)
        assert await b.code("put_item", name="late", reason=WHY) == "approval_required"
        await say(b, first, "operator:ada")
        await asked(b, "put_item", name="one more")
        refusal = await b.error("put_item", name="late", reason=WHY)
        assert str(MAX_PENDING) in refusal["message"]
        assert await b.code("put_item", name="n0", reason=WHY) == "ok"
        assert b.world.effects == ["put n0"]


@pytest.mark.parametrize(("by", "code"), [("operator:ada", "ok"), ("key:x", "approval_required")])
async def test_a_yes_counts_while_its_key_is_there(tmp_path: Path, by: str, code: str) -> None:
    async with bench(tmp_path, rules=APPROVE, approver_keys=frozenset({"key:other"})) as b:
        await say(b, await asked(b, "put_item"), by)
        assert await b.code("put_item", **X) == code


async def test_a_no_holds_for_ten_minutes_and_says_how_long_still(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=CONFIRM) as b:
        no = replace(AGENT, ask=answering("decline"))
        assert (await b.error("put_item", no, **X))["retry_after_s"] == 600
        b.clock.advance(599.5)
        assert (await b.error("put_item", no, **X))["retry_after_s"] == 0.5


async def test_how_long_was_waited_for_an_answer_is_told(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=CONFIRM) as b:
        refusal = await b.error("put_item", replace(AGENT, ask=answering(None)), **X)
        assert "within 50 s" in refusal["message"]
        (question,) = await b.stores.approvals.recent(10)
        assert isinstance(question, Approval)
        assert question.state == "pending"


async def test_a_call_leaves_nothing_of_itself_behind(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.ok("look_at_item", name="x")
        await b.set_mode(Mode.LOCKDOWN)
        assert await b.code("look_at_item", name="x") == "locked_down"
        assert current.get(None) is None
        assert bulkhead._held.get(None) is None
