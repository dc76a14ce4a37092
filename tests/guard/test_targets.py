"""What a call may use of an adapter, and what is noted of its use."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field

import anyio
import pytest

from mcp_ops.capabilities.base import Effect
from mcp_ops.errors import Internal, OpsError, Unreachable
from mcp_ops.guard.targets import View
from tests.guard.shelf import Shelf, World


@dataclass
class Noted:
    """A record that counts."""

    asked: int = 0
    effects: int = 0

    def reached(self) -> None:
        self.asked += 1

    def changed(self) -> None:
        self.effects += 1


@dataclass
class OnlyShelf:
    """A shelf without a kind, as a test's own adapter may be."""

    world: World = field(default_factory=World)

    async def look(self, name: str) -> str:
        await self.world.next(f"look {name}")
        return name

    async def put(self, name: str) -> str:
        await self.world.next(f"put {name}")
        return name

    async def drop(self, name: str) -> str:
        await self.world.next(f"drop {name}")
        return name


@pytest.mark.parametrize(
    ("effect", "may"),
    [
        (Effect.READ, ["look"]),
        (Effect.WRITE, ["look", "put"]),
        (Effect.DESTROY, ["look", "put", "drop"]),
    ],
)
async def test_a_call_uses_what_its_effect_allows(effect: Effect, may: list[str]) -> None:
    noted = Noted()
    view = View(OnlyShelf(), Shelf, effect, noted)
    for name in ("look", "put", "drop"):
        if name in may:
            assert await getattr(view, name)("x") == "x"
        else:
            with pytest.raises(Internal, match=f"A {effect} call may not use {name}"):
                getattr(view, name)
    assert (noted.asked, noted.effects) == (len(may), len(may) - 1)


@pytest.mark.parametrize("name", ["ping", "_adapter_", "world", "nothing"])
def test_what_the_capability_does_not_have_cannot_be_reached(name: str) -> None:
    noted = Noted()
    with pytest.raises(Internal, match="Shelf has no"):
        getattr(View(OnlyShelf(), Shelf, Effect.DESTROY, noted), name)
    assert noted == Noted()


@pytest.mark.parametrize(("executed", "effects"), [("no", 0), ("unknown", 1), ("yes", 1)])
async def test_a_change_that_may_have_been_made_counts_as_one(executed: str, effects: int) -> None:
    shelf, noted = OnlyShelf(), Noted()
    lost = Unreachable("It broke.")
    lost.executed = executed  # type: ignore[assignment]
    shelf.world.plans.append(lost)
    with pytest.raises(OpsError):
        await View(shelf, Shelf, Effect.WRITE, noted).put("x")
    assert (noted.asked, noted.effects) == (1, effects)


async def test_each_use_of_an_adapter_has_its_span() -> None:
    """In a process of its own: a tracer provider is set once for all."""
    with anyio.fail_after(30):
        done = await anyio.run_process([sys.executable, "-m", "tests.guard.span_peer"])
    stages = json.loads(done.stdout)["stages"]
    assert ["shelf look", "guard.run"] in stages["look_at_item"]
    assert ["shelf put", "guard.run"] in stages["put_item"]
