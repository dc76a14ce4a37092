"""The gauges: each shows a part of the newest look (`snapshot.py`), and asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from mcp_ops.guard.modes import STRICTNESS
from mcp_ops.ports import CircuitPhase
from mcp_ops.telemetry.snapshot import Places, Snapshot

Read = Callable[[Snapshot], Iterable[Observation]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One instrument; `grows` says that it is a counter kept elsewhere."""

    name: str
    unit: str
    about: str
    read: Read
    grows: bool = False


def make_gauges(now: Callable[[], Snapshot]) -> None:
    """Make them of the process's meter; `now` answers the newest look, from any thread."""
    meter = metrics.get_meter("mcp_ops.state")
    for gauge in GAUGES:
        make = meter.create_observable_counter if gauge.grows else meter.create_observable_gauge
        make(gauge.name, [_callback(gauge.read, now)], gauge.unit, gauge.about)


def _callback(
    read: Read, now: Callable[[], Snapshot]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _: read(now())


def _by_target(values: Mapping[str, float]) -> Iterable[Observation]:
    return [Observation(value, {"target": name}) for name, value in values.items()]


def _circuits(look: Snapshot) -> Iterable[Observation]:
    return [
        Observation(int(phase is each), {"target": name, "state": each.value})
        for name, phase in look.circuits.items()
        for each in CircuitPhase
    ]


def _modes(look: Snapshot) -> Iterable[Observation]:
    return _by_target({name: STRICTNESS.index(mode) for name, mode in look.modes.items()})


def _places(part: Callable[[Places], int]) -> Read:
    return lambda look: [
        Observation(part(each), {"partition": name}) for name, each in look.places.items()
    ]


def _stores(look: Snapshot) -> Iterable[Observation]:
    return [
        Observation(int(up), {"store": name.replace(" ", "_")}) for name, up in look.stores.items()
    ]


def _pending(look: Snapshot) -> Iterable[Observation]:
    return [] if look.pending is None else [Observation(look.pending)]


GAUGES: Final = (
    Gauge(
        name="mcp_ops.circuit.state",
        unit="",
        about="1 for the state that a target's circuit is in.",
        read=_circuits,
    ),
    Gauge(
        name="mcp_ops.mode",
        unit="",
        about="A target's mode: 0 normal, 1 restrictive, 2 critical, 3 read_only, 4 lockdown.",
        read=_modes,
    ),
    Gauge(
        name="mcp_ops.limit.remaining",
        unit="{call}",
        about="Calls that a target's rate limit leaves at this moment.",
        read=lambda look: _by_target({n: each.remaining for n, each in look.limits.items()}),
    ),
    Gauge(
        name="mcp_ops.limit.per_minute",
        unit="{call}",
        about="A target's rate limit in the mode in force, calls a minute.",
        read=lambda look: _by_target({n: each.per_minute for n, each in look.limits.items()}),
    ),
    Gauge(
        name="mcp_ops.api_usage.ratio",
        unit="1",
        about="Used share of the vendor's limit that drives a target, when it was last read.",
        read=lambda look: _by_target({n: percent / 100 for n, percent in look.usage.items()}),
    ),
    Gauge(
        name="mcp_ops.deadletters",
        unit="{item}",
        about="Items in a dead-letter queue; another system's as it last said.",
        read=lambda look: _by_target(look.dead_letters),
    ),
    Gauge(
        name="mcp_ops.target.up",
        unit="",
        about="Whether a target answered its last health check.",
        read=lambda look: _by_target({n: int(up) for n, up in look.healthy.items()}),
    ),
    Gauge(
        name="mcp_ops.store.up",
        unit="",
        about="Whether a half of the guard's own store answers.",
        read=_stores,
    ),
    Gauge(
        name="mcp_ops.bulkhead.active",
        unit="{call}",
        about="Calls that are at a target or group of targets.",
        read=_places(lambda each: each.active),
    ),
    Gauge(
        name="mcp_ops.bulkhead.waiting",
        unit="{call}",
        about="Calls in line for a place at a target.",
        read=_places(lambda each: each.waiting),
    ),
    Gauge(
        name="mcp_ops.bulkhead.size",
        unit="{call}",
        about="Places at a target.",
        read=_places(lambda each: each.size),
    ),
    Gauge(
        name="mcp_ops.bulkhead.rejected",
        unit="{call}",
        about="Calls that got no place: the line was full, or none came free in time.",
        read=_places(lambda each: each.turned_away + each.timed_out),
        grows=True,
    ),
    Gauge(
        name="mcp_ops.approvals.pending",
        unit="{question}",
        about="Questions that wait for a person, at most 200.",
        read=_pending,
    ),
    Gauge(
        name="mcp_ops.ledger.unwritten",
        unit="{line}",
        about="Lines of the record that are not written yet.",
        read=lambda look: [Observation(look.unwritten)],
    ),
    Gauge(
        name="mcp_ops.operations.running",
        unit="{write}",
        about="Writes that run in this process.",
        read=lambda look: [Observation(look.running)],
    ),
)
