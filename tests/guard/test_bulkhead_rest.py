"""A write that only waits for its effect leaves its place at the target to others."""

from __future__ import annotations

import anyio

from mcp_ops.guard.bulkhead import Partition, rest


async def test_others_pass_while_a_call_rests() -> None:
    partition = Partition("shelf", 1)
    order: list[str] = []
    other_leaves = anyio.Event()

    async def follows() -> None:
        async with partition.slot(5):
            order.append("begins")
            await rest(0.01)
            order.append("looks again")

    async def reads() -> None:
        async with partition.slot(5):
            order.append("reads")
            await other_leaves.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follows)
        await anyio.wait_all_tasks_blocked()
        assert partition.active == 0
        tasks.start_soon(reads)
        with anyio.fail_after(5):
            while not partition.queue:  # until the rest is over
                await anyio.sleep(0.005)
        assert (order, partition.active) == (["begins", "reads"], 1)
        other_leaves.set()
    assert order == ["begins", "reads", "looks again"]
    assert (partition.active, len(partition.queue)) == (0, 0)


async def test_call_that_is_cancelled_at_rest_has_no_place_to_give_back() -> None:
    partition = Partition("shelf", 1)
    scope = anyio.CancelScope()

    async def follows() -> None:
        with scope:
            async with partition.slot(5):
                await rest(60)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follows)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
    assert partition.active == 0


async def test_call_that_is_cancelled_while_it_waits_for_its_place_leaves_the_line() -> None:
    partition = Partition("shelf", 1)
    scope = anyio.CancelScope()
    leaves = anyio.Event()

    async def follows() -> None:
        with scope:
            async with partition.slot(5):
                await rest(0)

    async def reads() -> None:
        async with partition.slot(5):
            await leaves.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follows)
        tasks.start_soon(reads)
        with anyio.fail_after(5):
            while partition.active == 0 or not partition.queue:
                await anyio.sleep(0.005)
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert (partition.active, len(partition.queue)) == (1, 0)
        leaves.set()
    assert partition.active == 0


async def test_waiting_without_a_place_is_only_waiting() -> None:
    with anyio.fail_after(5):
        await rest(0)


async def test_a_place_that_nobody_took_meanwhile_is_there_at_once() -> None:
    partition = Partition("shelf", 1)
    with anyio.fail_after(20):
        async with partition.slot(5):
            await rest(0)
            assert (partition.active, len(partition.queue)) == (1, 0)
    assert partition.active == 0
