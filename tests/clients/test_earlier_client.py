"""The official Python client 1.x, in an installation of its own, runs every tool."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import mcp_types as types
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.clients.install import Installed
from tests.clients.live import ROOT, LiveLab, Place, serving
from tests.clients.official import CALL_S, TRANSPORTS
from tests.clients.sweep import DESTROYS, PUBLISHED, Said, Sweep, said

SCRIPT = ROOT / "tests" / "clients" / "earlier_client.py"


class Earlier:
    """The client's process."""

    def __init__(self, process: anyio.abc.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)

    async def say(self, value: Any) -> dict[str, Any]:
        """A line in, a line out."""
        await self._stdin.send(json.dumps(value).encode() + b"\n")
        with anyio.fail_after(CALL_S):
            answer: dict[str, Any] = json.loads(await self._stdout.receive_until(b"\n", 1_000_000))
        return answer

    async def call(self, tool: str, arguments: dict[str, Any]) -> Said:
        """A tool call."""
        answer = await self.say({"tool": tool, "arguments": arguments})
        return said(answer["text"], answer["structured"], answer["is_error"])


@asynccontextmanager
async def earlier(
    clients: Installed, how: dict[str, Any]
) -> AsyncIterator[tuple[Earlier, dict[str, Any]]]:
    """The client, and what it says of the server."""
    command = [str(clients.python), str(SCRIPT)]
    async with await anyio.open_process(command, stderr=None) as process:
        try:
            client = Earlier(process)
            yield client, await client.say(how)
        finally:
            if process.returncode is None:
                process.terminate()


@asynccontextmanager
async def reachable(place: Place, transport: str) -> AsyncIterator[dict[str, Any]]:
    """How the client gets to a server."""
    if transport == "stdio":
        command = place.command("serve", "--transport", "stdio")
        how = {"command": command, "env": place.environment, "cwd": str(ROOT)}
        yield {"transport": transport, **how}
        return
    async with serving(place, transport) as server:
        yield {"transport": transport, "url": server.endpoint(transport)}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_tool_does_its_work_for_the_client_of_the_field(
    transport: str, lab: LiveLab, place: Place, clients: Installed
) -> None:
    async with reachable(place, transport) as how, earlier(clients, how) as (client, hello):
        sweep = Sweep(call=client.call, place=place, schemas=hello["tools"])
        await sweep.everything(lab)
        unknown = await client.say({"tool": "restart_everything", "arguments": {}})
    assert hello["revision"] == "2025-11-25"
    assert set(sweep.answers) == set(hello["tools"]) == PUBLISHED
    assert sorted(set(sweep.approved) - {"stop_job"}) == sorted(DESTROYS)
    assert unknown["error"] == types.INVALID_PARAMS
