"""Modes of a principal, and what looser modes let return."""

from __future__ import annotations

from pathlib import Path

from mcp_ops.ports import ALL_TARGETS, Mode
from tests.guard.bench import AGENT, OPERATOR, WHY, bench, shelf_target
from tests.guard.test_modes import APPROVE_NOTHING


async def test_a_mode_of_a_principal_refuses_its_calls_on_every_target_and_names_it(
    tmp_path: Path,
) -> None:
    scope = f"principal:{AGENT.principal}"
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.READ_ONLY, scope=scope, source="runaway")
        refusal = await b.error("put_item", name="x", reason=WHY)
        assert refusal["code"] == "read_only"
        assert refusal["message"] == (
            "put_item is refused: agent:test@host is read_only since 2027-01-15T08:00:00.000Z "
            '(by test: "a test"); nothing may be changed.'
        )
        assert refusal["hint"] == (
            "The same call was made again and again. Stop; a person clears it: "
            "mcp-ops mode clear principal:agent:test@host."
        )
        assert refusal["details"] == {"mode": "read_only", "source": "runaway"}
        assert await b.code("reset_circuit", target="depot", reason=WHY) == "read_only"
        assert await b.code("look_at_item", name="x") == "ok"
        assert await b.code("put_item", OPERATOR, name="x", reason=WHY) == "approval_required"


async def test_an_operators_mode_of_a_principal_says_how_it_is_cleared(tmp_path: Path) -> None:
    scope = f"principal:{AGENT.principal}"
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.LOCKDOWN, scope=scope)
        refusal = await b.error("look_at_item", name="x")
        assert refusal["hint"] == f"The operator can change it: mcp-ops mode clear {scope}."
        await b.control().clear_modes(scope, reason=WHY)
        assert await b.code("look_at_item", name="x") == "ok"


async def test_only_its_name_lifts_what_holds_for_a_principal(tmp_path: Path) -> None:
    scope = f"principal:{AGENT.principal}"
    async with bench(tmp_path, rules=APPROVE_NOTHING) as b:
        await b.set_mode(Mode.READ_ONLY, scope=scope, source="runaway")
        await b.set_mode(Mode.LOCKDOWN, scope=ALL_TARGETS)
        await b.control().set_mode("all", Mode.NORMAL, minutes=0, reason=WHY)
        await b.control().clear_modes(ALL_TARGETS, reason=WHY)
        assert [e.scope for e in await b.stores.hot.modes()] == [scope]
        await b.control().clear_modes(scope, reason=WHY)
        assert await b.stores.hot.modes() == ()


async def test_a_restricted_principals_lists_have_at_most_20_items_and_its_rates_are_shown_slower(
    tmp_path: Path,
) -> None:
    infos = (shelf_target(), shelf_target("depot", per_minute=40))
    async with bench(tmp_path, infos=infos) as b:
        await b.set_mode(Mode.RESTRICTIVE, scope=f"principal:{AGENT.principal}")
        await b.ok("list_items", limit=100)
        assert b.world.asked == ["page 20 from 0"]
        limits = {each["name"]: each for each in (await b.ok("get_guard_status"))["limits"]}
        assert limits["calls to depot"]["per_minute"] == 10


async def test_an_operators_looser_mode_for_a_while_lets_the_earlier_return(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.LOCKDOWN)
        await b.set_mode(Mode.CRITICAL, source="agent")
        assert await b.control().set_mode("shelf", Mode.NORMAL, minutes=5, reason=WHY) == "normal"
        assert await b.code("look_at_item", name="x") == "ok"
        b.clock.advance(300)
        assert {e.source: e.mode for e in await b.stores.hot.modes()} == {
            "operator": Mode.LOCKDOWN,
            "agent": Mode.CRITICAL,
        }
        assert await b.code("look_at_item", name="y") == "locked_down"


async def test_a_looser_mode_lifts_what_usage_set_for_good(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.CRITICAL, source="usage")
        await b.set_mode(Mode.READ_ONLY, source="agent", expires_at=b.clock.now() + 60)
        await b.control().set_mode("shelf", Mode.NORMAL, minutes=5, reason=WHY)
        held = [(e.source, e.mode) for e in await b.stores.hot.modes()]
        assert held == [("agent", Mode.NORMAL)]
        b.clock.advance(300)
        assert await b.stores.hot.modes() == ()
