"""Tools on dead-letter queues: look, retry, discard, restore."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Literal

from pydantic import Field

from mcp_ops.capabilities.base import Effect, NextStep, Outcome, Undo
from mcp_ops.capabilities.deadletter_items import unix_seconds
from mcp_ops.capabilities.deadletters import (
    DeadLetter,
    DeadLetterDetail,
    DeadLetterDiscard,
    DeadLetterFilter,
    DeadLetterPage,
    DeadLetterQueue,
    DeadLetterRestore,
    DeadLetterRetry,
    DeadLetterStats,
    ItemOutcome,
    OperationEndpoint,
    Selected,
)
from mcp_ops.clock import rfc3339
from mcp_ops.errors import InvalidInput, Upstream
from mcp_ops.params import (
    Cursor,
    FailureType,
    Ids,
    Limit,
    MaxItems,
    OperationName,
    QueueName,
    Since,
    TextFilter,
    Until,
)
from mcp_ops.redrive import Redrive
from mcp_ops.tool import Linked, Write, tool

ItemId = Annotated[str, Field(description="Item id.", min_length=1, max_length=200)]
ExportId = Annotated[
    str, Field(description="export_id.", min_length=1, max_length=64, pattern=r"^[\w-]+$")
]
Rate = Annotated[float, Field(description="Items/s.", ge=0.1, le=50)]
Checkpoint = Annotated[str, Field(description="To go on.", max_length=512)]

_WORK_S = 6 * 3_600.0
_CHUNK = 50
_SHOWN_PROBLEMS = 20
_PLAIN = re.compile(r"[A-Za-z0-9_.:-]{1,40}")


@tool(effect=Effect.READ, bulk=True)
async def list_deadletters(
    source: DeadLetterQueue,
    queue: QueueName = "",
    failure_type: FailureType = "",
    operation: OperationName = "",
    since: Since = "",
    until: Until = "",
    text: TextFilter = "",
    limit: Limit = 20,
    cursor: Cursor = "",
) -> DeadLetterPage:
    """List failed operations that wait in a dead-letter queue, newest first.

    Use get_deadletter_stats first to see what dominates. Resolved items are left out.
    """
    selection = DeadLetterFilter(
        queue=queue,
        failure_type=failure_type,
        operation=operation,
        since=_time("since", since),
        until=_time("until", until),
        text=text,
    )
    return await source.list_items(selection, limit=limit, cursor=cursor)


@tool(effect=Effect.READ)
async def get_deadletter(source: DeadLetterQueue, id: ItemId) -> DeadLetterDetail:  # noqa: A002
    """Show one dead letter whole: error, payload, context, retries. Secrets are masked."""
    return await source.get_item(id)


@tool(effect=Effect.READ)
async def get_deadletter_stats(source: DeadLetterQueue) -> DeadLetterStats:
    """Count a dead-letter queue: total, level, failure types, operations, hours, similar errors.

    Start here. The breakdown covers the newest items, as many as `examined` says.
    """
    stats = await source.stats()
    steps = [
        NextStep(
            tool="get_deadletter",
            arguments={"id": group.sample_id},
            why=f"a sample of {group.count} similar errors",
        )
        for group in stats.groups[:2]
    ]
    return stats.model_copy(update={"next_steps": steps})


@tool(effect=Effect.WRITE, resumable=True, timeout=_WORK_S + 300)
async def retry_deadletters(
    source: DeadLetterQueue,
    endpoint: Linked[OperationEndpoint] | None,
    write: Write,
    ids: Ids = [],  # noqa: B006 - the model's default; never changed
    failure_type: FailureType = "",
    operation: OperationName = "",
    since: Since = "",
    until: Until = "",
    text: TextFilter = "",
    max_items: MaxItems = 20,
    rate_per_s: Rate = 5.0,
    checkpoint: Checkpoint = "",
) -> DeadLetterRetry:
    """Retry dead letters, oldest first: by ids, or all that match the filters.

    Fix the cause first. Stops after 3 failures of the endpoint in a row; `checkpoint` goes on.
    After 55 s it goes on as an operation. Never repeats an unknown outcome.
    """
    selection = _selection(ids, failure_type, operation, since, until, text)
    if source.retries_by_call and endpoint is None:
        raise InvalidInput(
            "This queue retries by calling an endpoint, and none is linked.",
            hint="An operator sets links.endpoint of the target to the name of an http target.",
        )
    chosen = Selected(ids=())
    if not write.steps.before:  # else the items are those of the process that was lost
        chosen = await _chosen(source, write, selection, max_items, checkpoint)
    if write.dry_run:
        write.saw({"by_call": source.retries_by_call}, chosen.ids)
        return DeadLetterRetry(
            outcome="planned", plan=await _plan("retry", source, chosen), remaining=len(chosen.ids)
        )
    linked = endpoint if source.retries_by_call else None
    fence = await write.steps.lease("redrive")
    pinned = Selected.from_text(await write.steps.pin(chosen.as_text()))
    run = Redrive(source, linked, write, pinned, fence=fence)
    await run.all(rate_per_s=rate_per_s, work_s=_WORK_S)
    return await run.answer()


@tool(effect=Effect.DESTROY)
async def discard_deadletters(
    source: DeadLetterQueue,
    write: Write,
    ids: Ids = [],  # noqa: B006 - the model's default; never changed
    failure_type: FailureType = "",
    operation: OperationName = "",
    since: Since = "",
    until: Until = "",
    text: TextFilter = "",
    max_items: MaxItems = 20,
) -> DeadLetterDiscard:
    """Take dead letters out of a queue, oldest first: by ids, or all that match the filters.

    They are exported first; restore_deadletters puts them back within 7 days.
    """
    selection = _selection(ids, failure_type, operation, since, until, text)
    chosen = await _chosen(source, write, selection, max_items)
    if write.dry_run:
        write.saw({}, chosen.ids)
        plan = await _plan("discard", source, chosen)
        return DeadLetterDiscard(outcome="planned", plan=plan, remaining=len(chosen.ids))
    return await _discard(source, write, chosen)


@tool(effect=Effect.WRITE, idempotent=True)
async def restore_deadletters(
    source: DeadLetterQueue, write: Write, export_id: ExportId
) -> DeadLetterRestore:
    """Put discarded dead letters back into their queue: the undo of discard_deadletters."""
    if write.dry_run:
        return DeadLetterRestore(outcome="planned", plan=[f"restore the items of {export_id}"])
    moves = await source.restore(export_id)
    back = [move.id for move in moves if move.done]
    seen = await source.find_items(back) if back else []
    return DeadLetterRestore(
        outcome="verified" if len(seen) == len(set(back)) else "unconfirmed",
        restored=len(back),
        skipped=len(moves) - len(back),
    )


async def _discard(source: DeadLetterQueue, write: Write, chosen: Selected) -> DeadLetterDiscard:
    discarded, skipped, worked_on = 0, 0, 0
    problems: list[ItemOutcome] = []
    until: float | None = None
    outcome: Outcome = "verified"
    stopped = ""
    for start in range(0, len(chosen.ids), _CHUNK):
        if write.cancelled():
            stopped = "cancelled"
            break
        chunk = list(chosen.ids[start : start + _CHUNK])
        try:
            done = await source.discard(chunk, export_id=write.call_id)
        except Upstream as exc:
            if exc.executed == "no" and not discarded:
                raise
            outcome, stopped = ("unknown" if exc.executed == "unknown" else outcome), exc.message
            break
        until = done.restorable_until
        gone = [move.id for move in done.moves if move.done]
        if gone and await source.find_items(gone):
            outcome = "unconfirmed"
        discarded, worked_on = discarded + len(gone), worked_on + len(chunk)
        skipped += len(chunk) - len(gone)
        problems += [ItemOutcome(id=m.id, why=m.why) for m in done.moves if not m.done]
        write.progress(worked_on, len(chosen.ids), f"{discarded} discarded")
    undo = Undo(tool="restore_deadletters", arguments={"export_id": write.call_id})
    exported = bool(discarded) or outcome == "unknown"
    return DeadLetterDiscard(
        outcome="failed" if chosen.ids and not exported and not stopped else outcome,
        evidence={"searched": chosen.searched, "more": chosen.more},
        problem=stopped or None,
        undo=undo if exported else None,
        discarded=discarded,
        skipped=skipped,
        remaining=len(chosen.ids) - worked_on,
        export_id=write.call_id if exported else None,
        restorable_until=rfc3339(until) if until is not None and exported else None,
        problems=problems[:_SHOWN_PROBLEMS],
    )


async def _chosen(
    source: DeadLetterQueue,
    write: Write,
    selection: DeadLetterFilter,
    max_items: int,
    checkpoint: str = "",
) -> Selected:
    """What the selection means now; for an approved call exactly what the person was shown."""
    if write.pinned is None:
        return await source.select_ids(selection, max_items=max_items, checkpoint=checkpoint)
    if not write.pinned:
        return Selected(ids=(), searched="nothing was selected when it was looked at")
    exactly = DeadLetterFilter(ids=write.pinned, queue=selection.queue)
    return await source.select_ids(exactly, max_items=max_items)


def _selection(
    ids: list[str], failure_type: str, operation: str, since: str, until: str, text: str
) -> DeadLetterFilter:
    selection = DeadLetterFilter(
        ids=tuple(ids),
        failure_type=failure_type,
        operation=operation,
        since=_time("since", since),
        until=_time("until", until),
        text=text,
    )
    if selection.empty:
        raise InvalidInput("ids or a filter: nothing is selected, and that never means all.")
    if selection.ids and any((failure_type, operation, since, until, text)):
        raise InvalidInput("ids: give either ids or filters, not both.")
    return selection


def _time(name: Literal["since", "until"], text: str) -> float | None:
    if not text:
        return None
    seconds = unix_seconds(text)
    if seconds is None:
        raise InvalidInput(f"{name}: not an RFC 3339 time.")
    return seconds


async def _plan(verb: str, source: DeadLetterQueue, chosen: Selected) -> list[str]:
    """What would be done, in words of ours: people read it before they agree."""
    items = await source.find_items(list(chosen.ids)) if chosen.ids else []
    types = Counter(_plain(item) for item in items)
    plan = [
        f"{verb} {len(items)} of {len(chosen.ids)} selected items ({chosen.searched})",
        *(f"{count} with failure type {name}" for name, count in types.most_common(5)),
        *(f"item {item.id}" for item in items[:10]),
    ]
    if len(items) > 10:
        plan.append(f"and {len(items) - 10} more")
    if chosen.more:
        plan.append("more items match than max_items")
    return plan


def _plain(item: DeadLetter) -> str:
    return item.failure_type if _PLAIN.fullmatch(item.failure_type) else "(other)"
