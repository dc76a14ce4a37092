"""`mcp-ops mode`: how much agents may use of a target, set by the operator."""

from __future__ import annotations

from typing import Annotated

import typer

from mcp_ops.clock import rfc3339
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import say, show_json, show_table
from mcp_ops.commands.session import (
    ConfigOption,
    JsonOption,
    RunningApp,
    operator,
    with_app,
)
from mcp_ops.errors import InvalidInput
from mcp_ops.ports import ALL_TARGETS, Mode, ModeEntry
from mcp_ops.settings_problems import did_you_mean

group = typer.Typer(help="Modes of the guard: show, set, clear.", invoke_without_command=True)
TargetOption = Annotated[str, typer.Option(help="One target; without it, all of them.")]


@group.callback()
def main(context: typer.Context) -> None:
    """Show the modes when no command is named."""
    if context.invoked_subcommand is None:
        show(as_json=False, config=None)


@group.command()
def show(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show every mode in force, with who set it, why and until when."""

    async def body(app: RunningApp) -> int:
        control = app.control(operator())
        entries = await control.modes()
        if as_json:
            show_json([_as_dict(entry) for entry in entries])
        elif entries:
            show_table(
                ("TARGET", "MODE", "FROM", "BY", "SINCE", "UNTIL", "REASON"),
                (tuple(str(cell) for cell in _as_dict(entry).values()) for entry in entries),
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
    """Set the operator's mode of a target or of all; running servers follow within a second."""

    async def body(app: RunningApp) -> int:
        scope = _scope(app, target)
        control = app.control(operator())
        await control.set_mode(scope, mode, minutes=minutes, reason=reason)
        if as_json:
            show_json([_as_dict(entry) for entry in await control.modes()])
        else:
            until = f" for {minutes} minutes" if minutes else " until cleared"
            say(f"{target or 'all targets'}: {mode.value}{until}")
        return Exit.OK

    with_app(config, body, as_json=as_json)


@group.command()
def clear(
    target: TargetOption = "",
    reason: Annotated[str, typer.Option(help="Why, for the audit.")] = "cleared by the operator",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove what operator and agents set. The environment's floor and usage stay."""

    async def body(app: RunningApp) -> int:
        scope = _scope(app, target)
        control = app.control(operator())
        await control.clear_modes(scope, reason=reason)
        if as_json:
            show_json([_as_dict(entry) for entry in await control.modes()])
        else:
            say(f"{target or 'all targets'}: cleared")
        return Exit.OK

    with_app(config, body, as_json=as_json)


def _scope(app: RunningApp, target: str) -> str:
    names = [each.name for each in app.settings.targets]
    if target and target not in names:
        raise InvalidInput(
            f"There is no configured target of this name.{did_you_mean(target, names)}"
        )
    return target or ALL_TARGETS


def _as_dict(entry: ModeEntry) -> dict[str, str]:
    return {
        "target": "all" if entry.scope == ALL_TARGETS else entry.scope,
        "mode": entry.mode.value,
        "source": entry.source,
        "author": entry.author,
        "since": rfc3339(entry.since),
        "until": rfc3339(entry.expires_at) if entry.expires_at is not None else "",
        "reason": entry.reason,
    }
