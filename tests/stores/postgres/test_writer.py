"""The writer of a ledger, as what keeps lines elsewhere while PostgreSQL is away uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from mcp_ops.clock import SystemClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import AuditQuery
from mcp_ops.stores.postgres.batch import Keeping
from mcp_ops.stores.postgres.connections import Connections
from mcp_ops.stores.postgres.jobs import Change, Notes
from mcp_ops.stores.postgres.opening import open_ledger
from mcp_ops.stores.postgres.time import StoreTime
from mcp_ops.stores.postgres.writer import Writer
from tests.stores import records
from tests.stores.backends import KEY, Postgres
from tests.stores.postgres.server import Running

CLOCK = SystemClock()


@asynccontextmanager
async def writing(store: Postgres) -> AsyncIterator[Writer]:
    """A writer alone."""
    connections = Connections(store.url)
    keeping = Keeping(replay_s=600, lookup_s=600)
    try:
        async with Writer.open(connections, KEY, keeping=keeping, time=StoreTime(CLOCK)) as writer:
            yield writer
    finally:
        await connections.close()


async def written(store: Postgres) -> list[str]:
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        assert (await kept.ledger.verify()).ok
        return [entry.call_id for entry in await kept.ledger.search(AuditQuery())][::-1]


async def test_lines_kept_elsewhere_are_written_once_however_often_they_are_given(
    store: Postgres,
) -> None:
    kept = [records.entry(CLOCK, f"s{number}") for number in range(3)]
    with anyio.fail_after(10):
        async with writing(store) as one, writing(store) as other:
            assert await one.do(Notes(kept[:2])) == 2
            assert await one.do(Notes(kept)) == 1
            assert await other.do(Notes([*kept, kept[0]])) == 0
    assert await written(store) == ["s0", "s1", "s2"]


async def test_noted_lines_can_be_taken_away_while_the_server_is_gone_and_given_back(
    store: Postgres, postgresql: Running
) -> None:
    with anyio.fail_after(20):
        async with writing(store) as writer:
            assert writer.away_since is None
            await postgresql.run("stop")
            try:
                before = CLOCK.now()
                for number in range(3):
                    writer.note(records.entry(CLOCK, f"n{number}"))
                for _ in range(2):
                    with pytest.raises(StoreUnavailable):
                        await writer.flush()
                    since = writer.away_since
                    assert since is not None
                    assert before - 1 <= since <= CLOCK.now() + 1
                taken = writer.take_noted()
                assert [line.call_id for line in taken] == ["n0", "n1", "n2"]
                assert writer.take_noted() == ()
            finally:
                await postgresql.run("start")
            assert writer.away_since == since
            await writer.do(Notes(taken))
            assert writer.away_since is None
            await writer.do(Change(records.entry(CLOCK, "after")))
    assert await written(store) == ["n0", "n1", "n2", "after"]
