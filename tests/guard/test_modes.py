"""Each mode and each column of the table in GUARD.md; who may change a mode, and how far."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_ops.call import Caller
from mcp_ops.capabilities.usage import UsageLimit, UsageReading
from mcp_ops.guard.modes import mode_for_usage
from mcp_ops.ports import ALL_TARGETS, Mode
from mcp_ops.settings import GuardSettings, PolicyRule, UsageSettings
from tests.guard.bench import AGENT, OPEN, OPEN_LIMITS, OPERATOR, WHY, Bench, bench, shelf_target

APPROVE_NOTHING = (PolicyRule(require="none"),)


def reading(percent: float) -> UsageReading:
    limit = UsageLimit(
        name="Daily", used=int(percent), max=100, remaining=0, used_percent=percent, level="ok"
    )
    return UsageReading(limits=[limit], drives="Daily")


async def row(b: Bench) -> dict[str, str]:
    """What each column of the table says now."""
    b.world.reading = reading(75)
    arguments = {"name": "x", "reason": WHY}
    return {
        "bulk": await b.code("list_items"),
        "read": await b.code("look_at_item", name="x"),
        "usage": await b.code("check_api_usage", target="shelf"),
        "write": await b.code("put_item", **arguments),
        "recovery": await b.code("mend_shelf", reason=WHY),
        "destroy": await b.code("drop_item", **arguments),
        "own": await b.code("get_guard_status"),
        "own list": await b.code("search_audit"),
        "own queue": await b.code("list_deadletters"),
    }


ALL_OK = dict.fromkeys(
    ("bulk", "read", "usage", "write", "recovery", "destroy", "own", "own list", "own queue"), "ok"
)


@pytest.mark.parametrize(
    ("mode", "refused"),
    [
        (Mode.NORMAL, {}),
        (Mode.RESTRICTIVE, {"bulk": "restricted"}),
        (
            Mode.CRITICAL,
            {"bulk": "critical", "read": "critical", "write": "critical", "destroy": "critical"},
        ),
        (
            Mode.READ_ONLY,
            {"write": "read_only", "recovery": "read_only", "destroy": "read_only"},
        ),
        (
            Mode.LOCKDOWN,
            dict.fromkeys(("bulk", "read", "usage", "write", "recovery", "destroy"), "locked_down"),
        ),
    ],
)
@pytest.mark.parametrize("scope", ["shelf", ALL_TARGETS])
async def test_each_mode_lets_pass_what_the_table_says(
    tmp_path: Path, mode: Mode, refused: dict[str, str], scope: str
) -> None:
    infos = (shelf_target(metered=True),)
    async with bench(tmp_path, rules=APPROVE_NOTHING, infos=infos) as b:
        await b.set_mode(mode, scope=scope)
        assert await row(b) == {**ALL_OK, **refused}


async def test_a_restrictive_list_of_an_unmetered_target_has_at_most_20_items(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.RESTRICTIVE)
        await b.ok("list_items", limit=100)
        await b.ok("list_items", limit=7)
        assert b.world.asked == ["page 20 from 0", "page 7 from 0"]


async def test_of_several_modes_the_strictest_of_each_column_applies(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=APPROVE_NOTHING) as b:
        await b.set_mode(Mode.READ_ONLY, scope=ALL_TARGETS)
        await b.set_mode(Mode.CRITICAL, source="usage")
        assert await b.code("look_at_item", name="x") == "critical"
        assert await b.code("put_item", name="x", reason=WHY) == "read_only"
        assert await b.code("mend_shelf", reason=WHY) == "read_only"


async def test_a_mode_of_one_target_does_not_touch_another(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.LOCKDOWN, scope="depot")
        assert await b.code("look_at_item", name="x") == "ok"


async def test_a_mode_ends_when_it_expires(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.LOCKDOWN, expires_at=b.clock.now() + 60)
        refusal = await b.error("look_at_item", name="x")
        assert refusal["retry_after_s"] == pytest.approx(60, abs=1)
        b.clock.advance(61)
        assert await b.code("look_at_item", name="x") == "ok"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("environment", "MCP_RATE_LIMIT_MODE"),
        ("operator", "mcp-ops mode clear"),
        ("agent", "set_guard_mode"),
        ("usage", "check_api_usage"),
    ],
)
async def test_a_refusal_by_a_mode_says_who_since_when_and_who_can_change_it(
    tmp_path: Path, source: str, says: str
) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.LOCKDOWN, source=source)  # type: ignore[arg-type]
        refusal = await b.error("look_at_item", name="x")
        assert says in refusal["hint"]
        assert "since 2027-01-15T08:00:00.000Z" in refusal["message"]
        assert '(by test: "a test")' in refusal["message"]
        assert refusal["details"] == {"mode": "lockdown", "source": source}
        assert refusal["executed"] == "no"
        assert b.world.asked == []


@pytest.mark.parametrize("mode", list(Mode))
async def test_an_agent_can_tighten_in_every_mode_without_being_asked(
    tmp_path: Path, mode: Mode
) -> None:
    settings = GuardSettings(profile="strict", limits=OPEN_LIMITS)
    async with bench(tmp_path, settings=settings) as b:
        await b.set_mode(mode, scope=ALL_TARGETS)
        found = await b.ok("set_guard_mode", mode="lockdown", reason=WHY)
        assert found["outcome"] == "verified"
        assert found["mode"] == "lockdown"
        assert await b.code("isolate_target", target="shelf", reason=WHY) == "ok"


async def test_tightening_is_charged_to_no_budget_and_stopped_by_no_freeze_or_protection(
    tmp_path: Path,
) -> None:
    settings = GuardSettings.model_validate(
        {
            "limits": {"writes_per_hour": 1, "writes_per_object": 1, "principal_per_minute": 1},
            "freeze": [
                {"start": "2020-01-01T00:00:00Z", "end": "2040-01-01T00:00:00Z", "reason": "r"}
            ],
            "protected": [{}],
        }
    )
    deny = (PolicyRule(tool="set_guard_mode", require="deny"),)
    async with bench(tmp_path, settings=settings, rules=deny) as b:
        for _ in range(5):
            assert await b.code("set_guard_mode", mode="lockdown", reason=WHY) == "ok"


async def test_loosening_needs_the_approval_of_a_person(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=APPROVE_NOTHING) as b:
        await b.set_mode(Mode.LOCKDOWN, scope=ALL_TARGETS)
        asked = {"mode": "normal", "reason": WHY}
        refusal = await b.error("set_guard_mode", **asked)
        assert refusal["code"] == "approval_required"
        await b.approve(refusal["details"]["approval_id"])
        assert (await b.ok("set_guard_mode", **asked))["mode"] == "normal"
        assert await b.stores.hot.modes() == ()


async def test_the_environments_floor_cannot_be_loosened_by_anyone(tmp_path: Path) -> None:
    settings = GuardSettings(mode=Mode.READ_ONLY, limits=OPEN_LIMITS)
    async with bench(tmp_path, settings=settings, rules=APPROVE_NOTHING) as b:
        refusal = await b.error("set_guard_mode", mode="normal", reason=WHY)
        await b.approve(refusal["details"]["approval_id"])
        found = await b.ok("set_guard_mode", mode="normal", reason=WHY)
        assert found["mode"] == "read_only"
        assert await b.control().set_mode("all", Mode.NORMAL, minutes=0, reason=WHY) == "read_only"
        await b.control().clear_modes(ALL_TARGETS, reason=WHY)
        assert await b.code("put_item", name="x", reason=WHY) == "read_only"


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        (Mode.LOCKDOWN, "restrictive"),
        (Mode.CRITICAL, "restrictive"),
        (Mode.READ_ONLY, "critical"),
        (Mode.CRITICAL, "read_only"),
        (Mode.RESTRICTIVE, "normal"),
    ],
)
async def test_replacing_an_agents_mode_by_one_that_lets_more_pass_is_loosening(
    tmp_path: Path, held: Mode, asked: str
) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(held, source="agent")
        refusal = await b.error("set_guard_mode", mode=asked, target="shelf", reason=WHY)
        assert refusal["code"] == "approval_required"


async def test_a_stricter_mode_beside_that_of_an_operator_lifts_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.READ_ONLY, source="operator")
        await b.ok("set_guard_mode", mode="critical", target="shelf", reason=WHY)
        modes = {entry.source: entry.mode for entry in await b.stores.hot.modes()}
        assert modes == {"operator": Mode.READ_ONLY, "agent": Mode.CRITICAL}


async def test_a_short_lockdown_by_an_agent_does_not_end_its_long_restriction(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        await b.ok("set_guard_mode", mode="critical", target="shelf", reason=WHY)
        await b.ok("set_guard_mode", mode="lockdown", target="shelf", minutes=1, reason=WHY)
        b.clock.advance(120)
        assert await b.code("look_at_item", name="x") == "locked_down"


async def test_an_agents_mode_with_minutes_holds_as_long_as_the_longest_that_it_asked_for(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        await b.ok("set_guard_mode", mode="lockdown", target="shelf", minutes=10, reason=WHY)
        await b.ok("set_guard_mode", mode="lockdown", target="shelf", minutes=1, reason=WHY)
        b.clock.advance(300)
        assert await b.code("look_at_item", name="x") == "locked_down"
        b.clock.advance(301)
        assert await b.code("look_at_item", name="x") == "ok"


async def test_a_mode_that_tightened_meanwhile_is_not_loosened_by_a_call_judged_before(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.LOCKDOWN, source="operator")
        with pytest.raises(Exception, match="looser than it is now"):
            await b.control(AGENT).set_mode("shelf", Mode.RESTRICTIVE, minutes=0, reason=WHY)
        assert [e.mode for e in await b.stores.hot.modes()] == [Mode.LOCKDOWN]


async def test_an_operator_sets_and_clears_modes_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        control = b.control(OPERATOR)
        await control.set_mode("shelf", Mode.LOCKDOWN, minutes=0, reason=WHY)
        assert await control.set_mode("shelf", Mode.RESTRICTIVE, minutes=5, reason=WHY) == (
            Mode.RESTRICTIVE
        )
        (entry,) = await control.modes()
        assert (entry.source, entry.expires_at) == ("operator", b.clock.now() + 300)
        await control.clear_modes("shelf", reason=WHY)
        assert await control.modes() == ()
        assert await control.mode_of("shelf") is Mode.NORMAL
        changed = [e for e in await b.entries() if e.kind == "changed"]
        assert [e.evidence["mode"] for e in changed] == ["lockdown", "restrictive", "cleared"]


async def test_a_plan_of_a_mode_changes_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        found = await b.ok("set_guard_mode", mode="lockdown", dry_run=True, reason=WHY)
        assert found["plan"] == ["Set all from normal to lockdown."]
        assert await b.stores.hot.modes() == ()


@pytest.mark.parametrize(
    ("percent", "current", "expected"),
    [
        (69.9, Mode.NORMAL, Mode.NORMAL),
        (79.9, Mode.NORMAL, Mode.NORMAL),
        (80, Mode.NORMAL, Mode.RESTRICTIVE),
        (89.9, Mode.NORMAL, Mode.RESTRICTIVE),
        (90, Mode.NORMAL, Mode.CRITICAL),
        (89.9, Mode.CRITICAL, Mode.RESTRICTIVE),
        (79.9, Mode.CRITICAL, Mode.RESTRICTIVE),
        (70, Mode.RESTRICTIVE, Mode.RESTRICTIVE),
        (69.9, Mode.RESTRICTIVE, Mode.NORMAL),
        (69.9, Mode.CRITICAL, Mode.NORMAL),
        (100, Mode.CRITICAL, Mode.CRITICAL),
    ],
)
def test_usage_moves_a_target_with_hysteresis(
    percent: float, current: Mode, expected: Mode
) -> None:
    assert mode_for_usage(percent, current, UsageSettings()) is expected


async def test_check_api_usage_restricts_and_releases_its_target(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=(shelf_target(metered=True),)) as b:
        seen = []
        for percent in (50, 80, 75, 90, 85, 70, 69):
            b.world.reading = reading(percent)
            found = await b.ok("check_api_usage", target="shelf")
            seen.append((found["guard"]["mode"], found["guard"]["changed"]))
        assert seen == [
            ("normal", False),
            ("restrictive", True),
            ("restrictive", False),
            ("critical", True),
            ("restrictive", True),
            ("restrictive", False),
            ("normal", True),
        ]
        changes = [e for e in await b.entries() if e.principal == "guard:usage"]
        assert [(e.evidence["from"], e.evidence["to"]) for e in changes] == [
            ("normal", "restrictive"),
            ("restrictive", "critical"),
            ("critical", "restrictive"),
            ("restrictive", "normal"),
        ]


async def test_a_limit_that_does_not_drive_the_target_changes_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.world.reading = reading(99).model_copy(update={"drives": "Other"})
        assert (await b.ok("check_api_usage", target="shelf"))["guard"]["mode"] == "normal"


async def test_callers_need_the_scope_even_to_tighten(tmp_path: Path) -> None:
    reader = Caller(principal="key:reader", scopes=frozenset({"ops:read"}), channel="http")
    async with bench(tmp_path) as b:
        refusal = await b.error("set_guard_mode", reader, mode="lockdown", reason=WHY)
        assert refusal["code"] == "permission_denied"
        assert "ops:write" in refusal["message"]
        assert OPEN.mode is Mode.NORMAL
