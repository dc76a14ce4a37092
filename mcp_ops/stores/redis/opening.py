"""Where the shared hot store is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mcp_ops.clock import Clock
from mcp_ops.errors import ConfigurationError
from mcp_ops.ports import ModeEntry
from mcp_ops.stores.redis.connection import Connections
from mcp_ops.stores.redis.facts import Book, Facts, MemoryFacts
from mcp_ops.stores.redis.hot import RedisHotStore
from mcp_ops.stores.redis.server import Server


@asynccontextmanager
async def open_hot(
    url: str,
    clock: Clock,
    *,
    floor: tuple[ModeEntry, ...] = (),
    facts: Facts | None = None,
    prefix: str = "mcp-ops",
    on_loss: Callable[[], None] = lambda: None,
    server_time: Callable[[], float] | None = None,
) -> AsyncIterator[RedisHotStore]:
    """Open the hot store at `redis://`, `rediss://` (TLS) or `unix://`.

    `floor` are modes of this process alone. `facts` (a ledger) keeps what people set, so that it
    is restored when Redis loses its data; without it only what this process itself set is.
    Processes with the same `prefix` share the state. `on_loss` is told when data was lost.
    `server_time` (Unix seconds) takes the place of the server's clock: for tests and game days.

    Raises `ConfigurationError` for a URL or prefix that cannot be used, and `StoreUnavailable`
    when Redis does not answer.
    """
    if not prefix or set(prefix) & set("{}"):
        raise ConfigurationError("The prefix of the shared store must be a name without braces.")
    async with Connections.open(url) as connections:
        book = Book(MemoryFacts() if facts is None else facts, prefix)
        server = Server(connections, book, prefix=prefix, time=server_time, on_loss=on_loss)
        await server.open()
        yield RedisHotStore(server, book, clock, floor)
