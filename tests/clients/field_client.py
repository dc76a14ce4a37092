"""A framework's own MCP client; run by the interpreter of an installation that has the framework.

`python field_client.py NAME`. The first line of input says how to connect, and the first line of
output names the tools. Each further line of input is a call; its answer is a line of output with
what the framework hands to a model.
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

How = dict[str, Any]
CALL_S = 60


@dataclass(frozen=True)
class Talk:
    """A connected client: the tools that it found, and a call of one (text, is it an error)."""

    tools: list[str]
    call: Callable[[str, dict[str, Any]], Awaitable[tuple[str, bool]]]


def texts(blocks: Any) -> str:
    """The text of content blocks, whichever model of them it is."""
    return "".join(each["text"] if isinstance(each, dict) else each.text for each in blocks)


@asynccontextmanager
async def fastmcp(how: How) -> AsyncIterator[Talk]:
    """fastmcp: the server's protocol is found out; a person says yes."""
    from fastmcp import Client  # type: ignore[import-not-found]
    from fastmcp.client.transports import (  # type: ignore[import-not-found]
        SSETransport,
        StdioTransport,
        StreamableHttpTransport,
    )

    async def accept(message: str, kind: Any, params: Any, context: Any) -> dict[str, Any]:
        return {}

    if how["transport"] == "stdio":
        command, *args = how["command"]
        transport = StdioTransport(command=command, args=args, env=how["env"], cwd=how["cwd"])
    else:
        remote = SSETransport if how["transport"] == "sse" else StreamableHttpTransport
        transport = remote(how["url"], headers=how["headers"])
    async with Client(transport, elicitation_handler=accept, timeout=CALL_S) as client:

        async def call(tool: str, arguments: dict[str, Any]) -> tuple[str, bool]:
            result = await client.call_tool(tool, arguments, raise_on_error=False)
            return texts(result.content), result.is_error

        yield Talk([each.name for each in await client.list_tools()], call)


@asynccontextmanager
async def langchain(how: How) -> AsyncIterator[Talk]:
    """langchain-mcp-adapters: tools of a session, as an agent gets them; a person says yes."""
    from langchain_mcp_adapters.callbacks import Callbacks  # type: ignore[import-not-found]
    from langchain_mcp_adapters.client import (  # type: ignore[import-not-found]
        MultiServerMCPClient,
    )
    from langchain_mcp_adapters.tools import load_mcp_tools  # type: ignore[import-not-found]
    from mcp.types import ElicitResult

    async def accept(mcp_context: Any, params: Any, context: Any) -> Any:
        return ElicitResult(action="accept", content={})

    connection: dict[str, Any]
    if how["transport"] == "stdio":
        command, *args = how["command"]
        connection = {"command": command, "args": args, "env": how["env"], "cwd": how["cwd"]}
    else:
        connection = {"url": how["url"], "headers": how["headers"]}
    name = {"http": "streamable_http"}.get(how["transport"], how["transport"])
    client = MultiServerMCPClient(
        {"ops": {"transport": name, **connection}}, callbacks=Callbacks(on_elicitation=accept)
    )
    async with client.session("ops") as session:
        tools = {each.name: each for each in await load_mcp_tools(session)}

        async def call(tool: str, arguments: dict[str, Any]) -> tuple[str, bool]:
            wanted = {"type": "tool_call", "id": "1", "name": tool, "args": arguments}
            message = await tools[tool].ainvoke(wanted)
            content = message.content
            said = content if isinstance(content, str) else texts(content)
            return said, message.status == "error"

        yield Talk(list(tools), call)


