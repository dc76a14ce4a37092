"""`mcp-ops elevate`: for a while, and for one incident, calls that match need less than the rules.

It loosens, so it is a person's at a terminal: an agent may have a shell as well.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from mcp_ops.clock import rfc3339
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import say, show_json, show_table
from mcp_ops.commands.session import (
    ConfigOption,
    JsonOption,
    RunningApp,
    operator,
    person,
    with_app,
)
from mcp_ops.guard.elevation import MOST_MINUTES, Elevations
from mcp_ops.ports import Grant


class _Group(TyperGroup):
    """What is no command's name is the principal to elevate."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["grant", *args]
        return super().parse_args(ctx, args)


group = typer.Typer(cls=_Group, help="Elevations: PRINCIPAL, list, end.", no_args_is_help=True)


@group.command()
def grant(
    principal: Annotated[str, typer.Argument(help="Whom: a glob over principals.")],
    tool: Annotated[str, typer.Option(help="A glob over tools.")],
    target: Annotated[str, typer.Option(help="A glob over targets.")],
    minutes: Annotated[int, typer.Option(min=1, max=MOST_MINUTES, help="For so long.")],
    incident: Annotated[str, typer.Option(help="The incident that this is for.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit.")],
    require: Annotated[
        Literal["none", "confirm"], typer.Option(help="What is still asked for.")
    ] = "confirm",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Let matching calls need no more than `--require`. Needs a terminal.

    What rules deny, freeze windows, modes and protected objects stay as they are.
    """

    async def body(app: RunningApp) -> int:
        what = f"{tool} on {target} by {principal} for {minutes} minutes needs {require}"
        await person(f"{what}. Elevate? [y/N] ", "mcp-ops elevate")
        given = await _elevations(app).grant(
            operator(),
            principal=principal,
            tool=tool,
            target=target,
            require=require,
            minutes=minutes,
            incident=incident,
            reason=reason,
        )
        if as_json:
            show_json(_as_dict(given))
        else:
            say(f"{given.id}: until {rfc3339(given.expires_at)}; mcp-ops elevate end {given.id}")
        return Exit.OK

    with_app(config, body, as_json=as_json)


@group.command("list")
def list_elevations(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the elevations in force."""

    async def body(app: RunningApp) -> int:
        rows = [_as_dict(each) for each in await app.guard.hot.grants()]
        if as_json:
            show_json(rows)
        elif rows:
            show_table([name.upper() for name in rows[0]], [tuple(row.values()) for row in rows])
        else:
            say("No elevation is in force.")
        return Exit.OK

    with_app(config, body, as_json=as_json)


@group.command()
def end(
    elevation_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the elevation.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """End an elevation before its time. Needs no terminal: it only makes the guard stricter."""

    async def body(app: RunningApp) -> int:
        ended = await _elevations(app).end(operator(), elevation_id)
        if as_json:
            show_json(_as_dict(ended))
        else:
            say(f"ended: {ended.id}")
        return Exit.OK

    with_app(config, body, as_json=as_json)


def _elevations(app: RunningApp) -> Elevations:
    guard: Any = app.guard
    return Elevations(
        hot=guard.hot, ledger=app.stores.ledger, clock=guard.clock, redactor=guard.redactor
    )


def _as_dict(given: Grant) -> dict[str, str]:
    return {
        "id": given.id,
        "principal": given.principal,
        "tool": given.tool,
        "target": given.target,
        "require": given.require,
        "incident": given.incident,
        "by": given.author,
        "until": rfc3339(given.expires_at),
        "reason": given.reason,
    }
