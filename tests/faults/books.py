"""What a run leaves behind, read for the checker: the ledger, the operations, the files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio

from mcp_ops.clock import Clock, SystemClock
from mcp_ops.lab.postgres import DATABASE, Postgres
from mcp_ops.records import AuditQuery, Entry, Ledger
from mcp_ops.stores.opening import Place
from mcp_ops.stores.opening import open_stores as open_shared
from mcp_ops.stores.sqlite.embedded import open_stores

_PAGE = 1_000


async def ledger(state: Path, clock: Clock | None = None) -> tuple[list[Entry], str]:
    """All lines of a ledger, oldest first, and what is wrong with its chain (or nothing)."""
    async with open_stores(state, clock or SystemClock()) as stores:
        return await _read(stores.ledger)


async def shared(
    server: Postgres, key: str, directory: Path
) -> tuple[list[Entry], dict[str, str], str]:
    """The same of a ledger in PostgreSQL, with the operations by id; `directory` is for nobody
    else's use."""
    place = Place(directory=directory, ledger=server.url, key=key)
    async with open_shared(place, SystemClock()) as stores:
        entries, problem = await _read(stores.ledger)
    async with server.admin(DATABASE) as admin:
        found = await admin.execute("SELECT id, state FROM mcp_ops.operations")
        return entries, dict(await found.fetchall()), problem


async def lapse_shared(server: Postgres) -> None:
    """`lapse` for a ledger in PostgreSQL."""
    async with server.admin(DATABASE) as admin:
        await admin.execute("UPDATE mcp_ops.operations SET lease_until = 0 WHERE state = 'running'")
        await admin.execute("UPDATE mcp_ops.leases SET until = 0")


async def _read(book: Ledger) -> tuple[list[Entry], str]:
    found: list[Entry] = []
    before: int | None = None
    while page := await book.search(AuditQuery(limit=_PAGE, before_seq=before)):
        found += page
        before = page[-1].seq
    verified = await book.verify()
    problem = "" if verified.ok else f"{verified.problem} at {verified.first_bad_seq}"
    return found[::-1], problem


def operations(state: Path) -> dict[str, str]:
    """The state of every operation, by id."""
    with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as file:
        return dict(file.execute("SELECT id, state FROM operations").fetchall())


async def settled(state: Path, *, within_s: float) -> None:
    """Poll until no operation runs: the time that a lease and its successor need."""
    with anyio.move_on_after(within_s):
        while "running" in operations(state).values():
            await anyio.sleep(0.05)


def lapse(state: Path) -> None:
    """Let the leases of processes that are gone, or stand still, be over: time that nobody has to
    wait for."""
    with closing(sqlite3.connect(state, timeout=10)) as file, file:
        file.execute("UPDATE operations SET lease_until = 0 WHERE state = 'running'")
        file.execute("UPDATE leases SET until = 0")


def locked(state: Path) -> bool:
    """Whether a process is in the middle of a transaction that writes."""
    with closing(sqlite3.connect(state, timeout=0, isolation_level=None)) as file:
        try:
            file.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        file.execute("ROLLBACK")
    return False


def texts(directory: Path, *, secret: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Every file under a directory but those that are there to hold secrets."""
    for path in sorted(directory.rglob("*")):
        relative = str(path.relative_to(directory))
        if path.is_file() and not relative.startswith(secret):
            yield relative, path.read_bytes()
