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


async def test_what_a_caller_left_open_is_no_connection_of_the_next_one(store: Postgres) -> None:
    connections = Connections(store.url, most=1)
    session = "SELECT pg_backend_pid() AS pid, now() = statement_timestamp() AS fresh"
    async with connections.one() as connection:
        (left,) = await rows(connection, session)
        await rows(connection, "BEGIN")
    (other,) = await connections.fetch(session)
    assert other["fresh"]
    assert other["pid"] != left["pid"]
    assert (await connections.fetch(session))[0]["pid"] == other["pid"]
    await connections.close()


async def test_a_transaction_is_bounded_by_the_server_unless_it_only_looks(store: Postgres) -> None:
    """Shown by a server that knows the bound: PostgreSQL 17 and later."""
    shown = "SHOW transaction_timeout"
    connections = Connections(store.url, most=1)
    async with connections.transaction() as connection:
        assert await rows(connection, shown) == [{"transaction_timeout": "6s"}]
    async with connections.snapshot() as connection:
        assert await rows(connection, shown) == [{"transaction_timeout": "0"}]
    assert await connections.fetch(shown) == [{"transaction_timeout": "6s"}]
    await connections.close()


async def test_a_connection_that_breaks_before_its_first_use_is_no_connection(
    store: Postgres, postgresql: Running
) -> None:
    port = postgresql.server.port
    with anyio.fail_after(20):
        async with proxy(port) as between:
            connections = Connections(store.url.replace(f":{port}/", f":{between.port}/"), most=1)
            between.cut_to_client_after = most = 1_000_000
            async with connections.one():
                whole = most - between.cut_to_client_after
            await connections.close()
            between.cut_to_client_after = whole - 20  # in the answer to what sets the bound
            with pytest.raises(StoreUnavailable, match="it cannot be reached"):
                await connections.fetch("SELECT 1")
            assert await connections.fetch("SELECT 1 AS one") == [{"one": 1}]
            await connections.close()
