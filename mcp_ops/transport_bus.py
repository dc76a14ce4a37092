"""Telling clients that the list of tools changed, in both eras and over all processes.

In 2026-07-28 a client opens a stream with `subscriptions/listen`; before, the notification goes to
every session. The SDK's bus carries the event within this process; a signal of the stores makes
the other processes look, too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import anyio
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_REQUEST,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_ops.transport import http_principal
from mcp_ops.transport_streams import MAX_STREAMS_EACH

LOOK_S: Final = 0.5
"""Seconds between looks, where no other process says that something changed."""

TELL_S: Final = 5.0
"""Seconds that a session has to take a notification; after that it misses it."""

MAX_STREAMS: Final = 1_000
"""Streams of `subscriptions/listen` that may be open; more are refused."""

_INITIALIZED = "notifications/initialized"
_CHANGED = "notifications/tools/list_changed"


class Signals(Protocol):
    """How processes wake each other."""

    async def send(self) -> None:
        """Tell the others. Never raises; may be lost."""
        ...

    def hear(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when another one sends."""
        ...


class ToolListBus:
    """The SDK's bus of one process, and the sessions of the older era beside it."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self.events = InMemorySubscriptionBus()
        self._sessions: set[Connection] = set()
        self._listen = ListenHandler(self.events, max_subscriptions=MAX_STREAMS)
        self._listening: Counter[str] = Counter()

    async def listen(
        self, ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """One stream of a client; over a stream of messages one connection may ask for many."""
        principal = http_principal(ctx)
        name = principal.id if principal is not None else ""
        if self._listening[name] >= MAX_STREAMS_EACH:
            raise MCPError(INVALID_REQUEST, f"{MAX_STREAMS_EACH} streams are open; end one first")
        self._listening[name] += 1
        try:
            return await self._listen(ctx, params)
        finally:
            self._listening[name] -= 1
            if not self._listening[name]:
                del self._listening[name]

    async def follow(self, state: Callable[[], Awaitable[object]]) -> None:
        """Tell clients whenever `state` changes (None is: not known), for as long as it runs.

        The first process that sees it makes the others look at once.
        """
        called = anyio.Event()

        def call() -> None:
            called.set()

        stop = self._signals.hear(call)
        try:
            before = await state()
            while True:
                with anyio.move_on_after(LOOK_S):
                    await called.wait()
                woken, called = called.is_set(), anyio.Event()
                now = await state()
                if now is None or now == before:
                    continue
                before = now
                if not woken:
                    await self._signals.send()
                await self.changed()
        finally:
            stop()

    async def changed(self) -> None:
        """Tell the clients of this process."""
        await self.events.publish(ToolsListChanged())
        # One that does not read must not keep it from the others.
        told = [self._tell(connection) for connection in list(self._sessions)]
        await asyncio.gather(*told)

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """The SDK's middleware: remembers the sessions that are open."""
        if ctx.method == _INITIALIZED and ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            # The SDK shows the connection to nobody; it ends with what is on its stack.
            connection = ctx.session._connection
            if connection not in self._sessions:
                self._sessions.add(connection)
                connection.exit_stack.callback(self._sessions.discard, connection)
        return await call_next(ctx)

    async def _tell(self, connection: Connection) -> None:
        with anyio.move_on_after(TELL_S):
            await connection.notify(_CHANGED, None)


class ChangingServer(Server[Any]):
    """A server that says in the handshake that its list of tools may change."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """What the SDK makes, with `tools.listChanged`."""
        return super().create_initialization_options(
            notification_options or NotificationOptions(tools_changed=True),
            experimental_capabilities,
            extensions,
        )
