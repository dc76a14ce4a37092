"""Sockets of this machine on which lines ask and bytes answer, as requests that gates know.

So the faults of platforms that speak HTTP are those of programs and keepers, too: held, lost, late,
or answered by somebody else. The path is `/NAME/VERB`; a look is a GET, a change a POST.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import SocketStream, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_ops.adapters.process.control import short_path
from tests.kubernetes_lab import Between, Fault

_LONGEST: Final = 1024 * 1024
_ACTS: Final = "faults.acts"
GONE: Final = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    anyio.IncompleteRead,
    OSError,
)


@dataclass(slots=True)
class Peer:
    """Who asks."""

    stream: SocketStream
    _lines: BufferedByteReceiveStream

    async def line(self) -> bytes:
        """Its next line; raises one of `GONE`."""
        return await self._lines.receive_until(b"\n", _LONGEST)

    async def say(self, words: bytes) -> None:
        """Write to it; raises one of `GONE`."""
        if words:
            await self.stream.send(words)


async def listen(
    tasks: TaskGroup, folder: Path, name: str, meet: Callable[[Peer], Awaitable[None]]
) -> None:
    """Listen on a socket in a folder, whose path may be long; each who comes is met, and left when
    they are gone."""

    async def one(stream: SocketStream) -> None:
        with suppress(*GONE):
            async with stream:
                await meet(Peer(stream, BufferedByteReceiveStream(stream)))

    with short_path(folder) as path:
        listener = await anyio.create_unix_listener(Path(path).with_name(name))

    async def serve() -> None:
        async with listener:
            await listener.serve(one)

    tasks.start_soon(serve)


def gate() -> Between:
    """A gate before targets that answer with bytes."""
    return Between(_target)


async def _target(scope: Scope, _receive: Receive, send: Send) -> None:
    body = await scope[_ACTS]()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def asked(
    between: Between, path: str, acts: Callable[[], Awaitable[bytes]], *, looks: bool
) -> bytes:
    """Let a request through a gate; what it is answered with. `acts` is what the target does, and
    what it says then."""
    said = bytearray()

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        said.extend(message.get("body", b""))

    scope = {"type": "http", "method": "GET" if looks else "POST", "path": path, _ACTS: acts}
    await between({**scope, "query_string": b""}, receive, send)
    return bytes(said)


def cut(share: float) -> Fault:
    """Let the target act, and end its answer after that share of it."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        said = bytearray()

        async def keep(message: Message) -> None:
            said.extend(message.get("body", b""))

        await app(scope, receive, keep)
        part = bytes(said[: int(len(said) * share)])
        await send({"type": "http.response.body", "body": part})

    return fault
