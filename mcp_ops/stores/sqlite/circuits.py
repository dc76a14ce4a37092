"""How a circuit changes: pure functions on its row, and the window of calls kept in memory."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from mcp_ops.ports import CircuitPhase, CircuitPolicy, CircuitState

PROBE_S = 60.0
_ERROR_CHARACTERS = 300
_SLOTS = 60

Decision = Literal["pass", "probe", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """A circuit's state and until when its probe counts, should that never report back."""

    state: CircuitState
    probe_until: float | None = None

    def seen(self, now: float) -> CircuitState:
        """The state as it is to be understood now: a lost probe does not probe any more."""
        if self.probe_until is None:
            return self.state
        return replace(self.state, probing=self.probe_until > now)


Change = Callable[[Circuit], Circuit]


def decide(circuit: Circuit, now: float) -> Decision:
    """Whether a call may pass, pass as the probe, or not."""
    state = circuit.state
    if state.phase is CircuitPhase.CLOSED:
        return "pass"
    if state.phase is CircuitPhase.OPEN:
        return "probe" if state.retry_at is not None and state.retry_at <= now else "refuse"
    if state.phase is CircuitPhase.HALF_OPEN and not circuit.seen(now).probing:
        return "probe"
    return "refuse"


def start_probe(circuit: Circuit, now: float) -> Circuit:
    """Half-open, with this call as the probe."""
    return _changed(circuit, phase=CircuitPhase.HALF_OPEN, probe_until=now + PROBE_S)


def untouched(circuit: Circuit, *, probe: bool) -> Circuit:
    """The call did not reach the target: the next one may be the probe."""
    if probe and circuit.state.phase is CircuitPhase.HALF_OPEN:
        return _changed(circuit)
    return circuit


def answered(circuit: Circuit, *, probe: bool) -> Circuit:
    """The target answered: failures are forgotten, a successful probe closes."""
    state = circuit.state
    if state.phase is CircuitPhase.HALF_OPEN and probe:
        return Circuit(state=CircuitState(target=state.target, version=state.version + 1))
    if state.phase is CircuitPhase.CLOSED and state.failures:
        return _changed(circuit, failures=0)
    return circuit


def failed(
    circuit: Circuit, *, probe: bool, error: str, now: float, policy: CircuitPolicy, share: str
) -> Circuit:
    """The target failed. `share` says that too large a share of the window's calls did."""
    state = circuit.state
    error = error[:_ERROR_CHARACTERS]
    failures = state.failures + 1
    if state.phase is CircuitPhase.HALF_OPEN and probe:
        return _opened(circuit, failures, error, now, policy, "the probe failed")
    if state.phase is not CircuitPhase.CLOSED:
        return circuit
    if failures >= policy.consecutive:
        return _opened(circuit, failures, error, now, policy, f"{failures} failures in a row")
    if share:
        return _opened(circuit, failures, error, now, policy, share)
    return _changed(circuit, failures=failures, last_error=error)


def _opened(
    circuit: Circuit, failures: int, error: str, now: float, policy: CircuitPolicy, reason: str
) -> Circuit:
    state = CircuitState(
        target=circuit.state.target,
        phase=CircuitPhase.OPEN,
        failures=failures,
        opened_at=now,
        retry_at=now + policy.open_s,
        last_error=error,
        reason=reason,
        version=circuit.state.version + 1,
    )
    return Circuit(state=state)


def _changed(
    circuit: Circuit,
    *,
    phase: CircuitPhase | None = None,
    failures: int | None = None,
    last_error: str | None = None,
    probe_until: float | None = None,
) -> Circuit:
    state = circuit.state
    state = replace(
        state,
        phase=state.phase if phase is None else phase,
        failures=state.failures if failures is None else failures,
        last_error=state.last_error if last_error is None else last_error,
        version=state.version + 1,
    )
    return Circuit(state=state, probe_until=probe_until)


class Window:
    """Calls and failures of the last seconds, in at most sixty slots, on monotonic time."""

    def __init__(self) -> None:
        self._slots: deque[list[float]] = deque()  # [start, calls, failures]

    def add(self, *, failure: bool, now: float, policy: CircuitPolicy) -> str:
        """Count a call; answers why the circuit should open, or nothing."""
        while self._slots and self._slots[0][0] <= now - policy.window_s:
            self._slots.popleft()
        if not self._slots or self._slots[-1][0] <= now - policy.window_s / _SLOTS:
            self._slots.append([now, 0, 0])
        self._slots[-1][1] += 1
        self._slots[-1][2] += failure
        calls = sum(slot[1] for slot in self._slots)
        failures = sum(slot[2] for slot in self._slots)
        if failure and calls >= policy.minimum_calls and failures >= policy.ratio * calls:
            return f"{failures:.0f} of {calls:.0f} calls failed in {policy.window_s:g} s"
        return ""


def load(connection: sqlite3.Connection, target: str) -> Circuit:
    """A target's circuit as it is in the file; closed if it never had one."""
    row = connection.execute("SELECT * FROM circuits WHERE target = ?", (target,)).fetchone()
    return Circuit(state=CircuitState(target=target)) if row is None else _from_row(row)


def load_all(connection: sqlite3.Connection) -> dict[str, Circuit]:
    """All circuits in the file."""
    rows = connection.execute("SELECT * FROM circuits ORDER BY target")
    return {row["target"]: _from_row(row) for row in rows}


def save(connection: sqlite3.Connection, circuit: Circuit) -> None:
    """Write a circuit, within a write transaction."""
    state = circuit.state
    connection.execute(
        "REPLACE INTO circuits (target, phase, failures, opened_at, retry_at, last_error, by, "
        "reason, probe_until, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(state.target, state.phase.value, state.failures, state.opened_at, state.retry_at),
            *(state.last_error, state.by, state.reason, circuit.probe_until, state.version),
        ),
    )


def _from_row(row: sqlite3.Row) -> Circuit:
    state = CircuitState(
        target=row["target"],
        phase=CircuitPhase(row["phase"]),
        failures=row["failures"],
        opened_at=row["opened_at"],
        retry_at=row["retry_at"],
        last_error=row["last_error"],
        by=row["by"],
        reason=row["reason"],
        version=row["version"],
    )
    return Circuit(state=state, probe_until=row["probe_until"])
