"""The statements of docs/shared-store.md give a role all rights that it needs, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from mcp_ops.clock import SystemClock
from mcp_ops.records import AuditQuery
from mcp_ops.stores.postgres.connections import Connections
from mcp_ops.stores.postgres.opening import open_ledger
from tests.stores import records
from tests.stores.backends import KEY
from tests.stores.postgres.server import Running

CLOCK = SystemClock()
PAGE = Path(__file__).parents[3] / "docs" / "shared-store.md"
NAME, READER, PASSWORD = "ops_guard", "auditor", "change me"
CLEAN = (
    f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)",
    f"DROP ROLE IF EXISTS {NAME}",
    f"DROP ROLE IF EXISTS {READER}",
)


def statements() -> list[list[str]]:
    """The statements of each block of SQL on the page."""
    blocks = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [[each for line in block.split(";") if (each := line.strip())] for block in blocks]


async def run(server: Running, database: str, commands: list[str]) -> None:
    async def work() -> None:
        async with server.server.admin(database) as admin:
            for command in commands:
                await admin.execute(command.encode())

    await server.call(work)


@pytest.fixture
def place(postgresql: Running) -> Iterator[Running]:
    """The server, without the role and the database of the page."""

    async def clean() -> None:
        async with postgresql.server.admin() as admin:
            for command in CLEAN:
                await admin.execute(command.encode())

    postgresql.set_clock("")
    yield postgresql
    postgresql.portal.call(clean)


async def test_the_rights_of_the_page_are_enough_for_the_role_and_for_a_reader(
    place: Running,
) -> None:
    whole, schema, reading = statements()
    await run(place, "postgres", whole)
    await run(place, NAME, schema)
    server = f"127.0.0.1:{place.server.port}/{NAME}"
    url = f"postgresql://{NAME}:change%20me@{server}"
    async with open_ledger(url, CLOCK, key=KEY) as kept:
        mine = records.operation(CLOCK, "o1", key="k1")
        assert (await kept.ledger.begin(records.began(CLOCK, "o1"), mine)).claimed
        done = replace(mine, state="done", outcome="succeeded")
        await kept.ledger.end(records.entry(CLOCK, "o1"), done, keep=True)
        await kept.approvals.ask(records.approval(CLOCK), max_pending=3)
        await kept.ledger.put_fact("a", "b")
        assert await kept.failed.count() == 0
        assert await kept.ledger.prune(CLOCK.now() + 60) == 2
        assert (await kept.ledger.verify()).ok
        assert len(await kept.ledger.search(AuditQuery())) == 1
    await run(place, NAME, [f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'", *reading])
    readers = Connections(url.replace(NAME, READER, 1))
    assert len(await readers.fetch("SELECT * FROM mcp_ops.entries")) == 1
    async with readers.one() as connection:
        for forbidden in ("DELETE FROM mcp_ops.entries", "SELECT * FROM mcp_ops.approvals"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(forbidden.encode())
    await readers.close()
