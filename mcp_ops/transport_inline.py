"""Plain calls of a stream of messages, each in the task of the POST that it came by.

The dispatcher's way of a call has a stream, two tasks and a model of the message and of its answer.
Here a plain `tools/call` on a connection that is open runs at once, through all of the server's
middleware, and its answer is written as one event. What it says and asks meanwhile goes through
the connection's dispatcher, which all other messages pass; a cancellation finds it by its id.
The rules are the dispatcher's: a call that was cancelled is not answered, and one that the end of
the stream cuts off is told so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import CONNECTION_CLOSED, JSONRPCMessage, JSONRPCNotification
from starlette.requests import Request

from mcp_ops.transport_calls import PlainCalls, PlainContext, plain_call
from mcp_ops.transport_eras import Opened, enveloped
from mcp_ops.transport_json import encoded

MOST_INLINE: Final = 500
"""Calls of all streams that may run in the task of their POST. Those tasks are among the two
thousand that the HTTP server has at once; calls beyond them are the dispatcher's."""

_LAST_WORD_S = 1.0
_CANCELLED = "notifications/cancelled"
_CLOSED = {"code": CONNECTION_CLOSED, "message": "Connection closed"}

Write = Callable[[bytes], Awaitable[None]]


class Places:
    """How many calls of all streams run in the tasks of their POSTs."""

    def __init__(self, most: int = MOST_INLINE) -> None:
        self.most = most
        self.taken = 0


class InlineCalls:
    """The plain calls of one stream. `write` sends a message to the client."""

    def __init__(self, calls: PlainCalls, write: Write, places: Places) -> None:
        self._calls = calls
        self._write = write
        self._places = places
        self._opened: Opened | None = None
        self._running: dict[str, InlineCall] = {}
        self._over = False
        self._gone = anyio.Event()

    def open(self, opened: Opened) -> None:
        """The connection is there: calls may come."""
        self._opened = opened

    def take(self, body: bytes, request: Request) -> InlineCall | None:
        """The call that a message is, if it can be run here; then `run` has to follow."""
        opened = self._opened
        if opened is None or self._over or self._places.taken >= self._places.most:
            return None
        message = plain_call(body)
        if message is None or str(message["id"]) in self._running:
            return None
        connection = self._connection(opened, message["params"])
        if connection is None:
            return None
        call = InlineCall(message, request, connection, opened, self._write)
        self._running[call.name] = call
        self._places.taken += 1
        return call

    def _connection(self, opened: Opened, params: Mapping[str, Any]) -> Connection | None:
        if opened.connection is None:
            return self._calls.envelopes.connection(params.get("_meta") or {})
        # Before the handshake, and with an envelope of the other era, the SDK refuses.
        ready = opened.connection.client_params is not None and not enveloped(params)
        return opened.connection if ready else None

    async def run(self, call: InlineCall) -> None:
        """Run a call that was taken, and write its answer."""
        answering = False
        try:
            with call.scope:
                kind, value = await self._calls.outcome(call.begin())
                call.closed = True
                if not call.cancelled:
                    answering = True
                    await self._answer(call, kind, value)
            call.closed = True
            if self._over and not answering and not call.cancelled:
                with anyio.move_on_after(_LAST_WORD_S, shield=True):
                    await self._answer(call, "error", _CLOSED)
        finally:
            del self._running[call.name]
            self._places.taken -= 1
            if self._over and not self._running:
                self._gone.set()

    async def _answer(self, call: InlineCall, kind: str, value: Any) -> None:
        await self._write(encoded({"jsonrpc": "2.0", "id": call.request_id, kind: value}))

    def hear(self, message: JSONRPCMessage) -> None:
        """Cancel what a message for the dispatcher cancels, if it runs here."""
        if not isinstance(message, JSONRPCNotification) or message.method != _CANCELLED:
            return
        call = self._running.get(str(cancelled_request_id_from_params(message.params)))
        if call is not None and not call.closed:
            call.cancelled = True
            call.scope.cancel()

    async def end(self) -> None:
        """End what runs, and take nothing more: the stream is over."""
        self._over = True
        for call in self._running.values():
            call.scope.cancel()
        with anyio.CancelScope(shield=True):
            while self._running:
                await self._gone.wait()


class InlineCall(PlainContext):
    """One call. A server asks in the era of sessions; there `connection` carries the question."""

    kind = "jsonrpc"

    def __init__(
        self,
        message: Mapping[str, Any],
        request: Request,
        connection: Connection,
        opened: Opened,
        write: Write,
    ) -> None:
        super().__init__(message, request)
        self.name = str(self.request_id)
        self.cancelled = False
        self.closed = False
        self._connection = connection
        self._opened = opened
        self._write = write

    def begin(self) -> ServerRequestContext[Any, Any]:
        """What the server's middleware and handler are given."""
        return self.context(self._connection, self._opened.state)

    @property
    def can_send_request(self) -> bool:  # type: ignore[override]  # read only, like the SDK's
        """Whether the client can be asked now."""
        return self._opened.connection is not None and not self.closed

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Ask the client; its answer is a message for the dispatcher."""
        if not self.can_send_request:
            raise NoBackChannelError(method)
        return await self._connection.outbound.send_raw_request(method, params, opts)

    async def say(self, message: Mapping[str, Any]) -> None:
        """Write a message, unless the call is over."""
        if not self.closed:
            await self._write(encoded(message))
