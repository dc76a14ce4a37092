"""The order of the refusals, and that a refused call touches and consumes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_ops.call import Answer
from mcp_ops.errors import ConnectionLost, RefusalCode, Unreachable
from mcp_ops.guard import checks
from mcp_ops.ports import CircuitPhase, CircuitState, Mode
from mcp_ops.settings import GuardSettings, PolicyRule
from tests.guard.bench import (
    AGENT,
    OPEN_LIMITS,
    OPERATOR,
    WHY,
    Bench,
    answering,
    bench,
    shelf_target,
)

FOREVER = {"start": "2020-01-01T00:00:00Z", "end": "2040-01-01T00:00:00Z", "reason": "a release"}
HELD: tuple[Mode, ...] = (Mode.LOCKDOWN, Mode.READ_ONLY, Mode.CRITICAL, Mode.RESTRICTIVE)


def test_the_codes_stand_in_the_order_in_which_the_guard_looks() -> None:
    assert [code.value for code in RefusalCode][:14] == [
        "permission_denied",
        "frozen",
        "protected",
        "locked_down",
        "read_only",
        "critical",
        "restricted",
        "budget_exhausted",
        "rate_limited",
        "circuit_open",
        "approval_required",
        "approval_denied",
        "bulkhead_full",
        "timeout",
    ]
    assert [check.__name__ for check in (*checks.CONFIGURED, *checks.PRESENT)] == [
        "access",
        "denied_by_policy",
        "freeze",
        "protected",
        "modes",
        "budgets",
        "rates",
        "circuit",
    ]


async def open_circuit(b: Bench, phase: CircuitPhase = CircuitPhase.OPEN, by: str = "") -> None:
    state = CircuitState(
        target="shelf",
        phase=phase,
        failures=3,
        opened_at=b.clock.now(),
        retry_at=b.clock.now() + 60 if phase is CircuitPhase.OPEN else None,
        by=by,
        reason="a test",
    )
    version = {c.target: c.version for c in await b.stores.hot.circuits()}.get("shelf", 0)
    assert await b.stores.hot.set_circuit(state, expected_version=version) is not None


async def test_what_is_refused_for_several_reasons_names_the_first_and_touches_nothing(
    tmp_path: Path,
) -> None:
    """Everything that can refuse a write holds at once; one after the other is taken away."""
    settings = {
        "limits": {"writes_per_hour": 1, "principal_per_minute": 2.0},
        "freeze": [FOREVER],
        "protected": [{"object": "precious"}],
    }
    limits_only = {"limits": settings["limits"]}
    reader = replace(AGENT, scopes=frozenset({"ops:read"}))
    asked = {"name": "precious", "reason": WHY}
    seen: list[str] = []
    ask_people = (PolicyRule(require="approve", effect="write", tool="put_item"),)
    # The budget and the rate are used up by an allowed write and a read.
    async with bench(tmp_path, settings=GuardSettings.model_validate(limits_only)) as b:
        await b.ok("put_one", name="first", reason=WHY)
        await open_circuit(b)
        for mode in HELD:
            await b.set_mode(mode, source="operator", scope="shelf")
    async with bench(
        tmp_path, settings=GuardSettings.model_validate(settings), rules=ask_people
    ) as b:
        await b.set_mode(Mode.LOCKDOWN)
        seen.append(await b.code("put_item", reader, **asked))
        seen.append(await b.code("put_item", **asked))
        assert b.world.asked == []
    settings.pop("freeze")
    async with bench(
        tmp_path, settings=GuardSettings.model_validate(settings), rules=ask_people
    ) as b:
        seen.append(await b.code("put_item", **asked))
    async with bench(
        tmp_path, settings=GuardSettings.model_validate(limits_only), rules=ask_people
    ) as b:
        assert await b.code("get_health", reader) == "ok"
        assert await b.code("get_health", AGENT) == "ok"
        for mode in (Mode.LOCKDOWN, Mode.READ_ONLY, Mode.CRITICAL, Mode.NORMAL):
            await b.set_mode(mode)
            seen.append(await b.code("put_item", **asked))
        b.clock.advance(3_601)  # the budget is free again, the rate is not (used up below)
        for _ in range(2):
            await b.code("get_health", AGENT)
        seen.append(await b.code("put_item", **asked))
        b.clock.advance(120)
        await open_circuit(b)
        seen.append(await b.code("put_item", **asked))
        await open_circuit(b, CircuitPhase.CLOSED)
        seen.append(await b.code("put_item", **asked))
        assert b.world.effects == []
    assert seen == [
        "permission_denied",
        "frozen",
        "protected",
        "locked_down",
        "read_only",
        "critical",
        "budget_exhausted",
        "rate_limited",
        "circuit_open",
        "approval_required",
    ]


async def test_a_person_is_not_asked_about_a_call_that_another_check_refuses(
    tmp_path: Path,
) -> None:
    rules = (PolicyRule(effect="write", require="approve"),)
    async with bench(tmp_path, rules=rules) as b:
        await b.set_mode(Mode.READ_ONLY)
        assert await b.code("put_item", name="x", reason=WHY) == "read_only"
        await open_circuit(b)
        await b.set_mode(Mode.NORMAL)
        assert await b.code("put_item", name="x", reason=WHY) == "circuit_open"
        assert await b.stores.approvals.recent(10) == []


async def test_a_refused_call_and_one_that_ends_in_a_question_consume_nothing(
    tmp_path: Path,
) -> None:
    settings = GuardSettings.model_validate(
        {"limits": {"writes_per_hour": 1, "writes_per_object": 1, "principal_per_minute": 1}}
    )
    rules = (PolicyRule(tool="drop_item", require="approve"),)
    async with bench(tmp_path, settings=settings, rules=rules) as b:
        for _ in range(3):
            assert await b.code("drop_item", name="x", reason=WHY) == "approval_required"
        await open_circuit(b)
        for _ in range(3):
            assert await b.code("put_item", name="x", reason=WHY) == "circuit_open"
        await open_circuit(b, CircuitPhase.CLOSED)
        assert (await b.put())["outcome"] == "verified"
        assert b.world.effects == ["put a"]


async def test_a_freeze_window_says_until_when_and_ends(tmp_path: Path) -> None:
    window = {
        "start": "2027-01-15T00:00:00Z",
        "end": "2027-01-15T09:00:00Z",
        "reason": "quarter end",
        "targets": ["other", "sh*"],
    }
    settings = GuardSettings.model_validate({"freeze": [window]})
    async with bench(tmp_path, settings=settings) as b:
        refusal = await b.error("put_item", name="x", reason=WHY)
        assert refusal["code"] == "frozen"
        assert "quarter end" in refusal["message"]
        assert "2027-01-15T09:00:00.000Z" in refusal["message"]
        assert "[[guard.freeze]]" in refusal["hint"]
        assert refusal["retry_after_s"] == pytest.approx(3600, abs=1)
        assert await b.code("look_at_item", name="x") == "ok"
        status = await b.ok("get_guard_status")
        assert status["freeze_windows"][0]["active"] is True
        b.clock.advance(3600)
        assert await b.code("put_item", name="x", reason=WHY) == "ok"


async def test_a_freeze_window_of_another_target_does_not_hold(tmp_path: Path) -> None:
    settings = GuardSettings.model_validate({"freeze": [{**FOREVER, "targets": ["other"]}]})
    async with bench(tmp_path, settings=settings) as b:
        assert await b.code("put_item", name="x", reason=WHY) == "ok"


async def test_a_protected_object_is_protected_from_the_listed_effects_only(
    tmp_path: Path,
) -> None:
    item = {"target": "sh*", "object": "gold*", "effects": ["destroy"], "reason": "ask finance"}
    settings = GuardSettings.model_validate({"protected": [item]})
    rules = (PolicyRule(require="none"),)
    async with bench(tmp_path, settings=settings, rules=rules) as b:
        refusal = await b.error("drop_item", name="golden", reason=WHY)
        assert refusal["code"] == "protected"
        assert "ask finance" in refusal["message"]
        assert "[[guard.protected]]" in refusal["hint"]
        assert await b.code("put_item", name="golden", reason=WHY) == "ok"
        assert await b.code("drop_item", name="iron", reason=WHY) == "ok"
        assert await b.code("drop_item", name="golden", reason=WHY, dry_run=True) == "ok"


async def test_a_denying_rule_names_itself(tmp_path: Path) -> None:
    rules = (PolicyRule(tool="other_*", require="none"), PolicyRule(tool="put_*", require="deny"))
    async with bench(tmp_path, rules=rules) as b:
        refusal = await b.error("put_item", name="x", reason=WHY)
        assert refusal["code"] == "permission_denied"
        assert "policy[2]" in refusal["message"]
        assert refusal["retryable"] is False


async def test_in_shadow_refusals_are_counted_once_and_pass_but_for_rights(
    tmp_path: Path,
) -> None:
    settings = GuardSettings(enforcement="shadow", profile="strict", limits=OPEN_LIMITS)
    async with bench(tmp_path, settings=settings) as b:
        await b.set_mode(Mode.LOCKDOWN)
        assert await b.code("look_at_item", name="x") == "ok"
        assert await b.code("drop_item", name="x", reason=WHY) == "ok"
        assert (await b.ok("get_guard_status"))["shadow_refusals"] == 2
        reader = replace(AGENT, scopes=frozenset({"ops:read"}))
        assert await b.code("drop_item", reader, name="y", reason=WHY) == "permission_denied"
        ends = [e for e in await b.entries(tool="drop_item") if e.kind == "began"]
        assert ends[0].approval == "shadow"


async def test_an_isolated_circuit_names_who_isolated_it(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.control(OPERATOR).isolate("shelf", reason="it harms")
        refusal = await b.error("look_at_item", name="x")
        assert refusal["code"] == "circuit_open"
        assert "operator:ada" in refusal["message"]
        assert "it harms" in refusal["message"]
        assert refusal["details"] == {"circuit": "isolated"}


async def test_every_refusal_has_a_hint_and_executed_nothing(tmp_path: Path) -> None:
    settings = GuardSettings.model_validate({"limits": {"principal_per_minute": 1}})
    async with bench(tmp_path, settings=settings) as b:
        await b.ok("look_at_item", name="x")
        refusal = await b.error("look_at_item", name="x")
        assert refusal["code"] == "rate_limited"
        assert refusal["hint"]
        assert refusal["executed"] == "no"
        assert refusal["retryable"] is True
        assert refusal["target"] == ""
        assert len(refusal["audit_id"]) == 16


async def test_a_tool_gets_no_method_of_the_adapter_that_its_capability_or_effect_lacks(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        for tool in ("lying_read", "lying_linked_read", "nosy_read"):
            assert await b.code(tool, name="x") == "internal_error"
        assert b.world.effects == b.worlds["depot"].effects == []
        assert b.world.asked == []


async def test_a_plan_writes_neither_here_nor_through_a_link(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for tool in ("put_item", "drop_item", "copy_item"):
            found = await b.ok(tool, name="x", reason=WHY, dry_run=True)
            assert found["outcome"] == "planned"
        assert b.world.effects == b.worlds["depot"].effects == []
        assert {(e.effect, e.dry_run) for e in await b.entries() if e.tool == "put_item"} == {
            ("write", True)
        }
        assert [e.kind for e in await b.entries()] == ["ended"] * 3


async def test_a_plan_needs_no_more_than_the_right_to_read(tmp_path: Path) -> None:
    reader = replace(AGENT, scopes=frozenset({"ops:read"}), channel="http", client_confirms=False)
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.READ_ONLY)
        found = await b.ok("drop_item", reader, name="x", reason=WHY, dry_run=True)
        assert found["outcome"] == "planned"


async def test_a_link_passes_the_guard_with_the_calls_principal_and_the_links_own_mode(
    tmp_path: Path,
) -> None:
    depot = shelf_target("depot", per_minute=1.0)
    async with bench(tmp_path, infos=(shelf_target(links={"endpoint": "depot"}), depot)) as b:
        await b.set_mode(Mode.READ_ONLY, scope="depot")
        assert await b.code("copy_item", name="x", reason=WHY) == "read_only"
        await b.set_mode(Mode.NORMAL, scope="depot")
        found = await b.ok("copy_item", name="x", reason=WHY)
        assert found["evidence"] == {"on": "depot"}
        assert b.worlds["depot"].effects == ["put x"]
        assert await b.code("copy_item", name="y", reason=WHY) == "rate_limited"
        assert b.worlds["depot"].effects == ["put x"]


async def test_failures_of_a_link_open_the_links_circuit_and_not_the_targets(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        for number in range(3):
            b.worlds["depot"].plans.append(Unreachable("The depot is closed."))
            code = await b.code("copy_item", name=f"x{number}", reason=WHY)
            assert code == "unreachable"
        states = {c.target: c.phase for c in await b.stores.hot.circuits()}
        assert states["depot"] is CircuitPhase.OPEN
        assert states.get("shelf", CircuitPhase.CLOSED) is CircuitPhase.CLOSED
        assert await b.code("copy_item", name="x9", reason=WHY) == "circuit_open"


async def test_a_missing_link_is_none_for_the_tool(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=(shelf_target(),)) as b:
        assert await b.code("copy_item", name="x", reason=WHY) == "internal_error"


async def test_a_state_that_changed_between_look_and_take_is_refused_and_may_be_tried_again(
    tmp_path: Path,
) -> None:
    """The person's answer takes a while; meanwhile the target's circuit opens."""
    async with bench(tmp_path) as b:

        async def ask(_question: object) -> Answer:
            await open_circuit(b)
            return "accept"

        caller = replace(AGENT, ask=ask)
        assert await b.code("put_item", caller, name="x", reason=WHY) == "circuit_open"
        await open_circuit(b, CircuitPhase.CLOSED)
        # The yes was not used: it counts for the same call.
        again = replace(AGENT, ask=answering("decline"))
        assert await b.code("put_item", again, name="x", reason=WHY) == "ok"
        assert b.world.effects == ["put x"]


async def test_what_a_target_did_without_answering_is_unknown_and_no_refusal(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        b.world.after.append(ConnectionLost("The connection broke."))
        assert (await b.put())["outcome"] == "unknown"


async def test_what_leads_on_names_the_target(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        found = await b.ok("mend_shelf", reason=WHY)
        assert found["undo"] == {
            "tool": "drop_item",
            "arguments": {"target": "shelf", "name": "mended"},
        }
        assert [step["arguments"] for step in found["next_steps"]] == [
            {"target": "shelf", "name": "mended"},
            {},
        ]
