"""The ledger's tables are made once and brought forward, by however many servers start at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from mcp_ops.clock import SystemClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Verification
from mcp_ops.stores.postgres.connections import Connections
from mcp_ops.stores.postgres.opening import open_ledger
from mcp_ops.stores.postgres.schema import MIGRATIONS, migrate
from tests.stores import records
from tests.stores.backends import KEY
from tests.stores.postgres.server import Running

NEXT = (*MIGRATIONS, "ALTER TABLE mcp_ops.facts ADD COLUMN since float8 NOT NULL DEFAULT 0")


CLOCK = SystemClock()


@pytest.fixture
async def url(postgresql: Running) -> AsyncIterator[str]:
    """A database without any table."""
    name = "migrated"
    yield await postgresql.run("create", name)

    async def drop() -> None:
        async with postgresql.server.admin() as admin:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    await postgresql.call(drop)


@pytest.fixture
async def fresh(url: str) -> AsyncIterator[Connections]:
    """Connections to it."""
    connections = Connections(url)
    yield connections
    await connections.close()


async def version(connections: Connections) -> int:
    return int(
        (await connections.fetch("SELECT version FROM mcp_ops.schema_version"))[0]["version"]
    )


async def all_at_once(fresh: Connections, scripts: tuple[str, ...]) -> None:
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(migrate, fresh, scripts)


async def test_servers_that_start_together_make_the_tables_once_and_bring_them_forward(
    fresh: Connections,
) -> None:
    await all_at_once(fresh, MIGRATIONS[:1])
    assert await version(fresh) == 1
    await fresh.fetch("INSERT INTO mcp_ops.facts VALUES ('modes', '[]')")
    await all_at_once(fresh, NEXT)
    assert await version(fresh) == len(NEXT)
    kept = {"name": "modes", "value": "[]", "since": 0.0}
    assert await fresh.fetch("SELECT * FROM mcp_ops.facts") == [kept]
    with pytest.raises(StoreUnavailable, match="newer version"):
        await migrate(fresh, MIGRATIONS)


async def test_a_step_that_fails_leaves_the_version_before_it(fresh: Connections) -> None:
    await migrate(fresh, MIGRATIONS)
    with pytest.raises(StoreUnavailable):
        await migrate(fresh, (*NEXT, "ALTER TABLE mcp_ops.nothing ADD COLUMN a int"))
    assert await version(fresh) == len(MIGRATIONS)
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'mcp_ops.facts'::regclass"
    assert "since" not in [row["attname"] for row in await fresh.fetch(columns)]
    await migrate(fresh, NEXT)


async def test_servers_that_start_together_on_an_empty_database_are_one_ledger(url: str) -> None:
    opened, all_open = [], anyio.Event()

    async def serve(name: str) -> None:
        async with open_ledger(url, CLOCK, key=KEY) as kept:
            opened.append(name)
            if len(opened) == 4:
                all_open.set()
            await all_open.wait()
            await kept.ledger.change(records.entry(CLOCK, name))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(serve, f"s{number}")
        async with open_ledger(url, CLOCK, key=KEY) as kept:
            assert await kept.ledger.verify() == Verification(ok=True, entries=4)
