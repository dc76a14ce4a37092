"""A writer alone, on a way to its server that can be broken, and what became of its lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp_ops.clock import SystemClock
from mcp_ops.lab.proxy import Proxy, proxy
from mcp_ops.records import AuditQuery
from mcp_ops.stores.postgres.batch import Keeping
from mcp_ops.stores.postgres.connections import Connections
from mcp_ops.stores.postgres.opening import open_ledger
from mcp_ops.stores.postgres.time import StoreTime
from mcp_ops.stores.postgres.writer import CLOSE_S, FLUSH_S, Writer
from tests.stores.backends import KEY, Postgres
from tests.stores.postgres.server import Running

CLOCK = SystemClock()


@asynccontextmanager
async def writing(
    store: Postgres, *, url: str = "", flush_s: float = FLUSH_S, close_s: float = CLOSE_S
) -> AsyncIterator[Writer]:
    """A writer alone."""
    connections = Connections(url or store.url)
    keeping = Keeping(replay_s=600, lookup_s=600)
    time = StoreTime(CLOCK)
    try:
        async with Writer.open(
            connections, KEY, keeping=keeping, time=time, flush_s=flush_s, close_s=close_s
        ) as writer:
            yield writer
    finally:
        await connections.close()


@asynccontextmanager
async def between(store: Postgres, server: Running) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the server, and the URL that leads through it."""
    port = server.server.port
    async with proxy(port) as way:
        yield way, store.url.replace(f":{port}/", f":{way.port}/")


async def written(store: Postgres) -> list[str]:
    """The calls of all lines in their order, from a ledger that verifies."""
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        assert (await kept.ledger.verify()).ok
        return [entry.call_id for entry in await kept.ledger.search(AuditQuery(limit=1_000))][::-1]
