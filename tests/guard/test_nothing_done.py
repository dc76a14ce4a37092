"""A write that found nothing to do is asked of its target again, not of the record."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_ops.capabilities.base import Effect
from mcp_ops.errors import ConnectionLost, Failed, Unreachable
from mcp_ops.tool import Write, tool
from tests.guard.bench import WHY, bench
from tests.guard.shelf import Item, ItemPut, Name, Shelf


@tool(effect=Effect.WRITE)
async def keep_item(shelf: Shelf, name: Name, write: Write) -> ItemPut:
    """Put an item unless it lies there."""
    there = (await shelf.look(name)).text
    if write.dry_run:
        return ItemPut(outcome="planned")
    if there == "nothing to do":
        return ItemPut(outcome="verified", evidence={"did": "nothing"})
    return ItemPut(outcome="verified", evidence=await shelf.put(name))


async def test_what_had_nothing_to_do_is_looked_at_again(tmp_path: Path) -> None:
    call = {"name": "x", "reason": WHY, "target": "shelf"}
    async with bench(tmp_path, extra_tools={"keep_item": keep_item}) as b:
        b.world.items = [Item(name="x", text="nothing to do")]
        for _ in range(2):
            idle = await b.ok("keep_item", **call)
            assert (idle["evidence"], idle["replayed"]) == ({"did": "nothing"}, False)
        b.world.items = []
        assert not (await b.ok("keep_item", **call))["replayed"]
        assert b.world.effects == ["put x"]
        # What had an effect is answered from the record, and so is what has a key of its own.
        assert (await b.ok("keep_item", **call))["replayed"]
        assert b.world.effects == ["put x"]


async def test_a_key_of_the_callers_own_is_kept(tmp_path: Path) -> None:
    call = {"name": "x", "reason": WHY, "target": "shelf", "idempotency_key": "mine"}
    async with bench(tmp_path, extra_tools={"keep_item": keep_item}) as b:
        b.world.items = [Item(name="x", text="nothing to do")]
        assert not (await b.ok("keep_item", **call))["replayed"]
        b.world.items = []
        assert (await b.ok("keep_item", **call))["replayed"]
        assert b.world.effects == []


@tool(effect=Effect.WRITE)
async def find_item(shelf: Shelf, name: Name, write: Write) -> ItemPut:
    """Put an item; where the answer is lost, a look tells that it is there."""
    if write.dry_run:
        return ItemPut(outcome="planned")
    try:
        return ItemPut(outcome="verified", evidence=await shelf.put(name))
    except Failed as lost:
        return ItemPut(outcome="verified", evidence={"found": lost.executed})


@pytest.mark.parametrize(
    ("fails", "effects"),
    [(ConnectionLost("It broke."), 1), (Unreachable("It was not there."), 0)],
    ids=["done and lost", "not sent"],
)
async def test_what_may_have_had_an_effect_is_kept(
    tmp_path: Path, fails: Failed, effects: int
) -> None:
    call = {"name": "x", "reason": WHY, "target": "shelf"}
    async with bench(tmp_path, extra_tools={"find_item": find_item}) as b:
        (b.world.after if effects else b.world.plans).append(fails)
        found = await b.ok("find_item", **call)
        assert found["evidence"] == {"found": fails.executed}
        again = await b.ok("find_item", **call)
        assert again["replayed"] is bool(effects)
        assert b.world.effects == ["put x"]  # once: by the first call, or by the second
