"""cancel_operation: a running write is asked to stop, by whom it belongs to or an operator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_ops.capabilities.base import Effect
from mcp_ops.clock import ManualClock
from mcp_ops.ports import Mode
from mcp_ops.settings import GuardSettings
from mcp_ops.tool import Write, tool
from tests.guard.bench import AGENT, OPEN_LIMITS, OPERATOR, WHY, Bench, bench, modern
from tests.guard.shelf import ItemPut, Name, Shelf

# A held write is a handle after this time, within which one that cancels it has to be done.
QUICK = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"write_wait_s": 0.5}))
OTHER = replace(AGENT, principal="agent:other@host")


@tool(effect=Effect.WRITE)
async def put_many(shelf: Shelf, name: Name, write: Write) -> ItemPut:
    """Put three items, unless it is stopped in between."""
    for number in range(3):
        if write.cancelled():
            return ItemPut(outcome="failed", problem=f"stopped after {number} of 3")
        write.progress(number, 3, "put")
        await shelf.put(f"{name}{number}")
    return ItemPut(outcome="verified")


@asynccontextmanager
async def running(path: Path, clock: ManualClock | None = None) -> AsyncIterator[tuple[Bench, str]]:
    """A write of the agent that is held at its first item."""
    tools = {"put_many": put_many}
    async with bench(path, settings=QUICK, extra_tools=tools, clock=clock) as b:
        hold = b.world.hold()
        found = await b.ok("put_many", target="shelf", name="x", reason=WHY)
        assert found["outcome"] == "in_progress"
        try:
            yield b, found["operation_id"]
        finally:
            hold.released.set()
            with anyio.fail_after(5):
                assert await b.operations.drain(5) == 0


async def test_a_cancelled_write_stops_between_two_of_its_steps(tmp_path: Path) -> None:
    async with running(tmp_path) as (b, operation):
        found = await b.ok("cancel_operation", operation_id=operation, reason=WHY)
        assert (found["outcome"], found["progress"]) == ("unconfirmed", "0/3 put")
        assert found["next_steps"][0]["arguments"] == {"operation_id": operation}
        b.world.plans.clear()
    assert b.world.effects == ["put x0"]


async def test_how_a_cancelled_write_ended_is_its_answer(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        tools = {"put_many": put_many}
        b = await stack.enter_async_context(bench(tmp_path, settings=QUICK, extra_tools=tools))
        hold = b.world.hold()
        first = await b.ok("put_many", target="shelf", name="x", reason=WHY)
        await b.ok("cancel_operation", operation_id=first["operation_id"], reason=WHY)
        hold.released.set()
        assert await b.operations.drain(5) == 0
        done = await b.ok("get_operation", operation_id=first["operation_id"])
        assert (done["state"], done["outcome"]) == ("done", "failed")
        assert done["answer"]["problem"] == "stopped after 1 of 3"
        (change,) = [e for e in await b.entries() if e.kind == "changed"]
        assert (change.tool, change.principal, change.reason) == (
            "cancel_operation",
            AGENT.principal,
            WHY,
        )
        late = await b.error(
            "cancel_operation", operation_id=first["operation_id"], reason="too late"
        )
        assert (late["code"], late["hint"]) == ("conflict", "get_operation shows how it ended.")


async def test_a_plan_stops_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as (b, operation):
        plan = await b.ok("cancel_operation", operation_id=operation, dry_run=True, reason=WHY)
        assert plan["plan"] == ["Ask put_many on shelf to stop before its next step."]
    assert len(b.world.effects) == 3


async def test_stopping_asks_nobody_and_passes_every_mode(tmp_path: Path) -> None:
    async with running(tmp_path) as (b, operation):
        await b.set_mode(Mode.LOCKDOWN, scope="*")
        found = await b.ok("cancel_operation", modern(), operation_id=operation, reason=WHY)
        assert found["outcome"] == "unconfirmed"


async def test_only_who_asked_for_it_or_an_operator_stops_it(tmp_path: Path) -> None:
    async with running(tmp_path) as (b, operation):
        refusal = await b.error("cancel_operation", OTHER, operation_id=operation, reason=WHY)
        assert refusal["code"] == "permission_denied"
        assert refusal["message"] == (
            "agent:other@host may not stop what agent:test@host asked for."
        )
        stored = await b.stores.ledger.get_operation(operation)
        assert stored is not None
        assert stored.cancel_by == ""
        await b.ok("cancel_operation", OPERATOR, operation_id=operation, reason=WHY)
        stored = await b.stores.ledger.get_operation(operation)
        assert stored is not None
        assert stored.cancel_by == "operator:ada"
    assert b.world.effects == ["put x0"]


async def test_a_write_of_another_process_hears_of_it_when_it_renews_its_lease(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with running(tmp_path, clock) as (b, operation):
        async with bench(tmp_path, settings=QUICK, clock=clock) as elsewhere:
            found = await elsewhere.ok("cancel_operation", operation_id=operation, reason=WHY)
            assert found["outcome"] == "unconfirmed"
        running_here = b.operations.get(operation)
        assert running_here is not None
        assert not running_here.cancelled
        b.tasks.start_soon(b.operations.keep_leases, 0.01)
        with anyio.fail_after(5):
            while not running_here.cancelled:
                await anyio.sleep(0.01)
    assert b.world.effects == ["put x0"]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_what_is_not_there_cannot_be_stopped(tmp_path: Path, dry_run: bool) -> None:
    async with bench(tmp_path) as b:
        arguments = {"operation_id": "no-such-id", "dry_run": dry_run, "reason": WHY}
        assert await b.code("cancel_operation", **arguments) == "not_found"
