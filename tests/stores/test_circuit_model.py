"""Circuits against a reference state machine: thousands of random steps, compared at each."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.errors import Health
from mcp_ops.ports import Admission, AdmitRequest, CircuitPhase, CircuitPolicy, CircuitState
from tests.stores import records
from tests.stores.backends import Backend, Stores

PROBE_S = 60
CLOSED, OPEN, HALF_OPEN, ISOLATED = CircuitPhase
POLICIES = {
    "count": CircuitPolicy(),
    "window": CircuitPolicy(consecutive=1_000, minimum_calls=4, window_s=60.0, open_s=30.0),
    "both": CircuitPolicy(consecutive=4, ratio=0.75, minimum_calls=5, window_s=120.0),
}


@dataclass
class Model:
    """What a circuit is, written down as plainly as possible. Times are whole seconds."""

    policy: CircuitPolicy
    phase: CircuitPhase = CLOSED
    failures: int = 0
    opened_at: float | None = None
    retry_at: float | None = None
    reason: str = ""
    probe_until: float | None = None
    calls: list[tuple[float, bool]] = field(default_factory=list)

    def probing(self, now: float) -> bool:
        return self.probe_until is not None and self.probe_until > now

    def admit(self, now: float, *, take: bool) -> tuple[bool, bool]:
        """Whether a call passes, and whether as the probe."""
        if self.phase is CLOSED:
            return take, False
        due = self.phase is OPEN and self.retry_at is not None and self.retry_at <= now
        if take and (due or (self.phase is HALF_OPEN and not self.probing(now))):
            self.phase, self.probe_until = HALF_OPEN, now + PROBE_S
            return True, True
        return False, False

    def record(self, now: float, health: Health, *, probe: bool) -> None:
        decides = probe and self.phase is HALF_OPEN
        if health is Health.UNTOUCHED:
            if decides:
                self.probe_until = None
        elif decides and health is Health.ANSWERED:
            self.set(CLOSED)
        elif decides:
            self.open(now, "the probe failed")
        elif self.phase is CLOSED:
            self.count(now, failed=health is Health.FAILED)

    def count(self, now: float, *, failed: bool) -> None:
        self.calls = [call for call in self.calls if call[0] > now - self.policy.window_s]
        self.calls.append((now, failed))
        if not failed:
            self.failures = 0
            return
        bad, all_ = sum(failed for _, failed in self.calls), len(self.calls)
        if self.failures + 1 >= self.policy.consecutive:
            self.open(now, f"{self.failures + 1} failures in a row")
        elif all_ >= self.policy.minimum_calls and bad >= self.policy.ratio * all_:
            self.open(now, f"{bad} of {all_} calls failed in {self.policy.window_s:g} s")
        else:
            self.failures += 1

    def open(self, now: float, reason: str) -> None:
        failures = self.failures + 1
        self.set(OPEN, reason)
        self.failures, self.opened_at, self.retry_at = failures, now, now + self.policy.open_s

    def set(self, phase: CircuitPhase, reason: str = "") -> None:
        self.phase, self.reason, self.failures = phase, reason, 0
        self.opened_at = self.retry_at = self.probe_until = None
        self.calls = []


@dataclass
class Run:
    """One store, one model, and the calls that are at the target."""

    stores: Stores
    clock: ManualClock
    model: Model
    random: random.Random
    start: float
    under_way: list[tuple[AdmitRequest, Admission]] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    @property
    def now(self) -> float:
        return round(self.clock.now() - self.start)

    async def step(self) -> None:
        kind = self.random.choices(
            ("admit", "record", "give_back", "look", "recover", "time", "set", "stale"),
            (30, 30, 4, 4, 4, 20, 3, 2),
        )[0]
        self.done[kind] = self.done.get(kind, 0) + 1
        await getattr(self, kind)()
        await self.compare(kind)

    async def compare(self, kind: str) -> None:
        found = {state.target: state for state in await self.stores.hot.circuits()}
        state, model = found.get("shop", CircuitState(target="shop")), self.model
        assert (state.phase, state.failures, state.reason, state.probing) == (
            model.phase,
            model.failures,
            model.reason,
            model.probing(self.now),
        ), kind
        for ours, theirs in ((model.opened_at, state.opened_at), (model.retry_at, state.retry_at)):
            assert (ours is None) is (theirs is None), kind
            assert ours is None or theirs is None or abs(theirs - self.start - ours) < 0.01, kind
        self.done[model.phase] = self.done.get(model.phase, 0) + 1

    async def admit(self, *, take: bool = True) -> None:
        asked = records.request(take=take, circuit=self.model.policy)
        admission = await self.stores.hot.admit(asked)
        assert (admission.granted, admission.probe) == self.model.admit(self.now, take=take)
        if admission.granted:
            self.under_way.append((asked, admission))

    async def look(self) -> None:
        await self.admit(take=False)

    async def recover(self) -> None:
        """A recovery passes by the circuit; what it saw is told like that of any call."""
        asked = records.request(use_circuit=False)
        admission = await self.stores.hot.admit(asked)
        assert (admission.granted, admission.probe) == (True, False)
        self.under_way.append((asked, admission))

    def _one(self) -> tuple[AdmitRequest, Admission] | None:
        if not self.under_way:
            return None
        return self.under_way.pop(self.random.randrange(len(self.under_way)))

    async def record(self) -> None:
        if (call := self._one()) is None:
            return
        health = self.random.choices(tuple(Health), (4, 4, 1))[0]
        await self.stores.hot.record(
            "shop", health, error="down", probe=call[1].probe, policy=self.model.policy
        )
        self.model.record(self.now, health, probe=call[1].probe)

    async def give_back(self) -> None:
        if (call := self._one()) is None:
            return
        await self.stores.hot.give_back(*call)
        self.model.record(self.now, Health.UNTOUCHED, probe=call[1].probe)

    async def time(self) -> None:
        self.clock.advance(self.random.choice((1, 1, 2, 5, 15, 30, 60)))

    async def set(self) -> None:
        """Somebody isolates, resets to closed, or to half-open where it is not closed."""
        phase = self.random.choice((CLOSED, CLOSED, HALF_OPEN, ISOLATED))
        if phase is HALF_OPEN and self.model.phase is CLOSED:
            return
        wanted = CircuitState(target="shop", phase=phase, reason="by hand", by="operator:z")
        assert await self.stores.hot.set_circuit(wanted, expected_version=await self._version())
        self.model.set(phase, "by hand")

    async def stale(self) -> None:
        """Who looked before the last change changes nothing."""
        wanted = CircuitState(target="shop", reason="too late")
        version = await self._version() - 1
        assert await self.stores.hot.set_circuit(wanted, expected_version=version) is None

    async def _version(self) -> int:
        found = {state.target: state.version for state in await self.stores.hot.circuits()}
        return found.get("shop", 0)


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("seed", range(4))
async def test_the_store_does_at_each_step_what_the_model_does(
    backend: Backend, clock: ManualClock, kind: str, seed: int
) -> None:
    async with backend.open(clock) as stores:
        run = Run(
            stores=stores,
            clock=clock,
            model=Model(policy=POLICIES[kind]),
            random=random.Random(f"{kind} {seed}"),
            start=clock.now(),
        )
        for _ in range(600):
            await run.step()
        assert {*CircuitPhase} <= {*run.done}, "a state was never reached"
