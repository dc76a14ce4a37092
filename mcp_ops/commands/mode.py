"""`mcp-ops mode`: how much agents may use of a target, set by the operator.

The commands are calls of the guard's own tools, so that they are checked and recorded like any
other call; the operator's scopes make the entry the operator's.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mcp_ops.commands.call import show_reply
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import say, show_json, show_table
from mcp_ops.commands.session import ConfigOption, JsonOption, RunningApp, operator, with_app
from mcp_ops.errors import InvalidInput
from mcp_ops.ports import ALL_TARGETS, Mode
from mcp_ops.settings_problems import did_you_mean

ALL = "all"
COLUMNS = ("scope", "mode", "source", "author", "since", "expires_at", "reason")

group = typer.Typer(help="Modes of the guard: show, set, clear.", invoke_without_command=True)
TargetOption = Annotated[str, typer.Option(help="One target; without it, all of them.")]


@group.callback()
def main(context: typer.Context) -> None:
    """Modes of the guard: show (also without a command), set, clear."""
    if context.invoked_subcommand is None:
        show(as_json=False, config=None)


@group.command()
def show(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show every mode in force, with who set it, why and until when."""

    async def body(app: RunningApp) -> int:
        reply = await app.call("get_guard_status", {}, operator())
        if reply.is_error:
            return show_reply(reply, as_json=as_json)
        entries: list[dict[str, Any]] = (reply.structured or {}).get("modes", [])
        if as_json:
            show_json(entries)
        elif entries:
            show_table(
                tuple(name.upper() for name in COLUMNS),
                (tuple(_cell(entry.get(name)) for name in COLUMNS) for entry in entries),
            )
        else:
            say("All targets are in the mode normal.")
        return Exit.OK

    with_app(config, body, as_json=as_json)


@group.command("set")
def set_mode(
    mode: Annotated[Mode, typer.Argument(help="The mode.")],
    reason: Annotated[str, typer.Option(help="Why; agents are told, the audit keeps it.")],
    target: TargetOption = "",
    minutes: Annotated[
        int, typer.Option(min=0, max=10_080, help="For so long; 0: until cleared.")
    ] = 0,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Set the mode of a target or of all. Running servers follow within a second.

    A looser mode is asked for on the terminal.
    """

    async def body(app: RunningApp) -> int:
        return await _set(app, mode, target, minutes, reason, as_json=as_json)

    with_app(config, body, as_json=as_json)


@group.command()
def clear(
    target: TargetOption = "",
    reason: Annotated[str, typer.Option(help="Why, for the audit.")] = "cleared by the operator",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Go back to normal. The floor that the configuration sets stays.

    Where something stricter was in force, that is asked for on the terminal.
    """

    async def body(app: RunningApp) -> int:
        return await _set(app, Mode.NORMAL, target, 0, reason, as_json=as_json)

    with_app(config, body, as_json=as_json)


async def _set(
    app: RunningApp, mode: Mode, target: str, minutes: int, reason: str, *, as_json: bool
) -> int:
    names = [each.name for each in app.settings.targets]
    if target and target not in names:
        raise InvalidInput(
            f"There is no configured target of this name.{did_you_mean(target, names)}"
        )
    arguments = {"mode": mode.value, "target": target or ALL, "minutes": minutes, "reason": reason}
    reply = await app.call("set_guard_mode", arguments, operator())
    if reply.is_error or as_json:
        return show_reply(reply, as_json=as_json)
    answer = reply.structured or {}
    say(f"{target or 'all targets'}: {answer.get('mode')} (was {answer.get('previous')})")
    return Exit.OK


def _cell(value: object) -> str:
    if value == ALL_TARGETS:
        return ALL
    return "" if value is None else str(value)
