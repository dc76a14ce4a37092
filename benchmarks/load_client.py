"""Many HTTP clients in one process that cost next to nothing: prepared bytes, no parsing.

Each client is a connection (for SSE a stream beside it, for the older era a session of its own)
with one call in flight. Numbers have seven digits, so that a request differs from the next only
there and its head stays as it is.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import urlsplit

from benchmarks.raw_client import VERSION, BenchmarkError, Call, request

Kind = Literal["2026", "session", "sse"]

_FIRST = 1_000_000
_MARK = _FIRST + 234_567  # in the template, where a number goes
_HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "load-client", "version": "1"},
}
_INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What was measured: calls a second, and the latency of a call in milliseconds."""

    rate: float
    p50: float
    p99: float


class _Run:
    """The calls that are left, and how long those that are over took."""

    def __init__(self, count: int, call: Call, *, envelope: bool) -> None:
        self.left = count
        self.open = count
        self.took: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        body = call.body(_MARK, envelope=envelope)
        self._parts = body.split(str(_MARK).encode())
        self._number = _FIRST

    @property
    def length(self) -> int:
        """Of a body."""
        return len(str(_MARK)) * (len(self._parts) - 1) + sum(map(len, self._parts))

    def next(self) -> bytes:
        """The next body; empty when there is none left."""
        if not self.left:
            return b""
        self.left -= 1
        self._number += 1
        return str(self._number).encode().join(self._parts)

    def ended(self, begun: float) -> None:
        """One call is answered."""
        self.took.append(time.perf_counter() - begun)
        self.open -= 1
        if not self.open and not self.done.done():
            self.done.set_result(None)

    def failed(self, said: bytes) -> None:
        """A call went wrong: there is nothing to measure."""
        if not self.done.done():
            self.done.set_exception(BenchmarkError(said[:600].decode("utf-8", "replace")))


class _Client(asyncio.Protocol):
    """One connection with one call in flight; over SSE the answer comes on `_Stream`."""

    def __init__(self, run: _Run, head: bytes, *, streamed: bool) -> None:
        self._run, self._head, self._streamed = run, head, streamed
        self._buffer = b""
        self._begun = 0.0
        self._waits = 0
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass

    def begin(self) -> None:
        """Send the next call."""
        body = self._run.next()
        if body and self.transport is not None:
            self._waits = 2 if self._streamed else 1
            self._begun = time.perf_counter()
            self.transport.write(self._head + body)

    def data_received(self, data: bytes) -> None:
        """The answer, or over SSE the note that it will come."""
        self._buffer += data
        if not _whole(self._buffer):
            return
        answer, self._buffer = self._buffer, b""
        right = b"HTTP/1.1 202" if self._streamed else b"HTTP/1.1 200"
        if not answer.startswith(right) or _wrong(answer):
            self._run.failed(answer)
        else:
            self.settle()

    def settle(self) -> None:
        """One of the two halves of an answer is there."""
        self._waits -= 1
        if not self._waits:
            self._run.ended(self._begun)
            self.begin()


