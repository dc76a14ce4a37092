"""Connections to PostgreSQL: how many, how long they wait, what their errors say."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest

from mcp_ops.errors import StoreUnavailable
from mcp_ops.lab.postgres import DATABASE
from mcp_ops.lab.proxy import proxy
from mcp_ops.stores.postgres import schema
from mcp_ops.stores.postgres.batch import content
from mcp_ops.stores.postgres.connections import Connections, rows, together
from tests.stores.backends import Postgres
from tests.stores.postgres.server import Running


async def test_a_caller_waits_two_seconds_for_a_connection(store: Postgres) -> None:
    connections = Connections(store.url, most=1)
    with anyio.fail_after(8):
        async with connections.one():
            with pytest.raises(StoreUnavailable, match="all connections of this server"):
                await connections.fetch("SELECT 1")
        await connections.fetch("SELECT 1")
        await connections.close()


async def test_a_server_that_says_nothing_is_given_up_and_the_next_host_is_tried(
    store: Postgres, postgresql: Running
) -> None:
    port = postgresql.server.port
    with anyio.fail_after(15):
        async with proxy(port) as between:
            between.fault = "black_hole"
            silent = store.url.replace(f":{port}/", f":{between.port}/")
            with pytest.raises(StoreUnavailable, match="it cannot be reached"):
                await Connections(silent).fetch("SELECT 1")
            both = store.url.replace(
                f"127.0.0.1:{port}/", f"127.0.0.1:{between.port},127.0.0.1:{port}/"
            )
            connections = Connections(both)
            assert await connections.fetch("SELECT 1 AS one") == [{"one": 1}]
            await connections.close()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT 1/0", "it takes no such value"),
        ("SELECT * FROM mcp_ops.nothing", "a table of it is missing"),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'P0099'; END $$", "reports error P0099"),
        ("SET statement_timeout = 5; SELECT pg_sleep(5)", "it took too long"),
    ],
)
async def test_errors_are_said_in_words(store: Postgres, sql: str, words: str) -> None:
    connections = Connections(store.url)
    with pytest.raises(StoreUnavailable, match=words) as refused:
        await connections.fetch(sql)
    assert "mcp_ops" not in refused.value.message
    await connections.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("wrong password", "it does not accept the credentials"),
        ("wrong database", "there is no such database"),
    ],
)
async def test_why_there_is_no_connection_is_said_in_words(
    store: Postgres, postgresql: Running, change: str, words: str
) -> None:
    password = postgresql.server.password
    url = store.url.replace(password, "wrong") if "password" in change else store.url + "_not"
    with pytest.raises(StoreUnavailable, match=words):
        await Connections(url).fetch("SELECT 1")


async def test_a_database_of_a_newer_version_is_refused(
    store: Postgres, postgresql: Running
) -> None:
    async def set_version(version: int) -> None:
        async with postgresql.server.admin(DATABASE) as admin:
            await admin.execute("UPDATE mcp_ops.schema_version SET version = %s", (version,))

    connections = Connections(store.url)
    await postgresql.call(lambda: set_version(99))
    try:
        with pytest.raises(StoreUnavailable, match="newer version of mcp-ops"):
            await schema.migrate(connections)
    finally:
        await postgresql.call(lambda: set_version(len(schema.MIGRATIONS)))
    await schema.migrate(connections)
    await connections.close()


def test_a_damaged_line_is_like_no_other() -> None:
    assert content(b"not json") == b"not json"
    assert content(b"[1]") == b"[1]"
    assert content(b'{"writer": "a", "tool": "t"}') == content(b'{"tool":"t","writer":"b"}')


async def test_statements_that_were_skipped_after_an_error_can_be_run_again(
    store: Postgres,
) -> None:
    """psycopg prepares what it has sent five times; the server may have skipped just that."""
    skipped = "SELECT 'skipped' AS what"
    connections = Connections(store.url)

    async def fail(*statements: str) -> None:
        with suppress(StoreUnavailable):
            async with connections.one() as connection:
                try:
                    await together(
                        connection, [(sql, ()) for sql in ("BEGIN", "SELECT 1 / 0", *statements)]
                    )
                finally:
                    await rows(connection, "ROLLBACK")

    await fail()
    for _ in range(5):
        assert await connections.fetch(skipped) == [{"what": "skipped"}]
    await fail(skipped)
    assert await connections.fetch(skipped) == [{"what": "skipped"}]
    await connections.close()
