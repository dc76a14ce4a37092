"""The jobs that wait for a commit, and those who wait for the jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Entry
from mcp_ops.stores.postgres.batch import Job
from mcp_ops.stores.postgres.errors import unavailable


@dataclass(slots=True)
class Waiting:
    """A job with the lines that were noted before it; nobody waits for one without future."""

    job: Job
    earlier: tuple[Entry, ...]
    future: asyncio.Future[Any] | None = None
    result: Any = None
    error: StoreUnavailable | None = None


Batch = list[Waiting]
Results = list[tuple[Any, StoreUnavailable | None]]


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch whose commit was sent: if it was carried out, the chain ends with line `number`."""

    batch: Batch
    results: Results
    number: int


def answer(batch: Batch) -> None:
    """Tell everyone what their job came to."""
    for waiting in batch:
        if waiting.future is None or waiting.future.done():
            continue  # its caller was cancelled; the job was done all the same
        if waiting.error is not None:
            waiting.future.set_exception(waiting.error)
        else:
            waiting.future.set_result(waiting.result)


def refuse(waiting: Iterable[Waiting]) -> None:
    """Answer that the writer has ended."""
    for each in waiting:
        if each.future is not None and not each.future.done():
            each.future.set_exception(unavailable("it is closed"))
