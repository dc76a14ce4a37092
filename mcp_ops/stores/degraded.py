"""The hot store when the shared one is away: a local guard that is stricter, for reads only.

While Redis answers, every call is decided there, and this process keeps a copy of the modes,
circuits and partition sizes, at most a second old. When it does not, reads go on under that copy,
in restrictive mode and at a quarter of every rate, counted in this process. Writes are refused; an
operator with break-glass opens stores of this machine instead (`opening.py`). Nothing known means
nothing allowed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from mcp_ops.clock import Clock
from mcp_ops.errors import Health, StoreUnavailable
from mcp_ops.ports import (
    ALL_TARGETS,
    Admission,
    AdmitRequest,
    CircuitPhase,
    CircuitPolicy,
    CircuitState,
    Grant,
    HotStore,
    Mode,
    ModeEntry,
    ModeSource,
    Partition,
    Rate,
    RateState,
)
from mcp_ops.stores.background import running
from mcp_ops.stores.modes import allow, concerning, factor, in_force
from mcp_ops.stores.rates import RateTable

REFRESH_S = 1.0
SLOWER = 0.25
_log = logging.getLogger("mcp_ops.stores")


class SteadyHotStore:
    """The shared hot store, and this process alone while it is away."""

    def __init__(self, shared: HotStore, clock: Clock) -> None:
        self._shared = shared
        self._clock = clock
        self._rates = RateTable()
        self._modes: tuple[ModeEntry, ...] | None = None
        self._circuits: dict[str, CircuitState] = {}
        self._partitions: tuple[Partition, ...] = ()
        self.away_since: float | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, shared: HotStore, clock: Clock, *, refresh_s: float = REFRESH_S
    ) -> AsyncIterator[SteadyHotStore]:
        """Around an open store; its modes and circuits are read every `refresh_s`."""
        store = cls(shared, clock)
        await store.refresh()
        async with running(lambda: store._refresh_often(refresh_s)):
            yield store

    async def refresh(self) -> bool:
        """Copy what the shared store says; false while it is away."""
        try:
            entries = await self._shared.modes()
            circuits = await self._shared.circuits()
            partitions = await self._shared.partitions()
        except StoreUnavailable:
            self._away()
            return False
        self._modes = entries
        self._partitions = partitions
        self._circuits = {state.target: state for state in circuits}
        self._back()
        return True

    async def admit(self, request: AdmitRequest) -> Admission:
        """Decide there, or for a read here. Raises `StoreUnavailable` for a write."""
        try:
            admission = await self._shared.admit(request)
        except StoreUnavailable:
            self._away()
            if request.fresh or self._modes is None:
                raise
            return self._alone(request, self._modes)
        self._back()
        return admission

    async def give_back(self, request: AdmitRequest, admission: Admission) -> None:
        """Return what an admission took, where it was taken."""
        if not admission.degraded:
            await self._shared.give_back(request, admission)
            return
        now = self._clock.monotonic()
        slowed = tuple(_slowed(rate) for rate in request.rates)
        for rate, state, mark in zip(slowed, admission.rates, admission.marks, strict=False):
            self._rates.give_back(rate, state, mark, now)

    async def record(
        self, target: str, health: Health, *, error: str, probe: bool, policy: CircuitPolicy
    ) -> CircuitState:
        """Tell the circuit how a call ended; while the store is away nobody is told."""
        try:
            state = await self._shared.record(
                target, health, error=error, probe=probe, policy=policy
            )
        except StoreUnavailable:
            self._away()
            return self._circuits.get(target, CircuitState(target=target))
        self._circuits[target] = state
        return state

    async def modes(self) -> tuple[ModeEntry, ...]:
        """All entries in force; the last that were known while the store is away."""
        try:
            return await self._shared.modes()
        except StoreUnavailable:
            self._away()
            if self._modes is None:
                raise
            return self._known(self._modes)

    async def circuits(self) -> tuple[CircuitState, ...]:
        """The circuits; the last that were known while the store is away."""
        try:
            return await self._shared.circuits()
        except StoreUnavailable:
            self._away()
            return tuple(self._circuits.values())

    async def rates(self, requests: tuple[Rate, ...]) -> tuple[RateState, ...]:
        """Look at limits without charging."""
        try:
            return await self._shared.rates(requests)
        except StoreUnavailable:
            self._away()
            now = self._clock.monotonic()
            # Whoever looks has slowed the scaled ones down already, as `modes` says.
            return tuple(
                self._rates.look(_slowed(rate), 1.0 if rate.scaled else SLOWER, now)
                for rate in requests
            )

    async def set_mode(self, entry: ModeEntry) -> None:
        """Only in the shared store; what was set here is known here at once."""
        await self._shared.set_mode(entry)
        await self.refresh()

    async def clear_modes(self, scope: str, sources: frozenset[ModeSource]) -> None:
        """Only in the shared store; what was lifted here is not in force here any more."""
        await self._shared.clear_modes(scope, sources)
        await self.refresh()

    async def set_circuit(
        self, state: CircuitState, *, expected_version: int
    ) -> CircuitState | None:
        """Only in the shared store."""
        return await self._shared.set_circuit(state, expected_version=expected_version)

    async def grants(self) -> tuple[Grant, ...]:
        """The elevations; while the store is away nobody is elevated."""
        try:
            return await self._shared.grants()
        except StoreUnavailable:
            self._away()
            return ()

    async def set_grant(self, grant: Grant) -> None:
        """Only in the shared store."""
        await self._shared.set_grant(grant)

    async def clear_grant(self, grant_id: str) -> bool:
        """Only in the shared store."""
        return await self._shared.clear_grant(grant_id)

    async def partitions(self) -> tuple[Partition, ...]:
        """The partition sizes; the last that were known while the store is away."""
        try:
            return await self._shared.partitions()
        except StoreUnavailable:
            self._away()
            return self._sizes(self._clock.now())

    async def set_partition(self, partition: Partition) -> None:
        """Only in the shared store."""
        await self._shared.set_partition(partition)

    async def clear_partition(self, target: str) -> bool:
        """Only in the shared store."""
        return await self._shared.clear_partition(target)

    def _alone(self, request: AdmitRequest, known: tuple[ModeEntry, ...]) -> Admission:
        at, now = self._clock.now(), self._clock.monotonic()
        entries = concerning(self._known(known), request.target, request.principal, at)
        slowdown = min(SLOWER, factor(entries, request))
        slowed = tuple(_slowed(rate) for rate in request.rates)
        rates = tuple(self._rates.look(rate, slowdown, now) for rate in slowed)
        circuit = self._circuits.get(request.target, CircuitState(target=request.target))
        sizes = self._sizes(at)
        passes = not request.use_circuit or circuit.phase is CircuitPhase.CLOSED
        granted = (
            request.take
            and passes
            and allow(entries, request)
            and all(state.allowed for state in rates)
        )
        taken = zip(slowed, rates, strict=True) if granted else ()
        return Admission(
            granted=granted,
            at=at,
            modes=entries,
            rates=rates,
            circuit=circuit,
            marks=tuple(self._rates.take(rate, state, now) for rate, state in taken),
            concurrent=next((p.size for p in sizes if p.target == request.target), None),
            degraded=True,
        )

    def _known(self, entries: tuple[ModeEntry, ...]) -> tuple[ModeEntry, ...]:
        restricted = ModeEntry(
            scope=ALL_TARGETS,
            mode=Mode.RESTRICTIVE,
            source="store",
            reason="the guard's shared store does not answer",
            author="server:mcp-ops",
            since=self.away_since or self._clock.now(),
        )
        return (*in_force(entries, self._clock.now()), restricted)

    def _sizes(self, now: float) -> tuple[Partition, ...]:
        return tuple(each for each in self._partitions if each.expires_at > now)

    def _away(self) -> None:
        if self.away_since is None:
            self.away_since = self._clock.now()
            _log.error("the shared hot store is away: reads go on restricted, writes are refused")

    def _back(self) -> None:
        if self.away_since is not None:
            self.away_since = None
            _log.warning("the shared hot store answers again")

    async def _refresh_often(self, interval_s: float) -> None:
        while True:
            await anyio.sleep(interval_s)
            await self.refresh()


def _slowed(rate: Rate) -> Rate:
    return replace(rate, scaled=True)
