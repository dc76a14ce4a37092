"""The protocols and records that guard, stores and tools share: what a store must be able to do.

Everything is in the guard's words and fits an embedded SQLite file as well as Redis and
PostgreSQL: one method is one atomic operation of the backend. Times are Unix seconds of the
store's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from mcp_ops.errors import Health


class Port(Protocol):
    """What the server itself offers to a tool, in the place of a target's capability."""


class Mode(StrEnum):
    """How much of a target an agent may use; later ones are stricter in most columns."""

    NORMAL = "normal"
    RESTRICTIVE = "restrictive"
    CRITICAL = "critical"
    READ_ONLY = "read_only"
    LOCKDOWN = "lockdown"


ALL_TARGETS = "*"
OWN_TARGET = "mcp-ops"

# A scope that starts with this is a principal's: the mode holds for its calls on every target.
PRINCIPAL_SCOPE = "principal:"

ModeSource = Literal["environment", "operator", "agent", "usage", "runaway", "store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeEntry:
    """A mode for one target, for all (`*`) or for a principal's calls, with who set it, why and
    until when.

    Of the entries of one scope and source the newest that has not expired is in force: when it
    expires, the one that it took the place of returns. `lifts` means that a stricter one is to
    return at `expires_at`: what an agent sets meanwhile does not outlast it.
    """

    scope: str
    mode: Mode
    source: ModeSource
    reason: str
    author: str
    since: float
    expires_at: float | None = None
    lifts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A GCRA limit to charge. `per_minute` is the full rate; `scaled` means the target's mode
    scales it. `cost` units are taken at once; `burst` units may be taken in one instant."""

    key: str
    name: str
    per_minute: float
    burst: int
    cost: int = 1
    scaled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RateState:
    """What a limit says: whether it would admit, what is left, and in how many seconds it would."""

    name: str
    allowed: bool
    remaining: int
    limit_per_minute: float
    retry_after_s: float

    def less(self, cost: int) -> RateState:
        """The same after a charge, for which it was looked at."""
        return RateState(
            name=self.name,
            allowed=self.allowed,
            remaining=max(0, self.remaining - cost),
            limit_per_minute=self.limit_per_minute,
            retry_after_s=self.retry_after_s,
        )


class CircuitPhase(StrEnum):
    """Closed lets calls pass, open refuses, half-open lets one probe pass, isolated stays shut."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitPolicy:
    """When a circuit opens: failures in a row, or a share of the calls in a window."""

    consecutive: int = 3
    ratio: float = 0.5
    minimum_calls: int = 10
    window_s: float = 60.0
    open_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitState:
    """A target's circuit. `version` grows with each change: resets compare and set it."""

    target: str
    phase: CircuitPhase = CircuitPhase.CLOSED
    failures: int = 0
    opened_at: float | None = None
    retry_at: float | None = None
    last_error: str = ""
    by: str = ""
    reason: str = ""
    probing: bool = False
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitRequest:
    """What one call wants from the hot store.

    `take` false looks without charging anything. `modes_allowed` and `rate_factors` let the store
    decide on its own state in one atomic step. `use_circuit` false passes by the circuit
    (recovery), and its outcome is still recorded. `fresh` is set by writes: the decision is made
    on what the store holds at this moment, never on a copy in memory.
    """

    call_id: str
    target: str
    principal: str
    take: bool
    modes_allowed: frozenset[Mode]
    rate_factors: Mapping[Mode, float]
    rates: tuple[Rate, ...] = ()
    use_circuit: bool = True
    fresh: bool = False
    circuit: CircuitPolicy = field(default_factory=CircuitPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The store's answer: the snapshot that the checks look at, and whether it was taken.

    `granted` is true only if everything allowed it and `take` was asked. `probe` means that this
    call is the one probe of a half-open circuit. `marks` is the store's own note of what it
    charged, one for each rate, for `give_back`. `modes` are those in force for the target and the
    principal. `concurrent` is the size that a person gave the target's partition for a while.
    `degraded` says that the shared store did not answer and a local, stricter guard did.
    """

    granted: bool
    at: float
    modes: tuple[ModeEntry, ...]
    rates: tuple[RateState, ...]
    circuit: CircuitState
    probe: bool = False
    marks: tuple[float, ...] = ()
    concurrent: int | None = None
    degraded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An elevation: for a while, and for one incident, calls that match need less than the policy
    asks. `principal`, `tool` and `target` are globs; a deny, a freeze or a mode is not lifted."""

    id: str
    principal: str
    tool: str
    target: str
    require: Literal["none", "confirm"]
    incident: str
    reason: str
    author: str
    since: float
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A size that a person gave a target's bulkhead partition, until it expires."""

    target: str
    size: int
    reason: str
    author: str
    since: float
    expires_at: float


class HotStore(Protocol):
    """State that every call needs: modes, limits, budgets, circuits. One call, one round trip."""

    async def admit(self, request: AdmitRequest) -> Admission:
        """Look at everything and, if asked and allowed, take it: atomically."""
        ...

    async def give_back(self, request: AdmitRequest, admission: Admission) -> None:
        """Return what an admission took: the call did not reach the target."""
        ...

    async def record(
        self, target: str, health: Health, *, error: str, probe: bool, policy: CircuitPolicy
    ) -> CircuitState:
        """Tell the circuit how a call ended; `untouched` gives a probe back and changes nothing."""
        ...

    async def modes(self) -> tuple[ModeEntry, ...]:
        """All entries in force."""
        ...

    async def set_mode(self, entry: ModeEntry) -> None:
        """Put an entry above those of its scope and source.

        One without an expiry takes their place for good; one with an expiry lets those that
        outlast it return. At most eight are kept.
        """
        ...

    async def clear_modes(self, scope: str, sources: frozenset[ModeSource]) -> None:
        """Remove a scope's entries of these sources."""
        ...

    async def circuits(self) -> tuple[CircuitState, ...]:
        """The circuits of all targets that had one."""
        ...

    async def set_circuit(
        self, state: CircuitState, *, expected_version: int
    ) -> CircuitState | None:
        """Compare and set; None when it changed meanwhile."""
        ...

    async def rates(self, requests: tuple[Rate, ...]) -> tuple[RateState, ...]:
        """Look at limits without charging."""
        ...

    async def grants(self) -> tuple[Grant, ...]:
        """The elevations in force."""
        ...

    async def set_grant(self, grant: Grant) -> None:
        """Add an elevation."""
        ...

    async def clear_grant(self, grant_id: str) -> bool:
        """End an elevation; false if there is none with this id."""
        ...

    async def partitions(self) -> tuple[Partition, ...]:
        """The partition sizes that people set, in force."""
        ...

    async def set_partition(self, partition: Partition) -> None:
        """Set a partition's size, in the place of the one set before."""
        ...

    async def clear_partition(self, target: str) -> bool:
        """Return to the configured size; false if it is in force already."""
        ...
