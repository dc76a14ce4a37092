"""What a bulkhead counts, and what it tells those who found no place."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from mcp_ops.errors import Refused
from mcp_ops.guard.bulkhead import Partition
from tests.guard.bench import bench


async def refused(partition: Partition, wait_s: float, most_waiting: int) -> Refused:
    with pytest.raises(Refused) as caught:
        async with partition.slot(wait_s, most_waiting=most_waiting):
            raise AssertionError("there was a place")
    return caught.value


@pytest.mark.parametrize(("wait_s", "again_s"), [(0.01, 1.0), (2.5, 2.5)])
async def test_who_is_turned_away_hears_when_to_come_again(wait_s: float, again_s: float) -> None:
    partition = Partition("shelf", 1)
    async with partition.slot(1):
        for count in (1, 2):
            refusal = await refused(partition, wait_s, most_waiting=0)
            assert refusal.retry_after_s == again_s
            assert refusal.details == {"max_concurrent": 1}
            assert (partition.turned_away, partition.timed_out) == (count, 0)
    assert partition.active == 0


async def test_who_waited_in_vain_is_counted_each_time() -> None:
    partition = Partition("shelf", 1)
    async with partition.slot(1):
        for count in (1, 2):
            refusal = await refused(partition, 0.01, most_waiting=1)
            assert refusal.retry_after_s == 1
            assert (partition.turned_away, partition.timed_out) == (0, count)
    async with partition.slot(0.01):  # nobody is left in the line
        assert (partition.active, len(partition.queue)) == (1, 0)


async def test_who_comes_back_takes_one_of_several_places() -> None:
    partition = Partition("shelf", 3)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(partition.slot(1))
        await partition.back()
        assert partition.active == 3
        partition.leave()
    assert partition.active == 0


async def test_partitions_that_were_used_are_told(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert b.guard.bulkheads.used() == ()
        await b.ok("look_at_item", name="x")
        (partition,) = b.guard.bulkheads.used()
        assert (partition.name, partition.active) == ("shelf", 0)
        with anyio.fail_after(1):
            assert b.guard.bulkheads.find("shelf") is partition
