"""`mcp-ops call`: one tool call by the operator, on the way that an agent's calls take."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any

import typer

from mcp_ops.call import NeedsAnswer
from mcp_ops.commands.arguments import read_arguments
from mcp_ops.commands.exits import Exit, exit_of_error, exit_of_result
from mcp_ops.commands.output import (
    Advance,
    ask_secret,
    interactive,
    progress_bar,
    say,
    show_json,
    warn,
)
from mcp_ops.commands.session import (
    ConfigOption,
    JsonOption,
    Progress,
    Reply,
    RunningApp,
    operator,
    with_app,
)
from mcp_ops.errors import InvalidInput, UnknownTool
from mcp_ops.guard.break_glass import BreakGlass
from mcp_ops.redact import tame
from mcp_ops.settings_file import process_environment
from mcp_ops.settings_problems import did_you_mean
from mcp_ops.tool import Tool

BREAK_GLASS_VARIABLE = "MCP_OPS_BREAK_GLASS"


def call(
    tool: Annotated[str, typer.Argument(help="Name of a published tool: see mcp-ops tools.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Arguments; a list is a,b,c or JSON."),
    ] = None,
    json_arguments: Annotated[
        str, typer.Option(help="Arguments as a JSON object; - reads it from stdin.")
    ] = "",
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Confirm. What needs an approval still waits for one."),
    ] = False,
    break_glass: Annotated[
        bool,
        typer.Option(
            "--break-glass",
            help="For emergencies, past modes, freezes, limits and approvals. Asks for the "
            "credential, or reads it from MCP_OPS_BREAK_GLASS.",
        ),
    ] = False,
    reason: Annotated[
        str, typer.Option(help="Why, with --break-glass, for a tool without that argument.")
    ] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Call one tool through the guard, as the operator."""
    text = sys.stdin.read() if json_arguments == "-" else json_arguments

    async def body(app: RunningApp) -> int:
        known = find_tool(app, tool)
        given = read_arguments(known, arguments or [], text)
        opened = await _break_glass(app, known, given, reason) if break_glass else False
        with progress_bar() as advance:
            caller = replace(operator(yes=yes, progress=_progress(advance)), break_glass=opened)
            try:
                reply = await app.call(known.name, given, caller)
            except NeedsAnswer as asked:
                warn(tame(asked.question.message))
                warn("Nothing ran: this needs a yes. Call again with --yes, or on a terminal.")
                return Exit.APPROVAL
        return show_reply(reply, as_json=as_json)

    with_app(config, body, as_json=as_json, alone=break_glass)


async def _break_glass(app: RunningApp, tool: Tool, given: dict[str, Any], reason: str) -> bool:
    """Let the operator show the credential; true, or `Refused`."""
    guard: Any = app.guard
    caller = operator()
    glass = BreakGlass(
        app.settings.guard.break_glass.key,
        ledger=app.stores.ledger,
        clock=guard.clock,
        redactor=guard.redactor,
    )
    opened = await glass.open(
        caller,
        await _credential(),
        tool=tool.name,
        target=str(given.get("target", "")),
        reason=str(given.get("reason", "")) or reason,
    )
    warn("BREAK-GLASS: this call goes past the guard, and everybody is told.")
    return opened.break_glass


async def _credential() -> str:
    given = process_environment().get(BREAK_GLASS_VARIABLE, "")
    if not given and interactive():
        given = await ask_secret("Break-glass credential: ") or ""
    if not given:
        raise InvalidInput(
            "The break-glass credential was not given.",
            hint=f"Type it at a terminal, or set {BREAK_GLASS_VARIABLE}.",
        )
    return given


def find_tool(app: RunningApp, name: str) -> Tool:
    """The published tool of a name; raises `UnknownTool` with a suggestion."""
    if name in app.tools:
        return app.tools[name]
    from mcp_ops.catalog import ALL_TOOLS, why_unpublished  # loaded with the running app

    if name in ALL_TOOLS:
        raise UnknownTool(
            f"{name} is not published with this configuration.",
            hint=why_unpublished(ALL_TOOLS[name], app.settings.tools),
        )
    raise UnknownTool(
        f"No tool of this name is published here.{did_you_mean(name, app.tools)}",
        hint="mcp-ops tools lists them; a tool is published while a configured target has it.",
    )


def _progress(advance: Advance | None) -> Progress | None:
    if advance is None:
        return None

    async def report(done: float, total: float, message: str) -> None:
        advance(done, total, message)

    return report


def show_reply(reply: Reply, *, as_json: bool) -> int:
    """Show what a call answered, and answer the exit code."""
    if reply.is_error:
        return _show_error(reply.text, as_json=as_json)
    if as_json:
        say(reply.text)
    else:
        show_json(reply.structured if reply.structured is not None else json.loads(reply.text))
    return exit_of_result(reply.structured)


def _show_error(text: str, *, as_json: bool) -> int:
    error: dict[str, object] = {}
    with suppress(ValueError, AttributeError):
        error = json.loads(text).get("error", {})
    if as_json or not error:
        say(text)
    else:
        warn(f"{error.get('code')}: {tame(str(error.get('message', '')))}")
        for key in ("hint", "retry_after_s", "executed", "audit_id"):
            if error.get(key) not in (None, ""):
                warn(f"  {key}: {tame(str(error[key]))}")
    return exit_of_error(error)