class _Stream(asyncio.Protocol):
    """The response of /sse: where messages have to be posted, then the answers."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.path: asyncio.Future[str] = loop.create_future()
        self.hello: asyncio.Future[None] = loop.create_future()
        self.client: _Client | None = None
        self.run: _Run | None = None
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """An event is whole when its chunk is."""
        self._buffer += data
        if not self._buffer.endswith(b"\r\n\r\n\r\n"):
            return
        said, self._buffer = self._buffer, b""
        if not self.path.done():
            self.path.set_result(said.partition(b"data: ")[2].partition(b"\r\n")[0].decode())
        elif not self.hello.done():
            self.hello.set_result(None)
        elif self.client is not None and self.run is not None and b"data: " in said:
            if _wrong(said):
                self.run.failed(said)
            else:
                self.client.settle()


def _whole(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return False
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at >= 0:
        return len(body) >= int(lower[at + 15 :].split(b"\r\n", 1)[0])
    return body.endswith(b"0\r\n\r\n")


def _wrong(answer: bytes) -> bool:
    return b'"isError":true' in answer or b'"error":{' in answer


class LoadClient:
    """Clients of one server, or of several that share the work."""

    def __init__(self, urls: Sequence[str], kind: Kind, keys: Sequence[str] = ()) -> None:
        self._at = [(urlsplit(url).hostname or "", urlsplit(url).port or 80) for url in urls]
        self._kind = kind
        self._keys = itertools.cycle(keys or ("",))  # a principal has a bound on its streams
        self._key = ""
        self._held: list[asyncio.BaseTransport] = []

    async def drive(self, call: Call, *, clients: int, count: int) -> Load:
        """Make so many calls with so many clients."""
        run = _Run(count, call, envelope=self._kind == "2026")
        made = [await self._client(run, call, number) for number in range(clients)]
        begun = time.perf_counter()
        for client in made:
            client.begin()
        await asyncio.wait_for(run.done, timeout=120)
        rate = count / (time.perf_counter() - begun)
        self.close()
        took = sorted(run.took)
        return Load(
            rate=rate,
            p50=took[len(took) // 2] * 1000,
            p99=took[min(len(took) - 1, int(len(took) * 0.99))] * 1000,
        )

    async def idle(self, clients: int) -> None:
        """Open so many more clients that wait, each shaken hands with: for who looks at memory."""
        for number in range(clients):
            self._key = next(self._keys)
            host, port = self._at[number % len(self._at)]
            if self._kind == "sse":
                stream = await self._stream(host, port)
                await self._shake(host, port, await stream.path)
            else:
                session = await self._shake(host, port, "/mcp")
                await self._open_stream(host, port, session)

    def close(self) -> None:
        """Hang up."""
        for transport in self._held:
            transport.close()
        self._held.clear()

    async def _client(self, run: _Run, call: Call, number: int) -> _Client:
        self._key = next(self._keys)
        host, port = self._at[number % len(self._at)]
        path, more, stream = "/mcp", "", None
        if self._kind == "sse":
            stream = await self._stream(host, port)
            path = await stream.path
            await self._shake(host, port, path)
            await asyncio.wait_for(stream.hello, timeout=10)
        elif self._kind == "session":
            session = await self._shake(host, port, path)
            more = f"Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n"
        else:
            more = (
                f"MCP-Protocol-Version: {VERSION}\r\nMcp-Method: tools/call\r\n"
                f"Mcp-Name: {call.tool}\r\n"
            )
        head = self._head(host, port, path, run.length, more)
        client = _Client(run, head, streamed=stream is not None)
        if stream is not None:
            stream.client, stream.run = client, run
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: client, host, port
        )
        self._held.append(transport)
        return client

    async def _stream(self, host: str, port: int) -> _Stream:
        stream = _Stream()
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: stream, host, port
        )
        self._held.append(transport)
        head = f"GET /sse HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\n"
        transport.write(f"{head}{self._bearer()}\r\n".encode())
        await asyncio.wait_for(asyncio.shield(stream.path), timeout=10)
        return stream

    async def _open_stream(self, host: str, port: int, session: str) -> None:
        """The stream of an idle session, which real clients keep open."""
        reader, writer = await asyncio.open_connection(host, port)
        self._held.append(writer.transport)
        head = f"GET /mcp HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\n"
        writer.write(f"{head}Mcp-Session-Id: {session}\r\n{self._bearer()}\r\n".encode())
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), timeout=10)

    async def _shake(self, host: str, port: int, path: str) -> str:
        """The handshake; the session's id, where there is one."""
        session = ""
        hello = request(1, "initialize", _HELLO, envelope=False)
        answer = await self._post(host, port, path, hello, "")
        for line in answer.split(b"\r\n"):
            if line.lower().startswith(b"mcp-session-id:"):
                session = line.split(b":", 1)[1].strip().decode()
        more = f"Mcp-Session-Id: {session}\r\n" if session else ""
        await self._post(host, port, path, _INITIALIZED, more)
        return session

    async def _post(self, host: str, port: int, path: str, body: bytes, more: str) -> bytes:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(self._head(host, port, path, len(body), more) + body)
        answer = b""
        while not _whole(answer):
            piece = await asyncio.wait_for(reader.read(65_536), timeout=10)
            answer += piece
            if not piece:
                break
        writer.close()
        if not answer.startswith(b"HTTP/1.1 20"):
            raise BenchmarkError(answer[:600].decode("utf-8", "replace"))
        return answer

    def _head(self, host: str, port: int, path: str, length: int, more: str) -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            "Accept: application/json, text/event-stream\r\n"
            f"Content-Length: {length}\r\n{more}{self._bearer()}\r\n"
        ).encode()

    def _bearer(self) -> str:
        return f"Authorization: Bearer {self._key}\r\n" if self._key else ""
