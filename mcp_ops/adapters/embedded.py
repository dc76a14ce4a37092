"""Kind `embedded`: this server's own failed operations, retried through the guard."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.capabilities.deadletter_items import (
    Item,
    breakdown,
    detailed,
    listed,
    matches,
)
from mcp_ops.capabilities.deadletters import (
    DeadLetter,
    DeadLetterDetail,
    DeadLetterFilter,
    DeadLetterPage,
    DeadLetterStats,
    Discarded,
    Move,
    Operation,
    OperationAnswer,
    RetryEnd,
    Selected,
)
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from mcp_ops.failed import FailedOperation, FailedOperations
from mcp_ops.redact import Redactor

Rerun = Callable[[FailedOperation], Awaitable[OperationAnswer]]

_SCAN = 2_000
_WINDOW = 200
_HOLD_S = 300.0
_MAX_ATTEMPTS = 10
_UNKNOWN = "outcome unknown since "


class EmbeddedQueue(Adapter):
    """The embedded queue, and the endpoint that runs its items again as their own tools.

    The composition root builds it; `rerun` enters the guard with the item's tool, so that modes,
    limits and approvals hold for a retry as for the first call.
    """

    kind: ClassVar[str] = "embedded"
    title: ClassVar[str] = "Failed operations of this server"
    Settings = AdapterSettings

    def __init__(
        self,
        operations: FailedOperations,
        rerun: Rerun,
        *,
        clock: Clock,
        redactor: Redactor,
        retention_s: float,
    ) -> None:
        self._operations = operations
        self._rerun = rerun
        self._clock = clock
        self._redactor = redactor
        self._retention_s = retention_s

    @classmethod
    def open(cls, settings: Any, wiring: Wiring) -> AbstractAsyncContextManager[Any]:
        """Never: this queue is always there and is not a target of a configuration."""
        raise ConfigurationError("The kind embedded cannot be configured; it is always there.")

    async def ping(self) -> None:
        """Whether the store answers."""
        await self._operations.count()

    # ---- the queue

    async def list_items(
        self, selection: DeadLetterFilter, *, limit: int, cursor: str
    ) -> DeadLetterPage:
        """One page, newest first; looks at no more than 2,000 items."""
        if selection.ids:
            items = await self.find_items(list(selection.ids))
            return DeadLetterPage(items=items, searched=f"{len(selection.ids)} ids")
        items, last, seen = [], "", 0
        async for record in self._walk(_after(cursor)):
            if len(items) == limit or seen == _SCAN:
                return DeadLetterPage(
                    items=items, next_cursor=_cursor(last), truncated=True, searched=_searched(seen)
                )
            item, last, seen = _item(record), record.id, seen + 1
            if matches(item, selection, self._redactor):
                items.append(listed(item, self._redactor))
        return DeadLetterPage(items=items, searched=_searched(seen))

    async def get_item(self, item_id: str) -> DeadLetterDetail:
        """One item; raises `NotFound`."""
        return detailed(_item(await self._get(item_id)), self._redactor)

    async def find_items(self, item_ids: list[str]) -> list[DeadLetter]:
        """Those of the items that are there."""
        found = [await self._operations.get(item_id) for item_id in dict.fromkeys(item_ids)]
        return [listed(_item(r), self._redactor) for r in found if r is not None and not r.resolved]

    async def stats(self) -> DeadLetterStats:
        """The total, and a breakdown of the newest 2,000."""
        records: list[FailedOperation] = []
        async for record in self._walk(""):
            records.append(record)
            if len(records) == _SCAN:
                break
        return breakdown(
            map(_item, records), total=await self._operations.count(), redactor=self._redactor
        )

    async def select_ids(
        self, selection: DeadLetterFilter, *, max_items: int, checkpoint: str = ""
    ) -> Selected:
        """What a selection means now, oldest first, after the item of a checkpoint."""
        if selection.ids:
            ids = tuple(dict.fromkeys(selection.ids))
            return Selected(
                ids=ids[:max_items], more=len(ids) > max_items, searched="the ids given"
            )
        until, seen = _after(checkpoint), 0
        found: list[str] = []
        async for record in self._walk(""):
            if record.id == until:
                break
            seen += 1
            if matches(_item(record), selection, self._redactor):
                found.append(record.id)
        found.reverse()
        chosen = tuple(found[:max_items])
        return Selected(
            ids=chosen,
            checkpoints=tuple(_cursor(item_id) for item_id in chosen),
            more=len(found) > max_items,
            searched=_searched(seen),
        )

    @property
    def retries_by_call(self) -> bool:
        """Always: the endpoint is the guard."""
        return True

    async def requeue(self, item_id: str, *, fence: int = 0) -> Move:
        """Never: an operation of this server goes back to where it came from by being run."""
        return Move(id=item_id, done=False, why="items of this queue are run, not moved")

    async def begin_retry(self, item_id: str, *, fence: int = 0) -> Operation:
        """Hold an item. One whose last retry ended without an answer is refused."""
        before = await self._get(item_id)
        if before.notes.startswith(_UNKNOWN):
            raise Conflict("The item is not retried: an earlier retry ended without an answer.")
        if before.attempts >= _MAX_ATTEMPTS:
            raise Conflict(f"The item is not retried: it was tried {_MAX_ATTEMPTS} times or more.")
        holder = secrets.token_hex(8)
        held = await self._operations.hold(item_id, holder, self._clock.now() + _HOLD_S)
        if held is None:
            raise Conflict("The item is not retried: another retry holds it.")
        if before.holder:
            # That hold ran out: its process is gone, and the call may have been made.
            await self._finish(item_id, resolved=False, note=self._unknown_note())
            raise Conflict("The item is not retried: an earlier retry ended without an answer.")
        return Operation(
            id=item_id,
            operation=held.operation,
            arguments=dict(held.arguments),
            attempts=held.attempts,
            receipt=holder,
        )

    async def end_retry(self, operation: Operation, *, end: RetryEnd, note: str) -> None:
        """Record how the run ended; a holder that lost its hold is refused."""
        record = await self._operations.get(operation.id)
        if record is None or record.holder != operation.receipt:
            raise Conflict("This retry does not hold the item any more; nothing was changed.")
        text = self._unknown_note() if end == "unknown" else note
        await self._finish(operation.id, resolved=end == "resolved", note=text)

    async def discard(self, item_ids: list[str], *, export_id: str) -> Discarded:
        """Move items into an export for as long as the queue keeps items."""
        until = self._clock.now() + self._retention_s
        ids = list(dict.fromkeys(item_ids))
        gone = set(await self._operations.discard(ids, export_id, until)) if ids else set()
        moves = [
            Move(id=i, done=i in gone, why="" if i in gone else await self._why_kept(i))
            for i in ids
        ]
        return Discarded(moves=moves, restorable_until=until)

    async def _why_kept(self, item_id: str) -> str:
        record = await self._operations.get(item_id)
        held = record is not None and not record.resolved and record.holder
        return "another retry holds it" if held else "not in the queue any more"

    async def restore(self, export_id: str) -> list[Move]:
        """Put an export back; raises `NotFound`."""
        back = await self._operations.restore(export_id)
        if back is None:
            raise NotFound("There is no such export, or its retention ended.")
        return [Move(id=item_id, done=True) for item_id in back]

    # ---- the endpoint

    def allows(self, operation: str) -> bool:
        """Everything that is in the queue was a call of this server; the guard decides."""
        return bool(operation)

    async def execute(self, operation: Operation) -> OperationAnswer:
        """Run the item as its own tool, through the guard."""
        return await self._rerun(await self._get(operation.id))

    # ---- how it is done

    async def _get(self, item_id: str) -> FailedOperation:
        record = await self._operations.get(item_id)
        if record is None or record.resolved:
            raise NotFound("There is no such item.", hint="list_deadletters shows what is there.")
        return record

    async def _finish(self, item_id: str, *, resolved: bool, note: str) -> None:
        await self._operations.finish(item_id, resolved=resolved, note=note, at=self._clock.now())

    def _unknown_note(self) -> str:
        return f"{_UNKNOWN}{rfc3339(self._clock.now())}: look at the effect before a new call"

    async def _walk(self, after: str) -> AsyncIterator[FailedOperation]:
        while page := await self._operations.page(after=after, limit=_WINDOW):
            for record in page:
                yield record
            after = page[-1].id


def _item(record: FailedOperation) -> Item:
    return Item(
        id=record.id,
        size_bytes=len(str(record.arguments)),
        operation=record.operation,
        failure_type=record.failure_type,
        error=record.error,
        body=dict(record.arguments),
        context={"target": record.target, "principal": record.principal},
        failed_at=record.failed_at,
        attempts=record.attempts,
        last_retry=record.last_retry,
        resolved=record.resolved,
        notes=record.notes,
    )


def _searched(seen: int) -> str:
    return f"{seen} failed operations of this server"


def _cursor(item_id: str) -> str:
    return base64.urlsafe_b64encode(item_id.encode("utf-8")).decode("ascii")


def _after(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise InvalidInput("cursor: not a next_cursor or checkpoint of this list.") from None
