"""Policy: who approves, how many, and what `explain` says about every stage."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.call import Caller
from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.errors import Health, InvalidInput
from mcp_ops.guard.explain import Explanation, explain, place_of, supposed
from mcp_ops.guard.policy import Policy
from mcp_ops.ports import Grant, Mode
from mcp_ops.settings import FreezeWindow, GuardSettings, LimitSettings, PolicyRule, ProtectedObject
from tests.guard.bench import AGENT, OPEN, OPERATOR, WHY, Bench, bench, shelf_target
from tests.guard.shelf import SHELF_TOOLS

SHELF = shelf_target()


def decision(policy: Policy, tool: str) -> Any:
    call = supposed(SHELF_TOOLS[tool], {"name": "a"}, AGENT, ("shelf",))
    return policy.decide(call, SHELF)


def test_a_rule_says_who_approves_how_many_and_for_how_long() -> None:
    rule = PolicyRule(
        tool="put_*",
        require="approve",
        approvers=("key:lead-*",),
        approvals=2,
        expires_s=60,
        execute_s=30,
    )
    found = decision(Policy((rule,), "solo"), "put_item")
    assert (found.approvers, found.needed) == (("key:lead-*",), 2)
    assert (found.expires_s, found.execute_s, found.rule) == (60, 30, "policy[1]")


RULE = {"tool": "put_*", "effect": "write", "target": "sh*", "environment": "prod"}


@pytest.mark.parametrize(
    ("other", "matches"),
    [
        ({}, True),
        ({"tool": "drop_*"}, False),
        ({"effect": "destroy"}, False),
        ({"target": "depot"}, False),
        ({"environment": "dev"}, False),
        ({"principal": "key:*"}, False),
        ({"tool": "*", "effect": "", "target": "*", "environment": "", "principal": "*"}, True),
    ],
)
def test_a_rule_matches_when_all_its_fields_do(other: dict[str, str], matches: bool) -> None:
    rule = PolicyRule.model_validate({**RULE, "require": "deny", **other})
    assert (decision(Policy((rule,), "solo"), "put_item").require == "deny") is matches


def test_a_rule_on_a_target_holds_for_what_is_done_about_it() -> None:
    rule = PolicyRule(target="depot", require="deny")
    policy = Policy((rule,), "solo")
    tool, targets = ALL_TOOLS["isolate_target"], ("shelf", "depot")
    for target, rule_of in (("shelf", "solo[2]"), ("depot", "policy[1]"), ("shelf", "solo[2]")):
        call = supposed(tool, {"target": target}, AGENT, targets)
        assert policy.decide(call, SHELF).rule == rule_of
    put = supposed(SHELF_TOOLS["put_item"], {"name": "a"}, AGENT, ("depot",))
    assert policy.decide(put, SHELF).rule == "policy[1]"


def test_without_a_target_the_rules_for_production_hold() -> None:
    rule = PolicyRule(environment="prod", require="deny")
    call = supposed(ALL_TOOLS["search_audit"], {}, AGENT, ("shelf",))
    assert Policy((rule,), "solo").decide(call, None).require == "deny"
    assert Policy((rule,), "solo").decide(call, shelf_target(environment="dev")).require == "none"


def test_a_policy_is_known_by_twelve_digits_that_change_with_it() -> None:
    versions = {Policy(rules, "solo").version for rules in ((), (PolicyRule(require="none"),))}
    versions |= {Policy((), "team").version, Policy((), "team").version}
    assert len(versions) == 3
    assert all(re.fullmatch("[0-9a-f]{12}", version) for version in versions)


@pytest.mark.parametrize(
    ("profile", "needed"), [("solo", (1, 1)), ("team", (1, 1)), ("strict", (1, 2))]
)
def test_the_profile_strict_wants_two_people_for_a_destroy(
    profile: str, needed: tuple[int, int]
) -> None:
    policy = Policy((), profile)
    found = [decision(policy, tool).needed for tool in ("put_item", "drop_item")]
    assert tuple(found) == needed


async def ask(
    b: Bench, tool: str, caller: Caller = AGENT, at: float | None = None, /, **raw: Any
) -> Explanation:
    known = {**ALL_TOOLS, **SHELF_TOOLS}[tool]
    targets = ("shelf", "depot") if known.own else ("shelf",)
    call = supposed(known, raw, caller, targets)
    places = ("rules.toml line 3: policy #1",)
    return await explain(b.guard, b.stores.ledger, call, places=places, at=at)


def refusing(found: Explanation) -> list[tuple[str, str]]:
    return [(stage.name, stage.code) for stage in found.stages if not stage.passes]


def said(found: Explanation, name: str) -> str:
    (stage,) = [stage for stage in found.stages if stage.name == name]
    return stage.says


async def test_explain_goes_through_every_stage_and_charges_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        found = await ask(b, "put_item", name="a")
        assert [stage.name for stage in found.stages] == [
            "scopes",
            "rules that deny",
            "freeze windows",
            "protected objects",
            "modes",
            "budgets",
            "limits",
            "circuit",
            "policy",
            "elevation",
            "approval",
        ]
        assert (found.outcome, refusing(found)) == ("confirm", [])
        assert said(found, "policy") == "solo[2] (built in) requires confirm"
        assert said(found, "approval").startswith("the caller's own client confirms")
        assert said(found, "budgets") == (
            "writes on a: 0 of 1000 used; writes of this principal: 0 of 1000 used"
        )
        assert said(found, "circuit") == "closed"
        assert b.world.asked == []
        assert await b.entries() == []
        again = await ask(b, "put_item", name="a")
        assert again == found


async def test_explain_names_the_rule_and_where_it_stands_and_who_approves(tmp_path: Path) -> None:
    rule = PolicyRule(tool="put_*", require="approve", approvers=("key:lead-*",), approvals=2)
    settings = OPEN.model_copy(update={"profile": "team"})
    async with bench(tmp_path, settings=settings, rules=(rule,)) as b:
        found = await ask(b, "put_item")
        assert found.outcome == "approve"
        assert said(found, "policy") == "policy[1] (rules.toml line 3: policy #1) requires approve"
        assert said(found, "approval") == (
            "2 different people of key:lead-*, not agent:test@host; the question is open for "
            "900 s, and a yes can be used for 900 s"
        )


async def test_explain_shows_an_elevation(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        now = b.clock.now()
        grant = Grant(
            id="g1",
            principal="agent:*",
            tool="*",
            target="*",
            require="none",
            incident="INC-7",
            reason=WHY,
            author="operator:ada",
            since=now,
            expires_at=now + 60,
        )
        await b.stores.hot.set_grant(grant)
        found = await ask(b, "drop_item", name="a")
        assert found.outcome == "allowed"
        assert said(found, "elevation") == (
            "elevation g1 for INC-7 by operator:ada until 2027-01-15T08:01:00.000Z"
        )
        assert said(found, "approval") == "nobody is asked"


async def test_explain_names_each_stage_that_refuses(tmp_path: Path) -> None:
    settings = GuardSettings(
        limits=LimitSettings(writes_per_object=1, principal_per_minute=2),
        freeze=(
            FreezeWindow(start="2020-01-01T00:00:00Z", end="2040-01-01T00:00:00Z", reason="r"),
        ),
        protected=(ProtectedObject(object="gold*"),),
    )
    async with bench(tmp_path, settings=settings) as b:
        glass = replace(OPERATOR, break_glass=True)
        await b.ok("mend_shelf", glass, reason=WHY)
        await b.ok("look_at_item", name="x")
        await b.ok("look_at_item", name="y")
        for _ in range(3):
            await b.stores.hot.record(
                "shelf", Health.FAILED, error="x", probe=False, policy=b.guard.circuit_policy
            )
        await b.set_mode(Mode.READ_ONLY)
        found = await ask(b, "put_item", replace(AGENT, scopes=frozenset()), name="golden")
        assert found.outcome == "denied"
        assert refusing(found) == [
            ("scopes", "permission_denied"),
            ("freeze windows", "frozen"),
            ("protected objects", "protected"),
            ("modes", "read_only"),
            ("limits", "rate_limited"),
            ("circuit", "circuit_open"),
        ]
        assert "[[guard.freeze]]" in said(found, "freeze windows")
        assert (await ask(b, "put_item", name="golden")).outcome == "frozen"


async def test_explain_can_look_at_the_freeze_windows_of_another_time(tmp_path: Path) -> None:
    window = FreezeWindow(start="2027-02-01T00:00:00Z", end="2027-02-02T00:00:00Z", reason="r")
    settings = OPEN.model_copy(update={"freeze": (window,)})
    async with bench(tmp_path, settings=settings) as b:
        now = await ask(b, "put_item", name="a")
        assert (now.outcome, said(now, "freeze windows")) == ("confirm", "none holds here")
        then = await ask(b, "put_item", AGENT, b.clock.now() + 17 * 86_400, name="a")
        assert then.outcome == "frozen"
        soon = await ask(b, "put_item", AGENT, b.clock.now() + 10 * 86_400, name="a")
        assert said(soon, "freeze windows") == (
            "none holds; the next begins 2027-02-01T00:00:00.000Z"
        )


async def test_explain_of_a_change_of_the_guard_itself(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        stricter = await ask(b, "set_guard_mode", mode="lockdown")
        assert (stricter.outcome, said(stricter, "policy")) == (
            "allowed",
            "solo[2] (built in) matches; tightening: requires none",
        )
        await b.set_mode(Mode.LOCKDOWN, scope="*")
        assert (await ask(b, "set_guard_mode", mode="normal")).outcome == "approve"
        assert (await ask(b, "reset_circuit", target="shelf")).outcome == "locked_down"
        with pytest.raises(InvalidInput, match="mode: is required"):
            await ask(b, "set_guard_mode")


@pytest.mark.parametrize(
    ("tool", "raw"),
    [
        ("put_item", {"nonsense": 1}),
        ("put_item", {"target": "nowhere"}),
        ("reset_circuit", {"target": "nowhere"}),
        ("look_at_item", {"name": "x" * 1_000}),
    ],
)
async def test_what_is_asked_about_wrongly_is_invalid(
    tmp_path: Path, tool: str, raw: dict[str, Any]
) -> None:
    async with bench(tmp_path) as b:
        with pytest.raises(InvalidInput):
            await ask(b, tool, **raw)


def test_a_place_is_the_files_or_built_in() -> None:
    assert place_of("policy[1]", ("here",)) == "here"
    assert place_of("policy[2]", ("here",)) == "configured"
    assert place_of("solo[1]", ("here",)) == "built in"
    assert place_of("default", ()) == "built in"
