"""The approval page on this machine alone: its address and its code are for a terminal."""

from __future__ import annotations

import signal
import sys

import anyio
from anyio.abc import TaskStatus

from mcp_ops.call import Caller
from mcp_ops.clock import SystemClock
from mcp_ops.commands.output import warn
from mcp_ops.commands.session import Desk
from mcp_ops.settings import ServerSettings


async def serve_page(desk: Desk, person: Caller, *, port: int) -> None:
    """Serve the page on 127.0.0.1 for this person, until SIGINT or SIGTERM.

    The code goes to stderr, which is a terminal: no agent reads along. Raises
    `ConfigurationError` when the port cannot be bound.
    """
    # The server's libraries are loaded only here: other commands start without them.
    from mcp_ops.approval_page import approval_routes
    from mcp_ops.approval_page_sessions import OneTimeCode, Signer
    from mcp_ops.transport_edge import APPROVALS_PATH
    from mcp_ops.transport_http import page_app, serve_http

    signer = Signer(principal=person.principal, scopes=person.scopes)
    codes = OneTimeCode(signer, lambda code: warn(f"Code for the next sign-in: {code}"))
    settings = ServerSettings(port=port)
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            await tasks.start(_stop_on_signals, stop)
        await serve_http(
            page_app(approval_routes(desk, codes, SystemClock()), settings),
            settings=settings,
            stop=stop,
            on_ready=lambda url: warn(f"The approval page is at {url}{APPROVALS_PATH}"),
        )
        tasks.cancel_scope.cancel()


async def _stop_on_signals(stop: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            stop.set()
            return
