"""The embedded hot store: what every call needs, without the disk for a read.

Rates are counted in this process's memory. Modes and circuits are in the file, shared by all
processes. An admission is decided on a snapshot of them in memory, which own changes update at
once and a background task updates within half a second when another process wrote; a write looks
itself whether one did. What starts a probe is decided on the file, in one transaction. All state
in memory is touched by the event loop's thread only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import anyio

from mcp_ops.errors import Health, StoreUnavailable
from mcp_ops.ports import (
    Admission,
    AdmitRequest,
    CircuitPhase,
    CircuitPolicy,
    CircuitState,
    Grant,
    ModeEntry,
    ModeSource,
    Partition,
    Rate,
    RateState,
)
from mcp_ops.stores.background import running
from mcp_ops.stores.modes import allow, concerning, factor, in_force
from mcp_ops.stores.rates import RateTable
from mcp_ops.stores.sqlite import circuits, grants, modes, partitions
from mcp_ops.stores.sqlite.circuits import Change, Circuit, Decision, Window
from mcp_ops.stores.sqlite.database import Database
from mcp_ops.stores.sqlite.snapshot import Snapshot

REFRESH_S = 0.5


class _Look(NamedTuple):
    """What this process's memory says about a request."""

    at: float
    monotonic: float
    modes: tuple[ModeEntry, ...]
    rates: tuple[RateState, ...]
    circuit: Circuit
    decision: Decision
    allowed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """What the file said, in the transaction that took it or did not."""

    granted: bool
    at: float
    modes: tuple[ModeEntry, ...]
    circuit: Circuit
    probe: bool


