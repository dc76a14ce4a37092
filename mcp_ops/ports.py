"""The protocols and records that guard, stores and tools share: what a store must be able to do.

Everything is in the guard's words and fits an embedded SQLite file as well as Redis and
PostgreSQL: one method is one atomic operation of the backend. Times are Unix seconds of the
store's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

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

ModeSource = Literal["environment", "operator", "agent", "usage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeEntry:
    """A mode in force for one target or for all (`*`), with who set it, why and until when.

    There is at most one entry for a scope and a source.
    """

    scope: str
    mode: Mode
    source: ModeSource
    reason: str
    author: str
    since: float
    expires_at: float | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """An action budget: at most `limit` writes with this key in any `window_s` seconds."""

    key: str
    name: str
    limit: int
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetState:
    """What an action budget says now. `frees_at` is when the oldest use leaves the window."""

    name: str
    limit: int
    used: int
    frees_at: float | None

    @property
    def allowed(self) -> bool:
        """Whether one more fits."""
        return self.used < self.limit


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
    (recovery), and its outcome is still recorded.
    """

    call_id: str
    target: str
    principal: str
    take: bool
    modes_allowed: frozenset[Mode]
    rate_factors: Mapping[Mode, float]
    rates: tuple[Rate, ...] = ()
    budgets: tuple[Budget, ...] = ()
    use_circuit: bool = True
    circuit: CircuitPolicy = field(default_factory=CircuitPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The store's answer: the snapshot that the checks look at, and whether it was taken.

    `granted` is true only if everything allowed it and `take` was asked. `probe` means that this
    call is the one probe of a half-open circuit. `marks` is the store's own note of what it
    charged, one for each rate, for `give_back`.
    """

    granted: bool
    at: float
    modes: tuple[ModeEntry, ...]
    rates: tuple[RateState, ...]
    budgets: tuple[BudgetState, ...]
    circuit: CircuitState
    probe: bool = False
    marks: tuple[float, ...] = ()


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
        """Put an entry in the place of the one with its scope and source."""
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

    async def budgets(self, requests: tuple[Budget, ...]) -> tuple[BudgetState, ...]:
        """Look at budgets without charging."""
        ...


class EntryKind(StrEnum):
    """What a line of the ledger says."""

    BEGAN = "began"
    ENDED = "ended"
    CHANGED = "changed"


Verdict = Literal["ok", "refused", "invalid", "asked", "failed", "unknown", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the ledger; redacted before it is made. `began` opens a write, `ended` closes
    a call (every call has exactly one), `changed` is a change of the guard by a person or rule."""

    kind: EntryKind
    call_id: str
    at: float
    tool: str
    target: str = ""
    object: str = ""
    principal: str = ""
    client: str = ""
    channel: str = ""
    era: str = ""
    effect: str = ""
    dry_run: bool = False
    digest: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    policy: str = ""
    approval: str = ""
    verdict: Verdict | Literal[""] = ""
    code: str = ""
    outcome: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    upstream_calls: int = 0
    duration_ms: float | None = None
    trace_id: str = ""
    parent: str = ""
    seq: int = 0


OperationState = Literal["running", "waiting", "done", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A write under its key. `answer` is the JSON that the caller got or will get again.

    A running operation whose `lease_until` has passed lost its process: its truth is unknown.
    """

    id: str
    key: str
    digest: str
    principal: str
    tool: str
    target: str
    state: OperationState
    started_at: float
    lease_until: float
    ended_at: float | None = None
    outcome: str = ""
    answer: str = ""
    progress: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Which ledger lines; empty fields select everything. Newest first, `before_seq` pages."""

    since: float | None = None
    until: float | None = None
    principal: str = ""
    tool: str = ""
    target: str = ""
    verdict: str = ""
    trace_id: str = ""
    call_id: str = ""
    before_seq: int | None = None
    limit: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Upstream calls of one tool and principal in a window."""

    tool: str
    principal: str
    calls: int
    upstream_calls: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a walk over the ledger's hash chain found."""

    ok: bool
    entries: int
    problem: str = ""
    first_bad_seq: int | None = None


class Ledger(Protocol):
    """The record of every call, hash-chained, and the operations under their keys."""

    async def begin(self, entry: Entry, operation: Operation) -> Operation | None:
        """Durably write the intent and claim the key in one step.

        Answers the operation that holds the key when there is one (then nothing is written).
        An expired lease is first turned into `unknown`.
        """
        ...

    async def end(self, entry: Entry, operation: Operation | None, *, keep: bool) -> None:
        """Durably write the end; `keep` false frees the key, because nothing was executed."""
        ...

    def note(self, entry: Entry) -> None:
        """Add a line that is written within a second, in a batch: reads and refusals."""
        ...

    async def change(self, entry: Entry) -> None:
        """Durably add a line on a change of the guard."""
        ...

    async def renew(self, operation_id: str, lease_until: float, progress: str) -> None:
        """Keep a running operation's lease."""
        ...

    async def find_operation(self, key: str) -> Operation | None:
        """The operation under a key, unless it is older than its retention."""
        ...

    async def get_operation(self, operation_id: str) -> Operation | None:
        """An operation by id."""
        ...

    async def search(self, query: AuditQuery) -> list[Entry]:
        """Lines, newest first."""
        ...

    async def spent(self, since: float, limit: int) -> list[Spent]:
        """Who spent the most upstream calls since then."""
        ...

    async def verify(self) -> Verification:
        """Walk the chain."""
        ...


ApprovalState = Literal["pending", "approved", "denied", "redeemed", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A question to a person, bound to principal, tool, target, digest and policy; used once.

    `kind` "confirm" is asked through the caller's client, "approve" of a person elsewhere.
    """

    id: str
    kind: Literal["confirm", "approve"]
    state: ApprovalState
    principal: str
    tool: str
    target: str
    digest: str
    policy: str
    message: str
    arguments: Mapping[str, Any]
    reason: str
    created_at: float
    expires_at: float
    decided_by: str = ""
    decided_at: float | None = None
    note: str = ""


class Approvals(Protocol):
    """Questions and answers. Each change is a compare-and-set on the state."""

    async def ask(self, approval: Approval, *, max_pending: int) -> Approval | None:
        """Add a pending question, or answer the one that is pending or approved for the same
        binding and kind; None when this principal has too many pending."""
        ...

    async def decide(
        self, approval_id: str, *, approved: bool, by: str, note: str, at: float
    ) -> Approval | None:
        """Approve or deny a pending question; None when it is not pending any more."""
        ...

    async def redeem(
        self, approval_id: str, *, principal: str, digest: str, policy: str, at: float
    ) -> bool:
        """Use an approved question for exactly this call; true once."""
        ...

    async def get(self, approval_id: str) -> Approval | None:
        """One question; expired ones say so."""
        ...

    async def denied(self, *, principal: str, digest: str) -> Approval | None:
        """The question about this call, of either kind, that was denied a short time ago."""
        ...

    async def recent(self, limit: int) -> list[Approval]:
        """Pending ones first, then the newest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedOperation:
    """A write of this server that failed without effect: an item of the embedded queue."""

    id: str
    operation: str
    failure_type: str
    error: str
    target: str
    principal: str
    arguments: Mapping[str, Any]
    failed_at: float
    attempts: int = 0
    last_retry: float | None = None
    resolved: bool = False
    notes: str = ""
    holder: str = ""


class FailedOperations(Protocol):
    """The embedded dead-letter queue: bounded, with a retention. Exports keep discarded items."""

    async def add(self, item: FailedOperation) -> None:
        """Add an item; the oldest goes when the queue is full."""
        ...

    async def count(self) -> int:
        """How many wait."""
        ...

    async def page(self, *, after: str, limit: int) -> list[FailedOperation]:
        """Newest first, after the item with this id."""
        ...

    async def get(self, item_id: str) -> FailedOperation | None:
        """One item."""
        ...

    async def hold(self, item_id: str, holder: str, until: float) -> FailedOperation | None:
        """Take an item for a retry; None when it is gone or another retry holds it."""
        ...

    async def finish(self, item_id: str, *, resolved: bool, note: str, at: float) -> None:
        """End a retry: resolved items leave the queue, others count one more attempt."""
        ...

    async def discard(self, item_ids: list[str], export_id: str, keep_until: float) -> list[str]:
        """Move items into an export; answers the ids that were there."""
        ...

    async def restore(self, export_id: str) -> list[str] | None:
        """Put an export back; None when there is none (any more)."""
        ...
