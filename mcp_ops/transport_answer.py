"""What the HTTP transports share: reading a request, and a response that may become a stream."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from functools import lru_cache
from typing import Final

import anyio
import orjson
from mcp_types import INTERNAL_ERROR
from starlette.types import Message, Receive, Scope, Send

from mcp_ops.auth.principal import HttpPrincipal
from mcp_ops.transport import PRINCIPAL_SCOPE_KEY
from mcp_ops.transport_refusals import MAX_BODY

PING_S: Final = 15.0
"""Seconds between comments on a response that takes longer, so that proxies keep it."""

WAITING: Final = 64
"""Messages that may wait for a slow client; who has one more to say waits, too."""

STREAM_HEAD: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


def new_session_id(worker: int = 0) -> str:
    """What only its client can know: 120 bits, behind two digits that say which of several workers
    has the session (`transport_handing`)."""
    return f"{worker:02x}{secrets.token_hex(15)}"


class Answer:
    """The response of a POST, or of the GET: written by its own task, filled by the dispatcher."""

    def __init__(self, send: Send, session: tuple[bytes, bytes], *, ping_s: float = PING_S) -> None:
        self._ping_s = ping_s
        self._send = send
        self._session = session
        self._said: deque[bytes] = deque()
        self._end: bytes | None = None
        self._right = self._streamed = False
        self._broken = self._closed = False
        self._news: asyncio.Future[None] | None = None
        self._room = anyio.Event()
        self._ping = asyncio.get_running_loop().call_later(self._ping_s, self._comment)

    # From the dispatcher.

    async def say(self, data: bytes) -> None:
        """A message before the answer. Waits while the client is slow."""
        while len(self._said) >= WAITING and not self._closed:
            self._room = anyio.Event()
            await self._room.wait()
        self._said.append(b"event: message\r\ndata: " + data + b"\r\n\r\n")
        self._wake()

    def end(self, data: bytes, *, right: bool, streamed: bool = False) -> None:
        """The answer itself; the first one counts. `streamed` makes it an event in any case."""
        if self._end is None:
            self._end, self._right, self._streamed = data, right, streamed
            self._wake()

    def break_off(self) -> None:
        """There will be no answer: the session is over."""
        self._broken = True
        self.end(b"", right=False)

    def close(self) -> None:
        """Nobody writes any more."""
        self._closed = True
        self._ping.cancel()
        self._room.set()

    # The task of the request.

    async def write(self, *, streaming: bool = False) -> bool:
        """Write what comes, until the answer; whether that is a result."""
        if not streaming:
            await self._wait()
            if not self._said and not self._streamed:
                await self._plain()
                return self._right
        head = [*STREAM_HEAD, self._session]
        await self._send({"type": "http.response.start", "status": 200, "headers": head})
        while True:
            while self._said:
                await self._piece(self._said.popleft())
                self._room.set()
            if self._end is not None:
                break
            await self._wait()
        if self._end:
            await self._piece(b"event: message\r\ndata: " + self._end + b"\r\n\r\n")
        await self._send({"type": "http.response.body", "body": b""})
        return self._right

    async def _plain(self) -> None:
        if self._broken or self._end is None:
            await say_error(
                self._send, 404, INTERNAL_ERROR, "Session terminated before the request completed"
            )
            return
        head = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self._end)),
            self._session,
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": head})
        await self._send({"type": "http.response.body", "body": self._end})

    async def _piece(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _wait(self) -> None:
        if self._said or self._end is not None:
            return
        self._news = asyncio.get_running_loop().create_future()
        try:
            await self._news
        finally:
            self._news = None

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _comment(self) -> None:
        if len(self._said) < WAITING:
            self._said.append(b": ping\r\n\r\n")
            self._wake()
        self._ping = asyncio.get_running_loop().call_later(self._ping_s, self._comment)


@lru_cache(maxsize=64)
def accepts(header: bytes) -> tuple[bool, bool]:
    """Whether a client takes JSON, and whether it takes an event stream."""
    kinds = {kind.partition(b";")[0].strip().lower() for kind in header.split(b",")}
    if b"*/*" in kinds:
        return True, True
    return (
        bool(kinds & {b"application/json", b"application/*"}),
        bool(kinds & {b"text/event-stream", b"text/*"}),
    )


async def read_body(receive: Receive, heard: list[Message]) -> bytes | None:
    """The body, of at most a MiB; None when it is larger or its client has gone.

    `heard` is what was received, for who reads it again.
    """
    size = 0
    while True:
        message = await receive()
        heard.append(message)
        if message["type"] != "http.request":
            return None
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            return None
        if not message.get("more_body", False):
            return b"".join(each.get("body", b"") for each in heard)


def owner_of(scope: Scope) -> str | None:
    """Whose session a request opens or may use."""
    principal = scope.get(PRINCIPAL_SCOPE_KEY)
    return principal.id if isinstance(principal, HttpPrincipal) else None


async def say_error(send: Send, status: int, code: int, message: str) -> None:
    """An error that belongs to no request."""
    value = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    body = orjson.dumps(value)
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
