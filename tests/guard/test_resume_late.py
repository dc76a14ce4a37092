"""A write whose process was lost before its first step is not begun long after it was wanted."""

from __future__ import annotations

from pathlib import Path

import anyio

from mcp_ops.capabilities.base import Effect
from mcp_ops.errors import Conflict
from mcp_ops.settings import GuardSettings
from mcp_ops.tool import Write, tool
from tests.guard.bench import OPEN_LIMITS, WHY, bench
from tests.guard.shelf import ItemPut, Shelf, World

QUICK = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"write_wait_s": 0.05}))


@tool(effect=Effect.WRITE, resumable=True)
async def change_shelf(shelf: Shelf, write: Write) -> ItemPut:
    """As mcp_ops.changes.carry_out: plan (a look), pin, say that it is sent, send."""
    await shelf.look("plan")
    if write.dry_run:
        return ItemPut(outcome="planned")
    await write.steps.pin("plan")
    await write.steps.at("sent")
    await shelf.put(f"after {write.steps.age_s:.0f} s")
    return ItemPut(outcome="verified")


@tool(effect=Effect.WRITE, resumable=True)
async def pin_shelf(shelf: Shelf, write: Write) -> ItemPut:
    """Pin what it is about, and be refused."""
    if write.dry_run:
        return ItemPut(outcome="planned")
    await write.steps.pin("plan")
    await shelf.look("again")
    await write.steps.at("sent")
    raise Conflict("Somebody else was faster.")


async def lost_before_it_began(
    tmp_path: Path, after_s: float, name: str = "change_shelf"
) -> tuple[list[str], str]:
    """What was put on the shelf, and how the call that comes then is answered."""
    world = World()
    tools = {"change_shelf": change_shelf, "pin_shelf": pin_shelf}
    async with bench(tmp_path, settings=QUICK, worlds={"shelf": world}, extra_tools=tools) as first:
        hold = world.hold()
        handle = await first.ok(name, target="shelf", reason=WHY)
        assert handle["outcome"] == "in_progress"
        with anyio.fail_after(5):
            await hold.arrived.wait()
    assert world.effects == []
    clock = first.clock
    clock.advance(after_s)
    async with bench(tmp_path, clock=clock, worlds={"shelf": world}, extra_tools=tools) as second:
        assert await second.resumer.take() == 1
        with anyio.fail_after(10):
            while (state := await second.ok("get_operation", operation_id=handle["audit_id"]))[
                "state"
            ] == "running":
                await anyio.sleep(0.01)
        assert await second.stores.ledger.facts() == {}
        line = (await second.entries(call_id=handle["audit_id"]))[-1]
        if state["outcome"] == "failed":
            assert (line.kind, line.verdict, line.target) == ("ended", "failed", "shelf")
            assert "lost before it began" in str(line.evidence["lost"])
            world.plans.clear()
            again = await second.reply(name, target="shelf", reason=WHY)
            assert '"replayed":true' not in again.text  # its key is free: it can be asked for anew
            world.effects.clear()
    return list(world.effects), str(state["outcome"])


async def test_a_write_that_had_not_begun_goes_on_while_it_is_fresh(tmp_path: Path) -> None:
    effects, outcome = await lost_before_it_began(tmp_path, after_s=60)
    assert (effects, outcome) == (["put after 60 s"], "verified")


async def test_a_write_that_had_not_begun_is_not_begun_late(tmp_path: Path) -> None:
    effects, outcome = await lost_before_it_began(tmp_path, after_s=7 * 86_400)
    assert (effects, outcome) == ([], "failed")


async def test_what_it_pinned_is_forgotten_with_it(tmp_path: Path) -> None:
    """Else each write that is refused would leave its plan in the store for good."""
    late = await lost_before_it_began(tmp_path / "late", after_s=7 * 86_400, name="pin_shelf")
    assert late == ([], "failed")
    async with bench(tmp_path / "now", extra_tools={"pin_shelf": pin_shelf}) as b:
        assert (await b.error("pin_shelf", target="shelf", reason=WHY))["code"] == "conflict"
        assert await b.stores.ledger.facts() == {}
