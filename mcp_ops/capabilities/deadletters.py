"""DeadLetterQueue: operations that failed for good and wait for somebody to decide."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mcp_ops.capabilities.base import (
    Capability,
    Model,
    Moment,
    Page,
    Result,
    UntrustedLine,
    UntrustedText,
    WriteResult,
    destroys,
    writes,
)
from mcp_ops.errors import Superseded


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which items: the ids if there are any, and every other field that is not empty.

    Times are Unix seconds. `empty` is true where nothing was chosen; that never means all.
    """

    ids: tuple[str, ...] = ()
    queue: str = ""
    failure_type: str = ""
    operation: str = ""
    since: float | None = None
    until: float | None = None
    text: str = ""

    @property
    def empty(self) -> bool:
        """Whether nothing selects (the queue alone does not)."""
        chosen = (self.ids, self.failure_type, self.operation, self.text)
        return not any(chosen) and self.since is None and self.until is None


class DeadLetter(Model):
    """One item of a list. `problem` is set for a member that is not in the queue's format."""

    id: str
    operation: UntrustedLine
    failure_type: UntrustedLine
    error: UntrustedLine
    failed_at: Moment | None = None
    attempts: int
    size_bytes: int
    preview: UntrustedLine
    problem: str | None = None


class DeadLetterPage(Page[DeadLetter]):
    """Answer of list_deadletters, newest first."""


class DeadLetterDetail(Result):
    """Answer of get_deadletter: the whole item, redacted; a very long payload is cut."""

    item: DeadLetter
    payload: UntrustedText
    context: UntrustedText | None = None
    last_retry: Moment | None = None
    resolved: bool | None = None
    resolution_notes: UntrustedLine | None = None


class Count(Model):
    """How many items share a value."""

    value: UntrustedLine
    count: int


class ErrorGroup(Model):
    """Items whose errors are alike (numbers and ids left out), with one id to look at."""

    error: UntrustedLine
    count: int
    sample_id: str


class DeadLetterStats(Result):
    """Answer of get_deadletter_stats. `examined` is how many items the breakdown covers; `resolved`
    are those of them that are done and stay for the record."""

    total: int
    examined: int
    resolved: int = 0
    oldest: Moment | None = None
    newest: Moment | None = None
    by_failure_type: list[Count] = []
    by_operation: list[Count] = []
    by_hour: list[Count] = []
    groups: list[ErrorGroup] = []
    malformed: int = 0
    level: Literal["ok", "warning", "critical"]


class ItemOutcome(Model):
    """What became of one item that was not simply done."""

    id: str
    why: UntrustedLine


class DeadLetterRetry(WriteResult):
    """Answer of retry_deadletters. Counts are exact; `checkpoint` continues where this ended."""

    retried: int = 0
    failed: int = 0
    skipped: int = 0
    remaining: int = 0
    checkpoint: str = ""
    problems: list[ItemOutcome] = []


class DeadLetterDiscard(WriteResult):
    """Answer of discard_deadletters: what was exported can be restored until `restorable_until`."""

    discarded: int = 0
    skipped: int = 0
    remaining: int = 0
    export_id: str | None = None
    restorable_until: Moment | None = None
    problems: list[ItemOutcome] = []


