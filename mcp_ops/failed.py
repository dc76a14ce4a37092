"""Failed operations: the embedded dead-letter queue's records, and the protocol of their store.

As in `ports.py` one method is one atomic operation of the backend, and times are Unix seconds of
the store's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


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
