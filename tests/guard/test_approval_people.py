"""People and questions: how many, who, what they are shown, and what happens when it changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.call import Caller
from mcp_ops.capabilities.base import Effect
from mcp_ops.errors import Conflict, NotFound, OpsError
from mcp_ops.guard.people import People
from mcp_ops.questions import Approval
from mcp_ops.settings import GuardSettings, PolicyRule
from mcp_ops.tool import Write, tool
from tests.guard.bench import AGENT, OPERATOR, SCOPES, WHY, Bench, answering, bench, shelf_target
from tests.guard.shelf import ItemPut, Name, Shelf

HTTP = replace(AGENT, principal="key:agent", channel="http", client_confirms=False)
X = {"name": "x", "reason": WHY}
TWO = (PolicyRule(effect="destroy", require="approve", approvals=2),)


@tool(effect=Effect.DESTROY)
async def sweep(shelf: Shelf, name: Name, write: Write) -> ItemPut:
    """Drop an item, after a look at it."""
    if write.dry_run:
        seen = await shelf.look(name)
        write.saw({"text": seen.text}, None)
        return ItemPut(outcome="planned", plan=[f"Drop {name}, which is {seen.text}."])
    return ItemPut(outcome="verified", evidence=await shelf.drop(name))


@tool(effect=Effect.DESTROY)
async def sweep_all(shelf: Shelf, write: Write) -> ItemPut:
    """Drop what is there, or what a person saw there."""
    names = tuple(item.name for item in (await shelf.page(50, "")).items)
    if write.dry_run:
        write.saw({}, names)
        return ItemPut(outcome="planned", plan=[f"Drop {len(names)} items."])
    chosen = names if write.pinned is None else [n for n in write.pinned if n in names]
    return ItemPut(outcome="verified", evidence={"dropped": [await shelf.drop(n) for n in chosen]})


SWEEPS = {sweep.name: sweep, sweep_all.name: sweep_all}
ONE: dict[str, Any] = {"infos": (shelf_target(),), "extra_tools": SWEEPS}


def person(name: str, channel: Any = "cli") -> Caller:
    return replace(OPERATOR, principal=name, channel=channel)


def people(b: Bench) -> People:
    return People(
        approvals=b.stores.approvals,
        ledger=b.stores.ledger,
        policy=b.guard.policy,
        clock=b.clock,
        redactor=b.redactor,
    )


async def asked(b: Bench, which: str = "drop_item", /, caller: Caller = AGENT, **more: Any) -> str:
    """The id of the question that a call ends in."""
    refusal = await b.error(which, caller, **({**X, **more} if which != "sweep_all" else more))
    assert refusal["code"] == "approval_required", refusal
    return str(refusal["details"]["approval_id"])


async def say(b: Bench, question: str, *by: str, approved: bool = True) -> Approval:
    done: Approval | None = None
    for name in by:
        done = await people(b).decide(question, person(name), approved=approved, note="seen")
    assert done is not None
    return done


# ---- how many


async def test_a_question_for_two_waits_for_two_different_people(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=TWO) as b:
        question = await asked(b)
        assert (await b.error("drop_item", **X))["message"].startswith(
            "drop_item needs the approval of 2 people, 0 of whom said yes"
        )
        assert (await say(b, question, "operator:ada", "operator:ada")).state == "pending"
        status = await b.ok("get_operation", operation_id=question)
        assert (status["state"], status["progress"]) == ("pending", "1 of 2 said yes")
        assert (await b.ok("list_approvals"))["items"][0]["votes"] == "1 of 2"
        assert await b.code("drop_item", **X) == "approval_required"
        assert (await say(b, question, "operator:bob")).state == "approved"
        status = await b.ok("get_operation", operation_id=question)
        assert (status["state"], status["progress"]) == ("approved", "2 of 2 said yes")
        assert status["execute_by"] > status["ended_at"]
        assert (await b.ok("drop_item", **X))["outcome"] == "verified"
        (began,) = [e for e in await b.entries() if e.kind == "began"]
        assert began.approval == f"approve {question} by operator:ada, operator:bob"
        first, second = [e for e in await b.entries() if e.kind == "changed"]
        assert (first.outcome, first.principal) == ("vote", "operator:ada")
        assert (second.outcome, second.principal) == ("approved", "operator:bob")
        assert (first.evidence, second.evidence) == (
            {"yes": 1, "needed": 2},
            {"yes": 2, "needed": 2},
        )


async def test_strict_asks_two_for_a_destroy(tmp_path: Path) -> None:
    settings = GuardSettings.model_validate({"profile": "strict"})
    async with bench(tmp_path, settings=settings) as b:
        question = await asked(b)
        assert (await say(b, question, "operator:ada")).state == "pending"
        assert (await say(b, question, "operator:bob")).state == "approved"


async def test_one_no_is_enough_and_its_reason_is_told_to_the_agent(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=TWO) as b:
        question = await asked(b)
        await say(b, question, "operator:ada")
        await people(b).decide(question, person("operator:bob"), approved=False, note="not today")
        refusal = await b.error("drop_item", **X)
        assert refusal["code"] == "approval_denied"
        assert "not today" in refusal["message"]
        status = await b.ok("get_operation", operation_id=question)
        assert (status["state"], status["progress"]) == ("denied", "1 of 2 said yes; not today")
        b.clock.advance(599)
        assert await b.code("drop_item", **X) == "approval_denied"
        b.clock.advance(2)
        assert await b.code("drop_item", **X) == "approval_required"


async def test_an_operator_at_the_terminal_is_one_of_two(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=TWO) as b:
        yes = replace(OPERATOR, ask=answering("accept"))
        question = await asked(b, caller=yes)
        assert (await say(b, question, "operator:bob")).state == "approved"
        assert (await b.ok("drop_item", yes, **X))["outcome"] == "verified"


# ---- who


@pytest.mark.parametrize("profile", ["team", "strict"])
async def test_who_asked_does_not_approve_where_another_person_has_to(
    tmp_path: Path, profile: str
) -> None:
    settings = GuardSettings.model_validate({"profile": profile})
    async with bench(tmp_path, settings=settings) as b:
        mine = person("key:agent", "http")
        question = await asked(b, caller=mine)
        with pytest.raises(OpsError) as caught:
            await people(b).decide(question, mine, approved=True, note="")
        assert caught.value.code == "permission_denied"
        shown = await people(b).get(question)
        assert shown.votes == ()
        denied = await people(b).decide(question, mine, approved=False, note="mine")
        assert denied.state == "denied"


async def test_under_solo_the_same_person_may_ask_and_approve(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        question = await asked(b, caller=OPERATOR)
        on_the_page = replace(OPERATOR, channel="http")
        done = await people(b).decide(question, on_the_page, approved=True, note="")
        assert done.state == "approved"
        assert (await b.ok("drop_item", OPERATOR, **X))["outcome"] == "verified"


async def test_a_vote_of_the_asker_that_reached_the_store_does_not_count(tmp_path: Path) -> None:
    settings = GuardSettings.model_validate({"profile": "team"})
    async with bench(tmp_path, settings=settings) as b:
        question = await asked(b, caller=HTTP)
        await b.stores.approvals.decide(
            question, approved=True, by="key:agent", note="", at=b.clock.now()
        )
        refusal = await b.error("drop_item", HTTP, **X)
        assert "may not say it any more" in refusal["message"]
        assert refusal["details"]["approval_id"] != question
        assert b.world.effects == []


async def test_a_rule_names_who_may_approve(tmp_path: Path) -> None:
    rules = (PolicyRule(effect="destroy", require="approve", approvers=("operator:a*", "key:x")),)
    async with bench(tmp_path, rules=rules) as b:
        question = await asked(b)
        with pytest.raises(OpsError) as caught:
            await say(b, question, "operator:bob")
        assert "names other approvers than operator:bob" in caught.value.message
        assert (await say(b, question, "operator:ada")).state == "approved"
        assert (await b.ok("drop_item", **X))["outcome"] == "verified"


async def test_a_terminal_decides_nothing_that_a_rule_keeps_for_others(tmp_path: Path) -> None:
    rules = (PolicyRule(effect="destroy", require="approve", approvers=("operator:bob",)),)
    async with bench(tmp_path, rules=rules) as b:
        assert await asked(b, caller=replace(OPERATOR, ask=answering("accept")))
        assert b.world.effects == []


@pytest.mark.parametrize(("keys", "code"), [({"key:x"}, "ok"), (set(), "approval_required")])
async def test_a_key_that_may_not_approve_any_more_does_not_count(
    tmp_path: Path, keys: set[str], code: str
) -> None:
    async with bench(tmp_path, approver_keys=frozenset(keys)) as b:
        question = await asked(b)
        await people(b).decide(question, person("key:x", "http"), approved=True, note="")
        assert await b.code("drop_item", **X) == code
        after = await people(b).get(question)
        assert after.state == ("redeemed" if keys else "revoked")


async def test_without_the_scope_nobody_approves(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        question = await asked(b)
        caller = replace(OPERATOR, scopes=SCOPES)
        with pytest.raises(OpsError) as caught:
            await people(b).decide(question, caller, approved=True, note="")
        assert caught.value.code == "permission_denied"


# ---- taken back


@pytest.mark.parametrize("approved", [True, False])
async def test_a_question_is_taken_back_and_asked_anew(tmp_path: Path, approved: bool) -> None:
    async with bench(tmp_path) as b:
        question = await asked(b)
        if approved:
            await say(b, question, "operator:ada")
        gone = await people(b).revoke(question, OPERATOR, note="key sk-abcdefghijklmnopqrstuv")
        assert gone.note == "key [redacted]"
        status = await b.ok("get_operation", operation_id=question)
        assert status["state"] == "revoked"
        assert await asked(b) != question
        with pytest.raises(Conflict):
            await people(b).revoke(question, OPERATOR, note="")
        with pytest.raises(Conflict):
            await say(b, question, "operator:ada")
        with pytest.raises(NotFound):
            await people(b).revoke("0123", OPERATOR, note="")
        assert [e.outcome for e in await b.entries() if e.kind == "changed"][-1] == "revoked"
        assert b.world.effects == []


async def test_an_approval_that_was_not_used_in_time_is_asked_anew(tmp_path: Path) -> None:
    rules = (PolicyRule(effect="destroy", require="approve", expires_s=60, execute_s=300),)
    async with bench(tmp_path, rules=rules) as b:
        question = await asked(b)
        b.clock.advance(59)
        await say(b, question, "operator:ada")
        b.clock.advance(299)
        assert (await b.ok("get_operation", operation_id=question))["state"] == "approved"
        b.clock.advance(2)
        assert (await b.ok("get_operation", operation_id=question))["state"] == "expired"
        assert await asked(b) != question
        assert b.world.effects == []
