"""Several questions to one system at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio


async def together(asks: Sequence[Callable[[], Awaitable[Any]]], *, at_once: int = 4) -> list[Any]:
    """Ask all, at most `at_once` at a time; the answers in the order of the questions. The first
    error ends the others and is raised."""
    found: dict[int, Any] = {}
    places = anyio.CapacityLimiter(at_once)

    async def one(at: int, ask: Callable[[], Awaitable[Any]]) -> None:
        async with places:
            found[at] = await ask()

    try:
        async with anyio.create_task_group() as tasks:
            for at, ask in enumerate(asks):
                tasks.start_soon(one, at, ask)
    except ExceptionGroup as failed:
        first: BaseException = failed
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from first.__cause__
    return [found[at] for at in range(len(asks))]
