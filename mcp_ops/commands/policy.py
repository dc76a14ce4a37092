"""`mcp-ops policy`: which rules hold, what would become of a call, and is that as expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import anyio
import typer

from mcp_ops.auth.principal import principal_of
from mcp_ops.call import Caller, Channel
from mcp_ops.capabilities.base import Effect
from mcp_ops.commands.arguments import read_arguments
from mcp_ops.commands.call import find_tool
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import fail, say, show_json, show_table
from mcp_ops.commands.session import (
    OPERATOR_SCOPES,
    ConfigOption,
    JsonOption,
    RunningApp,
    user_name,
    with_app,
)
from mcp_ops.errors import InvalidInput, OpsError
from mcp_ops.guard.policy import PROFILES, Policy
from mcp_ops.ports import OWN_TARGET
from mcp_ops.redact import quoted
from mcp_ops.settings import KeySettings, PolicyRule, Settings
from mcp_ops.settings_file import load_settings, process_environment
from mcp_ops.tool import Tool

AGENT_SCOPES = frozenset({"ops:read", "ops:write", "ops:destroy"})
_ANY = "*"

group = typer.Typer(help="The rules: show, explain, test.", no_args_is_help=True)
ChannelOption = Annotated[
    str, typer.Option(help="How it is called: stdio, http or cli; else as the principal calls.")
]


@group.command()
def show(
    channel: ChannelOption = "stdio",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the rules in force in their order, those of the built-in profile included."""

    def body(settings: Settings) -> int:
        _check_channel(channel)
        profile = Policy((), settings.guard.profile).profile_for(channel)  # type: ignore[arg-type]
        rows = [
            *_rows("policy", settings.policy, settings.rule_places),
            *_rows(profile, PROFILES[profile], ()),
        ]
        if as_json:
            show_json(rows)
        else:
            show_table([name.upper() for name in rows[0]], [tuple(row.values()) for row in rows])
        return Exit.OK

    raise typer.Exit(with_settings(config, body, as_json=as_json))


