"""The Lua against the pure functions of the embedded store, in random steps on one clock."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.errors import Health
from mcp_ops.ports import (
    Admission,
    AdmitRequest,
    CircuitPhase,
    CircuitPolicy,
    CircuitState,
    Mode,
    Rate,
    RateState,
)
from mcp_ops.stores.rates import RateTable
from mcp_ops.stores.sqlite import circuits
from mcp_ops.stores.sqlite.circuits import Circuit, Window
from tests.stores import records
from tests.stores.redis.opened import Opening, ServerTime

POLICY = CircuitPolicy(consecutive=4, ratio=0.4, minimum_calls=6, window_s=30.0, open_s=20.0)
PHASES = (CircuitPhase.ISOLATED, CircuitPhase.HALF_OPEN, CircuitPhase.CLOSED)


class Model:
    """The embedded store's circuit, without its file."""

    def __init__(self) -> None:
        self.circuit = Circuit(state=CircuitState(target="shop"))
        self.window = Window()

    def adopt(self, circuit: Circuit) -> None:
        self.circuit = circuit
        if circuit.state.phase is not CircuitPhase.CLOSED:
            self.window = Window()

    def record(self, health: Health, *, error: str, probe: bool, now: float) -> None:
        if health is Health.UNTOUCHED:
            self.adopt(circuits.untouched(self.circuit, probe=probe))
            return
        share = ""
        if self.circuit.state.phase is CircuitPhase.CLOSED:
            share = self.window.add(failure=health is Health.FAILED, now=now, policy=POLICY)
        if health is Health.ANSWERED:
            self.adopt(circuits.answered(self.circuit, probe=probe))
            return
        self.adopt(
            circuits.failed(
                self.circuit, probe=probe, error=error, now=now, policy=POLICY, share=share
            )
        )

    def admit(self, now: float) -> str:
        decision = circuits.decide(self.circuit, now)
        if decision == "probe":
            self.adopt(circuits.start_probe(self.circuit, now))
        return decision

    def put(self, state: CircuitState, now: float) -> None:
        until = now + circuits.PROBE_S if state.probing else None
        version = self.circuit.state.version + 1
        # As it is read back from the file: only the time says that a probe is on its way.
        state = replace(state, version=version, probing=False)
        self.window = Window()
        self.adopt(Circuit(state=state, probe_until=until))


@pytest.mark.parametrize("seed", range(3))
async def test_a_circuit_goes_the_way_of_the_model(opening: Opening, seed: int) -> None:
    random_, time, model = random.Random(seed), ServerTime(), Model()
    clock = ManualClock(time())
    phases: set[CircuitPhase] = set()
    asked = records.request(circuit=POLICY)
    async with opening(clock, time=time) as hot:
        for step in range(700):
            passed = random_.choice([0.01, 0.3, 2.0, 2.0, 40.0]) * random_.random()
            time.advance(passed)
            clock.advance(time() - clock.now())
            now, what = time(), random_.random()
            if what < 0.6:
                health = random_.choices(list(Health), weights=[4, 3, 1])[0]
                probe = random_.random() < 0.5
                model.record(health, error=f"e{step}", probe=probe, now=now)
                state = await hot._tell(
                    "shop", health, error=f"e{step}", probe=probe, policy=POLICY
                )
                assert state == model.circuit.seen(now)
            elif what < 0.95:
                decision = model.admit(now)
                admission = await hot.admit(asked)
                assert (admission.granted, admission.probe) == (
                    decision != "refuse",
                    decision == "probe",
                )
            else:
                phase = random_.choice(PHASES)
                chosen = CircuitState(
                    target="shop", phase=phase, by="z", probing=phase is CircuitPhase.HALF_OPEN
                )
                expected = model.circuit.state.version
                assert await hot.set_circuit(chosen, expected_version=expected + 1) is None
                model.put(chosen, now)
                assert await hot.set_circuit(chosen, expected_version=expected) is not None
            (shown,) = await hot.circuits() or (CircuitState(target="shop"),)
            assert shown == model.circuit.seen(now)
            phases.add(shown.phase)
    assert phases == set(CircuitPhase)


@pytest.mark.parametrize("seed", range(3))
async def test_limits_say_and_charge_what_the_model_does(opening: Opening, seed: int) -> None:
    random_, time, table = random.Random(seed), ServerTime(), RateTable()
    limits = [
        Rate(key="a", name="a", per_minute=70.0, burst=6, scaled=True),
        Rate(key="b", name="b", per_minute=600.0, burst=20),
        Rate(key="a", name="c", per_minute=70.0, burst=6, scaled=True),
    ]
    taken: list[tuple[AdmitRequest, Admission, list[float]]] = []
    granted = 0
    async with opening(ManualClock(time()), time=time) as hot:
        for scope in ("t0.25", "t0.0"):
            await hot.set_mode(records.mode(ManualClock(time()), scope=scope))
        for _ in range(500):
            time.advance(random_.expovariate(1.5))
            now = time()
            if taken and random_.random() < 0.3:
                asked, admission, marks = taken.pop(random_.randrange(len(taken)))
                await hot.give_back(asked, admission)
                for rate, state, mark in zip(asked.rates, admission.rates, marks, strict=True):
                    table.give_back(rate, state, mark, now)
                continue
            factor = random_.choice([1.0, 1.0, 0.25, 0.0])
            rates = tuple(
                replace(rate, cost=random_.randint(1, 3))
                for rate in random_.sample(limits, random_.randint(1, 3))
            )
            asked = records.request(
                target=f"t{factor}", rates=rates, rate_factors={Mode.RESTRICTIVE: factor}
            )
            looked = [table.look(rate, factor, now) for rate in rates]
            admission = await hot.admit(asked)
            assert admission.granted is all(state.allowed for state in looked)
            shown = [
                _after(s, r.cost if admission.granted else 0)
                for r, s in zip(rates, looked, strict=True)
            ]
            for theirs, ours in zip(admission.rates, shown, strict=True):
                assert theirs == replace(ours, retry_after_s=theirs.retry_after_s)
                assert theirs.retry_after_s == pytest.approx(ours.retry_after_s, abs=1e-4)
            if admission.granted:
                marks = [table.take(r, s, now) for r, s in zip(rates, looked, strict=True)]
                taken.append((asked, admission, marks))
                granted += 1
    assert 50 < granted < 400


def _after(state: RateState, cost: int) -> RateState:
    return replace(state, remaining=max(0, state.remaining - cost))
