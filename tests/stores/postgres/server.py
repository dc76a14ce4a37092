"""One PostgreSQL for all tests of a process, in a thread of its own; a fresh database a test."""

from __future__ import annotations

import itertools
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio.to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from mcp_ops.clock import SystemClock
from mcp_ops.lab.postgres import Postgres, postgres
from mcp_ops.stores.postgres.opening import open_ledger
from tests.stores import backends

TEMPLATE = "template_ops"
# A crash of the server is survived all the same: what is not synced is lost with the machine only.
FAST = ("fsync=off", "shared_buffers=16MB", "max_wal_size=128MB")


@dataclass
class Running:
    """A server that runs, and the thread that it runs in."""

    server: Postgres
    portal: BlockingPortal
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def backend(self, directory: Path) -> backends.Postgres:
        """A fresh database with the ledger's tables, as a backend of the contract tests."""
        name = f"test_{next(self._numbers)}"
        url = self.portal.call(lambda: self.server.create(name, template=TEMPLATE))
        return backends.Postgres(
            f"{url} {directory / 'state' / 'ops.db'}", lambda at: self.set_clock(name, at)
        )

    def set_clock(self, database: str, at: float) -> None:
        """Make the clock of a database show a time until it is set again."""
        data = self.server.directory / "data"
        draft = data / f"clock.{database}.new"
        draft.write_text(repr(at), encoding="utf-8")
        fresh = not (data / f"clock.{database}").exists()
        draft.replace(data / f"clock.{database}")
        if fresh:
            self.portal.call(self._install, database)

    async def restart(self) -> None:
        """Crash the server and start it again."""
        await self.run("crash")
        await self.run("start")

    async def run(self, what: str, *arguments: str) -> None:
        """Do something with the server, in its thread."""
        await anyio.to_thread.run_sync(
            lambda: self.portal.call(lambda: getattr(self.server, what)(*arguments))
        )

    async def _install(self, database: str) -> None:
        async with self.server.admin(database) as admin:
            await admin.execute(
                "CREATE OR REPLACE FUNCTION mcp_ops.now() RETURNS float8 LANGUAGE sql VOLATILE "
                f"AS 'SELECT pg_read_file(''clock.{database}'')::float8' SECURITY DEFINER".encode()
            )
            await admin.execute("ALTER FUNCTION mcp_ops.now() OWNER TO postgres")


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
    url = await server.create(TEMPLATE)
    async with open_ledger(url, SystemClock(), key=backends.KEY):
        pass
