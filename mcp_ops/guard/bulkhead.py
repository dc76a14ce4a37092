"""Bulkheads: how many calls may be at one target at once, so that one cannot take all.

A partition belongs to a target, or to a group of targets that share what they run on. Its size
may change while calls are at the target: those that are there finish, whoever waits longest goes
next. Waiting is bounded in time and in number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import anyio

from mcp_ops.errors import RefusalCode, Refused
from mcp_ops.guard.targets import TargetInfo, Targets
from mcp_ops.guard.telemetry import stage

_HINT = (
    "Call again later. The operator sets the size with concurrent of the target; for a while "
    "set_bulkhead_limit changes it."
)


@dataclass(slots=True)
class Partition:
    """The places at one target or group, in this process. Waiting callers are served in order."""

    name: str
    size: int
    active: int = 0
    timed_out: int = 0
    turned_away: int = 0
    queue: deque[anyio.Event] = field(default_factory=deque)

    def resize(self, size: int) -> None:
        """More places are given to those who wait at once; of fewer, the taken ones stay taken
        until their calls end."""
        self.size = size
        self._serve()

    @asynccontextmanager
    async def slot(self, wait_s: float, *, most_waiting: int = 50) -> AsyncIterator[None]:
        """Hold one place. Raises `Refused` when none is free within `wait_s` seconds, or when
        `most_waiting` callers wait already."""
        if self.active < self.size:  # then nobody waits: `_serve` gives free places away
            self.active += 1
        else:
            with stage("place", self.name):
                await self._wait(wait_s, most_waiting)
        place = _Place(self)
        token = _held.set(place)
        try:
            yield
        finally:
            _held.reset(token)
            place.leave()

    async def back(self) -> None:
        """A place for a call that left its own for a while: however long that takes."""
        if self.active < self.size:
            self.active += 1
            return
        turn = anyio.Event()
        self.queue.append(turn)
        try:
            await turn.wait()
        except BaseException:
            self._abandon(turn)
            raise

    async def _wait(self, wait_s: float, most_waiting: int) -> None:
        if len(self.queue) >= most_waiting:
            self.turned_away += 1
            raise Refused(
                RefusalCode.BULKHEAD_FULL,
                f"{self.size} calls may be at {self.name} at once, and {len(self.queue)} wait in "
                "line already.",
                hint=_HINT,
                retry_after_s=max(1.0, wait_s),
                details={"max_concurrent": self.size},
            )
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
                hint=_HINT,
                retry_after_s=max(1.0, wait_s),
                details={"max_concurrent": self.size},
            )

    def _abandon(self, turn: anyio.Event) -> None:
        if turn.is_set():
            self.leave()
        else:
            self.queue.remove(turn)

    def leave(self) -> None:
        """Give a place back."""
        self.active -= 1
        self._serve()

    def _serve(self) -> None:
        # A place is taken for the one who waits longest, without being free in between.
        while self.queue and self.active < self.size:
            self.active += 1
            self.queue.popleft().set()


@dataclass(slots=True)
class _Place:
    """The place of a call, which it may leave while it only waits."""

    partition: Partition
    held: bool = True

    def leave(self) -> None:
        if self.held:
            self.held = False
            self.partition.leave()

    async def rest(self, seconds: float) -> None:
        self.leave()
        await anyio.sleep(seconds)
        await self.partition.back()
        self.held = True


_held: ContextVar[_Place] = ContextVar("mcp_ops_place")


async def rest(seconds: float) -> None:
    """Wait, and let others have the place at the target meanwhile: a rollout that is followed for
    an hour must not keep anybody from looking at it."""
    place = _held.get(None)
    await (anyio.sleep(seconds) if place is None else place.rest(seconds))


class Bulkheads:
    """The partitions of all targets, in this process."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._partitions: dict[str, Partition] = {}
        self._configured: dict[str, int] = {}

    def of(self, info: TargetInfo, size: int | None) -> Partition:
        """The partition that a target's calls need, at the size that a person gave it for a
        while, or at the configured one. Made on first use (targets are configured, so bounded)."""
        wanted = self.configured(info) if size is None else size
        partition = self._partitions.get(info.partition)
        if partition is None:
            partition = self._partitions[info.partition] = Partition(info.partition, wanted)
        elif partition.size != wanted:
            partition.resize(wanted)
        return partition

    def configured(self, info: TargetInfo) -> int:
        """The configured size of a target's partition: the smallest of those that share it."""
        size = self._configured.get(info.partition)
        if size is None:
            size = min(self._targets.info(name).concurrent for name in self.sharing(info))
            self._configured[info.partition] = size
        return size

    def sharing(self, info: TargetInfo) -> list[str]:
        """The targets of a partition."""
        names = self._targets.names()
        return [name for name in names if self._targets.info(name).partition == info.partition]

    def holds(self, target: str, info: TargetInfo) -> bool:
        """Whether a call on a target has its place in this partition already: one that waited for
        a second place could wait for itself."""
        return bool(target) and self._targets.info(target).partition == info.partition

    def used(self) -> tuple[Partition, ...]:
        """The partitions that were used."""
        return tuple(self._partitions.values())

    def find(self, name: str) -> Partition | None:
        """A partition that was used."""
        return self._partitions.get(name)
