"""Questions and answers: who may say yes, to what, and how often it counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_ops.call import Answer, Question
from mcp_ops.guard.policy import Policy, covers
from mcp_ops.settings import GuardSettings, PolicyRule
from tests.guard.bench import (
    AGENT,
    WHY,
    answering,
    bench,
    modern,
    shelf_target,
)

HTTP = replace(AGENT, principal="key:agent", channel="http", client_confirms=False)
X = {"name": "x", "reason": WHY}


@pytest.mark.parametrize(
    ("profile", "environment", "put", "drop"),
    [
        ("solo", "prod", "ok", "approval_required"),
        ("team", "prod", "approval_required", "approval_required"),
        ("team", "dev", "ok", "approval_required"),
        ("strict", "dev", "approval_required", "approval_required"),
    ],
)
async def test_each_profile_asks_what_the_table_says(
    tmp_path: Path, profile: str, environment: str, put: str, drop: str
) -> None:
    settings = GuardSettings.model_validate({"profile": profile})
    infos = (shelf_target(environment=environment),)
    async with bench(tmp_path, settings=settings, infos=infos) as b:
        assert await b.code("look_at_item", name="x") == "ok"
        assert await b.code("put_item", **X) == put
        assert await b.code("drop_item", **X) == drop
        assert (await b.ok("get_guard_status"))["profile"] == profile


def test_the_default_profile_is_the_channels() -> None:
    policy = Policy((), "")
    assert [policy.profile_for(c) for c in ("stdio", "cli", "http")] == ["solo", "solo", "team"]


async def test_the_first_rule_that_matches_wins(tmp_path: Path) -> None:
    rules = (
        PolicyRule(principal="key:*", effect="write", require="deny"),
        PolicyRule(target="shelf", environment="prod", effect="write", require="approve"),
        PolicyRule(require="none"),
    )
    async with bench(tmp_path, rules=rules) as b:
        assert await b.code("put_item", HTTP, **X) == "permission_denied"
        assert await b.code("put_item", **X) == "approval_required"
        assert await b.code("drop_item", **X) == "ok"


def test_an_approval_covers_no_more_than_was_asked() -> None:
    assert covers("none", "none")
    assert covers("confirm", "approve")
    assert not covers("approve", "confirm")
    assert not covers("confirm", "none")
    assert not covers("deny", "approve")
    assert not covers("none", "nonsense")


# ---- confirm


async def test_a_client_of_the_session_era_is_asked_within_the_call(tmp_path: Path) -> None:
    asked: list[Question] = []

    async def ask(question: Question) -> Answer:
        asked.append(question)
        return "accept"

    async with bench(tmp_path) as b:
        found = await b.ok("put_item", replace(AGENT, ask=ask), **X, code="hunter2hunter2")
        assert found["outcome"] == "verified"
        (question,) = asked
        assert question.kind == "confirm"
        assert "put_item (write) on shelf" in question.message
        assert '"name": "x"' in question.message
        assert WHY in question.message
        assert "hunter2" not in question.message
        began = [e for e in await b.entries() if e.kind == "began"]
        assert began[0].approval == f"confirm {question.id}"


@pytest.mark.parametrize("answer", ["decline", "cancel"])
async def test_a_no_ends_the_call_and_holds_for_ten_minutes(tmp_path: Path, answer: str) -> None:
    async with bench(tmp_path) as b:
        no = replace(AGENT, ask=answering(answer))  # type: ignore[arg-type]
        yes = replace(AGENT, ask=answering("accept"))
        refusal = await b.error("put_item", no, **X)
        assert refusal["code"] == "approval_denied"
        assert refusal["retryable"] is False
        for caller in (yes, modern(), AGENT):
            refusal = await b.error("put_item", caller, **X)
            assert refusal["code"] == "approval_denied"
        assert await b.code("put_item", yes, name="other", reason=WHY) == "ok"
        b.clock.advance(601)
        assert await b.code("put_item", yes, **X) == "ok"


async def test_when_nobody_answers_the_call_is_refused(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        refusal = await b.error("put_item", replace(AGENT, ask=answering(None)), **X)
        assert refusal["code"] == "approval_required"
        assert "approval_id" in refusal["details"]
        assert b.world.effects == []


async def test_a_client_of_2026_gets_a_question_and_its_answer_counts_once(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        question = await b.question("put_item", modern(), **X)
        answered = modern(answered=(question.id, "accept"))
        assert (await b.ok("put_item", answered, **X))["outcome"] == "verified"
        replayed = await b.ok("put_item", answered, **X)
        assert replayed["replayed"] is True
        b.clock.advance(601)  # no replay any more: the old answer must not run it again
        refusal = await b.error("put_item", answered, **X)
        assert refusal["code"] == "approval_required"
        assert b.world.effects == ["put x"]
        assert await b.ends() == [
            ("asked", ""),
            ("ok", ""),
            ("ok", "replayed"),
            ("refused", "approval_required"),
        ]


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "y"},
        {"tool": "put_one"},
        {"principal": "agent:other@host"},
        {"question": "0123456789abcdef"},
    ],
)
async def test_an_answer_counts_only_for_exactly_its_call(
    tmp_path: Path, changed: dict[str, str]
) -> None:
    async with bench(tmp_path) as b:
        question = await b.question("put_item", modern(), **X)
        caller = modern(
            replace(AGENT, principal=changed.get("principal", AGENT.principal)),
            answered=(changed.get("question", question.id), "accept"),
        )
        arguments = {**X, "name": changed.get("name", "x")}
        code = await b.code(changed.get("tool", "put_item"), caller, **arguments)
        assert code == "approval_required"
        assert b.world.effects == []


async def test_an_answer_by_the_client_does_not_decide_a_question_to_a_person(
    tmp_path: Path,
) -> None:
    rules = (PolicyRule(effect="write", require="approve"),)
    async with bench(tmp_path, rules=rules) as b:
        refusal = await b.error("put_item", modern(), **X)
        asked = refusal["details"]["approval_id"]
        caller = modern(answered=(asked, "accept"))
        assert await b.code("put_item", caller, **X) == "approval_required"
    async with bench(tmp_path) as b:  # not even where the policy asks only for a confirm
        assert await b.code("put_item", caller, **X) == "approval_required"
        assert b.world.effects == []


async def test_an_expired_question_is_asked_anew(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        first = await b.question("put_item", modern(), **X)
        assert (await b.question("put_item", modern(), **X)).id == first.id
        b.clock.advance(901)
        late = modern(answered=(first.id, "accept"))
        refusal = await b.error("put_item", late, **X)
        assert refusal["code"] == "approval_required"
        assert refusal["message"] == "The question was answered before, or has expired."
        assert (await b.question("put_item", modern(), **X)).id != first.id


async def test_a_question_is_asked_anew_after_the_policy_changed(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        first = await b.question("put_item", modern(), **X)
    rules = (PolicyRule(effect="write", require="confirm"),)
    async with bench(tmp_path, rules=rules) as b:
        caller = modern(answered=(first.id, "accept"))
        assert await b.code("put_item", caller, **X) == "approval_required"
        assert b.world.effects == []


async def test_a_decline_in_2026_ends_the_call(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        question = await b.question("put_item", modern(), **X)
        assert await b.code("put_item", modern(answered=(question.id, "decline")), **X) == (
            "approval_denied"
        )
        assert await b.code("put_item", modern(), **X) == "approval_denied"


async def test_a_yes_that_a_late_refusal_left_unused_is_not_lost(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        question = await b.question("put_item", modern(), **X)
        decided = await b.stores.approvals.decide(
            question.id, approved=True, by="x (client)", note="", at=b.clock.now()
        )
        assert decided is not None
        assert (await b.ok("put_item", modern(), **X))["outcome"] == "verified"
        used = await b.stores.approvals.get(question.id)
        assert used is not None
        assert used.state == "redeemed"


async def test_the_same_yes_sent_twice_before_it_was_used_counts(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        question = await b.question("put_item", modern(), **X)
        await b.approve(question.id)
        caller = modern(answered=(question.id, "accept"))
        assert (await b.ok("put_item", caller, **X))["outcome"] == "verified"


async def test_fifty_identical_answers_at_once_have_one_effect(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        question = await b.question("put_item", modern(), **X)
        caller = modern(answered=(question.id, "accept"))
        hold = b.world.hold()
        answers: list[str] = []

        async def call() -> None:
            answers.append(await b.code("put_item", caller, **X))

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(call)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            hold.released.set()
        assert b.world.effects == ["put x"]
        assert set(answers) <= {"ok", "approval_required"}
        assert "ok" in answers


async def test_without_a_way_to_ask_stdio_takes_the_clients_word_except_for_a_destroy(
    tmp_path: Path,
) -> None:
    rules = (PolicyRule(effect="destroy", require="confirm"),)
    async with bench(tmp_path, rules=rules) as b:
        await b.put()
        began = [e for e in await b.entries() if e.kind == "began"]
        assert began[0].approval == "confirm, client-asserted"
        assert await b.code("drop_item", **X) == "approval_required"


@pytest.mark.parametrize(
    "caller", [modern(), replace(AGENT, ask=answering("accept")), AGENT], ids=["2026", "ask", "no"]
)
async def test_no_yes_of_a_client_suffices_for_a_destroy(tmp_path: Path, caller: object) -> None:
    rules = (PolicyRule(effect="destroy", require="confirm"),)
    async with bench(tmp_path, rules=rules) as b:
        assert await b.code("drop_item", caller, **X) == "approval_required"  # type: ignore[arg-type]
        assert b.world.effects == []


async def test_over_http_a_confirm_becomes_an_approval_unless_the_host_confirms(
    tmp_path: Path,
) -> None:
    infos = (shelf_target(environment="dev"),)
    async with bench(tmp_path, infos=infos) as b:
        assert await b.code("put_item", HTTP, **X) == "approval_required"
        assert await b.code("put_item", replace(HTTP, client_confirms=True), **X) == "ok"


async def test_the_fallback_can_be_an_approval(tmp_path: Path) -> None:
    settings = GuardSettings(confirm_fallback="approve")
    async with bench(tmp_path, settings=settings) as b:
        assert await b.code("put_item", **X) == "approval_required"
