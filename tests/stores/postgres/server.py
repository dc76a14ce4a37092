"""One PostgreSQL for all tests of a process, in a thread of its own, emptied for each test."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from mcp_ops.clock import SystemClock
from mcp_ops.lab.postgres import DATABASE, ROLE, Postgres, postgres
from mcp_ops.stores.postgres.opening import open_ledger
from tests.stores import backends

TABLES = [
    f"mcp_ops.{name}"
    for name in (
        *("head", "writers", "entries", "operations", "budget_events", "leases", "facts"),
        *("approvals", "failed"),
    )
]
CLOCK = """
    CREATE OR REPLACE FUNCTION mcp_ops.now() RETURNS float8 LANGUAGE sql VOLATILE SECURITY DEFINER
        AS $$ SELECT coalesce(
            nullif(pg_read_file('clock'), '')::float8, extract(epoch FROM clock_timestamp())
        ) $$;
    ALTER FUNCTION mcp_ops.now() OWNER TO postgres;
"""
# A crash of the server is survived all the same: what is not synced is lost with the machine only.
FAST = ("fsync=off", "shared_buffers=16MB", "max_wal_size=128MB")


@dataclass
class Running:
    """A server that runs, and the thread that it runs in."""

    server: Postgres
    portal: BlockingPortal

    def backend(self, directory: Path) -> backends.Postgres:
        """The ledger's database, emptied, as a backend of the contract tests.

        That is thirty times faster than a database of its own for each test.
        """
        self.set_clock("")
        self.portal.call(self._empty)
        url = self.server.url
        return backends.Postgres(
            f"{url} {directory / 'state' / 'ops.db'}", lambda at: self.set_clock(repr(at))
        )

    def set_clock(self, at: str) -> None:
        """Make the ledger's clock show a time until it is set again; empty: the real one."""
        data = self.server.directory / "data"
        (data / "clock.new").write_text(at, encoding="utf-8")
        (data / "clock.new").replace(data / "clock")

    async def restart(self) -> None:
        """Crash the server and start it again."""
        await self.run("crash")
        await self.run("start")

    async def run(self, what: str, *arguments: Any) -> Any:
        """Do something with the server, in its thread."""
        return await anyio.to_thread.run_sync(
            lambda: self.portal.call(lambda: getattr(self.server, what)(*arguments))
        )

    async def call(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something in the server's thread."""
        await anyio.to_thread.run_sync(lambda: self.portal.call(work))

    async def _empty(self) -> None:
        async with self.server.admin(DATABASE) as admin:
            await admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s",
                (ROLE,),
            )
            await admin.execute(f"TRUNCATE {', '.join(TABLES)}".encode())


@contextmanager
def running(directory: Path) -> Iterator[Running]:
    """Start the server; a template has the ledger's tables already."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    password = secrets.token_urlsafe(9)
    with start_blocking_portal() as portal:
        serving = postgres(directory, port, *FAST, password=password)
        with portal.wrap_async_context_manager(serving) as server:
            portal.call(_furnish, server)
            yield Running(server, portal)


async def _furnish(server: Postgres) -> None:
    async with open_ledger(server.url, SystemClock(), key=backends.KEY):
        pass
    async with server.admin(DATABASE) as admin:
        await admin.execute(CLOCK.encode())
