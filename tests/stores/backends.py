"""The backends that the contract of a store is held against, and processes that share one.

A new backend adds a class here with the same two methods; all contract tests then run on it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import anyio
from anyio.abc import Process

from mcp_ops.clock import Clock, ManualClock
from mcp_ops.failed import FailedOperations
from mcp_ops.ports import HotStore, ModeEntry
from mcp_ops.questions import Approvals
from mcp_ops.records import Ledger
from mcp_ops.stores.postgres.opening import open_ledger
from mcp_ops.stores.redis.opening import open_hot
from mcp_ops.stores.sqlite.embedded import open_stores

ROOT = Path(__file__).parents[2]


class Stores(Protocol):
    """What every backend opens."""

    @property
    def hot(self) -> HotStore: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def approvals(self) -> Approvals: ...
    @property
    def failed(self) -> FailedOperations: ...


class Backend(Protocol):
    """One shared state; `open` is what one server process does."""

    @property
    def address(self) -> str:
        """How a worker process opens the same state: `worker.py` takes it."""
        ...

    def open(self, clock: Clock, **options: Any) -> AbstractAsyncContextManager[Stores]: ...


@dataclass(frozen=True)
class Sqlite:
    """The embedded store."""

    address: str

    def open(self, clock: Clock, **options: Any) -> AbstractAsyncContextManager[Stores]:
        return open_stores(Path(self.address), clock, **options)


@dataclass(frozen=True)
class Combined:
    """The hot store of one backend, the records of another."""

    hot: HotStore
    ledger: Ledger
    approvals: Approvals
    failed: FailedOperations


@dataclass(frozen=True)
class Redis:
    """The shared hot store, with its facts in an embedded ledger. The address is `url|file`; the
    file's name is the prefix of the keys, so that tests share a server."""

    address: str
    offsets: dict[int, float] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        return self.address.split("|")[1]

    @asynccontextmanager
    async def open(
        self, clock: Clock, *, floor: tuple[ModeEntry, ...] = (), **options: Any
    ) -> AsyncIterator[Stores]:
        url, path = self.address.split("|")
        async with (
            open_stores(Path(path), clock) as embedded,
            open_hot(
                url,
                clock,
                floor=floor,
                facts=embedded.ledger,
                prefix=self.prefix,
                server_time=self._time(clock),
                **options,
            ) as hot,
        ):
            yield Combined(
                hot=hot,
                ledger=embedded.ledger,
                approvals=embedded.approvals,
                failed=embedded.failed,
            )

    def _time(self, clock: Clock) -> Callable[[], float] | None:
        """The server's time where the test's clock is told to move: its steps go with the test's,
        but the jumps of a client's wall clock are not its own."""
        if not isinstance(clock, ManualClock):
            return None
        offset = self.offsets.setdefault(id(clock), clock.now() - clock.monotonic())
        return lambda: clock.monotonic() + offset


KEY = b"k" * 32


class SharedClock(ManualClock):
    """A clock that takes others along: a server's clock passes with the test's.

    A jump is this process's alone: nobody else's clock jumps with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.passed = self.now()
        self.followers: list[Callable[[float], None]] = []

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self.passed += seconds
        for follow in self.followers:
            follow(self.passed)


@dataclass(frozen=True)
class Postgres:
    """The ledger in PostgreSQL, the hot state embedded; `address` is `URL FILE`.

    `set_clock` makes the database's clock show what it is given.
    """

    address: str
    set_clock: Callable[[float], None]

    @property
    def url(self) -> str:
        return self.address.split(" ")[0]

    @asynccontextmanager
    async def open(self, clock: Clock, **options: Any) -> AsyncIterator[Stores]:
        if isinstance(clock, SharedClock) and not clock.followers:
            clock.followers.append(self.set_clock)
            self.set_clock(clock.passed)
        url, path = self.address.split(" ")
        floor = options.pop("floor", ())
        async with (
            open_ledger(url, clock, key=KEY, **options) as kept,
            open_stores(Path(path), clock, floor=floor) as embedded,
        ):
            yield Combined(
                hot=embedded.hot, ledger=kept.ledger, approvals=kept.approvals, failed=kept.failed
            )


def at(address: str) -> Backend:
    """The backend with this address."""
    if address.startswith("redis:"):
        return Redis(address)
    if address.startswith("postgres"):
        return Postgres(address, set_clock=lambda _: None)
    return Sqlite(address)


# What is made of a folder alone; the fixture makes those that have a server.
BACKENDS = {"sqlite": lambda directory: Sqlite(str(directory / "state" / "ops.db"))}


@asynccontextmanager
async def worker(backend: Backend, *arguments: str) -> AsyncIterator[Process]:
    """A process of its own on the same state; killed if it still runs on the way out."""
    process = await start(backend, *arguments)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.aclose()


async def start(backend: Backend, *arguments: str) -> Process:
    return await anyio.open_process(
        [sys.executable, "-m", "tests.stores.worker", backend.address, *arguments],
        cwd=ROOT,
        stderr=None,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


async def line(process: Process) -> Any:
    """The next line of JSON that a worker prints."""
    assert process.stdout is not None
    buffer = b""
    while not buffer.endswith(b"\n"):
        buffer += await process.stdout.receive(1)
    return json.loads(buffer)


async def race(backend: Backend, count: int, *arguments: str) -> list[Any]:
    """Start workers, let them go at the same moment, answer what each printed at its end."""
    processes: list[Process] = []
    try:
        for number in range(count):
            processes.append(await start(backend, arguments[0], str(number), *arguments[1:]))
        for process in processes:
            assert await line(process) == "ready"
        await _go(processes)
        return [await line(process) for process in processes]
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.aclose()


async def _go(processes: Sequence[Process]) -> None:
    for process in processes:
        assert process.stdin is not None
        await process.stdin.send(b"go\n")
