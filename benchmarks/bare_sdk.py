"""A bare low-level server of the SDK with one no-op tool: what mcp-ops is measured against.

`stdio` is the SDK's own transport; `pipes` is the same server on ours, to see the transport
alone; `http` is the SDK's application with SSE beside it, on the HTTP server and the event loop
that mcp-ops has as well.
"""

from __future__ import annotations

import argparse
import socket
from typing import Annotated, Any

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.sse import SseServerTransport
from mcp.server.stdio import stdio_server
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send


class Arguments(BaseModel):
    """What the no-op takes."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(description="A name.", min_length=1, max_length=100)]
    limit: Annotated[int, Field(description="A number.", ge=1, le=100)] = 20


class Answer(BaseModel):
    """What the no-op answers."""

    name: str
    limit: int
    items: list[str]


TOOL = types.Tool(
    name="look",
    title="Look",
    description="Answer at once with what was asked.",
    input_schema=Arguments.model_json_schema(),
    output_schema=Answer.model_json_schema(),
    annotations=types.ToolAnnotations(
        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    ),
)


async def list_tools(
    ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
) -> types.ListToolsResult:
    """The one tool."""
    return types.ListToolsResult(tools=[TOOL])


async def call_tool(
    ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
) -> types.CallToolResult:
    """Check the arguments and give them back, as text and structured."""
    arguments = Arguments.model_validate(params.arguments or {})
    answer = Answer(name=arguments.name, limit=arguments.limit, items=[])
    return types.CallToolResult(
        content=[types.TextContent(text=answer.model_dump_json())],
        structured_content=answer.model_dump(mode="json"),
    )


def bare_server() -> Server[Any]:
    """The server, with the schema look-up set, as the SDK's own higher layer does."""
    return Server(
        "bare",
        version="1",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        get_tool_input_schema=lambda name: TOOL.input_schema if name == TOOL.name else None,
    )


async def _stdio() -> None:
    server = bare_server()
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())


async def _pipes() -> None:
    from mcp_ops.transport_stdio import serve_stdio  # not part of the bare start

    await serve_stdio(bare_server(), stop=anyio.Event())


async def _http() -> None:
    import uvicorn  # not part of the bare start on stdio

    # With the protocol number: asyncio switches Nagle off only for sockets that name it.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    app = _with_sse(bare_server())
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])


def _with_sse(server: Server[Any]) -> Starlette:
    app = server.streamable_http_app()
    transport = SseServerTransport("/messages/")

    class Stream:
        """An application, which a function would not be taken for."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async with transport.connect_sse(scope, receive, send) as (reader, writer):
                await server.run(reader, writer, server.create_initialization_options())

    app.router.routes += [
        Route("/sse", endpoint=Stream(), methods=["GET"]),
        Mount("/messages/", app=transport.handle_post_message),
    ]
    return app


def _loop(transport: str) -> dict[str, Any]:
    if transport != "http":
        return {}
    import uvloop  # not part of the bare start on stdio

    return {"loop_factory": uvloop.new_event_loop}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=["stdio", "pipes", "http"])
    chosen = parser.parse_args().transport
    serving = {"stdio": _stdio, "pipes": _pipes, "http": _http}[chosen]
    anyio.run(serving, backend_options=_loop(chosen))
