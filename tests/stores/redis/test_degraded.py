"""The hot store while Redis is away: reads go on, restricted and slower; nothing else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from mcp_ops.clock import Clock, ManualClock
from mcp_ops.errors import Health, StoreUnavailable
from mcp_ops.lab.redis import Valkey, valkey
from mcp_ops.ports import CircuitPhase, CircuitPolicy, Mode, Partition
from mcp_ops.stores.degraded import SteadyHotStore
from mcp_ops.stores.redis.hot import RedisHotStore
from tests.adapters.redis_lab import free_port
from tests.stores import records
from tests.stores.redis.opened import CLOCK, Opening, ServerTime
from tests.stores.redis.test_hot import grant

ONCE = CircuitPolicy(consecutive=1)
ASKED = records.request(rates=(records.rate(per_minute=60, burst=8),))
WRITE = replace(ASKED, fresh=True)


@dataclass(frozen=True)
class Steady:
    """A server that the test may kill, the store on it, and that store with what goes on alone."""

    server: Valkey
    there: RedisHotStore
    hot: SteadyHotStore


@asynccontextmanager
async def steady(
    path: Path, clock: Clock = CLOCK, *, refresh_s: float = 60.0, time: ServerTime | None = None
) -> AsyncIterator[Steady]:
    async with valkey(path, free_port()) as server:
        opening = Opening(server.url, prefix="steady")
        async with (
            opening(clock, time=time) as there,
            SteadyHotStore.open(there, clock, refresh_s=refresh_s) as hot,
        ):
            yield Steady(server, there, hot)


def modes(entries: object) -> list[tuple[str, Mode, str]]:
    assert isinstance(entries, tuple)
    return [(entry.scope, entry.mode, entry.source) for entry in entries]


def size(clock: Clock) -> Partition:
    now = clock.now()
    return Partition(target="shop", size=3, reason="r", author="a", since=now, expires_at=now + 60)


AWAY = ("*", Mode.RESTRICTIVE, "store")


async def test_while_the_store_answers_it_alone_decides(opening: Opening) -> None:
    async with opening() as there, SteadyHotStore.open(there, CLOCK) as hot:
        admission = await hot.admit(ASKED)
        assert admission.granted
        assert not admission.degraded
        assert hot.away_since is None
        (state,) = await hot.rates(ASKED.rates)
        assert (state.remaining, state.limit_per_minute) == (7, 60)
        await hot.give_back(ASKED, admission)
        assert (await there.rates(ASKED.rates))[0].remaining == 8
        await hot.set_mode(records.mode(CLOCK))
        assert modes(await hot.modes()) == [("shop", Mode.RESTRICTIVE, "operator")]
        await hot.clear_modes("shop", frozenset({"operator"}))
        assert await there.modes() == ()
        opened = await hot.record("shop", Health.FAILED, error="x", probe=False, policy=ONCE)
        assert [state.phase for state in await hot.circuits()] == [CircuitPhase.OPEN]
        closed = replace(opened, phase=CircuitPhase.CLOSED)
        assert await hot.set_circuit(closed, expected_version=opened.version) is not None
        given = grant(CLOCK)
        await hot.set_grant(given)
        assert await hot.grants() == await there.grants() == (given,)
        assert await hot.clear_grant(given.id)
        await hot.set_partition(size(CLOCK))
        assert [each.size for each in await hot.partitions()] == [3]
        assert await hot.clear_partition("shop")


async def test_reads_go_on_restricted_and_at_a_quarter_of_the_rate(tmp_path: Path) -> None:
    async with steady(tmp_path) as it:
        server, hot = it.server, it.hot
        await server.crash()
        admission = await hot.admit(ASKED)
        assert admission.granted
        assert admission.degraded
        assert modes(admission.modes) == [AWAY]
        (entry,) = admission.modes
        assert (entry.author, entry.since) == ("server:mcp-ops", hot.away_since)
        assert entry.reason == "the guard's shared store does not answer"
        assert modes(await hot.modes()) == [AWAY]
        (state,) = admission.rates
        assert state.limit_per_minute == 15
        (state,) = await hot.rates(ASKED.rates)
        assert (state.remaining, state.limit_per_minute) == (7, 15)
        scaled = replace(ASKED.rates[0], per_minute=15, scaled=True)  # as who reads the modes asks
        assert (await hot.rates((scaled,))) == (state,)


async def test_the_local_rate_admits_its_burst_and_then_one_in_four_intervals(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with steady(tmp_path, clock) as it:
        server, hot = it.server, it.hot
        await server.crash()
        answers = [await hot.admit(ASKED) for _ in range(10)]
        assert [each.granted for each in answers] == [True] * 8 + [False] * 2
        assert answers[-1].rates[0].retry_after_s == pytest.approx(4)
        clock.advance(3.9)
        assert not (await hot.admit(ASKED)).granted
        clock.advance(0.2)
        assert (await hot.admit(ASKED)).granted
        assert not (await hot.admit(ASKED)).granted


async def test_what_was_taken_here_is_given_back_here(tmp_path: Path) -> None:
    clock = ManualClock()
    async with steady(tmp_path, clock) as it:
        server, hot = it.server, it.hot
        await server.crash()
        taken = [await hot.admit(ASKED) for _ in range(9)]
        assert [each.granted for each in taken] == [True] * 8 + [False]
        await hot.give_back(ASKED, taken[0])
        assert (await hot.rates(ASKED.rates))[0].remaining == 1
        await hot.give_back(ASKED, taken[-1])  # which took nothing
        assert (await hot.rates(ASKED.rates))[0].remaining == 1
        await server.start()
        await hot.give_back(ASKED, taken[1])  # it came back meanwhile: nothing of it was taken
        assert (await hot.rates(ASKED.rates))[0].remaining <= 8


async def test_looking_takes_nothing(tmp_path: Path) -> None:
    async with steady(tmp_path) as it:
        server, hot = it.server, it.hot
        await server.crash()
        looked = await hot.admit(replace(ASKED, take=False))
        assert (looked.granted, looked.marks) == (False, ())
        assert looked.rates[0].allowed
        assert (await hot.rates(ASKED.rates))[0].remaining == 8


async def test_writes_and_changes_are_refused(tmp_path: Path) -> None:
    async with steady(tmp_path) as it:
        server, hot = it.server, it.hot
        state = (await hot.admit(ASKED)).circuit
        await server.crash()
        with pytest.raises(StoreUnavailable):
            await hot.admit(WRITE)
        with pytest.raises(StoreUnavailable):
            await hot.set_mode(records.mode(CLOCK))
        with pytest.raises(StoreUnavailable):
            await hot.clear_modes("shop", frozenset({"operator"}))
        with pytest.raises(StoreUnavailable):
            await hot.set_circuit(state, expected_version=0)
        with pytest.raises(StoreUnavailable):
            await hot.set_grant(grant(CLOCK))
        with pytest.raises(StoreUnavailable):
            await hot.clear_grant("g1")
        with pytest.raises(StoreUnavailable):
            await hot.set_partition(size(CLOCK))
        with pytest.raises(StoreUnavailable):
            await hot.clear_partition("shop")


async def test_nobody_is_elevated_meanwhile(tmp_path: Path) -> None:
    async with steady(tmp_path) as it:
        await it.hot.set_grant(grant(CLOCK))
        await it.hot.refresh()
        await it.server.crash()
        assert await it.hot.grants() == ()


async def test_a_size_that_a_person_set_holds_on_until_it_expires(tmp_path: Path) -> None:
    time = ServerTime()
    clock = ManualClock(time())
    async with steady(tmp_path, clock, time=time) as it:
        await it.hot.set_partition(size(clock))
        await it.hot.refresh()
        await it.server.crash()
        assert (await it.hot.admit(ASKED)).concurrent == 3
        assert (await it.hot.admit(replace(ASKED, target="other"))).concurrent is None
        assert [each.size for each in await it.hot.partitions()] == [3]
        clock.advance(61)
        assert (await it.hot.admit(ASKED)).concurrent is None
        assert await it.hot.partitions() == ()


async def test_a_lockdown_that_was_known_stays_in_force(tmp_path: Path) -> None:
    locked = records.mode(CLOCK, mode=Mode.LOCKDOWN)
    other = replace(ASKED, target="other")
    async with steady(tmp_path, refresh_s=0.01) as it:
        server, hot = it.server, it.hot
        await it.there.set_mode(locked)  # as another process does
        with anyio.fail_after(5):
            while not hot._modes:  # it learns of it by itself
                await anyio.lowlevel.checkpoint()
        await server.crash()
        refused = await hot.admit(ASKED)
        assert not refused.granted
        assert modes(refused.modes) == [("shop", Mode.LOCKDOWN, "operator"), AWAY]
        assert refused.rates[0].limit_per_minute == 0
        assert (await hot.admit(other)).granted


async def test_a_mode_that_expires_meanwhile_is_over(tmp_path: Path) -> None:
    time = ServerTime()
    clock = ManualClock(time())
    brief = records.mode(clock, mode=Mode.LOCKDOWN, expires_at=clock.now() + 60)
    async with steady(tmp_path, clock, time=time) as it:
        server, hot = it.server, it.hot
        await hot.set_mode(brief)
        await server.crash()
        assert not (await hot.admit(ASKED)).granted
        clock.advance(61)
        assert (await hot.admit(ASKED)).granted
        assert modes(await hot.modes()) == [AWAY]


async def test_what_was_lifted_just_before_is_not_in_force(tmp_path: Path) -> None:
    async with steady(tmp_path) as it:
        server, hot = it.server, it.hot
        await hot.set_mode(records.mode(CLOCK, mode=Mode.LOCKDOWN))
        await hot.clear_modes("shop", frozenset({"operator"}))
        await server.crash()
        assert (await hot.admit(ASKED)).granted


async def test_a_stricter_mode_slows_down_more_than_the_outage(tmp_path: Path) -> None:
    asked = replace(ASKED, modes_allowed=frozenset(Mode))
    async with steady(tmp_path) as it:
        server, hot = it.server, it.hot
        await hot.set_mode(records.mode(CLOCK, mode=Mode.CRITICAL))
        await server.crash()
        (state,) = (await hot.admit(asked)).rates
        assert state.limit_per_minute == pytest.approx(3)


async def test_a_circuit_that_was_open_stays_shut_except_for_what_repairs_it(
    tmp_path: Path,
) -> None:
    async with steady(tmp_path) as it:
        server, hot = it.server, it.hot
        await hot.record("shop", Health.FAILED, error="x", probe=False, policy=ONCE)
        await server.crash()
        refused = await hot.admit(ASKED)
        assert not refused.granted
        assert refused.circuit.phase is CircuitPhase.OPEN
        assert (await hot.admit(replace(ASKED, use_circuit=False))).granted
        assert [state.target for state in await hot.circuits()] == ["shop"]


async def test_how_a_call_ended_is_told_to_nobody(tmp_path: Path) -> None:
    async with steady(tmp_path) as it:
        server, hot = it.server, it.hot
        await server.crash()
        told = await hot.record("shop", Health.FAILED, error="x", probe=False, policy=ONCE)
        assert told.phase is CircuitPhase.CLOSED
        assert (await hot.admit(ASKED)).granted
        assert await hot.circuits() == ()


async def test_nothing_known_means_nothing_allowed(tmp_path: Path) -> None:
    """A server that starts in the outage has never seen the modes: a lockdown may be in force."""
    async with steady(tmp_path) as it:
        await it.server.crash()
        async with SteadyHotStore.open(it.there, CLOCK) as hot:
            with pytest.raises(StoreUnavailable):
                await hot.admit(ASKED)
            with pytest.raises(StoreUnavailable):
                await hot.modes()
            assert await hot.circuits() == ()
            await it.server.start()
            assert await hot.refresh()
            await it.server.crash()
            assert (await hot.admit(ASKED)).degraded


async def test_it_recovers_by_itself_with_what_people_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = records.mode(CLOCK, mode=Mode.READ_ONLY)
    asked = replace(ASKED, modes_allowed=frozenset(Mode))
    async with steady(tmp_path, refresh_s=0.01) as it:
        server, hot = it.server, it.hot
        await hot.set_mode(entry)
        await server.crash()
        with anyio.fail_after(5):
            while hot.away_since is None:  # nobody calls: it notices
                await anyio.lowlevel.checkpoint()
        since = hot.away_since
        assert await hot.refresh() is False
        assert hot.away_since == since
        await server.start()
        with anyio.fail_after(5):
            while hot.away_since is not None:
                await anyio.lowlevel.checkpoint()
        admission = await hot.admit(replace(asked, rates=(), fresh=True))
        assert admission.granted
        assert not admission.degraded
        assert modes(admission.modes) == [("shop", Mode.READ_ONLY, "operator")]
    said = [record.message for record in caplog.records if record.name == "mcp_ops.stores"]
    assert said == [
        "the shared hot store is away: reads go on restricted, writes are refused",
        "the shared hot store answers again",
    ]
