"""What people are shown of a target, drift since then, pinned items, and races."""

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

from mcp_ops.call import parse
from mcp_ops.capabilities.base import Effect
from mcp_ops.errors import Conflict, Rejected, Unreachable
from mcp_ops.guard.act import Passage, current
from mcp_ops.guard.consent import Consent
from mcp_ops.guard.record import open_frame
from mcp_ops.guard.resume import kept
from mcp_ops.settings import GuardSettings, PolicyRule
from mcp_ops.tool import Write, tool
from tests.guard.bench import AGENT, OPERATOR, WHY, bench, shelf_target
from tests.guard.redeem_peer import CALLS
from tests.guard.shelf import Item, ItemPut, Name, Shelf
from tests.guard.test_approval_people import ONE, SWEEPS, X, asked, people, say, sweep_all
from tests.stores import records

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
        assert (look.arguments["dry_run"], ask.arguments["dry_run"]) == (True, False)
        assert (ask.verdict, ask.code) == ("refused", "approval_required")
        assert b.world.effects == []


async def test_people_are_shown_it_whether_or_not_the_asker_may_read(tmp_path: Path) -> None:
    async with bench(tmp_path, **ONE) as b:
        writer = replace(AGENT, scopes=frozenset({"ops:destroy"}))
        question = await asked(b, "sweep", writer)
        assert (await people(b).get(question)).seen_shown["plan"] == ["Drop x, which is fine."]


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


@tool(effect=Effect.DESTROY)
async def swap(shelf: Shelf, name: Name, write: Write) -> ItemPut:
    """Plan once more when it runs, and act only on what was approved."""
    item = await shelf.look(name)
    if write.dry_run:
        write.saw({"text": item.text}, None)
        return ItemPut(outcome="planned")
    kept = write.approved({"text": item.text}), write.approved({"text": "another"})
    return ItemPut(outcome="verified", evidence={"approved": list(kept)})


@pytest.mark.parametrize(("asks", "told"), [(True, [True, False]), (False, [True, True])])
async def test_a_tool_can_ask_whether_what_it_plans_now_is_what_was_approved(
    tmp_path: Path, asks: bool, told: list[bool]
) -> None:
    rule = PolicyRule(effect="destroy", require="approve" if asks else "none")
    given = {**ONE, "extra_tools": {"swap": swap}, "rules": (rule,)}
    async with bench(tmp_path, **given) as b:
        if asks:
            await say(b, await asked(b, "swap"), "operator:ada")
        assert (await b.ok("swap", **X))["evidence"] == {"approved": told}


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


async def test_nobody_is_asked_about_a_selection_of_nothing_and_it_stays_one(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, **ONE) as b:

        async def nothing() -> None:
            return

        async def appear() -> None:
            b.world.items = [Item(name="new")]

        b.world.plans += [nothing, appear]  # the look, and the call
        assert (await b.ok("sweep_all", reason=WHY))["outcome"] == "verified"
        assert b.world.items
        assert b.world.effects == []
        assert await people(b).recent(10) == []
        (end,) = [e for e in await b.entries(verdict="ok") if not e.dry_run]
        assert end.approval == "nothing selected"
        # The next intention selects it, and that is asked about.
        assert await asked(b, "sweep_all", reason=WHY, idempotency_key="next")


async def test_an_approved_selection_that_nobody_could_be_shown_touches_nothing(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, **ONE) as b:
        b.world.items = [Item(name="a")]
        b.world.plans += [Unreachable("no connection"), Unreachable("no connection")]
        await say(b, await asked(b, "sweep_all", reason=WHY), "operator:ada")
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
        consent = Consent(
            how="approve", record="approve q by operator:ada", pinned=pins, seen="a digest"
        )
        token = current.set(Passage(call=call, frame=frame, consent=consent))
        text = kept(call, approval=consent.record)
        current.reset(token)
        lost = records.operation(b.clock, "c1", tool="sweep_all", target="shelf", resume=text)
        again, left = b.resumer._call(lost)
        assert again.digest == call.digest
        assert left == replace(consent, how="none")  # the yes itself was used up


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
