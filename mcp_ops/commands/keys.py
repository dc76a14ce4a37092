"""`mcp-ops keys`: keys for callers over HTTP, created, listed and revoked.

A new key lets somebody in, so it is a person's at a terminal: an agent may have a shell as well.
"""

from __future__ import annotations

import re
from typing import Annotated

import typer

from mcp_ops.auth.keys import CreatedKey
from mcp_ops.call import Caller, new_id
from mcp_ops.clock import rfc3339
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import say, show_json, show_table, warn
from mcp_ops.commands.session import (
    ConfigOption,
    JsonOption,
    RunningApp,
    operator,
    person,
    with_app,
)
from mcp_ops.errors import InvalidInput
from mcp_ops.records import Entry, EntryKind
from mcp_ops.settings_problems import did_you_mean
from mcp_ops.settings_types import AGENT_SCOPES

SCOPES = (*AGENT_SCOPES, "ops:approve", "ops:admin")
MOST_DAYS = 3_650
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")

group = typer.Typer(help="Keys for callers over HTTP: create, list, revoke.", no_args_is_help=True)


@group.command()
def create(
    name: Annotated[str, typer.Argument(help="Who calls with it: the principal is key:NAME.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it allows; several times. Else ops:read, ops:write, ops:destroy."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="For so long.")] = 90,
    host_confirms: Annotated[
        bool, typer.Option("--host-confirms", help="The host asks its user before each call.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Create a key and show it, once. Needs a terminal. Servers know it within seconds."""

    async def body(app: RunningApp) -> int:
        scopes = _checked(name, scope or list(AGENT_SCOPES))
        what = f"The key {name} allows {', '.join(scopes)} for {days} days"
        await person(f"{what}. Create it? [y/N] ", "mcp-ops keys create")
        caller = operator()
        key, secret = await app.keys.book.create(
            name,
            scopes=scopes,
            expires_at=app.guard.clock.now() + days * 86_400,
            by=caller.principal,
            host_confirms=host_confirms,
            taken=frozenset(each.name for each in app.settings.server.keys),
        )
        await _record(app, caller, key, "created")
        if as_json:
            show_json({"key": secret, **_as_dict(key, app)})
        else:
            warn("This is shown once, and kept nowhere:")
            say(secret)
        return Exit.OK

    with_app(config, body, as_json=as_json)


@group.command("list")
def list_keys(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the keys: created ones, also those that expired or were revoked, and configured ones."""

    async def body(app: RunningApp) -> int:
        rows = [_as_dict(key, app) for key in await app.keys.book.all()]
        rows += [
            {
                "id": "",
                "name": key.name,
                "state": "configured",
                "scopes": " ".join(key.scopes),
                "created": "",
                "by": "",
                "until": "",
                "last_used": "",
            }
            for key in app.settings.server.keys
        ]
        if as_json:
            show_json(rows)
        elif rows:
            columns = [name.upper().replace("_", " ") for name in rows[0]]
            show_table(columns, [tuple(row.values()) for row in rows])
        else:
            say("There is no key.")
        return Exit.OK

    with_app(config, body, as_json=as_json)


@group.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name or id of a created key.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Revoke a created key. Needs no terminal. Servers refuse it within seconds."""

    async def body(app: RunningApp) -> int:
        caller = operator()
        revoked = await app.keys.book.revoke(name, by=caller.principal)
        for key in revoked:
            await _record(app, caller, key, "revoked")
        if as_json:
            show_json([_as_dict(key, app) for key in revoked])
        else:
            for key in revoked:
                say(f"revoked: {key.name} ({key.id})")
        return Exit.OK

    with_app(config, body, as_json=as_json)


def _checked(name: str, scopes: list[str]) -> tuple[str, ...]:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "NAME: at most 63 lower-case letters, digits and hyphens, the first of them a letter."
        )
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidInput(f"--scope: one of {', '.join(SCOPES)}.{did_you_mean(scope, SCOPES)}")
    return tuple(dict.fromkeys(scopes))


async def _record(app: RunningApp, caller: Caller, key: CreatedKey, outcome: str) -> None:
    await app.stores.ledger.change(
        Entry(
            kind=EntryKind.CHANGED,
            call_id=new_id(),
            at=app.guard.clock.now(),
            tool="keys",
            object=key.name,
            principal=caller.principal,
            channel=caller.channel,
            outcome=outcome,
            evidence={
                "id": key.id,
                "scopes": " ".join(key.scopes),
                "expires_at": rfc3339(key.expires_at) if key.expires_at else "",
            },
        )
    )


def _as_dict(key: CreatedKey, app: RunningApp) -> dict[str, str]:
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(app.guard.clock.now()),
        "scopes": " ".join(key.scopes),
        "created": rfc3339(key.created_at),
        "by": key.created_by,
        "until": rfc3339(key.expires_at) if key.expires_at else "",
        "last_used": rfc3339(key.used_at) if key.used_at else "",
    }
