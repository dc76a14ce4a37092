"""One SQLite file, one writer thread: durable writes that share their commits.

Functions on a connection ("jobs") wait in a queue. The writer takes all that wait, runs them in
one BEGIN IMMEDIATE … COMMIT and answers their callers after the commit: 64 writes at once cost
one fsync. Each job runs in a savepoint, so that one that fails leaves no trace and hurts no other.
If the file cannot be written, every caller of the batch gets `StoreUnavailable` and nothing of it
is in the file. The queue is as long as there are callers waiting.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from mcp_ops.clock import Clock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.stores.sqlite.files import connect, create_database
from mcp_ops.stores.sqlite.schema import migrate
from mcp_ops.stores.sqlite.time import StoreTime

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]

_LARGEST_BATCH = 512
_READERS = 3

_REASONS = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_READONLY": "it is read-only",
    "SQLITE_BUSY": "another process holds it for too long",
    "SQLITE_IOERR": "the disk reports an error or is full",
    "SQLITE_CANTOPEN": "it cannot be opened",
    "SQLITE_CORRUPT": "the file is damaged",
    "SQLITE_NOTADB": "the file is no database",
}


@dataclass(slots=True)
class _Waiting:
    job: Job[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class Database:
    """The file, its writer thread and a few read connections. Made by `open`."""

    def __init__(self, path: Path, clock: Clock, connection: sqlite3.Connection) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._limiter = anyio.CapacityLimiter(_READERS)
        self._readers: list[sqlite3.Connection] = []
        self._own: sqlite3.Connection | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._write_all, name="store-writer", daemon=True)
        self.time = StoreTime(clock)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, clock: Clock) -> AsyncIterator[Database]:
        """Open the file, made if there is none; on the way out the queue is written.

        The directory is created for this user only (0700), the file too (0600). Raises
        `StoreUnavailable`.
        """
        connection = await anyio.to_thread.run_sync(_open, path)
        database = cls(path, clock, connection)
        database._thread.start()
        try:
            await database.write(lambda _: None)
            yield database
        finally:
            with anyio.CancelScope(shield=True):
                await database._close()

    def submit(self, job: Job[T]) -> asyncio.Future[T]:
        """Queue a job; the future is done when it is durable. Cancelling it cancels no job.

        Jobs run in the order in which they were submitted.
        """
        if self._closing:
            raise _unavailable("it is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Waiting(job, future))
        return future

    async def write(self, job: Job[T]) -> T:
        """Run a job in a transaction and answer when it is durable. Raises `StoreUnavailable`."""
        return await self.submit(job)

    async def read(self, job: Job[T]) -> T:
        """Run a job on a read connection in a worker thread. Raises `StoreUnavailable`."""
        if self._closing:
            raise _unavailable("it is closed")
        return await anyio.to_thread.run_sync(self._read, job, limiter=self._limiter)

    def read_now(self, job: Job[T]) -> T:
        """Look up a few rows by key, at once, on the event loop's own connection.

        In WAL mode a reader waits for nobody, and rows this fresh are in memory: some 20 µs,
        where a worker thread costs ten times that. Raises `StoreUnavailable`.
        """
        if self._closing:
            raise _unavailable("it is closed")
        if self._own is None:
            self._own = self.reader()
        with translated():
            return job(self._own)

    def reader(self) -> sqlite3.Connection:
        """A read connection of the caller's own, to use in one worker thread at a time."""
        with translated():
            return connect(self._path, query_only=True)

    def _read(self, job: Job[T]) -> T:
        connection = self._readers.pop() if self._readers else self.reader()
        try:
            with translated():
                return job(connection)
        finally:
            self._readers.append(connection)

    async def _close(self) -> None:
        self._closing = True
        self._queue.put(None)
        await anyio.to_thread.run_sync(self._thread.join)
        own = () if self._own is None else (self._own,)
        for connection in (*self._readers, *own, self._connection):
            connection.close()

    def _write_all(self) -> None:
        running = True
        while running:
            batch: list[_Waiting] = []
            item = self._queue.get()
            while item is not None:
                batch.append(item)
                if len(batch) == _LARGEST_BATCH or self._queue.empty():
                    break
                item = self._queue.get()
            running = item is not None
            if batch:
                self._commit(batch)
                self._loop.call_soon_threadsafe(_answer, batch)

    def _commit(self, batch: list[_Waiting]) -> None:
        connection = self._connection
        try:
            with translated():
                connection.execute("BEGIN IMMEDIATE")
                while self.time.follow(connection):
                    connection.execute("COMMIT")
                    self.time.arrive()
                    connection.execute("BEGIN IMMEDIATE")
                for waiting in batch:
                    _run(connection, waiting)
                connection.execute("COMMIT")
        except StoreUnavailable as error:
            for waiting in batch:
                waiting.error = error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _open(path: Path) -> sqlite3.Connection:
    with translated():
        create_database(path)
        connection = connect(path)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _run(connection: sqlite3.Connection, waiting: _Waiting) -> None:
    connection.execute("SAVEPOINT job")
    try:
        waiting.result = waiting.job(connection)
    except sqlite3.IntegrityError as error:
        waiting.error = _unavailable("its content contradicts the write")
        waiting.error.__cause__ = error
    except sqlite3.Error:
        raise  # the file is sick: nothing of this batch may be believed
    except Exception as error:  # a job's own error is its caller's, not the writer's
        waiting.error = error
    if waiting.error is not None:
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")


def _answer(batch: list[_Waiting]) -> None:
    for waiting in batch:
        if waiting.future.done():
            continue  # its caller was cancelled; the job was done all the same
        if waiting.error is not None:
            waiting.future.set_exception(waiting.error)
        else:
            waiting.future.set_result(waiting.result)


@contextmanager
def translated() -> Iterator[None]:
    """SQLite's and the file system's errors as `StoreUnavailable`, without paths."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        reason = next((text for key, text in _REASONS.items() if name.startswith(key)), "")
        raise _unavailable(reason or "SQLite reports an error") from error
    except OSError as error:
        raise _unavailable("its directory or file cannot be used") from error


def _unavailable(reason: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The guard's own store did not answer: {reason}.",
        hint="An operator must look at the server's state directory: space, rights, other users.",
    )
