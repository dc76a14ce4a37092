"""The circuit of the hot store against a reference that is written as a table of states."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.errors import Health
from mcp_ops.ports import CircuitPhase, CircuitPolicy, CircuitState
from mcp_ops.stores.sqlite.embedded import open_stores
from tests.stores import records

POLICY = CircuitPolicy(consecutive=4, ratio=0.5, minimum_calls=6, window_s=60.0, open_s=30.0)


@dataclass
class Reference:
    phase: str = "closed"
    failures: int = 0
    retry_at: float = 0.0
    probe_until: float | None = None
    calls: list[tuple[float, bool]] = field(default_factory=list)

    def admit(self, now: float) -> tuple[bool, bool]:
        """Whether a call passes, and whether as the probe."""
        due = self.phase == "open" and now >= self.retry_at
        free = self.phase == "half_open" and (self.probe_until is None or now >= self.probe_until)
        if due or free:
            self.phase, self.probe_until = "half_open", now + 60
            return True, True
        return self.phase == "closed", False

    def record(self, health: Health, *, probe: bool, now: float) -> None:
        if health is Health.UNTOUCHED:
            if probe and self.phase == "half_open":
                self.probe_until = None
            return
        failed = health is Health.FAILED
        self.calls = [call for call in self.calls if call[0] > now - POLICY.window_s]
        self.calls.append((now, failed))
        if self.phase == "closed":
            self._count(failed, now)
        elif self.phase == "half_open" and probe:
            if failed:
                self._open(now)
            else:
                self.phase, self.failures, self.probe_until = "closed", 0, None
        if self.phase != "closed":
            self.calls = []

    def _count(self, failed: bool, now: float) -> None:
        self.failures = self.failures + 1 if failed else 0
        bad = sum(call[1] for call in self.calls)
        share = len(self.calls) >= POLICY.minimum_calls and bad * 2 >= len(self.calls)
        if self.failures >= POLICY.consecutive or (failed and share):
            self._open(now)

    def _open(self, now: float) -> None:
        self.phase, self.retry_at, self.probe_until = "open", now + POLICY.open_s, None


@pytest.mark.parametrize("seed", range(5))
async def test_random_calls_move_the_circuit_as_the_reference_says(
    tmp_path: Path, seed: int
) -> None:
    random_, clock, reference = random.Random(seed), ManualClock(), Reference()
    phases: set[str] = set()
    out: list[bool] = []
    async with open_stores(tmp_path / "ops.db", clock) as stores:
        for step in range(250):
            clock.advance(random_.choice([0, 1, 2, 5, 20]))
            if random_.random() < 0.5:
                admission = await stores.hot.admit(records.request(circuit=POLICY))
                expected = reference.admit(clock.now())
                assert (admission.granted, admission.probe) == expected, step
                out += [admission.probe] if admission.granted else []
            elif out:
                probe = out.pop(random_.randrange(len(out)))
                health = random_.choice([Health.FAILED, Health.FAILED, *Health])
                state = await stores.hot.record(
                    "shop", health, error="x", probe=probe, policy=POLICY
                )
                reference.record(health, probe=probe, now=clock.now())
                assert state.phase.value == reference.phase, step
                if reference.phase == "closed":
                    assert state.failures == reference.failures, step
            phases.add(reference.phase)
    assert phases == {"closed", "open", "half_open"}


async def test_only_what_changes_a_circuit_is_written(tmp_path: Path, clock: ManualClock) -> None:
    async with open_stores(tmp_path / "ops.db", clock) as stores:
        for _ in range(3):
            state = await stores.hot.record(
                "shop", Health.ANSWERED, error="", probe=False, policy=POLICY
            )
        assert state == CircuitState(target="shop")
        assert await stores.hot.circuits() == ()


async def test_a_circuit_without_a_time_to_try_again_stays_open(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with open_stores(tmp_path / "ops.db", clock) as stores:
        forced = CircuitState(target="shop", phase=CircuitPhase.OPEN)
        await stores.hot.set_circuit(forced, expected_version=0)
        clock.advance(1e6)
        assert not (await stores.hot.admit(records.request())).granted
