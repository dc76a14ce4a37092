"""Apps on loopback sockets, and what adapters and tools are given, for tests of real traffic."""

from __future__ import annotations

import socket
from asyncio import Protocol
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

import anyio
import anyio.abc
import uvicorn
from anyio.abc import SocketStream
from starlette.types import ASGIApp

from mcp_ops.adapter import Wiring
from mcp_ops.capabilities.base import Effect
from mcp_ops.capabilities.tokens import SecretStore
from mcp_ops.clock import ManualClock
from mcp_ops.redact import Redactor

CapabilityT = TypeVar("CapabilityT")
T = TypeVar("T")


def loopback() -> tuple[socket.socket, str]:
    """A bound socket and the base URL under which it will answer."""
    # With the protocol: asyncio switches Nagle off only for sockets that name it, and an answer in
    # two writes would take 40 ms.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    return bound, f"http://127.0.0.1:{bound.getsockname()[1]}"


@asynccontextmanager
async def serve(
    app: ASGIApp,
    at: tuple[socket.socket, str] | None = None,
    *,
    http: type[Protocol] | Literal["auto"] = "auto",
) -> AsyncIterator[str]:
    """Serve an app with a real uvicorn; answers its base URL."""
    bound, base_url = at or loopback()
    config = uvicorn.Config(
        app, log_level="error", date_header=False, lifespan="off", ws="none", http=http
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[bound])
    try:
        yield base_url
    finally:
        await server.shutdown(sockets=[bound])


@asynccontextmanager
async def serve_raw(say: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve bytes as they are: `say` writes the answer after one request was read."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            try:
                await stream.receive(65_536)
                await say(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
                return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


@dataclass(kw_only=True)
class Wired:
    """A wiring, and what went through it."""

    directory: Path
    clock: ManualClock = field(default_factory=ManualClock)
    redactor: Redactor = field(default_factory=Redactor)
    reported: list[tuple[str, float]] = field(default_factory=list)

    def wiring(self, target: str, *, secrets: SecretStore | None = None) -> Wiring:
        return Wiring(
            target=target,
            clock=self.clock,
            redactor=self.redactor,
            report_usage=lambda name, percent: self.reported.append((name, percent)),
            directory=self.directory,
            secrets=secrets,
        )


@dataclass(kw_only=True)
class Link(Generic[CapabilityT]):
    """A linked target without a guard: it runs the action, and remembers what leaves it."""

    name: str
    adapter: CapabilityT
    raised: list[BaseException] = field(default_factory=list)

    async def use(
        self, action: Callable[[CapabilityT], Awaitable[T]], *, effect: Effect = Effect.READ
    ) -> T:
        try:
            return await action(self.adapter)
        except Exception as exc:
            self.raised.append(exc)
            raise
