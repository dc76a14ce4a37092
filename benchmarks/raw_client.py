"""A raw client that costs the same for every server: JSON lines over pipes, HTTP kept alive.

No SDK and no models: a request is a prepared line or body with the next id in it, an answer is
looked at only as far as to see that it is one.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

VERSION = "2026-07-28"
META: Mapping[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "raw-client", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
LINE_LIMIT = 16 * 1024 * 1024


class BenchmarkError(Exception):
    """A server answered with an error, or not at all: there is nothing to measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool and its arguments. `{n}` in a string argument becomes the number of the call, and
    the argument `{n}` alone that number itself, at least 1 and at most 200."""

    tool: str
    arguments: Mapping[str, Any]

    def body(self, number: int, *, envelope: bool) -> bytes:
        """The request as JSON. `envelope` adds the 2026 metadata."""
        arguments = {key: _numbered(value, number) for key, value in self.arguments.items()}
        params: dict[str, Any] = {"name": self.tool, "arguments": arguments}
        return request(number, "tools/call", params, envelope=envelope)


def _numbered(value: Any, number: int) -> Any:
    if value == "{n}":
        return number % 200 + 1
    return value.replace("{n}", str(number)) if isinstance(value, str) else value


def request(number: int, method: str, params: dict[str, Any], *, envelope: bool) -> bytes:
    """A request as JSON. `envelope` adds the 2026 metadata."""
    if envelope:
        params = {**params, "_meta": META}
    return orjson.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def check(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result of an answer; BenchmarkError when it is an error of whatever kind."""
    result = answer.get("result")
    if not isinstance(result, dict) or result.get("isError"):
        raise BenchmarkError(orjson.dumps(answer).decode()[:600])
    return result


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB (Linux only, else 0)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


class StdioPeer:
    """A server process that is spoken to in lines."""

    def __init__(self, process: asyncio.subprocess.Process, started: float) -> None:
        self.process = process
        self.started = started
        self._number = 0

    async def ask(self, method: str, params: dict[str, Any], *, envelope: bool) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        self._number += 1
        self._send(request(self._number, method, params, envelope=envelope))
        while True:
            answer = await self._line()
            if answer.get("id") == self._number:
                return dict(check(answer))

    async def open(self, *, envelope: bool) -> dict[str, Any]:
        """Shake hands where the era does, and list the tools."""
        if not envelope:
            hello = {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "raw-client", "version": "1"},
            }
            await self.ask("initialize", hello, envelope=False)
            self._send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        return await self.ask("tools/list", {}, envelope=envelope)

    async def drive(self, call: Call, *, count: int, in_flight: int, envelope: bool) -> float:
        """Make calls with that many in flight; calls a second."""
        first = self._number + 1
        self._number += count
        numbers = iter(range(first, first + count))
        begun = time.perf_counter()
        for number in [next(numbers) for _ in range(min(in_flight, count))]:
            self._send(call.body(number, envelope=envelope))
        left = count
        while left:
            answer = await self._line()
            if "id" not in answer:
                continue
            check(answer)
            left -= 1
            if (number := next(numbers, 0)) != 0:
                self._send(call.body(number, envelope=envelope))
        return count / (time.perf_counter() - begun)

    def _send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")

    async def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise BenchmarkError("the server closed its output")
        value: dict[str, Any] = orjson.loads(line)
        return value


@asynccontextmanager
async def stdio_peer(
    command: Sequence[str], env: Mapping[str, str] | None = None
) -> AsyncIterator[StdioPeer]:
    """A server as a subprocess; its standard error is thrown away."""
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        limit=LINE_LIMIT,
    )
    try:
        yield StdioPeer(process, started)
    finally:
        await _end(process)


class HttpPeer:
    """A server that is spoken to over connections that are kept alive."""

    def __init__(self, url: str, key: str = "") -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname or "", parts.port or 80, parts.path
        self._key = key
        self._number = 0

    async def drive(self, call: Call, *, count: int, in_flight: int, envelope: bool) -> float:
        """Make calls, one connection for each in flight; calls a second."""
        numbers = iter(range(self._number + 1, self._number + count + 1))
        self._number += count
        session = "" if envelope else await self._open_session()
        pairs = [
            await asyncio.open_connection(self._host, self._port, limit=LINE_LIMIT)
            for _ in range(in_flight)
        ]

        async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for number in numbers:
                body = call.body(number, envelope=envelope)
                writer.write(self._head(len(body), call.tool, session) + body)
                check(orjson.loads(await _http_answer(reader)))

        begun = time.perf_counter()
        await asyncio.gather(*(work(reader, writer) for reader, writer in pairs))
        rate = count / (time.perf_counter() - begun)
        for _, writer in pairs:
            writer.close()
        return rate

    async def _open_session(self) -> str:
        hello = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "raw-client", "version": "1"},
        }
        body = request(1, "initialize", hello, envelope=False)
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(self._head(len(body), "", "") + body)
        head = await reader.readuntil(b"\r\n\r\n")
        session = next(
            line.split(b":", 1)[1].strip().decode()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"mcp-session-id:")
        )
        writer.close()
        note = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(self._head(len(note), "", session) + note)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return session

    def _head(self, length: int, tool: str, session: str) -> bytes:
        lines = [
            f"POST {self._path} HTTP/1.1",
            f"Host: {self._host}:{self._port}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"Content-Length: {length}",
        ]
        if session:
            lines += [f"Mcp-Session-Id: {session}", "MCP-Protocol-Version: 2025-11-25"]
        elif tool:
            lines += [f"MCP-Protocol-Version: {VERSION}", "Mcp-Method: tools/call"]
            lines.append(f"Mcp-Name: {tool}")
        if self._key:
            lines.append(f"Authorization: Bearer {self._key}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


@asynccontextmanager
async def http_peer(
    command: Sequence[str], env: Mapping[str, str] | None = None, *, key: str = ""
) -> AsyncIterator[HttpPeer]:
    """A server as a subprocess, spoken to at the URL that it prints."""
    async with http_server(command, env) as (url, _):
        yield HttpPeer(url, key)


@asynccontextmanager
async def http_server(
    command: Sequence[str], env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[str, int]]:
    """A server as a subprocess that prints its URL on a line of its own, on either output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
    )
    try:
        yield await asyncio.wait_for(_url(process), timeout=30), process.pid
    finally:
        await _end(process)


async def _url(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    seen = b""
    while line := await process.stdout.readline():
        seen += line
        for word in line.decode("utf-8", "replace").replace('"', " ").replace("'", " ").split():
            if word.startswith("http://127.0.0.1:"):
                return word.rstrip("/.,") if "/mcp" in word else word.rstrip("/.,") + "/mcp"
    raise BenchmarkError(seen.decode("utf-8", "replace")[-2000:])


async def _http_answer(reader: asyncio.StreamReader) -> bytes:
    """The JSON in an answer, be it a body or the last event of a stream."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise BenchmarkError(head.decode("latin-1")[:200])
    if b"transfer-encoding: chunked" in head:
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        length = next(part for part in head.split(b"\r\n") if part.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.split(b":")[1]))
    if b"text/event-stream" in head:
        body = next(line[5:] for line in body.splitlines() if line.startswith(b"data:"))
    return body


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), timeout=10)
    except TimeoutError:
        process.kill()
        await process.wait()
