"""The shared hot store: one script, one round trip and one atomic step a method.

The server's clock decides. Nothing that a call is admitted on is kept in this process, so that a
lockdown holds at once everywhere. Only good news is: an answer of a target whose circuit is known
to be closed and without failures is counted with a later call, at most once a second, because it
would cost every read a second round trip. A process that dies forgets those, and a circuit then
opens a little earlier.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mcp_ops.clock import Clock
from mcp_ops.errors import Health, StoreUnavailable
from mcp_ops.ports import (
    ALL_TARGETS,
    PRINCIPAL_SCOPE,
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
from mcp_ops.stores.redis import scripts, shapes
from mcp_ops.stores.redis.connection import Script
from mcp_ops.stores.redis.facts import Book
from mcp_ops.stores.redis.server import Server
from mcp_ops.stores.redis.shapes import Item, Reader

_ERROR_CHARACTERS = 300
_FLUSH_S = 1.0
_FRACTIONS = 240
_LOOSER = frozenset({"set_grant", "set_partition"})

_ADMIT, _GIVE_BACK = Script(scripts.ADMIT), Script(scripts.GIVE_BACK)
_RATES, _RECORD = Script(scripts.RATES), Script(scripts.RECORD)
_LOOK, _CHANGE = Script(scripts.LOOK), Script(scripts.CHANGE)


class _Target:
    """What this process knows of a target's circuit, and the answers that are not counted yet."""

    __slots__ = ("_answers", "circuit", "policy")

    def __init__(self, circuit: CircuitState) -> None:
        self.circuit = circuit
        self.policy = CircuitPolicy()
        self._answers: list[list[float]] = []  # [monotonic, how many], oldest first

    def answered(self, now: float, policy: CircuitPolicy) -> None:
        """Note an answer, with its time to a fraction of the window's slots."""
        self.policy = policy
        if not self._answers or now >= self._answers[-1][0] + policy.window_s / _FRACTIONS:
            self._answers.append([now, 0])
            del self._answers[:-_FRACTIONS]
        self._answers[-1][1] += 1

    def due(self, now: float) -> bool:
        """Whether some have waited for long enough."""
        return bool(self._answers) and now - self._answers[0][0] >= _FLUSH_S

    def take(self, now: float) -> list[tuple[int, int]]:
        """Those to count: microseconds ago, and how many."""
        answers, self._answers = self._answers, []
        return [(round((now - at) * 1e6), int(many)) for at, many in answers]


