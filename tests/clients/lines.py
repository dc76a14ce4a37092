"""A stdio server that is spoken to in lines, for what no client lets one do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.clients.live import ROOT, START_S, Place
from tests.clients.official import MODERN

_LONGEST = 8 * 1024 * 1024


class Lines:
    """The server's process, its input and its output."""

    def __init__(self, process: anyio.abc.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self._last = 0

    async def send(self, method: str, **params: Any) -> int:
        """Write a request; its id."""
        self._last += 1
        message = {"jsonrpc": "2.0", "id": self._last, "method": method, "params": params}
        await self.stdin.send(json.dumps(message).encode() + b"\n")
        return self._last

    async def answer(self, number: int) -> dict[str, Any]:
        """Read until the answer to a request."""
        with anyio.fail_after(START_S):
            while True:
                line = await self._stdout.receive_until(b"\n", _LONGEST)
                message: dict[str, Any] = json.loads(line)
                if message.get("id") == number and "method" not in message:
                    return message

    async def notified(self, method: str) -> None:
        """Read until a notification."""
        with anyio.fail_after(START_S):
            while True:
                line = await self._stdout.receive_until(b"\n", _LONGEST)
                if json.loads(line).get("method") == method:
                    return

    async def stop_reading(self) -> None:
        """Close our end of its output."""
        await self._stdout.aclose()

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Write a request and read its answer."""
        return await self.answer(await self.send(method, **params))

    async def greet(self, era: str) -> dict[str, Any]:
        """Shake hands where the revision does; what to add to each request's parameters."""
        who = {"name": "lines", "version": "1"}
        if era == MODERN:
            prefix = "io.modelcontextprotocol/"
            meta = {"protocolVersion": era, "clientInfo": who, "clientCapabilities": {}}
            return {"_meta": {prefix + key: value for key, value in meta.items()}}
        await self.ask("initialize", protocolVersion=era, capabilities={}, clientInfo=who)
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await self.stdin.send(json.dumps(note).encode() + b"\n")
        return {}

    async def code(self) -> int:
        """Wait for the end; the exit code."""
        with anyio.fail_after(START_S):
            return await self.process.wait()


@asynccontextmanager
async def lines(place: Place) -> AsyncIterator[Lines]:
    """A running server; killed at the end if it still runs."""
    command = place.command("serve", "--transport", "stdio")
    with place.stderr.open("ab") as stderr:
        async with started(command, place.environment, ROOT, stderr) as server:
            yield server


@asynccontextmanager
async def started(
    command: list[str], environment: dict[str, str], folder: Path, stderr: IO[bytes]
) -> AsyncIterator[Lines]:
    """A process with exactly this environment."""
    process = await anyio.open_process(command, env=environment, cwd=folder, stderr=stderr.fileno())
    async with process:
        try:
            yield Lines(process)
        finally:
            if process.returncode is None:
                process.kill()
