"""Lines that several tasks write at once: whoever comes late waits for those on their way."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import anyio
import anyio.lowlevel

from mcp_ops.clock import ManualClock
from mcp_ops.stores.sqlite.database import Database
from mcp_ops.stores.sqlite.ledger import Ledger
from tests.stores import records

ROUNDS = 200


async def _late_flushes(path: Path, written: list[int]) -> None:
    """A flush that begins after the writer has committed, and before the loop has heard of it."""
    clock = ManualClock()
    async with (
        Database.open(path, clock) as database,
        Ledger.open(database, path.with_suffix(".key"), flush_s=1e6) as ledger,
    ):
        reader = sqlite3.connect(path)
        for number in range(1, ROUNDS + 1):
            ledger.note(records.entry(clock, f"c{number}"))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ledger.flush)
                await anyio.lowlevel.checkpoint()
                while _lines(reader) < number:
                    pass  # the loop stands still: what the writer says waits in its queue
                tasks.start_soon(ledger.flush)
        written.append(_lines(reader))
        reader.close()


def _lines(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])


def test_a_flush_between_the_commit_and_its_news_does_not_stop_the_loop(tmp_path: Path) -> None:
    # In a thread of its own: a loop that spins cannot end its own test.
    written: list[int] = []
    thread = threading.Thread(
        target=anyio.run, args=(_late_flushes, tmp_path / "ops.db", written), daemon=True
    )
    thread.start()
    thread.join(timeout=60)
    assert written == [ROUNDS]
