"""What a hot store must do: modes, limits, budgets and circuits in one atomic step."""

from __future__ import annotations

import math
from dataclasses import replace

import anyio
import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.errors import Health
from mcp_ops.ports import CircuitPhase, CircuitPolicy, CircuitState, Mode
from tests.stores import records
from tests.stores.backends import Backend, Stores

POLICY = CircuitPolicy()
HOT = True


async def fail(stores: Stores, times: int = 1, *, probe: bool = False) -> CircuitState:
    for _ in range(times):
        state = await stores.hot.record(
            "shop", Health.FAILED, error="down " * 100, probe=probe, policy=POLICY
        )
    return state


async def test_a_call_is_granted_where_nothing_speaks_against_it(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        asked = records.request(rates=(records.rate(),))
        admission = await stores.hot.admit(asked)
    assert admission.granted
    assert admission.at == clock.now()
    assert admission.modes == ()
    assert [(r.allowed, r.remaining) for r in admission.rates] == [(True, 2)]
    assert admission.circuit == CircuitState(target="shop")
    assert not admission.probe


@pytest.mark.parametrize(
    ("scope", "mode", "granted"),
    [
        ("shop", Mode.RESTRICTIVE, True),
        ("shop", Mode.LOCKDOWN, False),
        ("*", Mode.LOCKDOWN, False),
        ("other", Mode.LOCKDOWN, True),
    ],
)
@pytest.mark.parametrize("write", [False, True])
async def test_every_mode_in_force_must_let_the_call_through(
    backend: Backend, clock: ManualClock, scope: str, mode: Mode, granted: bool, write: bool
) -> None:
    asked = records.request(rates=(records.rate(),), fresh=write)
    async with backend.open(clock) as stores:
        await stores.hot.set_mode(records.mode(clock, mode=Mode.NORMAL, source="agent"))
        await stores.hot.set_mode(records.mode(clock, scope=scope, mode=mode))
        admission = await stores.hot.admit(asked)
        assert admission.granted is granted
        (left,) = await stores.hot.rates(asked.rates)
        assert left.remaining == (2 if granted else 3)


async def test_a_floor_holds_in_its_process_alone(backend: Backend, clock: ManualClock) -> None:
    floor = records.mode(clock, scope="*", mode=Mode.READ_ONLY, source="environment")
    reads = records.request(modes_allowed=frozenset({Mode.NORMAL, Mode.READ_ONLY}))
    async with backend.open(clock, floor=(floor,)) as ours, backend.open(clock) as theirs:
        await ours.hot.clear_modes("*", frozenset({"environment"}))
        for asked in (records.request(), records.request(fresh=True)):
            refused = await ours.hot.admit(asked)
            assert not refused.granted
            assert refused.modes == (floor,)
            assert (await theirs.hot.admit(asked)).granted
        assert (await ours.hot.admit(reads)).granted
        assert await ours.hot.modes() == (floor,)
        assert await theirs.hot.modes() == ()


async def test_modes_are_replaced_cleared_and_expire(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        hot = stores.hot
        forever = records.mode(clock, source="agent")
        await hot.set_mode(forever)
        await hot.set_mode(records.mode(clock, mode=Mode.LOCKDOWN, source="usage"))
        short = records.mode(clock, mode=Mode.LOCKDOWN, expires_at=clock.now() + 60, lifts=True)
        await hot.set_mode(short)
        await hot.clear_modes("shop", frozenset({"usage", "environment"}))
        assert set(await hot.modes()) == {forever, short}
        assert not (await hot.admit(records.request())).granted
        clock.advance(60)
        assert await hot.modes() == (forever,)
        admission = await hot.admit(records.request())
        assert admission.granted
        assert admission.modes == (forever,)
        newer = replace(forever, mode=Mode.CRITICAL)
        await hot.set_mode(newer)
        assert await hot.modes() == (newer,)


async def test_a_mode_slows_scaled_rates_down(backend: Backend, clock: ManualClock) -> None:
    scaled = records.request(rates=(records.rate(scaled=True, burst=1),))
    plain = records.request(rates=(records.rate(key="other", burst=1),))
    async with backend.open(clock) as stores:
        await stores.hot.set_mode(records.mode(clock))
        assert (await stores.hot.admit(scaled)).granted
        assert (await stores.hot.admit(plain)).granted
        refused = await stores.hot.admit(scaled)
        assert not refused.granted
        assert refused.rates[0].retry_after_s == pytest.approx(4)
        assert refused.rates[0].limit_per_minute == 15
        clock.advance(4)
        assert (await stores.hot.admit(scaled)).granted
        everything = records.request(
            rates=scaled.rates, modes_allowed=records.ALL_MODES, call_id="c9"
        )
        await stores.hot.set_mode(records.mode(clock, mode=Mode.LOCKDOWN, source="agent"))
        clock.advance(1_000)
        never = await stores.hot.admit(everything)
        assert not never.granted
        assert math.isinf(never.rates[0].retry_after_s)


async def test_looking_charges_nothing(backend: Backend, clock: ManualClock) -> None:
    asked = records.request(take=False, rates=(records.rate(burst=1),))
    async with backend.open(clock) as stores:
        for _ in range(3):
            looked = await stores.hot.admit(asked)
            assert not looked.granted
            assert looked.rates[0].allowed
            await stores.hot.give_back(asked, looked)
        assert (await stores.hot.admit(replace(asked, take=True))).granted


async def test_what_was_taken_can_be_given_back(backend: Backend, clock: ManualClock) -> None:
    asked = records.request(rates=(records.rate(burst=1),), call_id="mine")
    async with backend.open(clock) as stores:
        await fail(stores, 3)
        clock.advance(60)
        for _ in range(3):
            admission = await stores.hot.admit(asked)
            assert admission.granted
            assert admission.probe
            assert not (await stores.hot.admit(asked)).granted
            await stores.hot.give_back(asked, admission)
        light = records.request(rates=asked.rates, use_circuit=False)
        admission = await stores.hot.admit(light)
        await stores.hot.give_back(light, admission)
        assert (await stores.hot.rates(asked.rates))[0].remaining == 1


async def test_three_failures_in_a_row_open_a_circuit_and_a_probe_closes_it(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        hot = stores.hot
        assert (await fail(stores, 2)).failures == 2
        healed = await hot.record("shop", Health.ANSWERED, error="", probe=False, policy=POLICY)
        assert healed.failures == 0
        opened = await fail(stores, 3)
        assert opened.phase is CircuitPhase.OPEN
        assert opened.retry_at == clock.now() + 60
        assert opened.reason == "3 failures in a row"
        assert len(opened.last_error) == 300
        assert not (await hot.admit(records.request())).granted
        assert (await hot.admit(records.request(use_circuit=False))).granted
        clock.advance(60)
        looked = await hot.admit(records.request(take=False))
        assert looked.circuit == opened
        probe = await hot.admit(records.request())
        assert probe.probe
        assert (probe.circuit.phase, probe.circuit.probing) == (CircuitPhase.HALF_OPEN, True)
        assert not (await hot.admit(records.request())).granted
        late = await hot.record("shop", Health.ANSWERED, error="", probe=False, policy=POLICY)
        assert late.phase is CircuitPhase.HALF_OPEN
        again = await fail(stores, probe=True)
        assert (again.phase, again.reason) == (CircuitPhase.OPEN, "the probe failed")
        clock.advance(60)
        assert (await hot.admit(records.request())).probe
        closed = await hot.record("shop", Health.ANSWERED, error="", probe=True, policy=POLICY)
        assert closed == CircuitState(target="shop", version=closed.version)
        assert await hot.circuits() == (closed,)
        assert (await hot.admit(records.request())).granted


async def test_an_untouched_target_gives_the_probe_to_the_next(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        await fail(stores, 3)
        clock.advance(60)
        assert (await stores.hot.admit(records.request())).probe
        for probe in (False, True):
            state = await stores.hot.record(
                "shop", Health.UNTOUCHED, error="", probe=probe, policy=POLICY
            )
            assert state.phase is CircuitPhase.HALF_OPEN
            assert state.probing is not probe
            assert (await stores.hot.admit(records.request())).probe is probe
        same = await stores.hot.record(
            "other", Health.UNTOUCHED, error="", probe=True, policy=POLICY
        )
        assert same == CircuitState(target="other")


async def test_a_lost_probe_is_given_up_after_a_minute(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        await fail(stores, 3)
        clock.advance(60)
        assert (await stores.hot.admit(records.request())).probe
        clock.advance(59)
        assert not (await stores.hot.admit(records.request())).granted
        clock.advance(1)
        assert not (await stores.hot.circuits())[0].probing
        assert (await stores.hot.admit(records.request())).probe


async def test_half_of_the_calls_of_a_minute_open_a_circuit(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        state = CircuitState(target="shop")
        for number in range(10):
            assert state.phase is CircuitPhase.CLOSED
            clock.advance(2)
            health = Health.ANSWERED if number % 2 == 0 else Health.FAILED
            state = await stores.hot.record("shop", health, error="x", probe=False, policy=POLICY)
        assert state.phase is CircuitPhase.OPEN
        assert state.reason == "5 of 10 calls failed in 60 s"


async def test_an_isolated_circuit_changes_only_by_compare_and_set(
    backend: Backend, clock: ManualClock
) -> None:
    isolated = CircuitState(
        target="shop",
        phase=CircuitPhase.ISOLATED,
        opened_at=clock.now(),
        by="operator:z",
        reason="maintenance",
    )
    async with backend.open(clock) as stores:
        hot = stores.hot
        first = await hot.set_circuit(isolated, expected_version=0)
        assert first == replace(isolated, version=1)
        assert await hot.set_circuit(isolated, expected_version=0) is None
        for health in Health:
            for probe in (False, True):
                state = await hot.record(
                    "shop", health, error="x", probe=probe, policy=CircuitPolicy(consecutive=1)
                )
                assert state == first
        clock.advance(1e6)
        assert not (await hot.admit(records.request())).granted
        half = CircuitState(target="shop", phase=CircuitPhase.HALF_OPEN, probing=True)
        second = await hot.set_circuit(half, expected_version=1)
        assert second == replace(half, version=2)
        assert not (await hot.admit(records.request())).granted


async def test_what_another_process_changes_is_seen_within_a_second(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as ours, backend.open(clock) as theirs:
        await theirs.hot.set_mode(records.mode(clock, mode=Mode.LOCKDOWN))
        await fail(theirs, 3)
        with anyio.fail_after(5):
            while not (seen := await ours.hot.admit(records.request(take=False))).modes:
                await anyio.sleep(0.01)
        assert seen.modes[0].mode is Mode.LOCKDOWN
        assert seen.circuit.phase is CircuitPhase.OPEN


async def test_a_write_sees_at_once_what_another_process_changed(
    backend: Backend, clock: ManualClock
) -> None:
    asked = records.request(rates=(records.rate(),), fresh=True)
    async with backend.open(clock) as ours, backend.open(clock) as theirs:
        await theirs.hot.set_mode(records.mode(clock, mode=Mode.LOCKDOWN))
        refused = await ours.hot.admit(asked)
        assert not refused.granted
        assert [entry.mode for entry in refused.modes] == [Mode.LOCKDOWN]
        assert (await ours.hot.rates(asked.rates))[0].remaining == 3


async def test_a_write_sees_at_once_that_another_process_opened_the_circuit(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as ours, backend.open(clock) as theirs:
        assert (await ours.hot.admit(records.request(fresh=True))).granted
        await fail(theirs, 3)
        refused = await ours.hot.admit(records.request(fresh=True))
        assert not refused.granted
        assert refused.circuit.phase is CircuitPhase.OPEN


async def test_of_two_processes_that_know_the_same_one_gets_the_probe(
    backend: Backend, clock: ManualClock
) -> None:
    """Neither has looked again when the time has come: the store decides, not what they know."""
    async with backend.open(clock) as ours, backend.open(clock) as theirs:
        await fail(theirs, 3)
        with anyio.fail_after(5):
            while (await ours.hot.admit(records.request(take=False))).circuit.failures != 3:
                await anyio.sleep(0.01)
        clock.advance(60)
        first = await theirs.hot.admit(records.request())
        second = await ours.hot.admit(records.request())
        assert [(each.granted, each.probe) for each in (first, second)] == [
            (True, True),
            (False, False),
        ]


@pytest.mark.parametrize("seconds", [3_600, -3_600])
async def test_a_jump_of_the_wall_clock_neither_frees_nor_locks_out(
    backend: Backend, clock: ManualClock, seconds: float
) -> None:
    limits = (records.budget(limit=1),)

    async def write(name: str) -> bool:
        mine = records.operation(clock, name, key=name)
        return (await ledger.begin(records.began(clock, name), mine, budgets=limits)).claimed

    async with backend.open(clock) as stores:
        hot, ledger = stores.hot, stores.ledger
        assert await write("o1")
        await fail(stores, 3)
        lockdown = records.mode(clock, scope="db", mode=Mode.LOCKDOWN, expires_at=clock.now() + 60)
        await hot.set_mode(lockdown)
        question = records.approval(clock)
        await stores.approvals.ask(question, max_pending=1)
        clock.advance(1)
        clock.jump(seconds)
        assert not await write("o2")
        assert not (await hot.admit(records.request())).granted
        assert not (await hot.admit(records.request(target="db"))).granted
        running = await ledger.find_operation("o1")
        assert running is not None
        assert running.state == "running"
        shown = await stores.approvals.get("a1")
        assert shown is not None
        assert (shown.state == "expired") is (seconds > 0)
        assert shown.expires_at - clock.now() < 900
        clock.advance(59)
        assert await write("o3")
        assert (await hot.admit(records.request())).probe
        assert (await hot.admit(records.request(target="db"))).granted


async def test_a_restarted_machine_trusts_its_wall_clock(backend: Backend) -> None:
    before = ManualClock()
    before.advance(5_000)
    limits = (records.budget(limit=1),)
    for number, clock in enumerate((before, ManualClock(before.now() + 61))):
        async with backend.open(clock) as stores:
            mine = records.operation(clock, f"o{number}", key=f"k{number}")
            begun = await stores.ledger.begin(records.began(clock), mine, budgets=limits)
            assert begun.claimed


async def test_a_cancelled_admission_is_finished_so_that_it_can_be_given_back(
    backend: Backend, clock: ManualClock
) -> None:
    asked = records.request()
    async with backend.open(clock) as stores:
        await fail(stores, 3)
        clock.advance(60)
        for _ in range(2):
            with anyio.CancelScope() as scope:
                scope.cancel()
                admission = await stores.hot.admit(asked)
            assert admission.granted
            assert admission.probe
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stores.hot.give_back(asked, admission)