class HotStore:
    """Modes, limits and circuits. Made by `open`."""

    def __init__(self, database: Database, floor: tuple[ModeEntry, ...] = ()) -> None:
        self._database = database
        self._floor = floor
        self._time = database.time
        self._rates = RateTable()
        self._windows: dict[str, Window] = {}
        self._snapshot = Snapshot(database)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        database: Database,
        *,
        floor: tuple[ModeEntry, ...] = (),
        refresh_s: float = REFRESH_S,
    ) -> AsyncIterator[HotStore]:
        """Open the store in a database; other processes' changes are looked for all `refresh_s`.

        `floor` are modes of this process alone, which nobody can change (its environment's).

        Raises `StoreUnavailable`.
        """
        store = cls(database, floor)
        async with store._snapshot.opened(), running(lambda: store._refresh_often(refresh_s)):
            yield store

    async def admit(self, request: AdmitRequest) -> Admission:
        """Look at everything and, if asked and allowed, take it: atomically.

        `allowed` of rates is as it was looked at, before the charge.
        Raises `StoreUnavailable` when the file can't be written or has not been readable for
        five seconds: a lockdown may be in it.
        """
        self._snapshot.check()
        if request.fresh:
            for circuit in await self._snapshot.look_now():
                self._adopt(circuit)
        look = self._look(request)
        takes = request.take and look.allowed
        if takes and look.decision == "probe":
            with anyio.CancelScope(shield=True):  # else what was taken could never be given back
                return await self._take_in_file(request, look)
        return Admission(
            granted=takes,
            at=look.at,
            modes=look.modes,
            rates=self._charged(request, look) if takes else look.rates,
            circuit=look.circuit.seen(look.at),
            marks=self._charge(request, look) if takes else (),
            concurrent=self._size(request.target, look.at),
        )

    async def give_back(self, request: AdmitRequest, admission: Admission) -> None:
        """Return what an admission took: the call did not reach the target."""
        if not admission.granted:
            return
        self._refund(request, admission.rates, admission.marks)
        if admission.probe:
            with anyio.CancelScope(shield=True):
                await self._change(request.target, lambda c: circuits.untouched(c, probe=True))

    async def record(
        self, target: str, health: Health, *, error: str, probe: bool, policy: CircuitPolicy
    ) -> CircuitState:
        """Tell the circuit how a call ended; only what changes it goes to the file."""
        known = self._snapshot.circuit(target)
        if health is Health.UNTOUCHED:
            if not probe:
                return known.seen(self._time.now())
            return await self._change(target, lambda c: circuits.untouched(c, probe=True))
        failure = health is Health.FAILED
        share = ""
        if known.state.phase is CircuitPhase.CLOSED:  # a late answer says nothing of later calls
            window = self._windows.setdefault(target, Window())
            share = window.add(failure=failure, now=self._time.monotonic(), policy=policy)
        if not failure:
            if not probe and not known.state.failures:
                return known.seen(self._time.now())
            return await self._change(target, lambda c: circuits.answered(c, probe=probe))
        return await self._change(
            target,
            lambda c: circuits.failed(
                c, probe=probe, error=error, now=self._time.now(), policy=policy, share=share
            ),
        )

    async def modes(self) -> tuple[ModeEntry, ...]:
        """All entries in force, as they are in the file."""
        # A few rows, which each write looks at: a worker thread would cost more than the look.
        found = self._database.read_now(modes.load)
        return in_force((*self._floor, *found), self._time.now())

    async def set_mode(self, entry: ModeEntry) -> None:
        """Put an entry above those of its scope and source."""

        def job(connection: sqlite3.Connection) -> tuple[ModeEntry, ...]:
            modes.put(connection, entry, self._time.now())
            return modes.load(connection)

        self._snapshot.adopt_modes(await self._database.write(job))

    async def clear_modes(self, scope: str, sources: frozenset[ModeSource]) -> None:
        """Remove a scope's entries of these sources."""

        def job(connection: sqlite3.Connection) -> tuple[ModeEntry, ...]:
            modes.clear(connection, scope, sources)
            return modes.load(connection)

        self._snapshot.adopt_modes(await self._database.write(job))

    async def circuits(self) -> tuple[CircuitState, ...]:
        """The circuits of all targets that had one, as they are in the file."""
        found = await self._database.read(circuits.load_all)
        return tuple(circuit.seen(self._time.now()) for circuit in found.values())

    async def set_circuit(
        self, state: CircuitState, *, expected_version: int
    ) -> CircuitState | None:
        """Compare and set; None when it changed meanwhile."""

        def job(connection: sqlite3.Connection) -> Circuit | None:
            if circuits.load(connection, state.target).state.version != expected_version:
                return None
            until = self._time.now() + circuits.PROBE_S if state.probing else None
            changed = Circuit(state=replace(state, version=expected_version + 1), probe_until=until)
            circuits.save(connection, changed)
            return changed

        changed = await self._database.write(job)
        if changed is None:
            return None
        self._windows.pop(state.target, None)  # what was set by hand starts anew
        return self._adopt(changed)

    async def rates(self, requests: tuple[Rate, ...]) -> tuple[RateState, ...]:
        """Look at limits at their full rate, without charging."""
        now = self._time.monotonic()
        return tuple(self._rates.look(rate, 1.0, now) for rate in requests)

    async def partitions(self) -> tuple[Partition, ...]:
        """The partition sizes in force, as they are in the file."""
        return partitions.in_force(await self._database.read(partitions.load), self._time.now())

    async def set_partition(self, partition: Partition) -> None:
        """Set a partition's size, in the place of the one set before."""

        def job(connection: sqlite3.Connection) -> tuple[Partition, ...]:
            partitions.put(connection, partition, self._time.now())
            return partitions.load(connection)

        self._snapshot.adopt_partitions(await self._database.write(job))

    async def clear_partition(self, target: str) -> bool:
        """Return to the configured size; false if it is in force already."""

        def job(connection: sqlite3.Connection) -> tuple[bool, tuple[Partition, ...]]:
            cleared = partitions.clear(connection, target, self._time.now())
            return cleared, partitions.load(connection)

        cleared, left = await self._database.write(job)
        self._snapshot.adopt_partitions(left)
        return cleared

    def _size(self, target: str, at: float) -> int | None:
        return partitions.size_of(self._snapshot.partitions, target, at)

    async def grants(self) -> tuple[Grant, ...]:
        """The elevations in force, as they are in the file."""
        return self._database.read_now(lambda c: grants.load(c, self._time.now()))

    async def set_grant(self, grant: Grant) -> None:
        """Add an elevation."""
        await self._database.write(lambda c: grants.put(c, grant, self._time.now()))

    async def clear_grant(self, grant_id: str) -> bool:
        """End an elevation; false if there is none with this id."""
        return await self._database.write(lambda c: grants.end(c, grant_id, self._time.now()))

    def _look(self, request: AdmitRequest) -> _Look:
        at, monotonic = self._snapshot.now(), self._time.monotonic()
        entries = (*self._floor, *self._snapshot.modes)
        applying = concerning(entries, request.target, request.principal, at)
        slowdown = factor(applying, request)
        rates = tuple(self._rates.look(rate, slowdown, monotonic) for rate in request.rates)
        circuit = self._snapshot.circuit(request.target)
        decision = circuits.decide(circuit, at) if request.use_circuit else "pass"
        allowed = (
            allow(applying, request)
            and all(state.allowed for state in rates)
            and decision != "refuse"
        )
        return _Look(at, monotonic, applying, rates, circuit, decision, allowed)

    async def _take_in_file(self, request: AdmitRequest, look: _Look) -> Admission:
        # Rates are charged first: nobody else can take the same units while the file is written.
        marks = self._charge(request, look)
        granted = False
        try:
            taken = await self._database.write(lambda c: self._take(c, request))
            granted = taken.granted
        finally:
            if not granted:
                self._refund(request, look.rates, marks)
        self._snapshot.adopt_modes(taken.modes)
        return Admission(
            granted=granted,
            at=taken.at,
            modes=concerning(
                (*self._floor, *taken.modes), request.target, request.principal, taken.at
            ),
            rates=self._charged(request, look) if granted else look.rates,
            circuit=self._adopt(taken.circuit),
            probe=taken.probe,
            marks=marks if granted else (),
            concurrent=self._size(request.target, taken.at),
        )

    def _take(self, connection: sqlite3.Connection, request: AdmitRequest) -> _Taken:
        now = self._time.now()
        entries = modes.load(connection)
        circuit = circuits.load(connection, request.target)
        decision = circuits.decide(circuit, now) if request.use_circuit else "pass"
        mine = concerning((*self._floor, *entries), request.target, request.principal, now)
        granted = allow(mine, request) and decision != "refuse"
        probe = granted and decision == "probe"
        if probe:
            circuit = circuits.start_probe(circuit, now)
            circuits.save(connection, circuit)
        return _Taken(granted=granted, at=now, modes=entries, circuit=circuit, probe=probe)

    def _charge(self, request: AdmitRequest, look: _Look) -> tuple[float, ...]:
        pairs = zip(request.rates, look.rates, strict=True)
        return tuple(self._rates.take(rate, state, look.monotonic) for rate, state in pairs)

    def _charged(self, request: AdmitRequest, look: _Look) -> tuple[RateState, ...]:
        pairs = zip(request.rates, look.rates, strict=True)
        return tuple(s.less(rate.cost) for rate, s in pairs)

    def _refund(
        self, request: AdmitRequest, states: tuple[RateState, ...], marks: tuple[float, ...]
    ) -> None:
        now = self._time.monotonic()
        for rate, state, mark in zip(request.rates, states, marks, strict=True):
            self._rates.give_back(rate, state, mark, now)

    async def _change(self, target: str, change: Change) -> CircuitState:
        def job(connection: sqlite3.Connection) -> Circuit:
            before = circuits.load(connection, target)
            after = change(before)
            if after is not before:
                circuits.save(connection, after)
            return after

        return self._adopt(await self._database.write(job))

    def _adopt(self, circuit: Circuit) -> CircuitState:
        self._snapshot.adopt(circuit)
        if circuit.state.phase is not CircuitPhase.CLOSED:
            self._windows.pop(circuit.state.target, None)
        return circuit.seen(self._time.now())

    async def _refresh_often(self, interval_s: float) -> None:
        while True:
            await anyio.sleep(interval_s)
            try:
                changed = await self._snapshot.refresh()
            except StoreUnavailable:
                continue  # the snapshot counts the misses; `admit` asks it
            for circuit in changed:
                self._adopt(circuit)
