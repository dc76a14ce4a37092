"""A stand-in on its socket, and the two faults that every stand-in can have: slow and down."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_ops.lab.place import reserve
from mcp_ops.lab.standin import StandIn

SLOW_S: Final = 5.0


class Served:
    """One stand-in; `down` closes its listener, and its state and controllers go on."""

    def __init__(self, stand_in: StandIn, taken: socket.socket, *, slow_s: float) -> None:
        self.stand_in = stand_in
        self.port = int(taken.getsockname()[1])
        self._taken = taken
        self._slow_s = slow_s
        self._delay_s = 0.0
        self._server: uvicorn.Server | None = None

    @property
    def name(self) -> str:
        """The name of the component."""
        return self.stand_in.name

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def supported(self) -> tuple[str, ...]:
        """The faults it can have."""
        return (*self.stand_in.supported, "slow", "down")

    @property
    def up(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    async def inject(self, fault: str) -> None:
        """Apply a fault; raises `KeyError` for one that it cannot have."""
        if fault == "slow":
            self._delay_s = self._slow_s
        elif fault == "down":
            await self.close()
        else:
            self.stand_in.inject(fault)

    async def mend(self, fault: str) -> None:
        """Take a fault back; raises `KeyError` for one that it cannot have."""
        if fault == "slow":
            self._delay_s = 0.0
        elif fault == "down":
            await self.listen()
        else:
            self.stand_in.mend(fault)

    async def listen(self) -> None:
        """Answer on the port; nothing happens when it does already."""
        if self._server is not None:
            return
        config = uvicorn.Config(
            self._delayed(self.stand_in.app),
            log_config=None,
            log_level="critical",
            access_log=False,
            # The stand-ins have a clock of their own.
            date_header=False,
            # The application's lifespan outlasts the listener.
            lifespan="off",
            ws="none",
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[self._taken])
        self._server = server

    async def close(self) -> None:
        """Refuse connections and break those that stand; the port stays ours."""
        if await self._stop():
            self._taken = reserve(self.port)

    async def end(self) -> None:
        """The same for good: the port is given away."""
        await self._stop()
        self._taken.close()

    async def _stop(self) -> bool:
        """Whether there was something to stop, which closes the socket."""
        server, self._server = self._server, None
        if server is None:
            return False
        with anyio.CancelScope(shield=True):
            for connection in list(server.server_state.connections):
                transport: Any = connection.transport
                transport.abort()
            server.force_exit = True
            await server.shutdown(sockets=[self._taken])
            for task in list(server.server_state.tasks):
                task.cancel()
        return True

    def _delayed(self, app: ASGIApp) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if self._delay_s:
                await anyio.sleep(self._delay_s)
            # As it is: `Wire` looks for the server behind `send`.
            await app(scope, receive, send)

        return answer


@asynccontextmanager
async def serving(
    stand_in: StandIn, taken: socket.socket, *, slow_s: float = SLOW_S
) -> AsyncIterator[Served]:
    """Serve a stand-in on a bound socket."""
    async with AsyncExitStack() as stack:
        if isinstance(stand_in.app, Starlette):
            await stack.enter_async_context(stand_in.app.router.lifespan_context(stand_in.app))
        served = Served(stand_in, taken, slow_s=slow_s)
        await served.listen()
        try:
            yield served
        finally:
            await served.end()
