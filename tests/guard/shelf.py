"""A capability, an adapter and tools of the tests: a shelf that keeps an effect log of its own.

A test scripts what the shelf does next (`plan`): raise, wait for an event, look at something. So
calls can be held in flight and failures are real failures of a target.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol

import anyio
from pydantic import Field

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.capabilities.base import (
    Capability,
    Effect,
    Model,
    NextStep,
    Page,
    Result,
    Undo,
    UntrustedText,
    WriteResult,
    destroys,
    writes,
)
from mcp_ops.capabilities.deadletters import DeadLetterStats
from mcp_ops.capabilities.usage import ApiUsageSource, UsageReading
from mcp_ops.errors import Superseded
from mcp_ops.params import Cursor, Limit, ObjectName, Sensitive
from mcp_ops.tool import Linked, Tool, Write, tool

Plan = BaseException | Callable[[], Awaitable[Any]]
Name = Annotated[str, Field(description="Which item.", min_length=1, max_length=100), ObjectName()]
Code = Annotated[str, Field(description="A code.", max_length=100), Sensitive()]


class Item(Model):
    name: str
    text: UntrustedText = ""


class ItemFound(Result):
    item: Item
    number: int


class ItemPage(Page[Item]):
    pass


class ItemPut(WriteResult):
    name: str = ""


class Shelf(Capability, Protocol):
    async def look(self, name: str) -> Item: ...

    async def page(self, limit: int, cursor: str) -> ItemPage: ...

    async def beside(self) -> list[str] | None: ...

    @writes
    async def put(self, name: str) -> dict[str, Any]: ...

    @writes
    async def put_fenced(self, name: str, fence: int) -> dict[str, Any]: ...

    @destroys
    async def drop(self, name: str) -> dict[str, Any]: ...


@dataclass
class World:
    """What the shelf did (`effects`), was asked (`asked`), and will do next (`plans`)."""

    effects: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    after: list[Plan] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)
    reading: UsageReading | None = None
    opened: int = 0
    letters: int = 0
    opening: list[Plan] = field(default_factory=list)
    fence: int = 0
    beside: list[str] | None = field(default_factory=list)

    async def next(self, what: str) -> None:
        self.asked.append(what)
        await _run(self.plans)

    async def done(self, what: str) -> None:
        self.effects.append(what)
        await _run(self.after)

    def hold(self) -> Hold:
        """The next call stops at the shelf until it is released."""
        hold = Hold()
        self.plans.append(hold.wait)
        return hold


async def _run(plans: list[Plan]) -> None:
    if not plans:
        return
    plan = plans.pop(0)
    if isinstance(plan, BaseException):
        raise plan
    await plan()


@dataclass
class Hold:
    arrived: anyio.Event = field(default_factory=anyio.Event)
    released: anyio.Event = field(default_factory=anyio.Event)

    async def wait(self) -> None:
        self.arrived.set()
        await self.released.wait()


class ShelfAdapter(Adapter):
    kind: ClassVar[str] = "shelf"
    title: ClassVar[str] = "Shelf"

    class Settings(AdapterSettings):
        world: Any

    def __init__(self, world: World, wiring: Wiring) -> None:
        self.world = world
        self.wiring = wiring

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Any, wiring: Wiring) -> AsyncIterator[ShelfAdapter]:
        settings.world.opened += 1
        await _run(settings.world.opening)
        yield cls(settings.world, wiring)

    async def ping(self) -> None:
        await self.world.next("ping")

    async def look(self, name: str) -> Item:
        await self.world.next(f"look {name}")
        return Item(name=name, text=self.world.items[0].text if self.world.items else "fine")

    async def page(self, limit: int, cursor: str) -> ItemPage:
        await self.world.next(f"page {limit} from {cursor or 0}")
        start = int(cursor or 0)
        items = self.world.items[start : start + limit]
        more = start + limit < len(self.world.items)
        return ItemPage(
            items=items,
            next_cursor=str(start + limit) if more else "",
            truncated=more,
            searched="the shelf",
        )

    async def beside(self) -> list[str] | None:
        return self.world.beside

    async def put(self, name: str) -> dict[str, Any]:
        await self.world.next(f"put {name}")
        await self.world.done(f"put {name}")
        return self.world.evidence

    async def put_fenced(self, name: str, fence: int) -> dict[str, Any]:
        await self.world.next(f"put {name}")
        if fence < self.world.fence:
            raise Superseded("A newer holder was here.")
        self.world.fence = fence
        await self.world.done(f"put {name}")
        return self.world.evidence

    async def drop(self, name: str) -> dict[str, Any]:
        await self.world.next(f"drop {name}")
        await self.world.done(f"drop {name}")
        return self.world.evidence

    async def usage(self) -> UsageReading:
        await self.world.next("usage")
        assert self.world.reading is not None
        return self.world.reading

    async def stats(self) -> DeadLetterStats:
        return DeadLetterStats(total=self.world.letters, examined=0, level="ok")

    @property
    def size(self) -> int:
        return len(self.world.items)


@tool(effect=Effect.READ)
async def look_at_item(shelf: Shelf, name: Name) -> ItemFound:
    """Look at one item."""
    return ItemFound(item=await shelf.look(name), number=1)


@tool(effect=Effect.READ, bulk=True)
async def list_items(shelf: Shelf, limit: Limit = 20, cursor: Cursor = "") -> ItemPage:
    """List items."""
    return await shelf.page(limit, cursor)


@tool(effect=Effect.WRITE)
async def put_item(shelf: Shelf, name: Name, write: Write, code: Code = "") -> ItemPut:
    """Put an item."""
    if write.dry_run:
        return ItemPut(outcome="planned", name=name, plan=[f"Put {name}."])
    write.progress(1, 2, "putting")
    return ItemPut(outcome="verified", name=name, evidence=await shelf.put(name))


@tool(effect=Effect.WRITE)
async def put_one(shelf: Shelf, name: Name, write: Write) -> ItemPut:
    """Put an item; without a secret argument, so that a failed call is kept."""
    return ItemPut(outcome="verified", name=name, evidence=await shelf.put(name))


@tool(effect=Effect.WRITE)
async def push_item(shelf: Shelf, name: Name, write: Write) -> ItemPut:
    """Put an item, which pushes those beside it."""
    write.reaches(await shelf.beside())
    if write.dry_run:
        return ItemPut(outcome="planned")
    return ItemPut(outcome="verified", evidence=await shelf.put(name))


@tool(effect=Effect.WRITE, resumable=True)
async def fill_shelf(shelf: Shelf, write: Write, items: Limit = 3) -> ItemPut:
    """Put many items, one after the other; another process may go on with them."""
    if write.dry_run:
        return ItemPut(outcome="planned")
    fence = await write.steps.lease("fill")
    first = await write.steps.pin(f"from {write.call_id}")
    for number in range(int(write.steps.before or 0), items):
        await write.steps.at(str(number))
        if write.cancelled():
            return ItemPut(outcome="verified", problem="cancelled", evidence={"put": number})
        await shelf.put_fenced(str(number), fence)
        write.progress(number + 1, items, "put")
    return ItemPut(outcome="verified", name=first)


@tool(effect=Effect.WRITE, recovery=True)
async def mend_shelf(shelf: Shelf, write: Write) -> ItemPut:
    """Repair the shelf."""
    return ItemPut(
        outcome="verified",
        evidence=await shelf.put("mended"),
        undo=Undo(tool="drop_item", arguments={"name": "mended"}),
        next_steps=[
            NextStep(tool="look_at_item", arguments={"name": "mended"}, why="See it."),
            NextStep(tool="get_health", why="See all."),
        ],
    )


@tool(effect=Effect.DESTROY)
async def drop_item(shelf: Shelf, name: Name, write: Write) -> ItemPut:
    """Drop an item for good."""
    if write.dry_run:
        write.progress(1, 1, "planned")
        assert not write.cancelled()
        return ItemPut(outcome="planned", plan=[f"Drop {name}."])
    return ItemPut(outcome="verified", name=name, evidence=await shelf.drop(name))


@tool(effect=Effect.WRITE)
async def copy_item(
    shelf: Shelf, name: Name, write: Write, endpoint: Linked[Shelf] | None
) -> ItemPut:
    """Put an item here and on the linked shelf; a plan looks there only."""
    assert endpoint is not None
    if write.dry_run:
        await endpoint.use(lambda other: other.look(name))
        return ItemPut(outcome="planned")
    await endpoint.use(lambda other: other.put(name), effect=Effect.WRITE)
    return ItemPut(outcome="verified", evidence={"on": endpoint.name})


@tool(effect=Effect.READ)
async def lying_read(shelf: Shelf, name: Name) -> ItemFound:
    """Say that it reads, and write."""
    await shelf.put(name)
    raise AssertionError("never")


@tool(effect=Effect.READ)
async def lying_linked_read(shelf: Shelf, name: Name, endpoint: Linked[Shelf] | None) -> ItemFound:
    """Say that it reads, and write through the link."""
    assert endpoint is not None
    await endpoint.use(lambda other: other.put(name), effect=Effect.WRITE)
    raise AssertionError("never")


@tool(effect=Effect.READ)
async def nosy_read(shelf: Shelf, name: Name) -> ItemFound:
    """Reach for what the capability does not have."""
    await shelf.ping()  # type: ignore[attr-defined]
    raise AssertionError("never")


SHELF_TOOLS: dict[str, Tool] = {
    each.name: each
    for each in (
        look_at_item,
        list_items,
        put_item,
        put_one,
        push_item,
        fill_shelf,
        mend_shelf,
        drop_item,
        copy_item,
        lying_read,
        lying_linked_read,
        nosy_read,
    )
}
SHELF_CAPABILITIES: frozenset[type] = frozenset({Shelf, ApiUsageSource})
