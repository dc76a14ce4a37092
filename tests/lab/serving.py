"""Serve a stand-in on a loopback socket, for the tests of the lab."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import uvicorn

from mcp_ops.lab.standin import StandIn


class Clock:
    """A clock that the test moves."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def loopback() -> tuple[socket.socket, str]:
    """A bound socket and the base URL under which it will answer."""
    # With the protocol: asyncio switches Nagle off only for sockets that name it.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    return bound, f"http://127.0.0.1:{bound.getsockname()[1]}"


@asynccontextmanager
async def serve(
    standin: StandIn, at: tuple[socket.socket, str] | None = None
) -> AsyncIterator[httpx2.AsyncClient]:
    """Serve it with a real uvicorn and answer a client for it."""
    bound, base_url = at or loopback()
    config = uvicorn.Config(
        standin.app, log_level="error", date_header=False, lifespan="off", ws="none"
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[bound])
    try:
        async with httpx2.AsyncClient(base_url=base_url, timeout=5) as client:
            yield client
    finally:
        await server.shutdown(sockets=[bound])
