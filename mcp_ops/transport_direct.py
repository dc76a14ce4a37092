"""The front of /mcp: a plain `tools/call` of 2026-07-28, from the bytes to the answer in one task.

The SDK's way of such a request has a router, two tasks, a stream between them and three more
models than `transport_calls` leaves; that costs more than the guard. Here a request that is
plainly right runs in the task that the HTTP server made for it. Everything else (other methods
and revisions, state of the multi-round trip, whatever is wrong) goes on to the SDK with its body.

A call that takes longer than a blink is watched: when its client leaves it is cancelled, and so
that proxies keep the connection, comments are sent as on an event stream. Progress makes the
answer an event stream at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import anyio
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS, x_mcp_header_map
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_ops.transport_answer import PING_S, STREAM_HEAD, accepts, read_body
from mcp_ops.transport_calls import METHOD, PlainCalls, PlainContext, plain_call
from mcp_ops.transport_json import encoded
from mcp_ops.transport_refusals import MAX_BODY

PATH: Final = "/mcp"

WATCHED_AFTER_S: Final = 0.05
"""Seconds after which a call is watched; one that is shorter is over before anybody can leave."""

_VERSION: Final = b"2026-07-28"
_VERSION_HEADER: Final = b"mcp-protocol-version"
_SESSION_VERSIONS: Final = frozenset(each.encode() for each in HANDSHAKE_PROTOCOL_VERSIONS)
_NEEDED = (b"content-type", b"accept", b"content-length", b"mcp-protocol-version", b"mcp-method")
_READ = frozenset({*_NEEDED, b"mcp-name", b"transfer-encoding"})


class Direct:
    """The application before the application: answers plain calls, hands everything else on.

    `others` are paths whose application needs no router.
    """

    def __init__(
        self,
        app: ASGIApp,
        server: Server[Any],
        calls: PlainCalls,
        sessions: ASGIApp | None,
        *,
        others: Mapping[str, ASGIApp] | None = None,
        ping_s: float = PING_S,
    ) -> None:
        self._app = app
        self._ping_s = ping_s
        self._sessions = sessions
        self._others = others or {}
        self._server = server
        self._calls = calls
        self._mirrored: dict[str, bool] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on the request as it came."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._others.get(scope.get("path", ""), self._app)(scope, receive, send)
            return
        if self._sessions is not None and _of_a_session(scope):
            await self._sessions(scope, receive, send)
            return
        if not (name := _plain_head(scope)):
            await self._app(scope, receive, send)
            return
        heard: list[Message] = []
        body = await read_body(receive, heard)
        message = None if body is None else self._plain_body(body, name)
        if message is None:
            await self._app(scope, _again(heard, receive), send)
            return
        envelope = self._calls.envelopes.connection(message["params"]["_meta"])
        if envelope is None:
            await self._app(scope, _again(heard, receive), send)
            return
        exchange = _Exchange(message, Request(scope, receive), receive, send, ping_s=self._ping_s)
        await self._answer(exchange, envelope)

    def _plain_body(self, body: bytes, name: str) -> dict[str, Any] | None:
        message = plain_call(body)
        plain = (
            message is not None
            and message["params"]["name"] == name
            and "_meta" in message["params"]
            and not self._mirrors(name)
        )
        return message if plain else None

    def _mirrors(self, name: str) -> bool:
        """Whether arguments of this tool have to stand in headers as well: the SDK checks those."""
        known = self._mirrored.get(name)
        if known is None:
            look = self._server.get_tool_input_schema
            schema = look(name) if look is not None else None
            if schema is None:  # not kept: clients make names up without end
                return look is None
            known = self._mirrored[name] = bool(x_mcp_header_map(schema))
        return known

    async def _answer(self, exchange: _Exchange, envelope: Connection) -> None:
        watch = asyncio.get_running_loop().call_later(WATCHED_AFTER_S, exchange.watch)
        try:
            with exchange.scope:
                await exchange.end(*await self._calls.outcome(exchange.context(envelope, {})))
        finally:
            watch.cancel()
            await exchange.unwatch()


class _Exchange(PlainContext):
    """One request and its answer. In this revision a server does not ask, and a client cancels by
    leaving."""

    kind = "streamable-http"

    def __init__(
        self,
        message: Mapping[str, Any],
        request: Request,
        receive: Receive,
        send: Send,
        *,
        ping_s: float,
    ) -> None:
        super().__init__(message, request)
        self._ping_s = ping_s
        self._receive = receive
        self._send = send
        self._streaming = False
        self._ended = False
        self._writing: anyio.Lock | None = None
        self._watching: list[asyncio.Task[None]] = []

    async def say(self, message: Mapping[str, Any]) -> None:
        """Send a message; the answer is an event stream from then on."""
        await self._event(message)

    # The answer.

    async def end(self, kind: str, value: Any) -> None:
        """Write the answer: a body, or the last event of the stream that has begun."""
        answer = {"jsonrpc": "2.0", "id": self.request_id, kind: value}
        if self._streaming:
            await self._event(answer, last=True)
            return
        self._ended = True
        body = encoded(answer)
        status = 200 if kind == "result" else ERROR_CODE_HTTP_STATUS.get(value["code"], 200)
        head = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body})

    async def _event(self, message: Mapping[str, Any], *, last: bool = False) -> None:
        await self._chunk(b"event: message\r\ndata: " + encoded(message) + b"\r\n\r\n", last=last)

    async def _chunk(self, data: bytes, *, last: bool = False) -> None:
        self._writing = self._writing or anyio.Lock()
        async with self._writing:
            if self._ended:
                return
            if not self._streaming:
                self._streaming = True
                head = {"type": "http.response.start", "status": 200, "headers": STREAM_HEAD}
                await self._send(head)
            self._ended = last
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    # The watch.

    def watch(self) -> None:
        """Look out for the client's leaving, and send comments."""
        loop = asyncio.get_running_loop()
        self._watching = [loop.create_task(self._leaving()), loop.create_task(self._pinging())]

    async def unwatch(self) -> None:
        """End the watch."""
        for task in self._watching:
            task.cancel()
        if self._watching:
            await asyncio.gather(*self._watching, return_exceptions=True)

    async def _leaving(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.scope.cancel()

    async def _pinging(self) -> None:
        while True:
            await asyncio.sleep(self._ping_s)
            await self._chunk(b": ping\r\n\r\n")


def _of_a_session(scope: Scope) -> bool:
    version = next((value for name, value in scope["headers"] if name == _VERSION_HEADER), None)
    return version is None or version in _SESSION_VERSIONS


def _plain_head(scope: Scope) -> str:
    """The tool that a plain call names in its headers; empty when the request is something else."""
    if scope["method"] != "POST":
        return ""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            if name in found:
                return ""
            found[name] = value
        elif name.startswith(b"mcp-param-"):
            return ""
    length = found.get(b"content-length", b"")
    plain = (
        found.get(b"mcp-protocol-version") == _VERSION
        and found.get(b"mcp-method") == METHOD.encode()
        and found.get(b"content-type", b"").lower().startswith(b"application/json")
        and all(accepts(found.get(b"accept", b"")))
        and length.isdigit()
        and len(length) < 8
        and int(length) <= MAX_BODY
        and b"transfer-encoding" not in found
    )
    name = found.get(b"mcp-name", b"")
    # A name that is encoded is the SDK's to decode.
    return name.decode("latin-1") if plain and not name.startswith(b"=?") else ""


def _again(heard: list[Message], receive: Receive) -> Receive:
    left = iter(heard)

    async def again() -> Message:
        for message in left:
            return message
        return await receive()

    return again