class DeadLetterRestore(WriteResult):
    """Answer of restore_deadletters."""

    restored: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The end of one item's requeue, discard or restore at the adapter."""

    id: str
    done: bool
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """What a selection means now: the ids, oldest first, and after each where to go on.

    `checkpoints` is empty when the ids were given. `more` is true when further items may match.
    """

    ids: tuple[str, ...]
    checkpoints: tuple[str, ...] = ()
    more: bool = False
    searched: str = ""

    def as_text(self) -> str:
        """The selection as it is kept for a process that goes on with it."""
        return json.dumps([self.ids, self.checkpoints, self.more, self.searched])

    @classmethod
    def from_text(cls, text: str) -> Selected:
        """What `as_text` kept."""
        ids, checkpoints, more, searched = json.loads(text)
        return cls(ids=tuple(ids), checkpoints=tuple(checkpoints), more=more, searched=searched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded:
    """Items that were moved into an export; `restorable_until` is in Unix seconds."""

    moves: list[Move]
    restorable_until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An item as a call: what an endpoint must execute when the item is retried there.

    `receipt` is the adapter's own proof that it holds the item; others hand it back unread.
    """

    id: str
    operation: str
    arguments: dict[str, Any]
    attempts: int
    receipt: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationAnswer:
    """What the endpoint said: `success` false is an answer, not a failure of the endpoint."""

    success: bool
    error: str = ""


class OperationEndpoint(Capability, Protocol):
    """A system that executes the operations of a dead-letter queue again."""

    def allows(self, operation: str) -> bool:
        """Whether the operation is on the operator's allow-list."""
        ...

    @writes
    async def execute(self, operation: Operation) -> OperationAnswer:
        """Execute once; raises `Failed` with `executed="unknown"` when the answer was lost."""
        ...


def superseded() -> Superseded:
    """What an older redrive of a queue is told after a newer one took its place."""
    return Superseded(
        "A newer redrive of this queue took the place of this one; nothing was moved.",
        hint="get_operation shows the one that goes on.",
    )


RetryEnd = Literal["resolved", "failed", "unknown", "released"]


class DeadLetterQueue(Capability, Protocol):
    """A queue of failed operations. An item is in exactly one place at every instant."""

    async def list_items(
        self, selection: DeadLetterFilter, *, limit: int, cursor: str
    ) -> DeadLetterPage:
        """One page, newest first, without resolved items; reads a bounded number of members."""
        ...

    async def get_item(self, item_id: str) -> DeadLetterDetail:
        """One item; raises `NotFound`, or `Conflict` when several members share the id."""
        ...

    async def stats(self) -> DeadLetterStats:
        """Totals of the whole queue, a breakdown of at most a bounded number of items."""
        ...

    async def select_ids(
        self, selection: DeadLetterFilter, *, max_items: int, checkpoint: str = ""
    ) -> Selected:
        """The ids that a selection means now: a retry or discard is pinned to them."""
        ...

    async def find_items(self, item_ids: list[str]) -> list[DeadLetter]:
        """Those of the items that are there, in the order of the ids: what a plan shows."""
        ...

    @property
    def retries_by_call(self) -> bool:
        """Whether a retry is a call to an endpoint (else the item moves to another key)."""
        ...

    @writes
    async def requeue(self, item_id: str, *, fence: int = 0) -> Move:
        """Put one item back where it came from, atomically.

        `fence` is the token of the redrive's lease: where a newer one was seen, raises
        `Superseded` and nothing is moved. 0 is no redrive's.
        """
        ...

    @writes
    async def begin_retry(self, item_id: str, *, fence: int = 0) -> Operation:
        """Hold one item for a retry and return it as a call; `fence` as for `requeue`.

        Raises `NotFound` when it is gone, `Conflict` when another retry holds it, when an earlier
        one ended without an answer, or when it must not be retried (malformed, resolved, limit).
        """
        ...

    @writes
    async def end_retry(self, operation: Operation, *, end: RetryEnd, note: str) -> None:
        """Record how the call ended; raises `Conflict` for a holder whose hold is not its own.

        `released` means that nothing was executed and the attempt does not count. An item whose
        end is `unknown` is not retried again before somebody has looked.
        """
        ...

    @destroys
    async def discard(self, item_ids: list[str], *, export_id: str) -> Discarded:
        """Move items into an export that is kept for the queue's retention, atomically each."""
        ...

    @writes
    async def restore(self, export_id: str) -> list[Move]:
        """Put the items of an export back; raises `NotFound` when it is unknown or expired."""
        ...
