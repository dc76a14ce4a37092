"""What a hot store must do with the partition sizes that people set for a while."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.ports import Partition
from tests.stores import records
from tests.stores.backends import Backend


def partition(clock: ManualClock, **fields: Any) -> Partition:
    return Partition(
        **{
            "target": "shop",
            "size": 2,
            "reason": "it is overloaded",
            "author": "operator:z",
            "since": clock.now(),
            "expires_at": clock.now() + 600,
            **fields,
        }
    )


async def test_a_size_is_set_replaced_and_cleared(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        hot = stores.hot
        assert await hot.partitions() == ()
        first, other = partition(clock), partition(clock, target="db", size=7)
        await hot.set_partition(first)
        await hot.set_partition(other)
        assert set(await hot.partitions()) == {first, other}
        await hot.set_partition(replace(first, size=3))
        assert set(await hot.partitions()) == {replace(first, size=3), other}
        assert await hot.clear_partition("shop")
        assert not await hot.clear_partition("shop")
        assert await hot.partitions() == (other,)


async def test_an_admission_carries_the_size_of_its_target(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        assert (await stores.hot.admit(records.request())).concurrent is None
        await stores.hot.set_partition(partition(clock))
        for take in (True, False):
            assert (await stores.hot.admit(records.request(take=take))).concurrent == 2
        assert (await stores.hot.admit(records.request(target="db"))).concurrent is None
        await stores.hot.clear_partition("shop")
        assert (await stores.hot.admit(records.request())).concurrent is None


async def test_a_probe_carries_the_size_too(backend: Backend, clock: ManualClock) -> None:
    from tests.stores.test_contract_hot import fail

    async with backend.open(clock) as stores:
        await stores.hot.set_partition(partition(clock))
        await fail(stores, 3)
        clock.advance(60)
        admission = await stores.hot.admit(records.request())
        assert (admission.probe, admission.concurrent) == (True, 2)


async def test_a_size_ends_by_itself(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        await stores.hot.set_partition(partition(clock))
        clock.advance(599)
        assert (await stores.hot.admit(records.request())).concurrent == 2
        clock.advance(1)
        assert (await stores.hot.admit(records.request())).concurrent is None
        assert await stores.hot.partitions() == ()
        assert not await stores.hot.clear_partition("shop")
        newer = partition(clock, target="db")
        await stores.hot.set_partition(newer)
        assert await stores.hot.partitions() == (newer,)


async def test_what_another_process_sets_is_seen_within_a_second(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as ours, backend.open(clock) as theirs:
        await theirs.hot.set_partition(partition(clock))
        assert (await ours.hot.admit(records.request(fresh=True))).concurrent == 2
        await theirs.hot.set_partition(partition(clock, size=5))
        with anyio.fail_after(5):
            while (await ours.hot.admit(records.request(take=False))).concurrent != 5:
                await anyio.sleep(0.01)


async def test_a_size_outlives_its_process(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        await stores.hot.set_partition(partition(clock))
    async with backend.open(clock) as stores:
        assert (await stores.hot.admit(records.request())).concurrent == 2


@pytest.mark.parametrize("seconds", [3_600, -3_600])
async def test_a_jump_of_the_wall_clock_does_not_end_it_early_or_late(
    backend: Backend, clock: ManualClock, seconds: float
) -> None:
    async with backend.open(clock) as stores:
        await stores.hot.set_partition(partition(clock))
        clock.jump(seconds)
        clock.advance(599)
        assert (await stores.hot.admit(records.request(fresh=True))).concurrent == 2
        clock.advance(1)
        assert (await stores.hot.admit(records.request(fresh=True))).concurrent is None
