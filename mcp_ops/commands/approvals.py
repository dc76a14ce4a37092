"""`mcp-ops approvals`: what waits for a person's decision, and the decision."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
import typer

from mcp_ops.clock import rfc3339
from mcp_ops.commands.approval_page import serve_page
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import ask_line, interactive, say, show_json, show_table, warn
from mcp_ops.commands.session import (
    ConfigOption,
    Desk,
    JsonOption,
    RunningApp,
    operator,
    with_app,
)
from mcp_ops.errors import NotFound, OpsError, RefusalCode, Refused
from mcp_ops.questions import Approval
from mcp_ops.redact import quoted, tame, visible

TYPED_CHARACTERS = 4
_SHOWN = 400_000
_WATCH_S = 1.0

group = typer.Typer(help="Questions that wait for a person.", no_args_is_help=True)
ApprovalId = Annotated[str, typer.Argument(metavar="ID", help="Id of the question.")]
LimitOption = Annotated[int, typer.Option(min=1, max=200, help="At most this many.")]


@group.command("list")
def list_approvals(
    limit: LimitOption = 20, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """List pending questions first, then the newest."""

    async def body(app: RunningApp) -> int:
        found = await app.people.recent(limit)
        if as_json:
            show_json([as_dict(approval) for approval in found])
        elif found:
            show_table(
                ("ID", "STATE", "YES", "TOOL", "TARGET", "ASKED BY", "UNTIL", "REASON"),
                (
                    (a.id, a.state, votes(a), a.tool, a.target, a.principal, until(a), a.reason)
                    for a in found
                ),
            )
        else:
            say("No question waits for an answer, and none was answered lately.")
        return Exit.OK

    with_app(config, body, as_json=as_json)


@group.command()
def show(approval_id: ApprovalId, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show everything that an answer to a question is bound to."""

    async def body(app: RunningApp) -> int:
        approval = await app.people.get(approval_id)
        if as_json:
            show_json(as_dict(approval))
        else:
            for line in described(approval):
                say(line)
        return Exit.OK

    with_app(config, body, as_json=as_json)


