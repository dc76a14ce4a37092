"""What an agent tried: loosening by tightening, hiding what was done, loops that cost nothing."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from mcp_ops.call import Caller, _without_most_unknown
from mcp_ops.capabilities.base import Effect
from mcp_ops.errors import NotFound, Refused, Unreachable
from mcp_ops.guard.break_glass import MOST_TRIES, BreakGlass
from mcp_ops.guard.modes import effective
from mcp_ops.guard.operations import LEASE_S
from mcp_ops.ports import Mode
from mcp_ops.settings import GuardSettings, PolicyRule
from mcp_ops.tool import Linked, Write, tool
from tests.guard.bench import AGENT, OPEN_LIMITS, OPERATOR, WHY, Bench, bench, shelf_target
from tests.guard.shelf import Item, ItemFound, ItemPut, Name, Shelf, World, look_at_item

FREE = (PolicyRule(require="none"),)


# ---- modes: what a person lifted for a while returns, whatever an agent sets meanwhile


async def agent_sets(b: Bench, mode: str, minutes: int = 0) -> str:
    arguments = {"mode": mode, "target": "shelf", "minutes": minutes, "reason": WHY}
    return await b.code("set_guard_mode", idempotency_key=f"{mode}{minutes}", **arguments)


async def allowed(b: Bench, mode: str, minutes: int) -> None:
    """A looser mode for a while, after a person's yes."""
    arguments = {"mode": mode, "target": "shelf", "minutes": minutes, "reason": WHY}
    asked = await b.error("set_guard_mode", **arguments)
    await b.approve(asked["details"]["approval_id"])
    await b.ok("set_guard_mode", **arguments)


async def in_force(b: Bench) -> Mode:
    return effective(await b.stores.hot.modes(), "shelf", AGENT.principal)


@pytest.mark.parametrize("lifted_to", ["normal", "restrictive"])
@pytest.mark.parametrize(
    "meanwhile", [("same", 0), ("same", 60), ("critical", 0), ("critical", 60)]
)
@pytest.mark.parametrize("by", ["a person's yes", "an operator"])
async def test_what_was_lifted_for_a_while_returns_whatever_an_agent_sets_meanwhile(
    tmp_path: Path, lifted_to: str, meanwhile: tuple[str, int], by: str
) -> None:
    async with bench(tmp_path) as b:
        assert await agent_sets(b, "lockdown") == "ok"
        if by == "an operator":
            await b.control(OPERATOR).set_mode("shelf", Mode(lifted_to), minutes=10, reason=WHY)
        else:
            await allowed(b, lifted_to, 10)
        assert await in_force(b) is Mode(lifted_to)
        mode = lifted_to if meanwhile[0] == "same" else meanwhile[0]
        for again in ("", "again"):
            arguments = {"mode": mode, "target": "shelf", "minutes": meanwhile[1], "reason": WHY}
            await b.ok("set_guard_mode", idempotency_key=f"meanwhile{again}", **arguments)
            assert await in_force(b) is Mode(mode)
        b.clock.advance(601)
        assert await in_force(b) is Mode.LOCKDOWN


@pytest.mark.parametrize("meanwhile", ["normal", "restrictive", "critical"])
async def test_a_command_line_without_a_terminal_does_not_end_what_returns(
    tmp_path: Path, meanwhile: str
) -> None:
    """An agent may have a shell: what it starts there is an operator's, and has no terminal."""
    async with bench(tmp_path) as b:
        shell = replace(OPERATOR, scopes=OPERATOR.scopes - {"ops:approve"})
        await b.control(OPERATOR).set_mode("shelf", Mode.LOCKDOWN, minutes=0, reason=WHY)
        await b.control(OPERATOR).set_mode("shelf", Mode.NORMAL, minutes=10, reason=WHY)
        arguments = {"mode": meanwhile, "target": "shelf", "minutes": 0, "reason": WHY}
        await b.ok("set_guard_mode", shell, **arguments)
        b.clock.advance(601)
        assert await in_force(b) is Mode.LOCKDOWN
        assert await b.code("set_guard_mode", shell, **arguments) == "approval_required"


