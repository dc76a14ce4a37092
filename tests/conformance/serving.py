"""`python -m tests.conformance.serving`: what `mcp-ops serve` starts, and the fixtures beside it.

Everything but the fixtures is the shipping application: settings, stores, guard, transports, edge,
drain and the way it stops. Those fixtures that fit are tools of its own; the others take what is
not ours out of the stream of requests, behind the application's middleware.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import PromptsListChanged

from mcp_ops.app import App, serve
from mcp_ops.call import Caller
from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.ports import Mode
from mcp_ops.settings_file import load_settings, process_environment
from mcp_ops.transport_bus import ToolListBus
from mcp_ops.transport_http import fast_loop
from tests.conformance.asking import ASKING, Context, Fixture
from tests.conformance.contents import CONTENTS, SCHEMA, SCHEMA_TOOL, Json, complete, text
from tests.conformance.guarded import GUARDED
from tests.conformance.library import add_library

_PERSON = frozenset({"ops:read", "ops:write", "ops:destroy", "ops:approve", "ops:admin"})
_WITH_TOKENS = ("crm", "sso")
_LINES = ("started", "working", "ended")


def _always(result: Json) -> Fixture:
    async def answer(_ctx: Context, _params: types.CallToolRequestParams) -> Json:
        return result

    return answer


async def _logging(ctx: Context, _params: types.CallToolRequestParams) -> Json:
    for line in _LINES:
        params = types.LoggingMessageNotificationParams(level="info", data=line)
        note = types.LoggingMessageNotification(params=params)
        await ctx.session.send_notification(note, related_request_id=ctx.request_id)
    return complete(text("three lines were logged"))


FIXTURES: dict[str, Fixture] = {
    **{name: _always(result) for name, result in CONTENTS.items()},
    **ASKING,
    "test_tool_with_logging": _logging,
}


def _switch(app: App) -> Fixture:
    """A person shuts the targets with tokens, or opens them again: the list of tools changes."""
    person = Caller(principal="operator:suite", scopes=_PERSON, channel="cli")
    shut = False

    async def answer(_ctx: Context, _params: types.CallToolRequestParams) -> Json:
        nonlocal shut
        shut = not shut
        for target in _WITH_TOKENS:
            mode = Mode.READ_ONLY if shut else Mode.NORMAL
            await app.control(person).set_mode(target, mode, minutes=0, reason="for the suite")
        return complete(text("the list of tools changed"))

    return answer


def _change_of_prompts(server: Server[Any]) -> Fixture:
    """What a server with prompts would say over our streams, where there are any."""

    async def answer(_ctx: Context, _params: types.CallToolRequestParams) -> Json:
        for each in server.middleware:
            if isinstance(each, ToolListBus):
                await each.events.publish(PromptsListChanged())
        return complete(text("the list of prompts changed"))

    return answer


def add_fixtures(app: App) -> None:
    """Put what is not ours beside our tools."""
    server = app.server.mcp
    fixtures = {
        **FIXTURES,
        "test_trigger_tool_change": _switch(app),
        "test_trigger_prompt_change": _change_of_prompts(server),
    }
    listing = server.get_request_handler("tools/list")
    calling = server.get_request_handler("tools/call")
    assert listing is not None
    assert calling is not None
    ours = [
        types.Tool(
            name=name,
            description="Of the conformance suite.",
            input_schema=SCHEMA if name == SCHEMA_TOOL else {"type": "object", "properties": {}},
        )
        for name in fixtures
    ]

    async def list_tools(ctx: Context, params: Any) -> types.ListToolsResult:
        found = await listing.handler(ctx, params)
        assert isinstance(found, types.ListToolsResult)
        return found.model_copy(update={"tools": [*found.tools, *ours]})

    async def call_tool(ctx: Context, params: types.CallToolRequestParams) -> Any:
        fixture = fixtures.get(params.name)
        return await (fixture or calling.handler)(ctx, params)

    server.add_request_handler("tools/list", listing.params_type, list_tools)
    server.add_request_handler("tools/call", types.CallToolRequestParams, call_tool)
    add_library(server)


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    chosen = parser.parse_args()
    environ = process_environment()
    overrides = {"server.transport": "http", "server.port": 0}
    settings = load_settings(chosen.config, environ, overrides)
    tools = {**ALL_TOOLS, **GUARDED}
    serving = partial(serve, settings, environ, tools=tools, prepare=add_fixtures)
    return anyio.run(serving, backend_options={"loop_factory": fast_loop()})


if __name__ == "__main__":
    sys.exit(main())
