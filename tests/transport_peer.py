"""A small low-level server on our transports, run as a process of its own by the tests.

Tools: `look` answers its arguments and what is known of the caller; `wait` runs until it is
cancelled or `release` is called; `confirm` asks before it answers, in whichever way the client
can be asked; `shout` prints on standard output; `surrogate` answers what JSON can't carry.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import anyio
import mcp_types as types
from anyio.abc import TaskStatus
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from mcp_ops.settings import ServerSettings
from mcp_ops.transport import CallerFacts, bind_caller, caller_facts, seal
from mcp_ops.transport_http import fast_loop, http_app, serve_http
from mcp_ops.transport_stdio import serve_stdio

TOOLS = ("look", "wait", "release", "confirm", "shout", "surrogate")
QUESTION = types.ElicitRequestFormParams(
    message="Do it?",
    requested_schema={"type": "object", "properties": {"yes": {"type": "boolean"}}},
)
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


def told(facts: CallerFacts) -> dict[str, Any]:
    """What is known of a caller, as JSON has it."""
    principal = None if facts.principal is None else asdict(facts.principal)
    return {**facts._asdict(), "principal": principal}


def said(**facts: Any) -> types.CallToolResult:
    """A result that carries facts."""
    return types.CallToolResult(
        content=[types.TextContent(text=json.dumps(facts))], structured_content=facts
    )


class Peer:
    """The tools and what they share."""

    def __init__(self) -> None:
        self.released = anyio.Event()

    async def list_tools(
        self, ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """All tools with one schema."""
        return types.ListToolsResult(
            tools=[types.Tool(name=name, input_schema=SCHEMA) for name in TOOLS]
        )

    async def call_tool(
        self, ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        """Do what the tool's name says."""
        match params.name:
            case "look":
                return said(arguments=params.arguments or {}, caller=told(caller_facts(ctx)))
            case "wait":
                print("waiting", file=sys.stderr, flush=True)
                await self.released.wait()
                return said(waited=True)
            case "release":
                self.released.set()
                return said(released=True)
            case "confirm":
                return await self.confirm(ctx, params)
            case "shout":
                print("this must not reach the protocol", flush=True)
                return said(shouted=True)
            case "surrogate":
                return said(text="a\ud800b", pair="\ud83d\ude00", nan=float("nan"), big=2**80)
        raise MCPError(types.INVALID_PARAMS, "unknown tool")

    async def confirm(
        self, ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        """Ask by result or by request; never run twice for one answer here."""
        facts = caller_facts(ctx)
        if params.request_state is not None:
            answer = (params.input_responses or {}).get("confirm")
            action = answer.action if isinstance(answer, types.ElicitResult) else "none"
            return said(action=action, state=params.request_state)
        if facts.asks_by_result:
            return types.InputRequiredResult(
                input_requests={"confirm": types.ElicitRequest(params=QUESTION)},
                request_state="asked once",
            )
        if facts.can_elicit:
            try:
                result = await ctx.session.elicit_form(
                    QUESTION.message, QUESTION.requested_schema, related_request_id=ctx.request_id
                )
            except MCPError:
                return said(action="unanswered")
            return said(action=result.action)
        return said(action="cannot ask")


def build(keys: list[bytes]) -> Server[Any]:
    """The server, sealed."""
    peer = Peer()
    server: Server[Any] = Server(
        "peer",
        version="1",
        on_list_tools=peer.list_tools,
        on_call_tool=peer.call_tool,
        get_tool_input_schema=lambda name: SCHEMA if name in TOOLS else None,
    )
    seal(server, keys, bind_caller("local"))
    return server


async def _stop_on_signal(
    stop: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            stop.set()


async def health() -> tuple[int, dict[str, Any]]:
    return 200, {"status": "ok", "targets": ["crm"]}


async def main(transport: str, seal_with: str, settings: ServerSettings) -> None:
    """Serve until told to stop."""
    server = build([seal_with.encode() * 8])
    stop = anyio.Event()
    async with anyio.create_task_group() as tg:
        await tg.start(_stop_on_signal, stop)
        if transport == "stdio":
            print("ready", file=sys.stderr, flush=True)
            await serve_stdio(server, stop=stop)
        else:
            app = http_app(server, settings=settings, health=health, sse=transport == "sse")
            await serve_http(
                app,
                settings=settings,
                stop=stop,
                on_ready=lambda url: print(url, file=sys.stderr, flush=True),
            )
        tg.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=["stdio", "http", "sse"])
    parser.add_argument("--seal", default="0123456789abcdef")
    parser.add_argument("--settings", default="{}")
    chosen = parser.parse_args()
    with suppress(KeyboardInterrupt):
        anyio.run(
            main,
            chosen.transport,
            chosen.seal,
            ServerSettings.model_validate_json(chosen.settings),
            backend_options={"loop_factory": fast_loop()} if chosen.transport != "stdio" else {},
        )
