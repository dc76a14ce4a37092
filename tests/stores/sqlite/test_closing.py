"""A store that closes while a thread still reads: the read's end is waited for."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from mcp_ops.clock import ManualClock
from mcp_ops.stores.background import running
from mcp_ops.stores.sqlite.database import Database
from mcp_ops.stores.sqlite.snapshot import Snapshot


class Held(Database):
    """Its reads stand still once `armed`, in their thread, until `go`; `seen` are their
    statements from then on."""

    armed = False

    def reader(self) -> sqlite3.Connection:
        """A read connection that stands still."""
        self.arrived, self.go = threading.Event(), threading.Event()
        self.seen: list[str] = []
        connection = super().reader()
        connection.set_trace_callback(self._hold)
        return connection

    def _hold(self, statement: str) -> None:
        if self.armed:
            self.seen.append(statement)
            self.arrived.set()
            self.go.wait(20)


@asynccontextmanager
async def held(path: Path) -> AsyncIterator[Held]:
    async with Held.open(path, ManualClock()) as database:
        assert isinstance(database, Held)
        yield database


async def test_a_read_whose_caller_is_gone_ends_before_its_connection_is_closed(
    tmp_path: Path,
) -> None:
    async with held(tmp_path / "ops.db") as database:
        snapshot = Snapshot(database)

        async def look() -> None:
            await snapshot.refresh()

        async with snapshot.opened():
            event = "INSERT INTO budget_events VALUES ('a', 1.0, 2.0, 'c')"
            await database.write(lambda connection: connection.execute(event))
            with anyio.fail_after(20):
                database.armed = True
                async with running(look):
                    await anyio.to_thread.run_sync(database.arrived.wait, 20)
            # The loop itself waits for the read: somebody else has to let it go on.
            threading.Timer(0.05, database.go.set).start()
        assert database.seen[-1] == "ROLLBACK"
