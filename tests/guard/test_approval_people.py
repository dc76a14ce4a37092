"""People and questions: how many, who, what they are shown, and what happens when it changes."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process

from mcp_ops.call import Caller, parse
from mcp_ops.capabilities.base import Effect
from mcp_ops.errors import Conflict, NotFound, OpsError, Rejected, Unreachable
from mcp_ops.guard.act import Passage, current
from mcp_ops.guard.approval import Consent
from mcp_ops.guard.people import People
from mcp_ops.guard.record import open_frame
from mcp_ops.guard.resume import kept
from mcp_ops.questions import Approval
from mcp_ops.settings import GuardSettings, PolicyRule
from mcp_ops.tool import Write, tool
from tests.guard.bench import AGENT, OPERATOR, SCOPES, WHY, Bench, answering, bench, shelf_target
from tests.guard.redeem_peer import CALLS
from tests.guard.shelf import Item, ItemPut, Name, Shelf
from tests.stores import records

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
        changed = [(e.outcome, e.principal) for e in await b.entries() if e.kind == "changed"]
        assert changed == [("vote", "operator:ada"), ("approved", "operator:bob")]


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


# ---- what is shown, and drift


async def test_people_are_shown_what_the_target_looks_like(tmp_path: Path) -> None:
    infos = (shelf_target(environment="staging"),)
    async with bench(tmp_path, infos=infos, extra_tools=SWEEPS) as b:
        b.world.items = [Item(name="x", text="token=sk-abcdefghijklmnopqrstuv")]
        shown = (await people(b).get(await asked(b, "sweep"))).seen_shown
        assert shown == {
            "environment": "staging",
            "effect": "destroy",
            "rule": "solo[3]",
            "profile": "solo",
            "approvers": [],
            "plan": ["Drop x, which is token=[redacted]."],
            "state": {"text": "token=[redacted]"},
        }
        look, ask = [e for e in await b.entries() if e.kind == "ended"]
        assert (look.dry_run, look.verdict, look.parent) == (True, "ok", ask.call_id)
        assert (ask.verdict, ask.code) == ("refused", "approval_required")
        assert b.world.effects == []


async def test_a_target_that_changed_since_is_asked_about_anew(tmp_path: Path) -> None:
    async with bench(tmp_path, **ONE) as b:
        first = await asked(b, "sweep")
        await say(b, first, "operator:ada")
        b.world.items = [Item(name="x", text="different")]
        refusal = await b.error("sweep", **X)
        assert refusal["code"] == "approval_required"
        assert f"The approval {first} was taken back: the target changed" in refusal["message"]
        gone = await people(b).get(first)
        assert (gone.state, gone.decided_by) == ("revoked", "guard")
        changed = [e for e in await b.entries() if e.outcome == "revoked"]
        assert [(e.principal, e.approval) for e in changed] == [("guard", first)]
        second = refusal["details"]["approval_id"]
        await say(b, second, "operator:ada")
        assert (await b.ok("sweep", **X))["outcome"] == "verified"
        assert b.world.effects == ["drop x"]


async def test_a_target_that_is_as_it_was_is_not_asked_about_again(tmp_path: Path) -> None:
    async with bench(tmp_path, **ONE) as b:
        await say(b, await asked(b, "sweep"), "operator:ada")
        b.clock.advance(60)
        assert (await b.ok("sweep", **X))["outcome"] == "verified"


async def test_while_a_question_is_pending_its_target_is_left_alone(tmp_path: Path) -> None:
    async with bench(tmp_path, **ONE) as b:
        first = await asked(b, "sweep")
        for _ in range(5):
            assert await asked(b, "sweep") == first
        assert b.world.asked == ["look x"]


async def test_a_target_that_cannot_be_looked_at_is_asked_about_with_those_words(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, **ONE) as b:
        b.world.plans.append(Unreachable("no connection"))
        question = await asked(b, "sweep")
        shown = await people(b).get(question)
        assert shown.seen == ""
        problem = "The present state could not be looked at (unreachable)."
        assert shown.seen_shown["problem"] == problem
        await say(b, question, "operator:ada")
        # It can be looked at now, and who agreed did not see this.
        assert await asked(b, "sweep") != question
        assert b.world.effects == []


async def test_an_approval_of_what_was_not_seen_runs_while_nothing_more_is_seen(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, **ONE) as b:
        b.world.plans += [Unreachable("no connection"), Unreachable("no connection")]
        await say(b, await asked(b, "sweep"), "operator:ada")
        assert (await b.ok("sweep", **X))["outcome"] == "verified"


async def test_nobody_is_asked_about_what_the_target_refuses_already(tmp_path: Path) -> None:
    async with bench(tmp_path, **ONE) as b:
        b.world.plans.append(Rejected("no such thing"))
        assert await b.code("sweep", **X) == "rejected"
        assert await people(b).recent(10) == []


async def test_the_look_is_a_read_of_the_target_and_no_write(tmp_path: Path) -> None:
    """The limits of the target hold for it; the budgets of writes and the asker's rate do not."""
    settings = GuardSettings.model_validate({"limits": {"principal_per_minute": 1}})
    infos = (shelf_target(per_minute=1),)
    async with bench(tmp_path, settings=settings, infos=infos, extra_tools=SWEEPS) as b:
        assert await asked(b, "sweep")
        assert await b.code("sweep", name="other", reason=WHY) == "rate_limited"
        assert len(await people(b).recent(10)) == 1
        budgets = {x["name"]: x["used"] for x in (await b.ok("get_guard_status"))["budgets"]}
        assert set(budgets.values()) == {0}