@asynccontextmanager
async def openai_agents(how: How) -> AsyncIterator[Talk]:
    """openai-agents: its three kinds of server."""
    from agents.mcp import (  # type: ignore[import-not-found]
        MCPServerSse,
        MCPServerStdio,
        MCPServerStreamableHttp,
    )

    params: dict[str, Any]
    if how["transport"] == "stdio":
        command, *args = how["command"]
        params = {"command": command, "args": args, "env": how["env"], "cwd": how["cwd"]}
    else:
        params = {"url": how["url"], "headers": how["headers"]}
    kinds = {"stdio": MCPServerStdio, "sse": MCPServerSse, "http": MCPServerStreamableHttp}
    kind = kinds[how["transport"]]
    async with kind(params=params, client_session_timeout_seconds=CALL_S) as server:

        async def call(tool: str, arguments: dict[str, Any]) -> tuple[str, bool]:
            result = await server.call_tool(tool, arguments)
            return texts(result.content), bool(result.isError)

        yield Talk([each.name for each in await server.list_tools()], call)


@asynccontextmanager
async def semantic_kernel(how: How) -> AsyncIterator[Talk]:
    """semantic-kernel: a plugin of a kernel, whose functions are the tools."""
    from semantic_kernel import Kernel  # type: ignore[import-not-found]
    from semantic_kernel.connectors.mcp import (  # type: ignore[import-not-found]
        MCPSsePlugin,
        MCPStdioPlugin,
        MCPStreamableHttpPlugin,
    )

    plugin: Any
    if how["transport"] == "stdio":
        command, *args = how["command"]
        plugin = MCPStdioPlugin(name="ops", command=command, args=args, env=how["env"])
    else:
        remote = MCPSsePlugin if how["transport"] == "sse" else MCPStreamableHttpPlugin
        plugin = remote(name="ops", url=how["url"], headers=how["headers"])
    async with plugin:
        kernel = Kernel()
        functions = kernel.add_plugin(plugin, plugin_name="ops").functions

        async def call(tool: str, arguments: dict[str, Any]) -> tuple[str, bool]:
            result = await kernel.invoke(functions[tool], **arguments)
            text = texts(result.value)
            # It does not say which results are errors: a model has to read that.
            return text, set(json.loads(text)) == {"error"}

        yield Talk(list(functions), call)


@asynccontextmanager
async def agent_framework(how: How) -> AsyncIterator[Talk]:
    """Microsoft's agent-framework: a tool of an agent, whose functions are the tools."""
    from agent_framework import (  # type: ignore[import-not-found]
        MCPStdioTool,
        MCPStreamableHTTPTool,
    )
    from agent_framework.exceptions import ToolExecutionException  # type: ignore[import-not-found]

    if how["transport"] == "stdio":
        command, *args = how["command"]
        made = MCPStdioTool(
            name="ops", command=command, args=args, env=how["env"], load_prompts=False
        )
    else:
        made = MCPStreamableHTTPTool(
            name="ops", url=how["url"], static_headers=how["headers"], load_prompts=False
        )
    async with made:
        functions = {each.name: each for each in made.functions}

        async def call(tool: str, arguments: dict[str, Any]) -> tuple[str, bool]:
            try:
                return texts(await functions[tool].invoke(arguments=arguments)), False
            except ToolExecutionException as error:
                return str(error), True

        yield Talk(list(functions), call)


CLIENTS: dict[str, Callable[[How], AbstractAsyncContextManager[Talk]]] = {
    "fastmcp": fastmcp,
    "langchain-mcp-adapters": langchain,
    "openai-agents": openai_agents,
    "semantic-kernel": semantic_kernel,
    "agent-framework-core": agent_framework,
}


def say(value: Any) -> None:
    """Write a line."""
    print(json.dumps(value), flush=True)


async def main(name: str, how: How) -> None:
    """Connect, list, and call what is asked for until the input ends."""
    async with CLIENTS[name](how) as talk:
        say({"tools": talk.tools})
        while line := await asyncio.to_thread(sys.stdin.readline):
            call = json.loads(line)
            text, is_error = await talk.call(call["tool"], call["arguments"])
            say({"text": text, "is_error": is_error})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    asyncio.run(main(sys.argv[1], json.loads(sys.stdin.readline())))
