"""Long-lived streams: how many there may be, and how they end before their client wants it.

An end is told to the application as if the client had gone, so that it closes what it holds; what
does not listen is cancelled a moment later. The connection is closed properly either way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_ops.auth.principal import Admitted

MAX_STREAMS: Final = 1_000
"""Long-lived streams at once."""

MAX_STREAMS_EACH: Final = 100
"""Long-lived streams of one principal at once."""

GRACE_S: Final = 1.0
"""Seconds that an application has to end a stream by itself."""

_GONE: Message = {"type": "http.disconnect"}


class Streams:
    """The open streams of one application."""

    def __init__(self) -> None:
        self._open: dict[_Stream, Admitted | None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def full(self, principal: str) -> bool:
        """Whether a principal has to close one before it opens another."""
        if len(self._open) < MAX_STREAMS_EACH:
            return False
        known = [each.principal.id for each in self._open.values() if each is not None]
        return known.count(principal) >= MAX_STREAMS_EACH or len(known) >= MAX_STREAMS

    def end(self, lost: Callable[[Admitted], bool] | None = None) -> None:
        """End all streams, or those of whoever is `lost`."""
        for stream, admitted in list(self._open.items()):
            if lost is None or (admitted is not None and lost(admitted)):
                stream.end()

    async def run(
        self,
        app: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
        admitted: Admitted | None,
    ) -> None:
        """Serve a request as a stream."""
        stream = _Stream(receive, send)
        self._open[stream] = admitted
        try:
            await stream.run(app, scope)
        finally:
            del self._open[stream]


class _Stream:
    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._ending = anyio.Event()
        self._scope = anyio.CancelScope()
        self._open_body = False

    def end(self) -> None:
        if not self._ending.is_set():
            self._ending.set()
            self._scope.deadline = anyio.current_time() + GRACE_S

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        with self._scope:
            await app(scope, self._listen, self._say)
        if self._ending.is_set() and self._open_body:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _say(self, message: Message) -> None:
        self._open_body = bool(
            message["type"] == "http.response.start" or message.get("more_body", False)
        )
        await self._send(message)

    async def _listen(self) -> Message:
        """What the client says, or that it is to be let go."""
        heard: list[Message] = []

        async def end() -> None:
            await self._ending.wait()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            heard.append(await self._receive())
            tasks.cancel_scope.cancel()
        return heard[0] if heard else _GONE
