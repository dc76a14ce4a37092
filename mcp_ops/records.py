"""The ledger and the operations under their keys: the records that are kept, and their protocol.

As in `ports.py` one method is one atomic operation of the backend, times are Unix seconds of the
store's clock, and everything fits an embedded SQLite file as well as PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol, runtime_checkable

from mcp_ops.questions import Redemption


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
    writer: str = ""
    seq: int = 0


OperationState = Literal["running", "waiting", "done", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A write under its key. `answer` is the JSON that the caller got or will get again.

    A running operation whose `lease_until` has passed lost its process: it is resumed by another
    process if `resume` holds what that needs (JSON), else its truth is unknown. `fence` grows each
    time another process takes it over; what a holder of an older one does is refused.
    `cancel_by` names who asked it to stop.
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
    fence: int = 1
    owner: str = ""
    resume: str = ""
    checkpoint: str = ""
    cancel_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What became of an intent. Nothing was written and nothing taken unless `claimed`.

    `holder` is the operation that has the key already. `budgets` are as they were looked at,
    before the charge. `approved` is false when the approval was used, expired or revoked.
    """

    claimed: bool
    holder: Operation | None = None
    budgets: tuple[BudgetState, ...] = ()
    approved: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the ledger with what seals it, for exports. Hashes are hexadecimal.

    `body` are the bytes that the hash covers: `hash` = SHA-256(`previous` + `body`), JSON.
    """

    entry: Entry
    previous: str
    hash: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Where a writer's chain stood at a time, sealed with the ledger's key, to be kept elsewhere.

    Held against it later, a ledger that was put back to an earlier copy of itself is found.
    """

    writer: str
    seq: int
    hash: str
    at: float
    mac: str


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

    async def begin(
        self,
        entry: Entry,
        operation: Operation,
        *,
        budgets: tuple[Budget, ...] = (),
        approval: Redemption | None = None,
    ) -> Begun:
        """Durably write the intent, claim the key, charge the budgets and use up the approval: all
        of it in one step, or nothing.

        The key is looked at first, then the budgets, then the approval. An expired lease of the
        key's holder is first turned into `unknown`, or left to be resumed.
        """
        ...

    async def end(self, entry: Entry, operation: Operation | None, *, keep: bool) -> None:
        """Durably write the end; `keep` false frees the key and gives the budgets back, because
        nothing was executed. An operation that another process took over (its fence is higher)
        keeps that one's state: the line is then a correction."""
        ...

    async def budgets(self, requests: tuple[Budget, ...]) -> tuple[BudgetState, ...]:
        """Look at budgets without charging."""
        ...

    def note(self, entry: Entry) -> None:
        """Add a line that is written within a second, in a batch: reads and refusals."""
        ...

    @property
    def unwritten(self) -> int:
        """How many noted lines are not written yet, in this process."""
        ...

    async def change(self, entry: Entry) -> None:
        """Durably add a line on a change of the guard."""
        ...

    async def renew(
        self,
        operation_id: str,
        *,
        fence: int,
        lease_until: float,
        progress: str,
        checkpoint: str = "",
    ) -> Operation | None:
        """Keep a running operation's lease and say how far it is; answers it as it is now
        (somebody may have asked it to stop). None: this fence does not hold it any more."""
        ...

    async def cancel(self, operation_id: str, *, by: str) -> Operation | None:
        """Ask a running operation to stop; None if it does not run."""
        ...

    async def take_over(self, owner: str, lease_until: float) -> list[Operation]:
        """Resumable operations whose process was lost, now this owner's, each under a new fence.
        Those that cannot be resumed become `unknown`."""
        ...

    async def lock(self, name: str, holder: str, until: float) -> int | None:
        """A lease on a name, with its fencing token: a number that only grows. The holder may
        call it again to keep it, and gets the same token. None while another one holds it."""
        ...

    async def unlock(self, name: str, fence: int) -> None:
        """Give a lease back; one that another has taken since stays."""
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
        """Walk the chains of all writers."""
        ...

    async def lines(self, *, after: int, limit: int, since: float | None = None) -> list[Line]:
        """Lines with their hashes, oldest first, with a number above `after`: for exports."""
        ...

    async def prune(self, before: float) -> int:
        """Remove lines older than `before` from the start of each chain, but none of an operation
        that is not over; answers how many. The chains' new starts are sealed: `verify` holds."""
        ...

    async def facts(self) -> Mapping[str, str]:
        """What the hot store wants to find again if it loses everything: small texts by name."""
        ...

    async def put_fact(self, name: str, value: str) -> None:
        """Durably keep a fact in the place of the one with its name; an empty one is removed."""
        ...


@runtime_checkable
class Anchored(Protocol):
    """A ledger that can be held against anchors that were kept elsewhere."""

    async def anchors(self) -> list[Anchor]:
        """Where the chains stand now, noted lines among them."""
        ...

    async def contradiction(self, anchor: Anchor) -> str:
        """What of the present ledger contradicts an earlier anchor, in words; empty for nothing.

        A line that retention removed cannot be compared: that is no contradiction.
        """
        ...