async def test_a_full_set_of_questions_is_refused_before_a_look(tmp_path: Path) -> None:
    async with bench(tmp_path, **ONE) as b:
        for number in range(20):
            await asked(b, "drop_item", name=f"x{number}")
        refusal = await b.error("sweep", **X)
        assert "20 open questions" in refusal["message"]
        assert b.world.asked == []


# ---- pinned items


async def test_an_approved_selection_is_what_was_shown_as_far_as_it_is_there(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, **ONE) as b:
        b.world.items = [Item(name=name) for name in ("a", "b", "c")]
        arguments: dict[str, Any] = {"reason": WHY}
        question = await asked(b, "sweep_all", **arguments)
        assert (await people(b).get(question)).seen_shown["items"] == ["a", "b", "c"]
        await say(b, question, "operator:ada")
        b.world.items = [Item(name=name) for name in ("b", "c", "new")]
        assert (await b.ok("sweep_all", **arguments))["outcome"] == "verified"
        assert b.world.effects == ["drop b", "drop c"]


async def test_a_selection_that_was_empty_when_it_was_approved_selects_nothing(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, **ONE) as b:
        question = await asked(b, "sweep_all", reason=WHY)
        assert (await people(b).get(question)).seen_shown["items"] == []
        await say(b, question, "operator:ada")
        b.world.items = [Item(name="new")]
        assert (await b.ok("sweep_all", reason=WHY))["outcome"] == "verified"
        assert b.world.effects == []


async def test_what_nobody_had_to_approve_is_not_pinned(tmp_path: Path) -> None:
    rules = (PolicyRule(require="none"),)
    async with bench(tmp_path, rules=rules, **ONE) as b:
        b.world.items = [Item(name="a")]
        await b.ok("sweep_all", reason=WHY)
        assert b.world.effects == ["drop a"]


@pytest.mark.parametrize("pins", [("a", "b"), (), None])
async def test_a_write_that_goes_on_elsewhere_keeps_the_pins_of_its_approval(
    tmp_path: Path, pins: tuple[str, ...] | None
) -> None:
    async with bench(tmp_path, **ONE) as b:
        raw = {"reason": WHY}
        call = parse(sweep_all, raw, caller=AGENT, call_id="c1", targets=("shelf",))
        frame = open_frame(call, ledger=b.stores.ledger, redactor=b.redactor, clock=b.clock)
        consent = Consent(how="approve", record="approve q by operator:ada", pinned=pins)
        token = current.set(Passage(call=call, frame=frame, consent=consent))
        text = kept(call, approval=consent.record)
        current.reset(token)
        lost = records.operation(b.clock, "c1", tool="sweep_all", target="shelf", resume=text)
        again, approval, pinned = b.resumer._call(lost)
        assert (again.digest, approval, pinned) == (call.digest, consent.record, pins)


# ---- races


async def test_a_use_and_a_taking_back_at_once_have_one_winner(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in range(5):
            arguments = {"name": f"n{number}", "reason": WHY}
            question = await asked(b, "drop_item", name=f"n{number}")
            await say(b, question, "operator:ada")
            ends: list[str] = []

            async def use(arguments: dict[str, str] = arguments, ends: list[str] = ends) -> None:
                ends.append(await b.code("drop_item", **arguments))

            async def take(question: str = question, ends: list[str] = ends) -> None:
                try:
                    await people(b).revoke(question, OPERATOR, note="stop")
                except Conflict:
                    return
                ends.append("revoked")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(use)
                tasks.start_soon(take)
            assert (f"drop n{number}" in b.world.effects) == ("revoked" not in ends)


async def test_fifty_calls_from_two_processes_use_an_approval_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await say(b, await asked(b), "operator:ada")
    ended: list[dict[str, Any]] = []

    async def one(process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send(b"go\n")
        said = b"".join([chunk async for chunk in process.stdout])
        ended.append(json.loads(said.splitlines()[-1]))

    with anyio.fail_after(60):
        async with AsyncExitStack() as stack:
            peers = [
                await stack.enter_async_context(
                    await anyio.open_process(
                        [sys.executable, "-m", "tests.guard.redeem_peer", str(tmp_path), name],
                        cwd=Path(__file__).parents[2],
                        stderr=None,
                    )
                )
                for name in ("first", "second")
            ]
            for peer in peers:
                assert peer.stdout is not None
                assert (await peer.stdout.receive(6)) == b"ready\n"
            async with anyio.create_task_group() as tasks:
                for peer in peers:
                    tasks.start_soon(one, peer)
    assert [effect for each in ended for effect in each["effects"]] == ["drop x"]
    codes = [code for each in ended for code in each["codes"]]
    assert codes.count("ok") == 1
    assert codes.count("approval_required") == 2 * CALLS - 1
