"""A few connections to PostgreSQL, made when they are needed and dropped when they are broken.

Not psycopg-pool: after an outage it tries again with a backoff that doubles up to minutes, and it
keeps connections warm that nobody needs. Here the next call connects, so that the store is back
with the database.
"""

from __future__ import annotations

import logging
import selectors
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row

from mcp_ops.errors import ConfigurationError
from mcp_ops.stores.postgres.errors import connect_reason, translated, unavailable

Connection = AsyncConnection[DictRow]
Row = dict[str, Any]
Values = Sequence[Any] | Mapping[str, Any]

# A cancelled query closes its connection; that is no news for an operator.
logging.getLogger("psycopg").setLevel(logging.ERROR)

CONNECT_S = 2.0
ANSWER_S = 5.0
_LOOKUP_S = 0.5
_CLOSE_S = 1.0
_MOST = 4
# Bounds of the server's side. A process of ours that stops in the middle of a write holds up the
# others until PostgreSQL ends its transaction. A commit is an answer once it is on the disk,
# whatever the database's own default says.
_SESSION = (
    ("statement_timeout", "4000"),
    ("lock_timeout", "3500"),
    ("idle_in_transaction_session_timeout", "2000"),
    ("synchronous_commit", "on"),
    ("default_transaction_isolation", r"read\ committed"),
    ("timezone", "UTC"),
)
# A process that stands still in the middle of a pipeline is not idle: without this bound it keeps
# its locks until it is gone. PostgreSQL has it since 17, and knows no such setting before.
_BOUND = (
    "SELECT set_config('transaction_timeout', %s, %s) "
    "WHERE current_setting('transaction_timeout', true) IS NOT NULL"
)
_TRANSACTION_MS = "6000"
# One that needs no descriptor of its own, where there is one: on Windows there is not.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Connections:
    """At most `most` connections to one database; a caller waits two seconds for a free one."""

    def __init__(self, url: str, *, most: int = _MOST) -> None:
        self._conninfo = _conninfo(url)
        # Of several hosts each gets its time; the names have to be looked up in it, too.
        hosts = str(conninfo_to_dict(self._conninfo).get("host") or "").count(",") + 1
        self._connect_s = hosts * CONNECT_S + _LOOKUP_S
        self._free = anyio.Semaphore(most)
        self._idle: list[Connection] = []

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """A connection in autocommit; one that is not idle on the way out, or whose block failed,
        is closed.

        Raises `StoreUnavailable`, also for what psycopg raises in the block.
        """
        with anyio.move_on_after(CONNECT_S) as waiting:
            await self._free.acquire()
        if waiting.cancelled_caught:
            raise unavailable("all connections of this server to it are in use")
        try:
            connection = await self._usable()
            try:
                with translated():
                    yield connection
            except BaseException:
                # After an error psycopg can believe in a prepared statement that the server skipped
                # with the rest of its pipeline: that connection would fail for good.
                await _close(connection)
                raise
            await self._give_back(connection)
        finally:
            self._free.release()

    async def fetch(self, sql: str, values: Values = ()) -> list[Row]:
        """The rows of one statement, within five seconds."""
        async with self.one() as connection:
            with anyio.fail_after(ANSWER_S):
                return await rows(connection, sql, values)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed on the way out, all within five seconds."""
        async with self.one() as connection:
            with anyio.fail_after(ANSWER_S):
                async with connection.transaction():
                    yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """A connection with one view of everything, however long it is looked at."""
        async with self.one() as connection:
            await rows(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await rows(connection, _BOUND, ("0", True))
            try:
                yield connection
            finally:
                with anyio.move_on_after(ANSWER_S, shield=True):
                    await rows(connection, "ROLLBACK")

    async def close(self) -> None:
        """Close what is idle; nobody uses the rest any more."""
        while self._idle:
            await _close(self._idle.pop())

    async def _usable(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not _ended(connection):
                return connection
            await _close(connection)
        return await self._connect()

    async def _connect(self) -> Connection:
        try:
            with anyio.fail_after(self._connect_s):
                made = await AsyncConnection.connect(
                    self._conninfo, autocommit=True, row_factory=dict_row
                )
                try:
                    await rows(made, _BOUND, (_TRANSACTION_MS, False))
                except BaseException:
                    await _close(made)
                    raise
                return made
        except (psycopg.Error, OSError) as error:
            raise unavailable(connect_reason(error)) from error

    async def _give_back(self, connection: Connection) -> None:
        if connection.info.transaction_status is TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            await _close(connection)


async def rows(connection: Connection, sql: str, values: Values = ()) -> list[Row]:
    """The rows of one statement on a connection; none for one that answers none."""
    cursor = await connection.execute(sql.encode(), values or None)
    return await cursor.fetchall() if cursor.description else []


async def together(
    connection: Connection, statements: Sequence[tuple[str, Values]]
) -> list[list[Row]]:
    """The rows of several statements that are sent at once: one round trip."""
    async with connection.pipeline():
        cursors = [
            await connection.execute(sql.encode(), values or None) for sql, values in statements
        ]
    return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]


def _ended(connection: Connection) -> bool:
    """Whether the server hung up meanwhile: it has something to say, unasked."""
    with _Selector() as selector:
        selector.register(connection.pgconn.socket, selectors.EVENT_READ)
        return bool(selector.select(0))


async def _close(connection: Connection) -> None:
    with anyio.move_on_after(_CLOSE_S, shield=True):
        await connection.close()


def _conninfo(url: str) -> str:
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        raise ConfigurationError(
            "The address of the ledger's PostgreSQL cannot be read.",
            hint="Write store.ledger as postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
        ) from None
    session = " ".join(f"-c {name}={value}" for name, value in _SESSION)
    return make_conninfo(
        url,
        connect_timeout=int(CONNECT_S),
        tcp_user_timeout=int(ANSWER_S * 1000),
        application_name=given.get("application_name") or "mcp-ops",
        client_encoding="UTF8",
        options=f"{given.get('options') or ''} {session}".strip(),
    )
