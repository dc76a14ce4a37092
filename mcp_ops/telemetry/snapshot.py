"""What gauges show, read all at once: a scrape costs the stores a handful of round trips, however
many targets there are, and a push none."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import anyio

from mcp_ops.capabilities.guard import ServerHealth
from mcp_ops.clock import Clock
from mcp_ops.errors import OpsError, StoreUnavailable
from mcp_ops.failed import FailedOperations
from mcp_ops.guard.health import HealthCheck
from mcp_ops.guard.inside import Inside
from mcp_ops.guard.limits import target_rate
from mcp_ops.guard.modes import effective, slowest
from mcp_ops.guard.order import Guard
from mcp_ops.ports import OWN_TARGET, CircuitPhase, Mode, ModeEntry
from mcp_ops.questions import Approvals

FRESH_S: Final = 1.0
"""A look that is not older serves another scrape as well."""

MOST_APPROVALS: Final = 200
"""So many pending questions are counted; more are shown as this number."""

STORES: Final = ("hot store", "ledger")
"""The halves of the guard's own store, as `get_guard_status` names them."""

_LOOK_S: Final = 2.0
_log = logging.getLogger("mcp_ops.telemetry")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """A bulkhead partition at one moment."""

    active: int
    waiting: int
    size: int
    turned_away: int
    timed_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What is left of a target's rate limit."""

    remaining: int
    per_minute: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One look; by target, except `places` (by partition) and `stores`. What a store that is
    away would know is missing."""

    circuits: Mapping[str, CircuitPhase] = field(default_factory=dict)
    modes: Mapping[str, Mode] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    usage: Mapping[str, float] = field(default_factory=dict)
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    healthy: Mapping[str, bool] = field(default_factory=dict)
    places: Mapping[str, Places] = field(default_factory=dict)
    stores: Mapping[str, bool] = field(default_factory=dict)
    pending: int | None = None
    unwritten: int = 0
    running: int = 0


class Watch:
    """Takes looks; the newest is in `now`."""

    def __init__(
        self,
        *,
        guard: Guard,
        failed: FailedOperations,
        approvals: Approvals,
        inside: Inside,
        health: HealthCheck,
        clock: Clock,
        away: Callable[[], Mapping[str, float]],
        unwritten: Callable[[], int],
        running: Callable[[], int],
    ) -> None:
        self._guard = guard
        self._failed = failed
        self._approvals = approvals
        self._inside = inside
        self._health = health
        self._clock = clock
        self._away = away
        self._unwritten = unwritten
        self._running = running
        self._looking = anyio.Lock()
        self._looked: float | None = None
        self.now = Snapshot()

    async def look(self) -> None:
        """Look at everything, unless somebody did within the last second."""
        async with self._looking:
            at = self._clock.monotonic()
            if self._looked is None or at - self._looked >= FRESH_S:
                self.now = await self._snapshot()
                self._looked = at

    async def follow(self, every_s: float) -> None:
        """Look so often, for as long as the server runs."""
        while True:
            try:
                await self.look()
            except Exception:  # telemetry is no reason to stop a server
                _log.exception("a look at the state failed")
            await anyio.sleep(every_s)

    async def check(self, every_s: float, health: Callable[[], Awaitable[ServerHealth]]) -> None:
        """Ask every target whether it answers, so often, for as long as the server runs."""
        while True:
            try:
                await health()
            except OpsError as error:
                _log.warning("the targets were not asked: %s", error.code)
            except Exception:  # telemetry is no reason to stop a server
                _log.exception("the targets were not asked")
            await anyio.sleep(every_s)

    async def _snapshot(self) -> Snapshot:
        hot, names = self._guard.hot, self._guard.targets.names()
        targets = [name for name in names if name != OWN_TARGET]
        circuits = await _known(hot.circuits())
        entries = await _known(hot.modes())
        own = await _known(self._failed.count())
        recent = await _known(self._approvals.recent(MOST_APPROVALS))
        phases = {state.target: state.phase for state in circuits or ()}
        found = self._inside.last_health
        return Snapshot(
            circuits=_each(circuits, targets, lambda n: phases.get(n, CircuitPhase.CLOSED)),
            modes=_each(entries, targets, lambda name: effective(entries or (), name)),
            limits={} if entries is None else await self._limits(entries, targets),
            usage=dict(self._inside.usage_read),
            dead_letters=self._health.waiting | ({} if own is None else {OWN_TARGET: own}),
            healthy={
                each.name: each.status != "unhealthy"
                for each in (found.components if found else [])
                if each.name in names
            },
            places=self._places(),
            stores={name: name not in self._away() for name in STORES},
            pending=None if recent is None else sum(each.state == "pending" for each in recent),
            unwritten=self._unwritten(),
            running=self._running(),
        )

    async def _limits(self, entries: tuple[ModeEntry, ...], targets: list[str]) -> dict[str, Limit]:
        """The limits of targets that have one, as far as the modes in force leave them."""
        limits = self._guard.settings.limits
        rates, none_left = {}, {}
        for name in targets:
            rate = target_rate(self._guard.targets.info(name), limits)
            factor = slowest(entries, name)
            if rate is not None and factor:
                rates[name] = replace(rate, per_minute=rate.per_minute * factor)
            elif rate is not None:
                none_left[name] = Limit(remaining=0, per_minute=0.0)
        states = await _known(self._guard.hot.rates(tuple(rates.values()))) if rates else ()
        return none_left | {
            name: Limit(remaining=state.remaining, per_minute=state.limit_per_minute)
            for name, state in zip(rates, states or (), strict=False)
        }

    def _places(self) -> dict[str, Places]:
        return {
            each.name: Places(
                active=each.active,
                waiting=len(each.queue),
                size=each.size,
                turned_away=each.turned_away,
                timed_out=each.timed_out,
            )
            for each in self._guard.bulkheads.used()
        }


def _each(known: object | None, names: list[str], value: Callable[[str], T]) -> dict[str, T]:
    """Something of each target; nothing where it is not known."""
    return {} if known is None else {name: value(name) for name in names}


async def _known(answer: Awaitable[T]) -> T | None:
    """What a store says, or None when it does not."""
    try:
        with anyio.fail_after(_LOOK_S):
            return await answer
    except (StoreUnavailable, TimeoutError):
        return None
