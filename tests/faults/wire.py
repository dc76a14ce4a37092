"""A wire that keeps one message back: it arrives when the test says so, however late that is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import anyio.abc

_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)
_CHUNK = 65_536


@dataclass(slots=True)
class Wire:
    """One forwarded port. The next chunk to the server that holds `marker` waits for `release`;
    it is `kept`, and `answered` once the server has said something after it."""

    port: int
    marker: bytes = b""
    kept: bytes = b""
    arrived: anyio.Event = field(default_factory=anyio.Event)
    release: anyio.Event = field(default_factory=anyio.Event)
    answered: anyio.Event = field(default_factory=anyio.Event)

    async def pass_on(self, source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream) -> None:
        """Bytes to the server."""
        with suppress(*_BROKEN):
            while True:
                chunk = await source.receive(_CHUNK)
                if self.marker and self.marker in chunk:
                    self.marker, self.kept = b"", chunk
                    self.arrived.set()
                    await self.release.wait()
                await sink.send(chunk)

    async def pass_back(self, source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream) -> None:
        """Bytes of the server."""
        with suppress(*_BROKEN):
            while True:
                chunk = await source.receive(_CHUNK)
                if self.release.is_set():
                    self.answered.set()
                await sink.send(chunk)


@asynccontextmanager
async def wire(upstream_port: int) -> AsyncIterator[Wire]:
    """Forward a free loopback port to another one."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    taken = listener.extra(anyio.abc.SocketAttribute.local_port)
    made = Wire(port=taken)

    async def serve(client: anyio.abc.SocketStream) -> None:
        with suppress(*_BROKEN):
            server = await anyio.connect_tcp("127.0.0.1", upstream_port)
            async with client, server, anyio.create_task_group() as both:

                async def one_way(
                    way: object, source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream
                ) -> None:
                    await (made.pass_on if way == "on" else made.pass_back)(source, sink)
                    both.cancel_scope.cancel()

                both.start_soon(one_way, "on", client, server)
                both.start_soon(one_way, "back", server, client)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield made
        tasks.cancel_scope.cancel()
