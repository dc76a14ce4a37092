"""Bulkheads: places are few, handed on in order, never lost, and their number may change."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from mcp_ops.errors import Refused
from mcp_ops.guard.bulkhead import Partition
from mcp_ops.settings import GuardSettings
from tests.guard.bench import (
    OPEN,
    bench,
    shelf_target,
)


def limits(**values: object) -> GuardSettings:
    return GuardSettings.model_validate({"limits": {**OPEN.limits.model_dump(), **values}})


async def test_a_full_target_makes_callers_wait_in_order_and_then_refuses(
    tmp_path: Path,
) -> None:
    infos = (shelf_target(concurrent=1),)
    settings = limits(bulkhead_wait_s=0.05, principal_per_minute=4)
    async with bench(tmp_path, settings=settings, infos=infos) as b:
        hold = b.world.hold()
        first: list[str] = []

        async def call() -> None:
            first.append(await b.code("look_at_item", name="held"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            refusal = await b.error("look_at_item", name="x")
            assert refusal["code"] == "bulkhead_full"
            assert refusal["details"] == {"max_concurrent": 1}
            assert refusal["retry_after_s"] == 1
            status = await b.ok("get_guard_status")
            (place,) = status["bulkheads"]
            assert place == {
                "target": "shelf",
                "targets": ["shelf"],
                "active": 1,
                "waiting": 0,
                "max_concurrent": 1,
                "configured": 1,
                "timed_out": 1,
                "turned_away": 0,
            }
            hold.released.set()
        assert first == ["ok"]
        # The refused call gave its unit back: of four a minute two are left.
        assert [await b.code("look_at_item", name=f"{n}") for n in range(3)] == [
            "ok",
            "ok",
            "rate_limited",
        ]


async def test_a_caller_who_is_cancelled_while_waiting_gives_back_what_was_taken(
    tmp_path: Path,
) -> None:
    infos = (shelf_target(concurrent=1),)
    async with bench(tmp_path, settings=limits(principal_per_minute=3), infos=infos) as b:
        hold = b.world.hold()
        scope = anyio.CancelScope()

        async def waiting() -> None:
            with scope:
                await b.code("look_at_item", name="waits")

        async def held() -> None:
            await b.code("look_at_item", name="held")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(held)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            tasks.start_soon(waiting)
            await anyio.wait_all_tasks_blocked()
            partition = b.guard.bulkheads.find("shelf")
            assert partition is not None
            assert len(partition.queue) == 1
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert len(partition.queue) == 0
            hold.released.set()
            await anyio.wait_all_tasks_blocked()
            assert partition.active == 0
        assert [await b.code("look_at_item", name=f"{n}") for n in range(3)] == [
            "ok",
            "ok",
            "rate_limited",
        ]
        assert ("failed", "cancelled") in await b.ends()


async def test_places_are_handed_on_in_the_order_of_asking() -> None:
    partition = Partition("shelf", 2)
    order: list[int] = []
    leave = [anyio.Event() for _ in range(5)]

    async def visit(number: int) -> None:
        async with partition.slot(5):
            order.append(number)
            await leave[number].wait()

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(visit, number)
            await anyio.wait_all_tasks_blocked()
        assert (order, len(partition.queue), partition.active) == ([0, 1], 3, 2)
        for number in (1, 0, 2, 3, 4):
            leave[number].set()
            await anyio.wait_all_tasks_blocked()
    assert order == [0, 1, 2, 3, 4]
    assert partition.active == 0


async def test_a_waiter_cancelled_at_its_turn_hands_the_place_on() -> None:
    partition = Partition("shelf", 1)
    got: list[str] = []
    scope = anyio.CancelScope()

    async def cancelled() -> None:
        with scope:
            async with partition.slot(5):
                got.append("never")

    async def third() -> None:
        async with partition.slot(5):
            got.append("third")

    async with anyio.create_task_group() as tasks, partition.slot(5):
        tasks.start_soon(cancelled)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(third)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()  # and its turn comes before it runs again
    assert got == ["third"]
    assert partition.active == 0


async def test_a_waiter_who_is_cancelled_leaves_the_line_to_the_others() -> None:
    partition = Partition("shelf", 1)
    got: list[str] = []
    scope = anyio.CancelScope()

    async def gives_up() -> None:
        with scope:
            async with partition.slot(5):
                got.append("never")

    async def stays() -> None:
        async with partition.slot(5):
            got.append("stays")

    async with anyio.create_task_group() as tasks, partition.slot(5):
        tasks.start_soon(gives_up)
        tasks.start_soon(stays)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert (len(partition.queue), partition.active) == (1, 1)
    assert (got, partition.active, len(partition.queue)) == (["stays"], 0, 0)


async def test_the_line_is_bounded() -> None:
    partition = Partition("shelf", 1)
    async with anyio.create_task_group() as tasks, partition.slot(5):

        async def wait() -> None:
            async with partition.slot(5, most_waiting=2):
                pass

        tasks.start_soon(wait)
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Refused, match="1 calls may be at shelf at once, and 2 wait in line"):
            async with partition.slot(5, most_waiting=2):
                raise AssertionError("never")
        assert (partition.turned_away, partition.timed_out) == (1, 0)
    assert partition.active == 0


async def test_nobody_passes_those_who_wait() -> None:
    """A place that is free for a moment belongs to the first in line."""
    partition = Partition("shelf", 1)
    order: list[str] = []

    async def visit(name: str) -> None:
        async with partition.slot(5):
            order.append(name)

    async with anyio.create_task_group() as tasks:
        async with partition.slot(5):
            tasks.start_soon(visit, "first")
            await anyio.wait_all_tasks_blocked()
        tasks.start_soon(visit, "late")
    assert order == ["first", "late"]


async def test_more_places_are_given_to_those_who_wait_at_once() -> None:
    partition = Partition("shelf", 1)
    leave = anyio.Event()
    inside: list[int] = []

    async def visit(number: int) -> None:
        async with partition.slot(5):
            inside.append(number)
            await leave.wait()

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(visit, number)
        await anyio.wait_all_tasks_blocked()
        partition.resize(3)
        await anyio.wait_all_tasks_blocked()
        assert (inside, partition.active, len(partition.queue)) == ([0, 1, 2], 3, 2)
        leave.set()
    assert partition.active == 0


async def test_of_fewer_places_the_taken_ones_stay_taken_until_their_calls_end() -> None:
    partition = Partition("shelf", 3)
    leave = [anyio.Event() for _ in range(4)]
    inside: list[int] = []

    async def visit(number: int) -> None:
        async with partition.slot(5):
            inside.append(number)
            await leave[number].wait()

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(visit, number)
        await anyio.wait_all_tasks_blocked()
        partition.resize(1)
        for number in (0, 1):
            leave[number].set()
            await anyio.wait_all_tasks_blocked()
            assert inside == [0, 1, 2]
        leave[2].set()
        await anyio.wait_all_tasks_blocked()
        assert (inside, partition.active) == ([0, 1, 2, 3], 1)
        leave[3].set()
    assert partition.active == 0


@dataclass
class Crowd:
    """Callers of one partition who come, stay as long as they are told, and may give up."""

    partition: Partition
    inside: int = 0
    stays: list[anyio.Event] = field(default_factory=list)
    scopes: list[anyio.CancelScope] = field(default_factory=list)

    async def visit(self, wait_s: float) -> None:
        stay = anyio.Event()
        with anyio.CancelScope() as scope, suppress(Refused):
            self.scopes.append(scope)
            async with self.partition.slot(wait_s, most_waiting=4):
                self.inside += 1
                self.stays.append(stay)
                try:
                    await stay.wait()
                finally:
                    self.inside -= 1

    async def settle(self) -> None:
        for _ in range(5):  # whoever got a place takes it
            await anyio.lowlevel.checkpoint()
        assert self.inside == self.partition.active
        assert not self.partition.queue or self.partition.active >= self.partition.size


@pytest.mark.parametrize("seed", range(10))
async def test_no_place_is_lost_or_invented_whatever_happens(seed: int) -> None:
    """Callers come, leave, give up and time out, and the size changes, in any order."""
    dice = random.Random(seed)
    crowd = Crowd(Partition("shelf", 3))
    async with anyio.create_task_group() as tasks:
        for _ in range(150):
            step = dice.choice(("come", "come", "come", "leave", "cancel", "resize", "rest"))
            if step == "come":
                tasks.start_soon(crowd.visit, dice.choice((0.0, 60.0)))
            elif step == "leave" and crowd.stays:
                crowd.stays.pop(dice.randrange(len(crowd.stays))).set()
            elif step == "cancel" and crowd.scopes:
                crowd.scopes.pop(dice.randrange(len(crowd.scopes))).cancel()
            elif step == "resize":
                crowd.partition.resize(dice.randint(1, 5))
            else:
                await crowd.settle()
        tasks.cancel_scope.cancel()
    assert (crowd.partition.active, len(crowd.partition.queue), crowd.inside) == (0, 0, 0)
