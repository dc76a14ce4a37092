"""The HTTP transports: Streamable HTTP at /mcp, on demand SSE at /sse, health at /health.

The protocol is the SDK's; who may call is `transport_edge`'s. Served by uvicorn on the loop that
runs already, with a drain of our own: calls in flight end, then streams that never would.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from typing import Any, Final

import anyio
import uvicorn
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from mcp_ops.auth.challenge import WELL_KNOWN, Challenges
from mcp_ops.auth.door import Door, configured_door
from mcp_ops.errors import ConfigurationError
from mcp_ops.settings import ServerSettings
from mcp_ops.transport import DRAIN_S, PRINCIPAL_SCOPE_KEY
from mcp_ops.transport_answer import PING_S
from mcp_ops.transport_calls import shorten
from mcp_ops.transport_connection import MAX_CONNECTIONS, MAX_HEAD, guarded_protocol
from mcp_ops.transport_direct import PATH, Direct
from mcp_ops.transport_edge import OPEN_ROUTES, Edge, StepUp, is_loopback
from mcp_ops.transport_handing import beginning, handing
from mcp_ops.transport_inbox import Inbox, Worker
from mcp_ops.transport_refusals import MAX_BODY
from mcp_ops.transport_sessions import Sessions
from mcp_ops.transport_socket import base_url, bound_socket
from mcp_ops.transport_sse import MESSAGES, SseTransport

KEEP_ALIVE_S: Final = 75
"""Seconds that an idle connection stays open: longer than proxies keep theirs."""

Health = Callable[[], Awaitable[tuple[int, dict[str, Any]]]]
Lifespan = Callable[[], AbstractAsyncContextManager[None]]

# At DEBUG the first writes whole answers, and the others what clients send.
_SESSION_LOGS = (
    "sse_starlette.sse",
    "mcp.server.streamable_http",
    "mcp.server.streamable_http_manager",
)
_SESSION_ID = re.compile(r"\b([0-9a-f]{6})[0-9a-f]{2}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\b")
_LONG_WORD = re.compile(r"([\x21-\x7e]{6})[\x21-\x7e]{26,}")
_SETTLE_S = 0.1
_CLOSE_S = 3


class InFlight:
    """Counts the requests that are being served, over all sessions and both eras."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = anyio.Event()
        self._stopping = False

    def refuse_new(self) -> None:
        """Refuse further calls in the sessions that are open; answers to our questions pass."""
        self._stopping = True

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """The SDK's middleware: wraps every message."""
        if ctx.request_id is None or ctx.method == "subscriptions/listen":
            return await call_next(ctx)
        if self._stopping:
            raise MCPError(CONNECTION_CLOSED, "the server is stopping; nothing was run")
        self._count += 1
        try:
            return await call_next(ctx)
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until nothing is being served."""
        while self._count:
            self._idle = anyio.Event()
            await self._idle.wait()


def http_app(
    server: Server[Any],
    *,
    settings: ServerSettings,
    health: Health,
    sse: bool,
    pages: Sequence[BaseRoute] = (),
    lifespan: Lifespan | None = None,
    door: Door | None = None,
    step_up: StepUp | None = None,
    open_routes: frozenset[str] = OPEN_ROUTES,
    ping_s: float = PING_S,
    worker: int = 0,
) -> Starlette:
    """The application: /mcp and /health, with `sse` also /sse and /messages/, and `pages`.

    `health` answers a status code and details; without a key only the details' `status` is shown.
    `lifespan` is entered before the first request and left after the last. `door` decides who gets
    in; without one the keys and certificates of `settings` do. `open_routes` answer without a key.
    Answers that take longer than `ping_s` seconds are streams with comments. `worker` is the number
    of one of several workers.

    Raises ConfigurationError when it would be reachable from elsewhere without a key.
    """
    door = door or configured_door(settings)
    if not door.closed and not is_loopback(settings.host):
        raise ConfigurationError(
            "server.host is reachable from other machines and no key is configured",
            hint="add a [[server.keys]] section, or bind 127.0.0.1",
        )
    _shorten_session_ids()
    in_flight = InFlight()
    server.middleware.insert(0, in_flight)
    calls = shorten(server)
    # What has no session: 2026-07-28, and the revisions before it where sessions are off.
    single = StreamableHTTPSessionManager(server, max_request_body_size=MAX_BODY, stateless=True)
    sessions = Sessions(server, ping_s=ping_s, worker=worker) if settings.sessions else None
    routes: list[BaseRoute] = [
        Route(PATH, endpoint=StreamableHTTPASGIApp(single), methods=["POST"]),
        Route("/health", endpoint=_health_route(health), methods=["GET"]),
    ]
    others: dict[str, ASGIApp] = {}
    if sse:
        streams = SseTransport(server, calls, worker=worker)
        routes += streams.routes()
        others[MESSAGES] = streams.post
    if door.challenges.oauth:
        routes += _metadata_routes(door.challenges, ("", "/mcp", "/sse") if sse else ("", "/mcp"))
    routes += pages

    @asynccontextmanager
    async def alive(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if lifespan is not None:
                await stack.enter_async_context(lifespan())
            await stack.enter_async_context(single.run())
            if sessions is not None:
                await stack.enter_async_context(sessions.run())
            yield

    def front(app: ASGIApp) -> ASGIApp:
        return Direct(app, server, calls, sessions, others=others, ping_s=ping_s)

    app = _behind_edge(routes, settings, in_flight, alive, door, step_up, open_routes, front)
    app.state.end_subscriptions = partial(_end_subscriptions, server)
    return app


def page_app(pages: Sequence[BaseRoute], settings: ServerSettings) -> Starlette:
    """An application of pages alone, without the protocol, behind the same edge."""
    return _behind_edge(pages, settings, InFlight(), None, configured_door(settings), None)


def _behind_edge(
    routes: Sequence[BaseRoute],
    settings: ServerSettings,
    in_flight: InFlight,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None,
    door: Door,
    step_up: StepUp | None,
    open_routes: frozenset[str] = OPEN_ROUTES,
    before: Callable[[ASGIApp], ASGIApp] = lambda app: app,
) -> Starlette:
    edges: list[Edge] = []

    def edge(app: Any) -> Edge:
        inner = before(app)
        made = Edge(inner, settings=settings, door=door, step_up=step_up, open_routes=open_routes)
        edges.append(made)
        return edges[-1]

    app = Starlette(routes=routes, middleware=[Middleware(edge)], lifespan=lifespan)
    app.middleware_stack = app.build_middleware_stack()
    app.state.edge, app.state.in_flight, app.state.door = edges[-1], in_flight, door
    app.state.end_subscriptions = lambda: None
    return app


def _end_subscriptions(server: Server[Any]) -> None:
    """End the streams of `subscriptions/listen` with their results: clients listen elsewhere."""
    entry = server.get_request_handler("subscriptions/listen")
    if entry is not None and isinstance(entry.handler, ListenHandler):
        entry.handler.close()


async def serve_http(
    app: Starlette,
    *,
    settings: ServerSettings,
    stop: anyio.Event,
    on_ready: Callable[[str], None],
    worker: Worker | None = None,
) -> None:
    """Serve `app` until `stop` is set; then let calls in flight end, for at most `DRAIN_S`.

    `on_ready` gets the base URL, with the port that was bound. Signals are the caller's business.
    `worker` is one of several, which share a socket and give each other connections.

    Raises ConfigurationError when the address can't be bound.
    """
    listener = worker.listener if worker else bound_socket(settings)
    inbox = Inbox(worker) if worker else None
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=_CLOSE_S,
        h11_max_incomplete_event_size=MAX_HEAD,
        http=guarded_protocol(over=handing(inbox)) if inbox else guarded_protocol(),
    )
    serving = _Serving(config, lambda: on_ready(base_url(listener, settings.host)), inbox)
    with listener:
        async with anyio.create_task_group() as tg:
            tg.start_soon(_stop_serving, app, serving, stop)
            tg.start_soon(app.state.door.sweep, app.state.edge.end_lost_streams)
            await serving.serve(sockets=[listener])
            tg.cancel_scope.cancel()


def fast_loop() -> Callable[[], Any] | None:
    """The factory of uvloop's event loop where it is installed (`mcp-ops[fast]`), else None."""
    try:
        import uvloop  # an extra
    except ImportError:
        return None
    factory: Callable[[], Any] = uvloop.new_event_loop
    return factory


