"""HTTP with SSE, the transport of 2024: a stream at /sse, messages for it by POST at /messages/.

The SDK's own has five streams and four tasks between a POST and the event that answers it, which
costs more than the guard. Here a plain call runs in the task of its POST (`transport_inline`), any
other message goes to the session's dispatcher, and what they answer goes into the response of
/sse. Paths, status codes and events are the SDK's; so is the rule that a session is found by the
principal that opened it, and by nobody else.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs, quote
from uuid import UUID

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from mcp.server.lowlevel import Server
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import JSONRPCRequest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_ops.transport_answer import PING_S, WAITING, new_session_id, owner_of, read_body
from mcp_ops.transport_calls import PlainCalls
from mcp_ops.transport_connection import NEXT_TURN
from mcp_ops.transport_ends import ReadEnd, StreamEnd
from mcp_ops.transport_eras import serve_era
from mcp_ops.transport_inline import InlineCalls, Places
from mcp_ops.transport_json import encode, parse_body

STREAM: Final = "/sse"
MESSAGES: Final = "/messages/"

MAX_STREAMS: Final = 1_000
"""Streams that may be open; more are answered 503."""

_QUERY = b"session_id="
_ACCEPTED = {
    "type": "http.response.start",
    "status": 202,
    "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"8")],
}
_ACCEPTED_BODY = {"type": "http.response.body", "body": b"Accepted"}
_HEAD = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class SseTransport:
    """The streams that are open, and the two applications. `places` bounds the calls that run in
    the task of their POST; `worker` is the number of one of several workers."""

    def __init__(
        self,
        server: Server[Any],
        calls: PlainCalls,
        places: Places | None = None,
        *,
        worker: int = 0,
    ) -> None:
        self._server = server
        self._worker = worker
        self._calls = calls
        self._places = places or Places()
        self._open: dict[str, _Session] = {}

    def routes(self) -> list[BaseRoute]:
        """For the application."""

        return [
            Route(STREAM, endpoint=_Application(self._stream), methods=["GET"]),
            Mount(MESSAGES, app=self.post),
        ]

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self._open) >= MAX_STREAMS:
            await Response("Too many streams are open", 503)(scope, receive, send)
            return
        to_session, messages = anyio.create_memory_object_stream[SessionMessage | Exception](
            WAITING
        )
        session_id = new_session_id(self._worker)
        writer = _Writer(send)
        inline = InlineCalls(self._calls, writer.message, self._places)
        self._open[session_id] = _Session(to_session, owner_of(scope), inline)
        path = quote(scope.get("root_path", "").rstrip("/") + MESSAGES)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
            await writer.endpoint(f"{path}?session_id={session_id}")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(writer.ping)
                tasks.start_soon(self._serve, messages, writer, inline, tasks.cancel_scope)
                try:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                finally:
                    await inline.end()
                tasks.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b""})
        finally:
            del self._open[session_id]
            to_session.close()
            messages.close()

    async def _serve(
        self, messages: Any, writer: _Writer, inline: InlineCalls, scope: anyio.CancelScope
    ) -> None:
        first = _First(messages)
        opening = await first.request()
        if opening is not None:
            await serve_era(self._server, opening, first, writer, opened=inline.open)
        scope.cancel()

    async def post(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a message for a session: 202, or what is wrong."""
        session = self._session(scope)
        if isinstance(session, Response):
            await session(scope, receive, send)
            return
        body = await read_body(receive, [])
        if body is None:
            await Response("Request body too large", 413)(scope, receive, send)
            return
        request = Request(scope, receive)
        call = session.inline.take(body, request)
        if call is not None:
            # A call that is over within this turn is answered before, and wakes its client once.
            scope[NEXT_TURN] = True
            try:
                await _accept(send)
            finally:  # it is taken: whatever becomes of the note, it has to run
                await session.inline.run(call)
        elif (wrong := await session.hand_over(body, request)) is not None:
            await wrong(scope, receive, send)
        else:
            await _accept(send)

    def _session(self, scope: Scope) -> _Session | Response:
        """The session that a message is for, or what its sender gets."""
        if scope["method"] != "POST":
            return Response(status_code=405, headers={"Allow": "POST"})
        kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if not kind.lower().startswith(b"application/json"):
            return Response("Invalid Content-Type header", 400)
        asked = _session_asked(scope["query_string"])
        if not asked:
            return Response("session_id is required", 400)
        session = self._open.get(asked)
        if session is None:
            try:
                session = self._open.get(UUID(hex=asked).hex)
            except ValueError:
                return Response("Invalid session ID", 400)
        if session is None or session.owner != owner_of(scope):
            return Response("Could not find session", 404)
        return session


def _session_asked(query: bytes) -> str:
    if query.startswith(_QUERY) and query.isascii() and len(query) == len(_QUERY) + 32:
        return query[len(_QUERY) :].decode()
    return parse_qs(query.decode("latin-1")).get("session_id", [""])[0]


async def _accept(send: Send) -> None:
    await send(_ACCEPTED)
    await send(_ACCEPTED_BODY)


class _Application:
    """A route's endpoint that is an application: a function would be taken for a view."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class _Session:
    """Where a session's messages go, and who may send them."""

    def __init__(
        self, to: MemoryObjectSendStream[Any], owner: str | None, inline: InlineCalls
    ) -> None:
        self.owner = owner
        self.inline = inline
        self._send = to.send

    async def hand_over(self, body: bytes, request: Request) -> Response | None:
        """Give a message to the dispatcher; None when it has it, else what its sender gets."""
        try:
            message = parse_body(body)
        except (ValueError, RecursionError):
            return Response("Could not parse message", 400)
        self.inline.hear(message)
        metadata = ServerMessageMetadata(request_context=request)
        try:
            await self._send(SessionMessage(message, metadata=metadata))
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return Response("Could not find session", 404)
        return None


class _First(ReadEnd):
    """The read stream of a session, whose first request is looked at and put back."""

    def __init__(self, messages: Any) -> None:
        self._messages = messages
        self._back: list[SessionMessage | Exception] = []

    async def request(self) -> JSONRPCRequest | None:
        """The first request; None when the stream ends before."""
        async for item in self._messages:
            self._back.append(item)
            if isinstance(item, SessionMessage) and isinstance(item.message, JSONRPCRequest):
                return item.message
            del self._back[:-8]
        return None

    async def receive(self) -> SessionMessage | Exception:
        """The next message; EndOfStream at the end."""
        if self._back:
            return self._back.pop(0)
        item: SessionMessage | Exception = await self._messages.receive()
        return item

    async def aclose(self) -> None:
        """Stop reading."""
        self._messages.close()


class _Writer(StreamEnd):
    """The write stream of a session: each message is an event of the response."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._closed = False

    async def send(self, item: SessionMessage, /) -> None:
        """Write a message; waits while the client is slow."""
        if self._closed:
            raise anyio.ClosedResourceError
        await self.message(encode(item.message))

    async def message(self, data: bytes) -> None:
        """Write a message that is JSON already."""
        body = b"event: message\r\ndata: " + data + b"\r\n\r\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def endpoint(self, path: str) -> None:
        """Say where messages have to be posted."""
        body = f"event: endpoint\r\ndata: {path}\r\n\r\n".encode()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def ping(self) -> None:
        """Write comments, for as long as it runs."""
        while True:
            await anyio.sleep(PING_S)
            body = b": ping\r\n\r\n"
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def aclose(self) -> None:
        """Take no more messages."""
        self._closed = True
