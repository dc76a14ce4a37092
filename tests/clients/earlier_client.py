"""The official Python client 1.x; run by its own interpreter, which has `mcp` 1.x.

The first line of input says how to connect. Each further line is a call; its answer is a line of
output. The first line of output lists the tools.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp import ClientSession, McpError, StdioServerParameters, types  # type: ignore[attr-defined]
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client


async def accept(context: Any, params: Any) -> types.ElicitResult:
    """A person who says yes."""
    return types.ElicitResult(action="accept", content={})


@asynccontextmanager
async def streams(how: dict[str, Any]) -> AsyncIterator[tuple[Any, Any]]:
    """The transport."""
    if how["transport"] == "stdio":
        command, *args = how["command"]
        server = StdioServerParameters(command=command, args=args, env=how["env"], cwd=how["cwd"])
        async with stdio_client(server) as pair:
            yield pair
    elif how["transport"] == "sse":
        async with sse_client(how["url"]) as pair:
            yield pair
    else:
        async with streamable_http_client(how["url"]) as (reading, writing, *_):
            yield reading, writing


def say(value: Any) -> None:
    """Write a line."""
    print(json.dumps(value), flush=True)


async def main(how: dict[str, Any]) -> None:
    """Connect, list, and call what is asked for until the input ends."""
    async with (
        streams(how) as (reading, writing),
        ClientSession(reading, writing, elicitation_callback=accept) as session,
    ):
        hello: Any = await session.initialize()
        listed = await session.list_tools()
        tools: list[Any] = listed.tools
        schemas = {tool.name: tool.outputSchema for tool in tools}
        say({"revision": hello.protocolVersion, "tools": schemas})
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            call = json.loads(line)
            try:
                result: Any = await session.call_tool(call["tool"], call["arguments"])
            except McpError as refused:
                say({"error": refused.error.code, "message": refused.error.message})
                continue
            say(
                {
                    "text": "".join(block.text for block in result.content),
                    "structured": result.structuredContent,
                    "is_error": result.isError,
                }
            )


if __name__ == "__main__":
    anyio.run(main, json.loads(sys.stdin.readline()))