@group.command()
def watch(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show questions as they are asked and answered, until interrupted; JSON is one a line."""

    async def body(app: RunningApp) -> int:
        told: dict[str, tuple[str, str]] = {}
        while True:
            for a in reversed(await app.people.recent(200)):
                now = (a.state, votes(a))
                if told.get(a.id, now if a.state != "pending" else None) != now:
                    say(visible(json.dumps(as_dict(a))) if as_json else _line(a))
                told[a.id] = now
            await anyio.sleep(_WATCH_S)

    with_app(config, body, as_json=as_json)


@group.command()
def approve(
    approval_id: ApprovalId,
    reason: Annotated[str, typer.Option(help="A note for the audit; else asked.")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Approve a question, after a look at exactly what would run. Needs a terminal."""

    async def body(app: RunningApp) -> int:
        _needs_terminal("approve")
        approval = await _open(app.people, approval_id, "pending")
        for line in described(approval):
            warn(line)
        typed = await ask_line(
            f"Type the first {TYPED_CHARACTERS} characters of the id to approve: "
        )
        if typed != approval.id[:TYPED_CHARACTERS]:
            warn("That is not the id: nothing was approved.")
            return Exit.APPROVAL
        note = reason or await ask_line("Reason, for the audit (may be empty): ") or ""
        decided = await app.people.decide(approval.id, operator(), approved=True, note=note)
        return _said(decided, as_json=as_json)

    with_app(config, body, as_json=as_json)


@group.command()
def deny(
    approval_id: ApprovalId,
    reason: Annotated[str, typer.Option(help="Why; the agent is told. Else asked.")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Deny a question for good."""

    async def act(desk: Desk, approval: Approval, note: str) -> Approval:
        return await desk.decide(approval.id, operator(), approved=False, note=note)

    with_app(config, _stricter(approval_id, reason, act, ("pending",), as_json), as_json=as_json)


@group.command()
def revoke(
    approval_id: ApprovalId,
    reason: Annotated[str, typer.Option(help="Why; the agent is told. Else asked.")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take a question back that is pending, or approved and not used yet."""

    async def act(desk: Desk, approval: Approval, note: str) -> Approval:
        return await desk.revoke(approval.id, operator(), note=note)

    states = ("pending", "approved")
    with_app(config, _stricter(approval_id, reason, act, states, as_json), as_json=as_json)


@group.command()
def page(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: a free one.")] = 0,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Serve the approval page on this machine alone, until interrupted. Needs a terminal, which
    shows the code to sign in with."""

    async def body(app: RunningApp) -> int:
        _needs_terminal("page")
        await serve_page(app.people, operator(), port=port)
        return Exit.OK

    with_app(config, body, as_json=as_json)


def described(approval: Approval) -> list[str]:
    """Everything that the approval is bound to, harmless for the terminal."""
    a, seen = approval, dict(approval.seen_shown)
    reason = quoted(a.reason, 600) if a.reason else "(none)"
    environment = seen.pop("environment", "")
    where = f"{a.target or 'this server'}{f' ({environment})' if environment else ''}"
    rule = f"{seen.pop('rule', '') or '(unknown)'}, profile {seen.pop('profile', '(unknown)')}"
    approvers = ", ".join(map(str, seen.pop("approvers", ()) or ())) or "everybody who may approve"
    asked = f"asked by {tame(a.principal, 200)} at {rfc3339(a.created_at)}"
    return [
        f"{a.tool} on {tame(where, 200)}, {asked}",
        tame(a.message),
        f"arguments: {_json(dict(a.arguments))}",
        f"reason given: {reason}",
        f"what the target looked like: {_json(seen) if seen else '(it was not looked at)'}",
        f"rule: {tame(rule, 200)}; {tame(approvers, 500)}; policy {a.policy}",
        f"digest: {a.digest}",
        f"state: {a.state}, {votes(a)} said yes; until {until(a)}; id {a.id}",
        *(
            f"yes: {tame(v.by, 200)} at {rfc3339(v.at)} {quoted(v.note, 600) if v.note else ''}"
            for v in a.votes
        ),
        *(
            [f"{a.state}: {tame(a.decided_by, 200)} {quoted(a.note, 600) if a.note else ''}"]
            if a.decided_by
            else []
        ),
    ]


def _line(a: Approval) -> str:
    where = a.target or "this server"
    line = f"{a.id} {a.state} ({votes(a)} said yes) {a.tool} on {where}, asked by {a.principal}"
    return tame(line, 400).replace("\n", " ")


def votes(approval: Approval) -> str:
    """How many said yes, of those that are needed."""
    return f"{len(approval.votes)} of {approval.needed}"


def until(approval: Approval) -> str:
    """Until when it can be answered or, once it is approved, used."""
    used_by = approval.execute_by if approval.state == "approved" else None
    return rfc3339(used_by or approval.expires_at)


def as_dict(approval: Approval) -> dict[str, object]:
    """An approval for JSON."""
    used_by = approval.execute_by
    return {
        "id": approval.id,
        "kind": approval.kind,
        "state": approval.state,
        "tool": approval.tool,
        "target": approval.target,
        "arguments": dict(approval.arguments),
        "message": approval.message,
        "reason": approval.reason,
        "principal": approval.principal,
        "policy": approval.policy,
        "digest": approval.digest,
        "seen": dict(approval.seen_shown),
        "created_at": rfc3339(approval.created_at),
        "expires_at": rfc3339(approval.expires_at),
        "execute_by": None if used_by is None else rfc3339(used_by),
        "needed": approval.needed,
        "votes": [{"by": v.by, "at": rfc3339(v.at), "note": v.note} for v in approval.votes],
        "decided_by": approval.decided_by,
        "note": approval.note,
    }


def _stricter(
    approval_id: str,
    reason: str,
    act: Callable[[Desk, Approval, str], Awaitable[Approval]],
    states: tuple[str, ...],
    as_json: bool,
) -> Callable[[RunningApp], Awaitable[int]]:
    """A decision that only makes the guard stricter: it needs no terminal, and asks on one why."""

    async def body(app: RunningApp) -> int:
        approval = await _open(app.people, approval_id, *states)
        note = reason
        if not note and interactive():
            note = await ask_line("Why? The agent is told: ") or ""
        return _said(await act(app.people, approval, note), as_json=as_json)

    return body


def _needs_terminal(command: str) -> None:
    if not interactive():
        raise Refused(
            RefusalCode.PERMISSION_DENIED,
            "An approval is given by a person: this needs a terminal.",
            hint=f"Run mcp-ops approvals {command} in a terminal of your own.",
        )


async def _open(desk: Desk, approval_id: str, *states: str) -> Approval:
    approval = await desk.get(approval_id)
    if approval.state not in states:
        raise _gone(approval)
    return approval


def _said(decided: Approval, *, as_json: bool) -> int:
    if as_json:
        show_json(as_dict(decided))
    elif decided.state == "pending":
        say(f"{votes(decided)} said yes: {decided.id}")
    else:
        say(f"{decided.state}: {decided.id}")
    return Exit.OK


def _json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return tame(visible(text), _SHOWN)


def _gone(approval: Approval) -> OpsError:
    return NotFound(
        f"This question is {approval.state} already.", hint="See mcp-ops approvals list."
    )
