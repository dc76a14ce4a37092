"""`mcp-ops approvals`: what waits for a person's decision, and the decision."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mcp_ops.clock import rfc3339
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import ask_line, interactive, say, show_json, show_table, warn
from mcp_ops.commands.session import (
    ConfigOption,
    JsonOption,
    RunningApp,
    operator,
    with_app,
)
from mcp_ops.errors import NotFound, OpsError, RefusalCode, Refused
from mcp_ops.records import Approval
from mcp_ops.redact import quoted, tame, visible

TYPED_CHARACTERS = 4

group = typer.Typer(help="Questions that wait for a person.", no_args_is_help=True)
ApprovalId = Annotated[str, typer.Argument(metavar="ID", help="Id of the question.")]


@group.command("list")
def list_approvals(
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most this many.")] = 20,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List pending questions first, then the newest."""

    async def body(app: RunningApp) -> int:
        found = await app.stores.approvals.recent(limit)
        if as_json:
            show_json([as_dict(approval) for approval in found])
        elif found:
            show_table(
                ("ID", "STATE", "TOOL", "TARGET", "ASKED BY", "EXPIRES", "REASON"),
                (
                    (a.id, a.state, a.tool, a.target, a.principal, rfc3339(a.expires_at), a.reason)
                    for a in found
                ),
            )
        else:
            say("No question waits for an answer, and none was answered lately.")
        return Exit.OK

    with_app(config, body, as_json=as_json)


@group.command()
def approve(
    approval_id: ApprovalId,
    reason: Annotated[str, typer.Option(help="A note for the audit.")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Approve a question, after a look at exactly what would run. Needs a terminal."""

    async def body(app: RunningApp) -> int:
        if not interactive():
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                "An approval is given by a person: this needs a terminal.",
                hint="Run mcp-ops approvals approve in a terminal of your own.",
            )
        approval = await _pending(app, approval_id)
        for line in described(approval):
            warn(line)
        typed = await ask_line(
            f"Type the first {TYPED_CHARACTERS} characters of the id to approve: "
        )
        if typed != approval.id[:TYPED_CHARACTERS]:
            warn("That is not the id: nothing was approved.")
            return Exit.APPROVAL
        return await _decide(app, approval, approved=True, note=reason, as_json=as_json)

    with_app(config, body, as_json=as_json)


@group.command()
def deny(
    approval_id: ApprovalId,
    reason: Annotated[str, typer.Option(help="Why; the agent is told.")] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Deny a question for good."""

    async def body(app: RunningApp) -> int:
        approval = await _pending(app, approval_id)
        return await _decide(app, approval, approved=False, note=reason, as_json=as_json)

    with_app(config, body, as_json=as_json)


def described(approval: Approval) -> list[str]:
    """Everything that the approval is bound to, harmless for the terminal."""
    arguments = json.dumps(dict(approval.arguments), indent=2, ensure_ascii=False, default=str)
    reason = quoted(approval.reason, 600) if approval.reason else "(none)"
    what = f"{approval.tool} on {approval.target or 'this server'}"
    return [
        f"{what}, asked by {tame(approval.principal, 200)} at {rfc3339(approval.created_at)}",
        tame(approval.message),
        f"arguments: {tame(visible(arguments), 20_000)}",
        f"reason given: {reason}",
        f"rule: {approval.policy}; expires {rfc3339(approval.expires_at)}; id {approval.id}",
    ]


def as_dict(approval: Approval) -> dict[str, object]:
    """An approval for JSON, without what binds it."""
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
        "created_at": rfc3339(approval.created_at),
        "expires_at": rfc3339(approval.expires_at),
        "decided_by": approval.decided_by,
        "note": approval.note,
    }


async def _pending(app: RunningApp, approval_id: str) -> Approval:
    approval = await app.stores.approvals.get(approval_id)
    if approval is None:
        raise NotFound("There is no question with this id.", hint="See mcp-ops approvals list.")
    if approval.state != "pending":
        raise _gone(approval)
    return approval


async def _decide(
    app: RunningApp,
    approval: Approval,
    *,
    approved: bool,
    note: str,
    as_json: bool,
) -> int:
    decided = await app.decide(approval.id, operator(), approved=approved, note=note)
    word = "approved" if approved else "denied"
    if as_json:
        show_json(as_dict(decided))
    else:
        say(f"{word}: {approval.id}")
    return Exit.OK


def _gone(approval: Approval) -> OpsError:
    return NotFound(
        f"This question is {approval.state} already.", hint="See mcp-ops approvals list."
    )