@group.command()
def explain(
    tool: Annotated[str, typer.Argument(help="Name of a published tool: see mcp-ops tools.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]... [as PRINCIPAL]",
            help="Arguments as with mcp-ops call; those left out are not looked at.",
        ),
    ] = None,
    channel: ChannelOption = "",
    at: Annotated[str, typer.Option(help="Freeze windows at this time (RFC 3339).")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say what would become of a call now, stage by stage, and why. Nothing is charged or asked."""

    async def body(app: RunningApp) -> int:
        from mcp_ops.guard.explain import explain as explained
        from mcp_ops.guard.explain import supposed

        pairs, principal = split_as(arguments or [])
        caller = caller_as(app.settings, principal, channel)
        known = find_tool(app, tool)
        raw = read_arguments(known, pairs)
        call = supposed(known, raw, caller, _targets_of(app, known))
        found = await explained(
            app.guard,
            app.stores.ledger,
            call,
            places=app.settings.rule_places,
            at=moment(at) if at else None,
        )
        if as_json:
            show_json(
                {
                    "tool": known.name,
                    "target": call.target,
                    **asdict(found),
                    "destroys_when": dict(known.destroys_when),
                }
            )
            return Exit.OK
        say(f"{known.name} on {call.target or call.about or 'this server'}, {caller.principal}")
        show_table(
            ("STAGE", "", "WHY"),
            [
                (s.name, "passes" if s.passes else f"refuses: {s.code}", s.says)
                for s in found.stages
            ],
        )
        say(f"outcome: {found.outcome}")
        for name, value in known.destroys_when.items():
            if call.wanted is not Effect.DESTROY:
                shown = quoted(value, 40)
                say(f"with {name}={shown} it destroys: explain it with that, too")
        return Exit.OK

    with_app(config, body, as_json=as_json)


@group.command("test")
def held_against(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Expectations, in TOML.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Hold the configured rules against expectations of your own; exit code 1 where they differ.

    Only what is configured counts: no mode that somebody set, no elevation, no budget.
    """

    def body(settings: Settings) -> int:
        from mcp_ops.commands.policy_test import hold, read_expectations

        results = anyio.run(hold, settings, read_expectations(file))
        wrong = [each for each in results if each.found != each.expected]
        if as_json:
            show_json({"expectations": len(results), "wrong": [asdict(each) for each in wrong]})
        else:
            for each in wrong:
                say(f"line {each.line}: {each.call}")
                say(f"  - expected {each.expected}")
                say(f"  + found    {each.found}   ({each.rule})")
            say(f"{len(results) - len(wrong)} of {len(results)} expectations hold.")
        return Exit.FAILED if wrong else Exit.OK

    raise typer.Exit(with_settings(config, body, as_json=as_json))


def with_settings(config: Path | None, body: Any, *, as_json: bool) -> int:
    """Run `body` with the settings alone: no store is opened, no target asked."""
    try:
        return int(body(load_settings(config, process_environment(), {})))
    except OpsError as error:
        return fail(error, as_json=as_json)


def split_as(words: Sequence[str]) -> tuple[list[str], str]:
    """`key=value` words, and the principal after the word `as`."""
    if "as" not in words:
        return list(words), ""
    where = list(words).index("as")
    rest = words[where + 1 :]
    if len(rest) != 1:
        raise InvalidInput("as: one principal follows it, such as as agent:ada, at the end.")
    return list(words[:where]), rest[0]


def caller_as(settings: Settings, principal: str, channel: str) -> Caller:
    """A caller with the rights that this principal has over its channel."""
    chosen = _check_channel(channel or _channel_of(principal))
    keys = {f"key:{key.name}": key for key in settings.server.keys}
    if not principal:
        own = {"stdio": f"agent:{user_name()}", "cli": f"operator:{user_name()}"}
        principal = own.get(chosen) or next(iter(keys), "anonymous@loopback")
    key = keys.get(principal)
    scopes = OPERATOR_SCOPES if chosen == "cli" else AGENT_SCOPES
    if chosen == "http":
        scopes = frozenset(key.scopes if key else KeySettings.model_fields["scopes"].default)
    # Over HTTP the grants say how far the scopes reach.
    granted = principal_of(
        principal, sorted(scopes), settings.server.grants if chosen == "http" else ()
    )
    return Caller(
        principal=principal,
        scopes=frozenset(granted.scopes),
        reach=granted.reach,
        channel=chosen,
        client_confirms=chosen == "stdio" or (key is not None and key.host_confirms),
    )


def moment(text: str) -> float:
    """A time with its offset, in Unix seconds; raises `InvalidInput`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidInput("at: a time in RFC 3339 with an offset, such as 2026-12-24T18:00:00Z.")
    return found.timestamp()


def _targets_of(app: RunningApp, tool: Tool) -> tuple[str, ...]:
    """The targets that a tool may be called with."""
    targets = app.guard.targets
    if tool.own:
        return tuple(name for name in targets.names() if name != OWN_TARGET)
    return tuple(n for n in targets.names() if tool.capability in targets.info(n).capabilities)


def _channel_of(principal: str) -> str:
    if principal.startswith("operator:"):
        return "cli"
    return "http" if principal.startswith(("key:", "anonymous@")) else "stdio"


def _check_channel(channel: str) -> Channel:
    for known in get_args(Channel):
        if channel == known:
            return known  # type: ignore[no-any-return]
    raise InvalidInput("channel: one of stdio, http, cli.")


def _rows(source: str, rules: Sequence[PolicyRule], places: Sequence[str]) -> list[dict[str, str]]:
    return [
        {
            "rule": f"{source}[{number}]",
            "tool": rule.tool,
            "effect": rule.effect or _ANY,
            "target": rule.target,
            "environment": rule.environment or _ANY,
            "principal": rule.principal,
            "require": rule.require,
            "approvers": _approvers(rule),
            "place": places[number - 1] if number <= len(places) else "built in",
        }
        for number, rule in enumerate(rules, start=1)
    ]


def _approvers(rule: PolicyRule) -> str:
    if rule.require != "approve":
        return ""
    whom = ", ".join(rule.approvers) or "who may approve"
    return f"{rule.approvals} of {whom}"