@pytest.mark.parametrize(
    ("held", "asked"), [(Mode.CRITICAL, "read_only"), (Mode.READ_ONLY, "critical")]
)
async def test_a_command_line_without_a_terminal_does_not_swap_an_operators_mode(
    tmp_path: Path, held: Mode, asked: str
) -> None:
    """Neither is stricter than the other: each refuses what the other lets pass."""
    async with bench(tmp_path) as b:
        shell = replace(OPERATOR, scopes=OPERATOR.scopes - {"ops:approve"})
        await b.control(OPERATOR).set_mode("shelf", held, minutes=0, reason=WHY)
        arguments = {"mode": asked, "target": "shelf", "minutes": 0, "reason": WHY}
        assert await b.code("set_guard_mode", shell, **arguments) == "approval_required"
        with pytest.raises(Refused):
            await b.control(shell).set_mode("shelf", Mode(asked), minutes=0, reason=WHY)
        assert await in_force(b) is held


async def test_an_agents_own_short_mode_is_not_what_a_longer_one_ends_with(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert await agent_sets(b, "restrictive", 10) == "ok"
        assert await agent_sets(b, "lockdown") == "ok"
        b.clock.advance(86_400)
        assert await in_force(b) is Mode.LOCKDOWN


# ---- break-glass: its uses and its wrong credentials cannot be pushed out of sight


def glass(b: Bench) -> BreakGlass:
    return BreakGlass(
        SecretStr("a credential for emergencies"),
        ledger=b.stores.ledger,
        clock=b.clock,
        redactor=b.redactor,
    )


async def noise(b: Bench, name: str) -> None:
    """Calls of a tool that there is not: their lines bear the name that the client gave."""
    for _ in range(250):
        with pytest.raises(Exception, match="no such tool"):
            await b.server.call_tool(name, {}, AGENT)


async def test_calls_of_a_made_up_tool_do_not_hide_a_use_of_break_glass(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        said: dict[str, Any] = {"tool": "put_item", "target": "shelf", "reason": WHY}
        await glass(b).open(OPERATOR, "a credential for emergencies", **said)
        await noise(b, "break_glass")
        assert len((await b.ok("get_guard_status"))["break_glass"]) == 1


async def test_calls_of_a_made_up_tool_give_nobody_more_tries_at_the_credential(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        said: dict[str, Any] = {"tool": "put_item", "target": "shelf", "reason": WHY}
        for _ in range(MOST_TRIES):
            with pytest.raises(Refused, match="not the break-glass credential"):
                await glass(b).open(OPERATOR, "wrong", **said)
        await noise(b, "break_glass\u200b")
        with pytest.raises(Refused, match="closed until"):
            await glass(b).open(OPERATOR, "wrong", **said)


# ---- loops that cost nothing


async def test_a_call_that_only_ever_looks_is_held_to_its_principals_rate(tmp_path: Path) -> None:
    """A destroy of what is not there ends before anyone is asked, after a look at the target."""
    settings = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"principal_per_minute": 10}))

    async with bench(tmp_path, settings=settings, infos=(shelf_target(),), extra_tools=SWEEPS) as b:
        b.world.plans += [NotFound("not there") for _ in range(100)]
        codes = [await b.code("sweep_all", reason=WHY) for _ in range(100)]
        assert codes[:10] == ["not_found"] * 10
        assert set(codes[10:]) == {"rate_limited"}
        assert len(b.world.asked) == 10


@tool(effect=Effect.READ)
async def compare(shelf: Shelf, name: Name, endpoint: Linked[Shelf] | None) -> ItemFound:
    """Look at an item here, then on the linked shelf."""
    found = await shelf.look(name)
    assert endpoint is not None
    await endpoint.use(lambda other: other.look(name))
    return ItemFound(item=found, number=1)


async def test_a_call_that_is_refused_half_way_costs_what_it_asked_of_its_target(
    tmp_path: Path,
) -> None:
    settings = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"principal_per_minute": 10}))
    extra = {compare.name: compare}
    async with bench(tmp_path, settings=settings, extra_tools=extra) as b:
        await b.set_mode(Mode.LOCKDOWN, scope="depot")
        codes = [await b.code("compare", target="shelf", name="a") for _ in range(50)]
        assert codes[:10] == ["locked_down"] * 10
        assert set(codes[10:]) == {"rate_limited"}
        assert len(b.world.asked) == 10


# ---- an approval of a selection that nobody saw


@tool(effect=Effect.DESTROY)
async def sweep_all(shelf: Shelf, write: Write) -> ItemPut:
    """Drop what is there, or what a person saw there."""
    names = tuple(item.name for item in (await shelf.page(50, "")).items)
    if write.dry_run:
        write.saw({}, names)
        return ItemPut(outcome="planned", plan=[f"Drop {len(names)} items."])
    chosen = names if write.pinned is None else [n for n in write.pinned if n in names]
    return ItemPut(outcome="verified", evidence={"dropped": [await shelf.drop(n) for n in chosen]})


