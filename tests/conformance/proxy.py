"""A plain reverse proxy: each request goes to the next server, and may get a key on its way.

What it knows of the protocol is what one tells a proxy in production: a session of the older era
lives in one process, so a request with an `Mcp-Session-Id` goes where that was given out. All
else, the 2026 revision included, goes anywhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

SESSION = b"mcp-session-id"
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)
_HEAD = 64 * 1024
_CHUNK = 64 * 1024


@dataclass(slots=True)
class RoundRobin:
    """A proxied port. `served` counts requests by server, `pinned` those that a session chose."""

    port: int
    servers: Sequence[int]
    served: dict[int, int] = field(default_factory=dict)
    pinned: int = 0
    sessions: dict[bytes, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the suite connects."""
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def round_robin(servers: Sequence[int], *, key: str = "") -> AsyncIterator[RoundRobin]:
    """Forward a free loopback port to the ports of `servers`; `key` is added to each request."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    taken = listener.extra(anyio.abc.SocketAttribute.local_port)
    state = RoundRobin(port=taken, servers=servers, served=dict.fromkeys(servers, 0))
    turns = cycle(servers)
    # One request a connection: what comes next is looked at again.
    added = b"connection: close\r\n"
    added += f"authorization: Bearer {key}\r\n".encode() if key else b""

    async def serve(client: anyio.abc.SocketStream) -> None:
        async with client:
            with suppress(*_BROKEN, anyio.DelimiterNotFound, anyio.IncompleteRead):
                reading = BufferedByteReceiveStream(client)
                head = await reading.receive_until(b"\r\n\r\n", _HEAD)
                port = state.sessions.get(_header(head, SESSION))
                state.pinned += port is not None
                port = port or next(turns)
                state.served[port] += 1
                await _forward(state, client, reading, _changed(head, added), port)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield state
        tasks.cancel_scope.cancel()


async def _forward(
    state: RoundRobin,
    client: anyio.abc.SocketStream,
    reading: BufferedByteReceiveStream,
    head: bytes,
    port: int,
) -> None:
    async with await anyio.connect_tcp("127.0.0.1", port) as server:
        await server.send(head)
        async with anyio.create_task_group() as both:
            both.start_soon(_send_on, reading, server, both.cancel_scope)
            answering = BufferedByteReceiveStream(server)
            with suppress(*_BROKEN, anyio.DelimiterNotFound, anyio.IncompleteRead):
                answer = await answering.receive_until(b"\r\n\r\n", _HEAD)
                if session := _header(answer, SESSION):
                    state.sessions[session] = port
                await client.send(answer + b"\r\n\r\n")
                while True:
                    await client.send(await answering.receive(_CHUNK))
            # The client knows where the answer ends, and closes: that ends both directions. Node's
            # own aborts its process when the other side ends before it has read its answer.


async def _send_on(
    source: BufferedByteReceiveStream, sink: anyio.abc.SocketStream, both: anyio.CancelScope
) -> None:
    """The body; a client that goes takes its request with it."""
    with suppress(*_BROKEN):
        while True:
            await sink.send(await source.receive(_CHUNK))
    both.cancel()


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


def _changed(head: bytes, added: bytes) -> bytes:
    first, *lines = head.split(b"\r\n")
    theirs = {line.partition(b":")[0].strip().lower() for line in added.split(b"\r\n")}
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in theirs]
    return b"\r\n".join([first, *kept]) + b"\r\n" + added + b"\r\n"
