"""`mcp-ops mode`: how much agents may use of a target, set by the operator.

Stricter at once; looser only for a person at a terminal, since an agent may have a shell as well.
"""

from __future__ import annotations

from typing import Annotated

import typer

from mcp_ops.clock import rfc3339
from mcp_ops.commands.call import show_reply
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import say, show_json, show_table, warn
from mcp_ops.commands.session import (
    ConfigOption,
    JsonOption,
    RunningApp,
    broken_glass,
    operator,
    person,
    with_app,
)
from mcp_ops.errors import InvalidInput
from mcp_ops.guard.switching import scope_of
from mcp_ops.ports import ALL_TARGETS, PRINCIPAL_SCOPE, Mode, ModeEntry
from mcp_ops.settings_problems import did_you_mean

ALL = "all"
COLUMNS = ("TARGET", "MODE", "FROM", "BY", "SINCE", "UNTIL", "REASON")

group = typer.Typer(help="Modes of the guard: show, set, clear.", invoke_without_command=True)
TargetOption = Annotated[str, typer.Option(help="One target; without it, all of them.")]


@group.callback()
def main(context: typer.Context, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Modes of the guard: show (also without a command), set, clear."""
    if context.invoked_subcommand is None:
        show(as_json=as_json, config=config)


@group.command()
def show(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show every mode in force, with who set it, why and until when."""

    async def body(app: RunningApp) -> int:
        entries = [_as_dict(entry) for entry in await app.control(operator()).modes()]
        if as_json:
            show_json(entries)
        elif entries:
            show_table(
                COLUMNS,
                (tuple(entry.values()) for entry in entries),
            )
        else:
            say("All targets are in the mode normal.")
        for line in await broken_glass(app):
            warn(line)
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
    scope: Annotated[
        str, typer.Argument(help="One target, or principal:NAME; without it, all targets.")
    ] = "",
    target: TargetOption = "",
    reason: Annotated[str, typer.Option(help="Why, for the audit.")] = "cleared by the operator",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Lift what operator and agents set, or what holds for a principal. Needs a terminal.

    The floor that the configuration sets stays, and so does what follows from usage.
    """

    async def body(app: RunningApp) -> int:
        asked = scope or target
        if scope and target:
            raise InvalidInput("The target was given twice.")
        if not asked.startswith(PRINCIPAL_SCOPE):
            _check_target(app, "" if asked == ALL else asked)
        await person(f"Lift the modes of {asked or 'all targets'}? [y/N] ", "mcp-ops mode clear")
        control = app.control(operator())
        await control.clear_modes(scope_of(asked), reason=reason)
        if as_json:
            show_json([_as_dict(entry) for entry in await control.modes()])
        else:
            say(f"{asked or 'all targets'}: cleared")
        return Exit.OK

    with_app(config, body, as_json=as_json)


async def _set(
    app: RunningApp, mode: Mode, target: str, minutes: int, reason: str, *, as_json: bool
) -> int:
    _check_target(app, target)
    arguments = {"mode": mode.value, "target": target or ALL, "minutes": minutes, "reason": reason}
    reply = await app.call("set_guard_mode", arguments, operator())
    if reply.is_error or as_json:
        return show_reply(reply, as_json=as_json)
    answer = reply.structured or {}
    say(f"{target or 'all targets'}: {answer.get('mode')} (was {answer.get('previous')})")
    return Exit.OK


def _check_target(app: RunningApp, target: str) -> None:
    names = [each.name for each in app.settings.targets]
    if target and target not in names:
        raise InvalidInput(
            f"There is no configured target of this name.{did_you_mean(target, names)}"
        )


def _as_dict(entry: ModeEntry) -> dict[str, str]:
    return {
        "target": ALL if entry.scope == ALL_TARGETS else entry.scope,
        "mode": entry.mode.value,
        "source": entry.source,
        "author": entry.author,
        "since": rfc3339(entry.since),
        "until": rfc3339(entry.expires_at) if entry.expires_at is not None else "",
        "reason": entry.reason,
    }
