"""Writes of many steps: they go on elsewhere when their process is lost or stops, and once only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.call import Caller
from mcp_ops.capabilities.base import Effect
from mcp_ops.guard.operations import LEASE_S
from mcp_ops.guard.resume import Resumer
from mcp_ops.ports import Mode
from mcp_ops.reach import Reach
from mcp_ops.settings import GuardSettings
from mcp_ops.tool import Tool, Write, tool
from tests.guard.bench import AGENT, OPEN_LIMITS, OPERATOR, WHY, Bench, bench, shelf_target
from tests.guard.shelf import ItemPut, Shelf, World, fill_shelf

QUICK = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"write_wait_s": 0.05}))


async def begin(b: Bench, caller: Caller = AGENT, **more: Any) -> str:
    """Start to fill the shelf; the operation's id, once the second item is held at the shelf."""

    async def at_once() -> None:
        return

    b.world.plans.append(at_once)
    hold = b.world.hold()
    handle = await b.ok("fill_shelf", caller, reason=WHY, **more)
    assert handle["outcome"] == "in_progress"
    with anyio.fail_after(5):
        await hold.arrived.wait()
    b.held = hold  # type: ignore[attr-defined]
    return str(handle["operation_id"])


async def ended(b: Bench, operation: str) -> dict[str, Any]:
    with anyio.fail_after(5):
        while (status := await b.ok("get_operation", operation_id=operation))["state"] == "running":
            await anyio.lowlevel.checkpoint()
    return status


async def test_a_server_that_stops_leaves_the_rest_to_the_next_one(tmp_path: Path) -> None:
    world = World()
    async with bench(tmp_path, settings=QUICK, worlds={"shelf": world}) as first:
        operation = await begin(first)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.operations.drain, 5)
            while not first.operations.stopping:
                await anyio.lowlevel.checkpoint()
            first.held.released.set()  # type: ignore[attr-defined]
        assert world.effects == ["put 0", "put 1"]
        assert await first.resumer.take() == 0
    first.clock.advance(0.1)
    async with bench(tmp_path, clock=first.clock, worlds={"shelf": world}) as second:
        same = await second.ok("fill_shelf", reason=WHY)
        assert (same["outcome"], same["operation_id"]) == ("in_progress", operation)
        assert await second.resumer.take() == 1
        status = await ended(second, operation)
        assert (status["state"], status["outcome"]) == ("done", "verified")
        assert status["answer"]["name"] == f"from {operation}"
        assert world.effects == ["put 0", "put 1", "put 2"]
        kinds = [(e.kind, e.verdict) for e in await second.entries(call_id=operation)]
        assert kinds == [("began", ""), ("ended", "ok")]
        assert (await second.ok("fill_shelf", reason=WHY))["replayed"] is True
        assert await second.stores.ledger.facts() == {}
        assert await second.stores.ledger.lock("fill|shelf", "me", second.clock.now() + 1)


async def test_a_step_that_the_end_of_the_server_cuts_off_is_made_again_by_the_next_one(
    tmp_path: Path,
) -> None:
    """As when it is killed: a step takes longer than a server waits for it."""
    world = World()
    async with bench(tmp_path, settings=QUICK, worlds={"shelf": world}) as first:
        operation = await begin(first)
    assert world.effects == ["put 0"]
    async with bench(tmp_path, clock=first.clock, worlds={"shelf": world}) as second:
        assert await second.resumer.take() == 0  # what was sent may still arrive
        second.clock.advance(LEASE_S + 1)
        assert await second.resumer.take() == 1
        status = await ended(second, operation)
        assert (status["state"], status["outcome"]) == ("done", "verified")
        assert world.effects == ["put 0", "put 1", "put 2"]
        kinds = [(e.kind, e.verdict) for e in await second.entries(call_id=operation)]
        assert kinds == [("began", ""), ("ended", "ok")]


