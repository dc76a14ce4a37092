"""The data at the server: which incarnation it is, and what happens when it was lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import anyio
import orjson

from mcp_ops.stores.redis import scripts
from mcp_ops.stores.redis.connection import Connections, Script
from mcp_ops.stores.redis.errors import unavailable
from mcp_ops.stores.redis.facts import Book
from mcp_ops.stores.redis.shapes import clean, dump

_log = logging.getLogger("mcp_ops.store")
_ATTEMPTS = 3
_HASHES = ("meta", "modes", "circuits", "grants", "partitions")
_IDENTIFY, _RESTORE = Script(scripts.IDENTIFY), Script(scripts.RESTORE)


class Server:
    """Runs the store's scripts, and restores what people set before any runs on lost data.

    `losses` counts how often this process found the data lost; `on_loss` is told each time.
    """

    def __init__(
        self,
        connections: Connections,
        book: Book,
        *,
        prefix: str,
        time: Callable[[], float] | None,
        on_loss: Callable[[], None],
    ) -> None:
        self._connections = connections
        self._book = book
        self._tag = f"{{{prefix}}}:"
        self._keys = [self._tag + name for name in _HASHES]
        self._time = time
        self._on_loss = on_loss
        self._restoring = anyio.Lock()
        self._incarnation = ""
        self.losses = 0

    def key(self, kind: str, name: str) -> str:
        """A key of the store; all of them lie in one slot of a cluster."""
        return clean(f"{self._tag}{kind}:{name}")

    async def run(self, script: Script, ask: Any, keys: Sequence[str] = ()) -> Any:
        """Run a script on data that is known to be whole; its answer.

        Raises `StoreUnavailable`: it may have run where the answer got lost, and only there.
        """
        with anyio.CancelScope(shield=True):  # about a second; what it took can be given back
            for _ in range(_ATTEMPTS):
                incarnation = self._incarnation
                answer = await self._ask(script, ask, keys)
                if answer != scripts.LOST:
                    return orjson.loads(answer)
                await self._restore(incarnation)
        raise unavailable("it loses its data again and again")

    async def open(self) -> None:
        """Find out which data is there, and restore it where the facts know of another."""
        answer = await self._ask(_IDENTIFY, {}, check=True)
        if answer == scripts.LOST:
            await self._restore("")
            answer = await self._ask(_IDENTIFY, {}, check=True)
        found = orjson.loads(answer)
        self._incarnation = found["incarnation"]
        if await self._book.incarnation() != self._incarnation:
            await self._book.keep_incarnation(self._incarnation)
        if found.get("policy") != "noeviction":
            _log.warning(
                "the Redis of store.hot may evict keys (maxmemory-policy is not noeviction):"
                " limits could be forgotten"
            )

    async def look(self) -> Any:
        """Which data is there, and the server's time."""
        return await self.run(_IDENTIFY, {})

    async def _ask(
        self, script: Script, ask: Any, keys: Sequence[str] = (), *, check: bool = False
    ) -> bytes:
        time = "" if self._time is None else str(round(self._time() * 1e6))
        return await self._connections.run(
            script, [*self._keys, *keys], dump(ask), time=time, check=check
        )

    async def _restore(self, before: str) -> None:
        """Put back what the facts know; of several that come at once one does it."""
        async with self._restoring:
            if self._incarnation != before:
                return  # another call of this process did
            items = await self._book.items()
            known = before or await self._book.incarnation()
            ask = {"incarnation": uuid4().hex, "lost": bool(known), **items}
            found = orjson.loads(await self._ask(_RESTORE, ask, check=True))
            self._incarnation = found["incarnation"]
            if known or found.get("lost"):
                self._lost(mine=found["mine"])
            if found["mine"]:
                await self._book.keep_incarnation(self._incarnation)
                await self._book.drop(found["gone"] or ())

    def _lost(self, *, mine: bool) -> None:
        self.losses += 1
        _log.warning(
            "the Redis of store.hot was restarted, failed over or lost its data: %s; limits begin"
            " with no credit",
            "what people set was restored" if mine else "another process restored what people set",
        )
        self._on_loss()
