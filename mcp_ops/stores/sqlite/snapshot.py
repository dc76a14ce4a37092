"""Modes, circuits and partition sizes in memory, in step with the file that others write too."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread

from mcp_ops.errors import StoreUnavailable
from mcp_ops.ports import CircuitState, ModeEntry, Partition
from mcp_ops.stores.sqlite import circuits, modes, partitions
from mcp_ops.stores.sqlite.circuits import Circuit
from mcp_ops.stores.sqlite.database import Database, translated

_MOST_MISSES = 10

_Content = tuple[int, float, tuple[ModeEntry, ...], dict[str, Circuit], tuple[Partition, ...]]


class Snapshot:
    """What this process knows of the file's modes, circuits and partition sizes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reader: sqlite3.Connection | None = None
        self._limiter = anyio.CapacityLimiter(1)
        self._reading = threading.Lock()
        self._modes: tuple[ModeEntry, ...] = ()
        self._circuits: dict[str, Circuit] = {}
        self._partitions: tuple[Partition, ...] = ()
        self._version = self._now_version = -1  # each of its own connection
        self._offset = database.time.offset
        self._adopted = 0
        self._misses = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Load for the first time; the read connection is closed on the way out."""
        self._reader = await anyio.to_thread.run_sync(self._database.reader)
        try:
            await self.refresh()
            yield
        finally:
            # Whoever waited for a read may be cancelled while its thread still reads: SQLite does
            # not survive a connection that is closed under it. A read takes milliseconds.
            with self._reading:
                self._reader.close()

    def now(self) -> float:
        """Unix seconds on the offset that the times in memory belong to."""
        return self._database.time.monotonic() + self._offset

    @property
    def modes(self) -> tuple[ModeEntry, ...]:
        """All entries, expired ones too."""
        return self._modes

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """All partition sizes that people set, expired ones too."""
        return self._partitions

    def circuit(self, target: str) -> Circuit:
        """A target's circuit; closed if it never had one."""
        known = self._circuits.get(target)
        return known if known is not None else Circuit(state=CircuitState(target=target))

    def check(self) -> None:
        """Raise `StoreUnavailable` when the file could not be read ten times in a row."""
        if self._misses >= _MOST_MISSES:
            raise StoreUnavailable(
                "The guard's own store cannot be read, so its modes and circuits are not known.",
                hint="An operator must look at the server's state directory.",
            )

    def adopt_modes(self, entries: tuple[ModeEntry, ...]) -> None:
        """Take what an own write found in the file."""
        self._modes = entries
        self._offset = self._database.time.offset
        self._adopted += 1

    def adopt_partitions(self, found: tuple[Partition, ...]) -> None:
        """Take what an own write found in the file."""
        self._partitions = found
        self._offset = self._database.time.offset
        self._adopted += 1

    def adopt(self, circuit: Circuit) -> None:
        """Take what an own write found in the file; an older version changes nothing."""
        target = circuit.state.target
        if circuit.state.version >= self.circuit(target).state.version:
            self._circuits[target] = circuit
            self._adopted += 1

    async def refresh(self) -> list[Circuit]:
        """Look whether anybody wrote, and load; answers the circuits that changed."""
        adopted = self._adopted
        try:
            if self._database.time.jumped:
                await self._database.write(lambda _: None)  # moves the file's times and ours
            content = await anyio.to_thread.run_sync(self._load, limiter=self._limiter)
        except StoreUnavailable:
            self._misses += 1
            raise
        self._misses = 0
        # What an own write brought while the file was read may be newer: look again next time.
        if content is None or adopted != self._adopted:
            return []
        self._version = content[0]
        return self._take(content)

    async def look_now(self) -> list[Circuit]:
        """Look at this moment whether anybody wrote, and load; answers the circuits that changed.

        Costs a look at the file's change counter where nobody did: no disk, no thread.
        """
        if self._database.time.jumped:
            await self._database.write(lambda _: None)
        content = self._database.read_now(lambda c: _changed(c, self._now_version))
        if content is None:
            return []
        self._now_version = content[0]
        return self._take(content)

    def _take(self, content: _Content) -> list[Circuit]:
        before = self._circuits
        _, self._offset, self._modes, self._circuits, self._partitions = content
        return [c for target, c in self._circuits.items() if before.get(target) != c]

    def _load(self) -> _Content | None:
        with translated(), self._reading:
            assert self._reader is not None  # noqa: S101 - opened() made it
            return _changed(self._reader, self._version)


def _changed(connection: sqlite3.Connection, known: int) -> _Content | None:
    """The file's content, if anybody else wrote since the version that this connection knows."""
    version = int(connection.execute("PRAGMA data_version").fetchone()[0])
    if version == known:
        return None
    connection.execute("BEGIN")
    try:
        offset = float(connection.execute("SELECT offset FROM clock").fetchone()[0])
        return (
            *(version, offset, modes.load(connection), circuits.load_all(connection)),
            partitions.load(connection),
        )
    finally:
        connection.execute("ROLLBACK")