async def test_a_process_that_is_stopped_past_its_lease_moves_nothing_any_more(
    tmp_path: Path,
) -> None:
    world = World()
    async with bench(tmp_path, settings=QUICK, worlds={"shelf": world}) as zombie:
        operation = await begin(zombie)
        zombie.clock.advance(LEASE_S + 1)
        async with bench(
            tmp_path, settings=QUICK, clock=zombie.clock, worlds={"shelf": world}
        ) as second:
            assert await second.resumer.take() == 1
            status = await ended(second, operation)
            assert (status["state"], status["outcome"]) == ("done", "verified")
            assert world.effects == ["put 0", "put 1", "put 2"]
            zombie.held.released.set()  # type: ignore[attr-defined]
            assert await zombie.operations.drain(5) == 0
            assert world.effects == ["put 0", "put 1", "put 2"]
            after = await second.ok("get_operation", operation_id=operation)
            assert after["answer"] == status["answer"]
            lines = [(e.kind, e.verdict) for e in await second.entries(call_id=operation)]
            assert lines[:2] == [("began", ""), ("ended", "ok")]
            assert all(kind == "changed" for kind, _ in lines[2:])
            assert (await second.stores.ledger.verify()).ok


async def test_a_resumed_write_asks_the_modes_again_and_ends_with_what_was_done(
    tmp_path: Path,
) -> None:
    world = World()
    async with bench(tmp_path, settings=QUICK, worlds={"shelf": world}) as first:
        operation = await begin(first)
        first.clock.advance(LEASE_S + 1)
        async with bench(tmp_path, clock=first.clock, worlds={"shelf": world}) as second:
            await second.set_mode(Mode.LOCKDOWN)
            await second.resumer.take()
            status = await ended(second, operation)
            assert (status["state"], status["outcome"]) == ("unknown", "unknown")
            assert "lockdown" in status["answer"]["problem"]
            assert world.effects == ["put 0"]


