"""Bulkheads: how many calls may be at one target at once, so that one cannot take all."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from mcp_ops.errors import RefusalCode, Refused


@dataclass(slots=True)
class Partition:
    """The places at one target, in this process. Waiting callers are served in order."""

    name: str
    size: int
    active: int = 0
    timed_out: int = 0
    queue: deque[anyio.Event] = field(default_factory=deque)

    @asynccontextmanager
    async def slot(self, wait_s: float) -> AsyncIterator[None]:
        """Hold one place; waits at most `wait_s` seconds, then raises `Refused`."""
        if self.active >= self.size or self.queue:
            await self._wait(wait_s)
        else:
            self.active += 1
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, wait_s: float) -> None:
        turn = anyio.Event()
        self.queue.append(turn)
        try:
            with anyio.move_on_after(wait_s):
                await turn.wait()
        except BaseException:  # cancelled: give back the place, or leave the queue
            self._abandon(turn)
            raise
        if not turn.is_set():
            self.queue.remove(turn)
            self.timed_out += 1
            raise Refused(
                RefusalCode.BULKHEAD_FULL,
                f"{self.size} calls are at {self.name} already, and none ended in {wait_s:g} s.",
                hint="Call again later; the operator sets the size with concurrent of the target.",
                retry_after_s=max(1.0, wait_s),
                details={"max_concurrent": self.size},
            )

    def _abandon(self, turn: anyio.Event) -> None:
        if turn.is_set():
            self._leave()
        else:
            self.queue.remove(turn)

    def _leave(self) -> None:
        # A place goes to the one who waits longest without being free in between.
        if self.queue and self.active <= self.size:
            self.queue.popleft().set()
        else:
            self.active -= 1


class Bulkheads:
    """The partitions of all targets."""

    def __init__(self) -> None:
        self._partitions: dict[str, Partition] = {}

    def of(self, target: str, size: int) -> Partition:
        """The target's partition; made on first use (targets are configured, so bounded)."""
        partition = self._partitions.get(target)
        if partition is None:
            partition = self._partitions[target] = Partition(target, size)
        return partition

    def all(self) -> list[Partition]:
        """Every partition that was used."""
        return list(self._partitions.values())