class RedisHotStore:
    """Modes, limits, circuits, elevations and partitions in Redis. Made by `open_hot`.

    Every method raises `StoreUnavailable` when Redis does not take it, within about a second.
    A charge whose answer was lost may stand; a probe whose answer was lost is given up after a
    minute. A change by a person is kept as a fact before Redis is asked.
    """

    def __init__(
        self, server: Server, book: Book, clock: Clock, floor: tuple[ModeEntry, ...]
    ) -> None:
        self._server = server
        self._book = book
        self._clock = clock
        self._floor = floor
        self._targets: dict[str, _Target] = {}

    @property
    def losses(self) -> int:
        """How often this process found that Redis had lost the data."""
        return self._server.losses

    async def admit(self, request: AdmitRequest) -> Admission:
        """Look at everything and, if asked and allowed, take it: one script, one round trip.

        `allowed` of rates is as it was looked at, before the charge.
        """
        floor = self._floor_for(request)
        factors = {mode.value: factor for mode, factor in request.rate_factors.items()}
        known, now = self._known(request.target), self._clock.monotonic()
        found = await self._server.run(
            _ADMIT,
            {
                "target": request.target,
                "scope": PRINCIPAL_SCOPE + request.principal,
                "take": request.take,
                "blocked": any(entry.mode not in request.modes_allowed for entry in floor),
                "factor": min((factors.get(e.mode.value, 1.0) for e in floor), default=1.0),
                "allowed": {mode.value: True for mode in request.modes_allowed},
                "factors": factors,
                "rates": shapes.rates(request.rates),
                "use_circuit": request.use_circuit,
                "answered": known.take(now) if known.due(now) else [],
                "policy": shapes.policy(known.policy),
            },
            [self._window(request.target), *self._rate_keys(request.rates)],
        )
        reader = self._reader(found)
        return Admission(
            granted=found["granted"],
            at=reader.at,
            modes=(*floor, *reader.modes(found["modes"])),
            rates=shapes.rate_states(request.rates, found["rates"]),
            circuit=self._learn(reader.circuit(found["circuit"])),
            probe=found["probe"],
            marks=tuple(float(mark) for mark in found["marks"]),
            concurrent=found.get("concurrent"),
        )

    async def give_back(self, request: AdmitRequest, admission: Admission) -> None:
        """Return what an admission took: the call did not reach the target."""
        if not admission.granted or not (request.rates or admission.probe):
            return
        pairs = zip(request.rates, admission.rates, strict=True)
        await self._server.run(
            _GIVE_BACK,
            {
                "target": request.target,
                "probe": admission.probe,
                "marks": [f"{mark:.0f}" for mark in admission.marks],
                "rates": [{"cost": r.cost, "limit": s.limit_per_minute} for r, s in pairs],
            },
            self._rate_keys(request.rates),
        )

    async def record(
        self, target: str, health: Health, *, error: str, probe: bool, policy: CircuitPolicy
    ) -> CircuitState:
        """Tell the circuit how a call ended; only what may change it is a round trip."""
        known = self._known(target)
        if health is Health.UNTOUCHED and not probe:
            return known.circuit
        healthy = known.circuit.phase is CircuitPhase.CLOSED and not known.circuit.failures
        if health is Health.ANSWERED and not probe and healthy:
            known.answered(self._clock.monotonic(), policy)
            return known.circuit
        answered = known.take(self._clock.monotonic())
        return await self._tell(
            target, health, error=error, probe=probe, policy=policy, answered=answered
        )

    async def modes(self) -> tuple[ModeEntry, ...]:
        """All entries in force."""
        found = await self._server.run(_LOOK, {})
        floor = self._in_force(self._floor)
        return (*floor, *self._reader(found).modes(found["modes"]))

    async def set_mode(self, entry: ModeEntry) -> None:
        """Put an entry above those of its scope and source."""
        # What usage says is found out again by itself: no fact.
        name = "" if entry.source == "usage" else self._book.name("mode")
        await self._set("set_mode", shapes.item(entry, ahead=await self._ahead(), fact=name))

    async def clear_modes(self, scope: str, sources: frozenset[ModeSource]) -> None:
        """Remove a scope's entries of these sources."""
        await self._change("clear_modes", scope=scope, sources=dict.fromkeys(sources, True))

    async def circuits(self) -> tuple[CircuitState, ...]:
        """The circuits of all targets that had one."""
        found = await self._server.run(_LOOK, {})
        reader = self._reader(found)
        states = (self._learn(reader.circuit(raw)) for raw in found["circuits"])
        return tuple(sorted(states, key=lambda state: state.target))

    async def set_circuit(
        self, state: CircuitState, *, expected_version: int
    ) -> CircuitState | None:
        """Compare and set; None when it changed meanwhile."""
        isolates = state.phase is CircuitPhase.ISOLATED
        name = self._book.name("circuit") if isolates else ""
        item = shapes.item(state, ahead=await self._ahead(), fact=name)
        item["version"] = expected_version
        found = await self._set("set_circuit", item, expected=expected_version)
        if not found["done"]:
            await self._book.drop([name] if name else [])
            return None
        self._known(state.target).take(0.0)  # what was set by hand starts anew
        return self._learn(self._reader(found).circuit(found["circuit"]))

    async def rates(self, requests: tuple[Rate, ...]) -> tuple[RateState, ...]:
        """Look at limits at their full rate, without charging."""
        ask = {"rates": shapes.rates(requests)}
        found = await self._server.run(_RATES, ask, self._rate_keys(requests))
        return shapes.rate_states(requests, found["rates"])

    async def grants(self) -> tuple[Grant, ...]:
        """The elevations in force."""
        found = await self._server.run(_LOOK, {})
        grants = map(self._reader(found).grant, found["grants"])
        return tuple(sorted(grants, key=lambda grant: (grant.since, grant.id)))

    async def set_grant(self, grant: Grant) -> None:
        """Add an elevation."""
        name = self._book.name("grant")
        await self._set("set_grant", shapes.item(grant, ahead=await self._ahead(), fact=name))

    async def clear_grant(self, grant_id: str) -> bool:
        """End an elevation; false if there is none with this id."""
        # The fact goes first: what is ended here must never be restored.
        items = (await self._book.items())["grants"]
        await self._book.drop(item["fact"] for item in items if item["id"] == grant_id)
        return bool((await self._change("clear_grant", field=grant_id))["done"])

    async def partitions(self) -> tuple[Partition, ...]:
        """The partition sizes that people set, in force."""
        found = await self._server.run(_LOOK, {})
        sizes = map(self._reader(found).partition, found["partitions"])
        return tuple(sorted(sizes, key=lambda size: size.target))

    async def set_partition(self, partition: Partition) -> None:
        """Set a partition's size, in the place of the one set before."""
        name = self._book.name("partition")
        await self._set(
            "set_partition", shapes.item(partition, ahead=await self._ahead(), fact=name)
        )

    async def clear_partition(self, target: str) -> bool:
        """Return to the configured size; false if it is in force already."""
        return bool((await self._change("clear_partition", field=target))["done"])

    async def _tell(
        self,
        target: str,
        health: Health,
        *,
        error: str,
        probe: bool,
        policy: CircuitPolicy,
        answered: Sequence[tuple[int, int]] = (),
    ) -> CircuitState:
        """Record one outcome at the server, and `answered` calls that nobody counted yet."""
        ask = {
            "target": target,
            "health": health.value,
            "error": error[:_ERROR_CHARACTERS],
            "probe": probe,
            "policy": shapes.policy(policy),
            "answered": answered,
        }
        found = await self._server.run(_RECORD, ask, [self._window(target)])
        return self._learn(self._reader(found).circuit(found["circuit"]))

    async def _set(self, what: str, item: Item, **more: object) -> Item:
        """A change that puts an item: durable as a fact before Redis has it."""
        if "fact" not in item:
            return await self._change(what, item=item, **more)
        await self._book.keep(item)
        try:
            return await self._change(what, item=item, **more)
        except StoreUnavailable:
            # Nobody was told that it holds. What is stricter may come to life after a loss, and
            # must if Redis has it after all; what is looser never.
            if what in _LOOSER:
                await self._book.drop([item["fact"]])
            raise

    async def _change(self, what: str, **ask: object) -> Item:
        item = ask.get("item")
        target = item.get("target", "") if isinstance(item, dict) else ""
        found: Item = await self._server.run(_CHANGE, {"what": what, **ask}, [self._window(target)])
        await self._book.drop(found["gone"] or ())
        return found

    async def _ahead(self) -> float:
        """Seconds by which the server's clock is ahead of ours: a person's expiry is in ours."""
        return self._reader(await self._server.look()).ahead

    def _reader(self, found: Item) -> Reader:
        return Reader(found["at"], self._clock.now())

    def _known(self, target: str) -> _Target:
        if target not in self._targets:
            self._targets[target] = _Target(CircuitState(target=target))
        return self._targets[target]

    def _learn(self, state: CircuitState) -> CircuitState:
        known = self._known(state.target)
        known.circuit = state
        if state.phase is not CircuitPhase.CLOSED:
            known.take(0.0)  # the window begins anew
        return state

    def _in_force(self, entries: Iterable[ModeEntry]) -> tuple[ModeEntry, ...]:
        now = self._clock.now()
        return tuple(e for e in entries if e.expires_at is None or e.expires_at > now)

    def _floor_for(self, request: AdmitRequest) -> tuple[ModeEntry, ...]:
        scopes = (request.target, ALL_TARGETS, PRINCIPAL_SCOPE + request.principal)
        return tuple(entry for entry in self._in_force(self._floor) if entry.scope in scopes)

    def _window(self, target: str) -> str:
        return self._server.key("window", target)

    def _rate_keys(self, rates: Iterable[Rate]) -> list[str]:
        return [self._server.key("rate", rate.key) for rate in rates]
