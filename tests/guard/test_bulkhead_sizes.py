"""The size of a partition: groups, what an agent and a person may change, and for how long."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import orjson
import pytest

from mcp_ops.app import open_app
from mcp_ops.clock import ManualClock
from mcp_ops.errors import OpsError
from mcp_ops.ports import Mode
from mcp_ops.settings import Settings, TargetSettings
from tests.guard.bench import (
    AGENT,
    OPERATOR,
    TWO,
    WHY,
    Bench,
    answering,
    bench,
    modern,
    shelf_target,
)
from tests.guard.test_bulkhead import limits

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


async def test_a_group_goes_back_to_its_configured_size_as_a_whole(tmp_path: Path) -> None:
    infos = tuple(shelf_target(name, concurrent=5, partition="db") for name in ("shelf", "depot"))
    async with bench(tmp_path, infos=infos) as b:
        await resize(b, 2, minutes=30)
        assert {each.target for each in await b.stores.hot.partitions()} == {"shelf", "depot"}
        await b.control().set_bulkhead_limit("shelf", 5, minutes=30, reason=WHY, dry_run=False)
        assert await b.stores.hot.partitions() == ()


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
