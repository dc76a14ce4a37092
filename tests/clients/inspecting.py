"""The MCP Inspector's command line: one process a request."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from tests.clients.install import Installed
from tests.clients.live import ROOT, Place, serving
from tests.clients.sweep import Said, said

Era = Literal["modern", "legacy"]
ERAS: tuple[Era, ...] = ("modern", "legacy")
CALL_S = 120
TOOL_IS_ERROR = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What one run of the Inspector said."""

    code: int
    result: dict[str, Any]
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspector:
    """The Inspector on one server, which it starts for each request over stdio."""

    clients: Installed
    place: Place
    target: tuple[str, ...]
    era: Era

    async def run(self, *arguments: str) -> Ended:
        """One request."""
        command = [str(self.clients.node), str(self.clients.inspector), "--cli", *self.target]
        command += ["--protocol-era", self.era, "--format", "json", "--quiet", *arguments]
        home = self.place.state.parent
        with anyio.fail_after(CALL_S):
            done = await anyio.run_process(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**self.place.environment, "HOME": str(home)},
            )
        output = done.stdout.decode()
        result = json.loads(output)["result"] if output.strip() else {}
        return Ended(code=done.returncode, result=result, error=done.stderr.decode())

    async def list(self) -> dict[str, dict[str, Any]]:
        """The output schemas by tool; the input schemas are held to be portable."""
        ended = await self.run("--method", "tools/list", "--strict")
        assert ended.code == 0, ended.error
        return {tool["name"]: tool["outputSchema"] for tool in ended.result["tools"]}

    async def call(self, tool: str, arguments: dict[str, Any]) -> Said:
        """A tool call."""
        given = ["--tool-name", tool, "--tool-args-json", json.dumps(arguments)]
        ended = await self.run("--method", "tools/call", *given)
        assert ended.code in (0, TOOL_IS_ERROR), ended.error
        (block,) = ended.result["content"]
        answer = said(
            block["text"], ended.result.get("structuredContent"), ended.result.get("isError", False)
        )
        assert answer.is_error is (ended.code == TOOL_IS_ERROR)
        return answer


@asynccontextmanager
async def inspecting(
    clients: Installed, place: Place, transport: str, era: Era
) -> AsyncIterator[Inspector]:
    """The Inspector and a server of its own."""
    if transport == "stdio":
        command = place.command("serve", "--transport", "stdio")
        entry = {"command": command[0], "args": command[1:], "env": place.environment}
        config = place.state.with_name("inspector.json")
        config.write_text(json.dumps({"mcpServers": {"mcp-ops": entry}}), encoding="utf-8")
        target = ("--config", str(config), "--server", "mcp-ops")
        yield Inspector(clients=clients, place=place, target=target, era=era)
        return
    async with serving(place, transport) as server:
        target = ("--server-url", server.endpoint(transport), "--transport", transport)
        yield Inspector(clients=clients, place=place, target=target, era=era)