class _Serving(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], inbox: Inbox | None
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._inbox = inbox

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._inbox is not None:
            self._inbox.open(beginning(self._protocol))
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._inbox is not None:
            await self._inbox.close()
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        # What uvicorn makes for each connection that it accepts itself.
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        return made

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _stop_serving(app: Starlette, serving: _Serving, stop: anyio.Event) -> None:
    await stop.wait()
    edge: Edge = app.state.edge
    in_flight: InFlight = app.state.in_flight
    edge.refuse_new()
    in_flight.refuse_new()
    app.state.end_subscriptions()
    with anyio.move_on_after(DRAIN_S - _CLOSE_S):
        await in_flight.idle()
    # The last answers are on their way through the SDK's streams.
    await anyio.sleep(_SETTLE_S)
    edge.end_streams()
    serving.should_exit = True


def _health_route(health: Health) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        status, details = await health()
        if request.scope[PRINCIPAL_SCOPE_KEY] is None:
            details = {"status": details.get("status", "ok" if status < 400 else "unhealthy")}
        return JSONResponse(details, status_code=status, headers={"cache-control": "no-store"})

    return answer


def _metadata_routes(challenges: Challenges, paths: Sequence[str]) -> list[BaseRoute]:
    def route(path: str) -> Route:
        async def answer(_: Request) -> Response:
            return JSONResponse(
                challenges.metadata(path), headers={"cache-control": "max-age=3600"}
            )

        return Route(f"{WELL_KNOWN}{path}", endpoint=answer, methods=["GET", "HEAD"])

    return [route(path) for path in paths]


class _Shortening(logging.Filter):
    """Cuts session ids, which are as good as keys, to their first characters."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = _SESSION_ID.sub(r"\1…", record.getMessage())
        record.msg, record.args = _LONG_WORD.sub(r"\1…", text), ()
        return record.levelno >= logging.INFO


_SHORTENING = _Shortening()


def _shorten_session_ids() -> None:
    for name in _SESSION_LOGS:
        logging.getLogger(name).addFilter(_SHORTENING)