SWEEPS = {sweep_all.name: sweep_all}


async def test_a_selection_that_nobody_could_look_at_selects_nothing(tmp_path: Path) -> None:
    """Approved blind and run after a second failed look: what is there by then was shown to
    nobody."""
    async with bench(tmp_path, infos=(shelf_target(),), extra_tools=SWEEPS) as b:
        b.world.items = [Item(name=name) for name in ("a", "b")]
        b.world.plans.append(Unreachable("no connection"))
        asked = await b.error("sweep_all", reason=WHY)
        await b.approve(asked["details"]["approval_id"])
        b.world.plans.append(Unreachable("no connection"))
        await b.code("sweep_all", reason=WHY)
        assert b.world.effects == []


# ---- a write that goes on elsewhere, for somebody who may not any more


QUICK = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"write_wait_s": 0.05}))


async def lost(b: Bench, caller: Caller) -> str:
    """A write of many steps whose process is gone after its first item."""

    async def at_once() -> None:
        return

    b.world.plans.append(at_once)
    hold = b.world.hold()
    handle = await b.ok("fill_shelf", caller, reason=WHY)
    with anyio.fail_after(5):
        await hold.arrived.wait()
    b.clock.advance(LEASE_S + 1)
    return str(handle["operation_id"])


async def status_of(b: Bench, operation: str) -> dict[str, Any]:
    with anyio.fail_after(5):
        while (found := await b.ok("get_operation", operation_id=operation))["state"] == "running":
            await anyio.lowlevel.checkpoint()
    return found


KEY = replace(AGENT, principal="key:agent", channel="http", client_confirms=False)


@pytest.mark.parametrize(
    "left", [{"key:other": frozenset({"ops:write"})}, {"key:agent": frozenset({"ops:read"})}]
)
async def test_a_write_of_a_key_that_was_taken_away_does_not_go_on(
    tmp_path: Path, left: dict[str, frozenset[str]]
) -> None:
    world = World()
    async with bench(tmp_path, settings=QUICK, rules=FREE, worlds={"shelf": world}) as first:
        operation = await lost(first, KEY)
        async with bench(
            tmp_path, rules=FREE, clock=first.clock, worlds={"shelf": world}
        ) as second:
            second.resumer._keys = lambda: left
            assert await second.resumer.take() == 1
            status = await status_of(second, operation)
            assert (status["state"], world.effects) == ("unknown", ["put 0"])
            assert "lacks the scope" in status["answer"]["problem"]


@pytest.mark.parametrize("forged", ['{"caller": {"x": 1}}', "[]", '{"caller": null}', "nonsense"])
async def test_what_another_version_or_somebody_else_left_to_go_on_with_stops_no_server(
    tmp_path: Path, forged: str
) -> None:
    world = World()
    async with bench(tmp_path, settings=QUICK, rules=FREE, worlds={"shelf": world}) as first:
        operation = await lost(first, AGENT)
        with sqlite3.connect(tmp_path / "s.db") as database:
            database.execute("UPDATE operations SET resume = ?", (forged,))
        async with bench(
            tmp_path, rules=FREE, clock=first.clock, worlds={"shelf": world}
        ) as second:
            assert await second.resumer.take() == 1
            status = await second.ok("get_operation", operation_id=operation)
            assert (status["state"], world.effects) == ("running", ["put 0"])


# ---- arguments that are made to hurt


async def test_arguments_nested_past_the_interpreters_stack_have_their_record(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        deep: dict[str, Any] = {}
        inner = deep
        for _ in range(2_000):
            inner["a"] = inner = {}
        assert await b.code("look_at_item", name="a", deep=deep) == "invalid_input"
        assert await b.ends() == [("invalid", "invalid_input")]


async def test_of_very_many_unknown_arguments_only_some_are_looked_at(tmp_path: Path) -> None:
    """Everybody waits while arguments are checked: a hundred thousand took seconds."""
    async with bench(tmp_path) as b:
        many = {f"k{number}": number for number in range(10_000)}
        assert len(_without_most_unknown({**many, "name": "a"}, look_at_item)) == 11
        error = await b.error("look_at_item", name="a", **many)
        assert error["message"].count("unknown argument") == 10


@pytest.mark.parametrize("cursor", ["9" * 400, "9" * 19, "\u0663", "-1", "1e3", " 1"])
async def test_a_cursor_that_no_store_can_hold_is_none_of_the_list(
    tmp_path: Path, cursor: str
) -> None:
    async with bench(tmp_path) as b:
        assert await b.code("search_audit", cursor=cursor) == "invalid_input"
