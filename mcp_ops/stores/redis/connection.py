"""Scripts over a few connections: callers that come together share a round trip.

Each lane is one connection and a queue. What waits when a lane is free goes out at once, in one
write, and the answers are read in order: ten callers wait as long as one. A batch that does not
end in time fails with all that is in it, and the lane connects anew: no answer of an old batch is
ever taken for one of the next. Whether a script that got no answer ran is not known.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from mcp_ops.errors import ConfigurationError, StoreUnavailable
from mcp_ops.stores.redis.errors import reason, translated, unavailable

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection, ConnectionPool

LANES = 4
ANSWER_S = 1.0
_BATCH = 256
_CHECK = "check"


class Script:
    """A script and the hash by which a server knows it."""

    __slots__ = ("body", "sha")

    def __init__(self, body: str) -> None:
        self.body = body
        self.sha = hashlib.sha1(body.encode("utf-8"), usedforsecurity=False).hexdigest()


class _Asked(NamedTuple):
    script: Script
    keys: Sequence[str]
    time: str
    payload: bytes
    check: bool
    answer: asyncio.Future[bytes]

    def words(self, *, check: bool, whole: bool = False) -> tuple[Any, ...]:
        """The command; `whole` sends the script itself, for a server that does not know it."""
        name = ("EVAL", self.script.body) if whole else ("EVALSHA", self.script.sha)
        argv = (_CHECK if check or self.check or whole else "", self.time, self.payload)
        return (*name, len(self.keys), *self.keys, *argv)

    def settle(self, result: bytes | StoreUnavailable) -> None:
        """Answer the caller, unless it was answered or has gone."""
        if self.answer.done():
            return
        if isinstance(result, StoreUnavailable):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


class Connections:
    """Runs scripts; every error leaves as `StoreUnavailable`, within about a second."""

    def __init__(self, pool: ConnectionPool) -> None:
        make: Callable[[], AbstractConnection] = pool.make_connection
        self._lanes = [_Lane(make()) for _ in range(LANES)]

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Connections]:
        """Nothing is connected yet. Raises `ConfigurationError` for a broken URL."""
        from redis.asyncio import ConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        try:
            pool = ConnectionPool.from_url(
                url,
                socket_connect_timeout=ANSWER_S,
                socket_timeout=ANSWER_S,
                protocol=2,
                decode_responses=False,
                client_name="mcp-ops",
                retry=Retry(NoBackoff(), 0),  # what may have run is never sent again
            )
            connections = cls(pool)
        except (ValueError, TypeError):
            # Without a cause: the library's text quotes the URL, which holds the password.
            raise ConfigurationError("The Redis URL of `store.hot` cannot be read.") from None
        try:
            yield connections
        finally:
            with anyio.CancelScope(shield=True):
                for lane in connections._lanes:
                    await lane.close()

    async def run(
        self,
        script: Script,
        keys: Sequence[str],
        payload: bytes,
        *,
        time: str = "",
        check: bool = False,
    ) -> bytes:
        """One script, one round trip; what it answered. Raises `StoreUnavailable`."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        lane = min(self._lanes, key=lambda lane: lane.load)
        lane.ask(_Asked(script, keys, time, payload, check, future))
        return await future


class _Lane:
    """One connection, used by one batch at a time."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._queue: list[_Asked] = []
        self._busy: asyncio.Task[None] | None = None
        self._known = False
        self.load = 0

    def ask(self, asked: _Asked) -> None:
        self._queue.append(asked)
        self.load += 1
        if self._busy is None:
            self._busy = asyncio.create_task(self._drain())

    async def close(self) -> None:
        """Fail what waits, and disconnect."""
        if self._busy is not None:
            self._busy.cancel()
            await asyncio.wait({self._busy})
        await self._connection.disconnect()

    async def _drain(self) -> None:
        batch: list[_Asked] = []
        try:
            while self._queue:
                batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
                await self._send(batch)
                self.load -= len(batch)
        finally:
            self._busy = None
            left, self._queue, self.load = [*batch, *self._queue], [], 0
            for asked in left:
                asked.settle(unavailable("it is being closed"))

    async def _send(self, batch: list[_Asked]) -> None:
        """Every caller of the batch has its answer or its error afterwards."""
        try:
            with translated():
                async with asyncio.timeout(ANSWER_S):
                    await self._connect()
                    await self._exchange(batch)
        except StoreUnavailable as error:
            await self._forget()
            # What waits behind it would meet the same, only later.
            behind, self._queue = self._queue, []
            self.load -= len(behind)
            for asked in (*batch, *behind):
                asked.settle(_again(error))
        except BaseException:
            await self._forget()
            raise

    async def _connect(self) -> None:
        if self._known and await self._stale():
            await self._forget()
        if not self._known:
            connect: Callable[[], Awaitable[None]] = self._connection.connect
            await connect()

    async def _stale(self) -> bool:
        """Whether the server closed it while nobody asked."""
        import redis.exceptions as r

        connection: Any = self._connection
        look = getattr(connection, "can_read", None) or connection.can_read_destructive  # before 8
        try:
            return bool(await look())
        except r.ConnectionError:
            return True

    async def _forget(self) -> None:
        self._known = False
        await self._connection.disconnect(nowait=True)

    async def _exchange(self, batch: list[_Asked]) -> None:
        # A new connection may lead to another server than before.
        check, self._known = not self._known, True
        words = [asked.words(check=check) for asked in batch]
        await self._connection.send_packed_command(self._connection.pack_commands(words))
        strange = [asked for asked in batch if not await self._read(asked)]
        for asked in strange:
            # One after the other: the first one may find that the server forgot everything.
            await self._connection.send_command(*asked.words(check=True, whole=True))
            await self._read(asked)

    async def _read(self, asked: _Asked) -> bool:
        """Read an answer; false if the server does not know the script."""
        import redis.exceptions as r

        try:
            answer = await self._connection.read_response()
        except r.NoScriptError:
            return False
        except r.ResponseError as exc:
            error = unavailable(reason(exc))
            error.__cause__ = exc
            asked.settle(error)
        else:
            asked.settle(answer)
        return True


def _again(error: StoreUnavailable) -> StoreUnavailable:
    """The same error for each of several callers: each raises its own."""
    same = StoreUnavailable(error.message, hint=error.hint, retry_after_s=error.retry_after_s)
    same.__cause__ = error.__cause__
    return same
