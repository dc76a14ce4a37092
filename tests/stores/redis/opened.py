"""What the tests of the shared hot store share: how one process opens it, and its own eyes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from mcp_ops.clock import Clock, SystemClock
from mcp_ops.stores.redis.facts import MemoryFacts
from mcp_ops.stores.redis.hot import RedisHotStore
from mcp_ops.stores.redis.opening import open_hot

CLOCK = SystemClock()


@dataclass
class ServerTime:
    """A server's clock that a test moves; whole microseconds."""

    us: int = 1_800_000_000_000_000

    def __call__(self) -> float:
        return self.us / 1e6

    def advance(self, seconds: float) -> None:
        self.us += round(seconds * 1e6)


@dataclass
class Opening:
    """One server and prefix; the facts are those of the ledger that all processes share."""

    url: str
    prefix: str
    facts: MemoryFacts = field(default_factory=MemoryFacts)
    losses: int = 0

    def __call__(
        self,
        clock: Clock = CLOCK,
        *,
        url: str = "",
        time: Callable[[], float] | None = None,
        **options: Any,
    ) -> AbstractAsyncContextManager[RedisHotStore]:
        return open_hot(
            url or self.url,
            clock,
            prefix=self.prefix,
            server_time=time,
            on_loss=self._lost,
            **{"facts": self.facts, **options},
        )

    def _lost(self) -> None:
        self.losses += 1


async def command(client: Any, *words: str | int) -> Any:
    """One command as it is typed; the library has no types for that."""
    return await client.execute_command(*words)
