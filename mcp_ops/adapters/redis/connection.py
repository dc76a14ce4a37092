"""One bounded pool of connections, and the way a script is run over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from mcp_ops.adapters.redis.errors import connecting, translated
from mcp_ops.adapters.redis.settings import RedisSettings
from mcp_ops.errors import ConfigurationError
from mcp_ops.heard import asking, heard

if TYPE_CHECKING:
    from redis.asyncio import BlockingConnectionPool

Argument = str | bytes | int | float


class Connection:
    """Runs scripts and commands; every error leaves as one of `mcp_ops.errors`."""

    def __init__(self, pool: BlockingConnectionPool) -> None:
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: RedisSettings) -> AsyncIterator[Connection]:
        """A pool; nothing is connected yet. Raises `ConfigurationError` for a broken URL."""
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        try:
            pool = BlockingConnectionPool.from_url(
                settings.url.get_secret_value(),
                max_connections=settings.max_connections,
                timeout=settings.connect_timeout_s,
                socket_connect_timeout=settings.connect_timeout_s,
                socket_timeout=settings.timeout_s,
                protocol=settings.protocol,
                decode_responses=False,
                client_name="mcp-ops",
                # A write that may have run is never sent again by the library.
                retry=Retry(NoBackoff(), 0),
            )
        except (ValueError, TypeError):
            # Without a cause: the library's text quotes the URL, which holds the password.
            raise ConfigurationError("The url of the redis target cannot be read.") from None
        try:
            yield cls(pool)
        finally:
            with anyio.CancelScope(shield=True):
                await pool.disconnect()

    async def command(self, *words: Argument) -> Any:
        """One command."""
        async with self._client() as client:
            with translated():
                return await client.execute_command(*words)

    async def script(self, body: str, *, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """One script, sent by its hash and loaded where the server does not know it."""
        async with self._client() as client:
            with translated():
                return await client.register_script(body)(keys=list(keys), args=list(args))

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        """A client on one connection that stands: what fails before here was never sent."""
        from redis.asyncio import Redis

        client = Redis(connection_pool=self._pool, single_connection_client=True)
        asking()
        with connecting():
            await client.initialize()
        try:
            asking()
            yield client
            heard()
        finally:
            # Also when cancelled: a connection that is not given back is lost to the pool.
            with anyio.CancelScope(shield=True):
                await client.aclose(close_connection_pool=False)
