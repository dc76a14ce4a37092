"""Signals over Redis: one channel, a connection to listen and one to send, both made when needed.

They are lost while Redis is away. Whoever listens is told once the connection is there again,
because something may have been missed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mcp_ops.errors import StoreUnavailable
from mcp_ops.stores.background import running
from mcp_ops.stores.redis.errors import translated
from mcp_ops.stores.signals import LocalSignals

if TYPE_CHECKING:
    from redis.asyncio import Redis

CHANNEL = "{mcp-ops}:signals"
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
ANSWER_S = 1.0
HEALTH_S = 15.0
_log = logging.getLogger("mcp_ops.stores")


class RedisSignals(LocalSignals):
    """The signals of all processes on one Redis. Made by `open_signals`."""

    def __init__(self, client: Redis) -> None:
        super().__init__()
        self._client = client
        self._me = secrets.token_hex(8)

    async def send(self) -> None:
        """Tell the other processes that something changed; lost when Redis does not answer."""
        try:
            with translated():
                async with asyncio.timeout(ANSWER_S):
                    await self._client.publish(CHANNEL, self._me)
        except StoreUnavailable:
            _log.debug("a signal to the other processes was lost")

    async def listen(self) -> None:
        """Hear the others, for as long as it runs."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                with translated():
                    async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                        await channel.subscribe(CHANNEL)
                        pause = FIRST_PAUSE_S
                        self.heard()
                        await self._follow(channel)
            except StoreUnavailable:
                _log.debug("no signals of the other processes; trying again in %g s", pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _follow(self, channel: Any) -> None:
        me = self._me.encode()
        while True:
            # With a time limit it looks after the connection's health in between.
            message = await channel.get_message(timeout=HEALTH_S)
            if message is not None and message["data"] != me:
                self.heard()


@asynccontextmanager
async def open_signals(url: str) -> AsyncIterator[RedisSignals]:
    """The signals of the Redis at `url`; nothing is connected yet."""
    from redis.asyncio import Redis

    client = Redis.from_url(
        url,
        protocol=2,
        socket_connect_timeout=ANSWER_S,
        health_check_interval=HEALTH_S,
        client_name="mcp-ops",
    )
    signals = RedisSignals(client)
    try:
        async with running(signals.listen):
            yield signals
    finally:
        await client.aclose()