async def test_one_write_of_many_steps_at_a_time_works_on_a_target(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        await begin(b)
        refused = await b.error("fill_shelf", reason=WHY, items=4)
        assert refused["code"] == "conflict"
        assert "cancel_operation" in refused["hint"]
        b.held.released.set()  # type: ignore[attr-defined]


async def test_a_write_is_asked_to_stop_in_whatever_process_it_runs(tmp_path: Path) -> None:
    world = World()
    async with bench(tmp_path, settings=QUICK, worlds={"shelf": world}) as first:
        operation = await begin(first)
        async with bench(tmp_path, clock=first.clock, worlds={"shelf": world}) as second:
            asked = await second.operations.cancel(operation, by=OPERATOR.principal)
            assert asked is not None
        first.held.released.set()  # type: ignore[attr-defined]
        status = await ended(first, operation)
        assert (status["state"], status["answer"]["problem"]) == ("done", "cancelled")
        assert world.effects == ["put 0", "put 1"]
        assert await first.operations.cancel(operation, by="x") is None


def resumer(b: Bench, *, keys: Mapping[str, frozenset[str]], **tools: Tool) -> Resumer:
    """The resumer of a process with other tools and keys."""
    return Resumer(
        guard=b.guard,
        tools=tools,
        ledger=b.stores.ledger,
        operations=b.operations,
        now=b.clock.now,
        keys=lambda: keys,
    )


async def test_what_this_process_does_not_know_is_left_to_another_for_a_day(
    tmp_path: Path,
) -> None:
    world = World()
    async with bench(tmp_path, settings=QUICK, worlds={"shelf": world}) as first:
        operation = await begin(first, idempotency_key="once")
        first.clock.advance(LEASE_S + 1)
        async with bench(tmp_path, clock=first.clock, worlds={"shelf": world}) as second:
            ignorant = resumer(second, keys={})
            assert await ignorant.take() == 1
            found = await second.stores.ledger.get_operation(operation)
            assert found is not None
            assert (found.state, found.checkpoint) == ("running", "1")
            assert found.lease_until == second.clock.now() + 2 * LEASE_S
            assert await ignorant.take() == 0  # it does not try again all the time
            second.clock.advance(found.started_at + 86_400 - second.clock.now())
            assert await ignorant.take() == 1
            found = await second.stores.ledger.get_operation(operation)
            assert found is not None
            assert found.state == "running"
            second.clock.advance(2 * LEASE_S + 1)
            assert await ignorant.take() == 1
            status = await second.ok("get_operation", operation_id=operation)
            assert (status["state"], status["outcome"]) == ("unknown", "unknown")
            assert await ignorant.take() == 0
            line = (await second.entries(call_id=operation))[-1]
            assert (line.kind, line.verdict, line.outcome) == ("ended", "unknown", "unknown")
            assert line.evidence == {
                "lost": "no process could go on with it",
                "progress": found.progress,
            }
            assert await second.stores.ledger.facts() == {}
            # The key stays used up: nobody knows what was done.
            again = await second.ok("fill_shelf", reason=WHY, idempotency_key="once")
            assert (again["outcome"], again["replayed"]) == ("unknown", True)


AGENTS_KEY = frozenset({"ops:read", "ops:write"})


@pytest.mark.parametrize(
    ("keys", "state", "effects"),
    [
        ({}, "running", 1),
        ({"key:agent": AGENTS_KEY}, "done", 3),
        ({"key:agent": AGENTS_KEY, "key:other": AGENTS_KEY}, "done", 3),
        ({"key:agent": frozenset({"ops:read"})}, "unknown", 1),
        ({"key:other": AGENTS_KEY}, "unknown", 1),
    ],
)
async def test_a_resumed_write_has_no_scope_that_its_key_has_lost(
    tmp_path: Path, keys: Mapping[str, frozenset[str]], state: str, effects: int
) -> None:
    world = World()
    keyed = replace(AGENT, principal="key:agent")
    async with bench(tmp_path, settings=QUICK, worlds={"shelf": world}) as first:
        operation = await begin(first, keyed)
        first.clock.advance(LEASE_S + 1)
        async with bench(tmp_path, clock=first.clock, worlds={"shelf": world}) as second:
            assert await resumer(second, keys=keys, fill_shelf=fill_shelf).take() == 1
            with anyio.fail_after(20):
                while (found := await second.stores.ledger.get_operation(operation)) is not None:
                    if found.state == state:
                        break
                    await anyio.lowlevel.checkpoint()
            assert len(world.effects) == effects


@pytest.mark.parametrize(
    ("environment", "state", "effects"), [("prod", "done", 3), ("dev", "unknown", 1)]
)
async def test_a_resumed_write_reaches_no_further_than_who_asked_for_it(
    tmp_path: Path, environment: str, state: str, effects: int
) -> None:
    world = World()
    scopes = frozenset({"ops:read", "ops:write"})
    near = Reach(scopes=scopes, targets=("shelf",), environments=("prod",))
    caller = replace(AGENT, scopes=scopes, reach=(near,))
    async with bench(tmp_path, settings=QUICK, worlds={"shelf": world}) as first:
        operation = await begin(first, caller)
        first.clock.advance(LEASE_S + 1)
        infos = (shelf_target(environment=environment), shelf_target("depot"))
        async with bench(
            tmp_path, clock=first.clock, worlds={"shelf": world}, infos=infos
        ) as second:
            assert await second.resumer.take() == 1
            with anyio.fail_after(20):
                while (found := await second.stores.ledger.get_operation(operation)) is not None:
                    if found.state == state:
                        break
                    await anyio.lowlevel.checkpoint()
            assert len(world.effects) == effects


async def test_a_plan_of_a_resumable_write_keeps_nothing(tmp_path: Path) -> None:
    @tool(effect=Effect.WRITE, resumable=True)
    async def sort_shelf(shelf: Shelf, write: Write) -> ItemPut:
        """Sort the shelf, or say in which order."""
        order = await write.steps.pin("by size")
        return ItemPut(outcome="planned" if write.dry_run else "verified", plan=[order])

    async with bench(tmp_path, extra_tools={"sort_shelf": sort_shelf}) as b:
        planned = await b.ok("sort_shelf", target="shelf", reason=WHY, dry_run=True)
        assert planned["plan"] == ["by size"]
        assert await b.stores.ledger.facts() == {}
