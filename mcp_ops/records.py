"""The ledger, approvals and failed operations: the records that are kept, and their protocols.

As in `ports.py` one method is one atomic operation of the backend, times are Unix seconds of the
store's clock, and everything fits an embedded SQLite file as well as PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol


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
    """A write of this server that failed without effect: an item of the embedded queue.

    `holder` stays when a hold runs out: nobody finished that retry, and it may have run.
    """

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
