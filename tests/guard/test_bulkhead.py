"""Bulkheads: places are few, handed on in order, never lost, and their number may change."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import orjson
import pytest

from mcp_ops.app import open_app
from mcp_ops.clock import ManualClock
from mcp_ops.errors import OpsError, Refused
from mcp_ops.guard.bulkhead import Partition
from mcp_ops.ports import Mode
from mcp_ops.settings import GuardSettings, Settings, TargetSettings
from tests.guard.bench import (
    AGENT,
    OPEN,
    OPERATOR,
    TWO,
    WHY,
    Bench,
    answering,
    bench,
    modern,
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


GROUP = (
    shelf_target(concurrent=5, partition="db", links={"endpoint": "depot"}),
    shelf_target("depot", concurrent=1, partition="db"),
)


async def bulkhead(b: Bench) -> dict[str, Any]:
    (found,) = (await b.ok("get_guard_status"))["bulkheads"]
    return dict(found)


async def test_targets_of_one_group_share_the_places_of_the_smallest(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=limits(bulkhead_wait_s=0), infos=GROUP) as b:
        hold = b.world.hold()
        async with anyio.create_task_group() as tasks:

            async def held() -> None:
                await b.ok("look_at_item", name="held")

            tasks.start_soon(held)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            found = await bulkhead(b)
            assert (found["target"], found["targets"]) == ("db", ["shelf", "depot"])
            assert (found["active"], found["max_concurrent"]) == (1, 1)
            _, depot = (await b.ok("get_health"))["components"]
            assert depot["problem"].startswith("1 calls are at db already")
            assert b.worlds["depot"].asked == []
            hold.released.set()


async def test_a_call_that_goes_on_to_another_target_of_its_group_keeps_its_one_place(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, settings=limits(bulkhead_wait_s=0), infos=GROUP) as b:
        assert await b.code("copy_item", name="x", reason=WHY) == "ok"
        assert b.worlds["depot"].effects == ["put x"]


async def resize(b: Bench, size: int, caller: Any = AGENT, **more: Any) -> dict[str, Any]:
    return await b.ok(
        "set_bulkhead_limit", caller, target="shelf", max_concurrent=size, reason=WHY, **more
    )


async def test_an_agent_makes_a_partition_smaller_at_once_and_for_a_while(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=limits(bulkhead_wait_s=0)) as b:
        plan = await resize(b, 2, modern(), dry_run=True)
        assert "Allow 2 calls at once at shelf, until" in plan["plan"][0]
        assert await b.stores.hot.partitions() == ()
        found = await resize(b, 1, modern(), minutes=30)
        assert (found["previous"], found["max_concurrent"]) == (10, 1)
        assert found["undo"]["arguments"] == {"target": "shelf", "max_concurrent": 10}
        hold = b.world.hold()
        async with anyio.create_task_group() as tasks:

            async def held() -> None:
                await b.ok("look_at_item", name="held")

            tasks.start_soon(held)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            refusal = await b.error("look_at_item", name="x")
            assert refusal["details"] == {"max_concurrent": 1}
            shown = await bulkhead(b)
            assert (shown["max_concurrent"], shown["configured"]) == (1, 10)
            assert (shown["by"], shown["reason"]) == ("agent:test@host", WHY)
            b.clock.advance(30 * 60 + 1)
            assert await b.code("look_at_item", name="x") == "ok"
            shown = await bulkhead(b)
            assert shown["max_concurrent"] == 10
            assert "by" not in shown
            hold.released.set()
        assert [e.tool for e in await b.entries() if e.kind == "changed"] == ["set_bulkhead_limit"]


async def test_an_agent_makes_it_smaller_in_every_mode(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.LOCKDOWN, scope="*")
        assert (await resize(b, 3, modern()))["outcome"] == "verified"


async def test_more_than_now_needs_a_persons_approval(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await resize(b, 2)
        more = {"target": "shelf", "max_concurrent": 3, "reason": WHY}
        asked = await b.error("set_bulkhead_limit", **more)
        assert asked["code"] == "approval_required"
        (question,) = await b.stores.approvals.recent(10)
        await b.approve(question.id)
        found = await b.ok("set_bulkhead_limit", **more)
        assert (found["previous"], found["max_concurrent"]) == (2, 3)


async def test_what_changed_since_the_approval_was_not_approved(tmp_path: Path) -> None:
    """The agent's own control, without a person's yes, refuses what is more by then."""
    async with bench(tmp_path) as b:
        control = b.control(AGENT)
        await control.set_bulkhead_limit("shelf", 2, minutes=60, reason=WHY, dry_run=False)
        with pytest.raises(OpsError, match="more than there are now") as caught:
            await control.set_bulkhead_limit("shelf", 3, minutes=60, reason=WHY, dry_run=False)
        assert caught.value.code == "approval_required"


@pytest.mark.parametrize(
    ("present", "size", "minutes", "until"),
    [
        (5, 5, 1, 60),  # ending a smaller size earlier would be more, later
        (5, 3, 1, 60),
        (5, 5, 90, 90),
        (20, 15, 90, 60),  # keeping a larger size longer would be more, later
        (20, 15, 30, 30),
        (20, 10, 90, 90),
        (20, 4, 90, 90),
    ],
)
async def test_a_smaller_size_is_never_larger_at_any_later_moment(
    tmp_path: Path, present: int, size: int, minutes: int, until: int
) -> None:
    async with bench(tmp_path) as b:
        start = b.clock.now()
        await b.control(OPERATOR).set_bulkhead_limit(
            "shelf", present, minutes=60, reason="incident", dry_run=False
        )
        await resize(b, size, minutes=minutes)
        (now,) = await b.stores.hot.partitions()
        assert (now.size, now.expires_at - start) == (size, until * 60)


async def test_an_operator_changes_it_at_a_terminal_and_returns_to_what_is_configured(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        ada = replace(OPERATOR, ask=answering("accept"))
        assert (await resize(b, 2, ada))["max_concurrent"] == 2
        control = b.control(OPERATOR)
        back = await control.set_bulkhead_limit("shelf", 10, minutes=60, reason=WHY, dry_run=False)
        assert (back.previous, back.expires_at) == (2, None)
        assert await b.stores.hot.partitions() == ()


async def test_a_shell_without_a_terminal_counts_as_an_agent(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.control(OPERATOR).set_bulkhead_limit(
            "shelf", 5, minutes=60, reason="incident", dry_run=False
        )
        shell = replace(OPERATOR, scopes=OPERATOR.scopes - {"ops:approve"})
        with pytest.raises(OpsError) as caught:
            await b.control(shell).set_bulkhead_limit(
                "shelf", 6, minutes=60, reason=WHY, dry_run=False
            )
        assert caught.value.code == "approval_required"


async def test_a_group_changes_as_one(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=GROUP) as b:
        found = await b.control(OPERATOR).set_bulkhead_limit(
            "depot", 4, minutes=60, reason=WHY, dry_run=False
        )
        assert found.targets == ["shelf", "depot"]
        assert [(p.target, p.size) for p in await b.stores.hot.partitions()] == [
            ("depot", 4),
            ("shelf", 4),
        ]
        assert (await bulkhead(b))["max_concurrent"] == 4


async def test_another_process_follows_within_a_second(tmp_path: Path) -> None:
    """The size travels with the admission: the next call has it."""
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(bench(tmp_path, clock=clock))
        theirs = await stack.enter_async_context(bench(tmp_path, clock=clock))
        await resize(ours, 2)
        await theirs.put()  # a write looks at the store itself
        assert (await bulkhead(theirs))["max_concurrent"] == 2
        partition = theirs.guard.bulkheads.find("shelf")
        assert partition is not None
        assert partition.size == 2


async def test_waiting_and_refused_calls_are_counted(tmp_path: Path) -> None:
    infos = (shelf_target(concurrent=1),)
    settings = limits(bulkhead_queue=1, bulkhead_wait_s=30)
    async with bench(tmp_path, settings=settings, infos=infos) as b:
        hold = b.world.hold()
        answers: list[str] = []

        async def call(name: str) -> None:
            reply = await b.reply("look_at_item", name=name)
            body = orjson.loads(reply.text)
            answers.append(body["error"]["message"] if reply.is_error else "ok")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, "held")
            with anyio.fail_after(5):
                await hold.arrived.wait()
            tasks.start_soon(call, "waits")
            await anyio.wait_all_tasks_blocked()
            await call("too many")
            assert answers == ["1 calls may be at shelf at once, and 1 wait in line already."]
            shown = await bulkhead(b)
            assert (shown["waiting"], shown["turned_away"]) == (1, 1)
            hold.released.set()
        assert answers[1:] == ["ok", "ok"]


def test_a_target_is_in_a_partition_of_its_own_unless_it_names_one() -> None:
    assert [info.partition for info in (*TWO, *GROUP)] == ["shelf", "depot", "db", "db"]


async def test_a_group_and_its_sizes_come_from_the_configuration(tmp_path: Path) -> None:
    targets = tuple(
        TargetSettings(name=name, kind="file_secrets", partition=group, concurrent=size)
        for name, group, size in (("keys", "disk", 4), ("certs", "disk", None), ("own", None, 2))
    )
    settings = Settings(state_dir=tmp_path, targets=targets)
    async with open_app(settings, environ={}) as app:
        guard = app.guard
        infos = [guard.targets.info(name) for name in ("keys", "certs", "own")]
        assert [guard.bulkheads.sharing(info) for info in infos] == [
            ["keys", "certs"],
            ["keys", "certs"],
            ["own"],
        ]
        assert [guard.bulkheads.configured(info) for info in infos] == [4, 4, 2]
