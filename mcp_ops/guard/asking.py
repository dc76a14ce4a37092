"""The words of questions and of their refusals, and the rule that a question stands under."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_ops.call import Call, Question
from mcp_ops.errors import RefusalCode, Refused
from mcp_ops.guard.policy import Decision
from mcp_ops.questions import Approval
from mcp_ops.redact import quoted

_SHOWN = 1_500  # characters of the arguments in a question
_LEAST_SHOWN = 80
_REASON_SHOWN = 600


def too_many(limit: int) -> Refused:
    """The refusal of one more question."""
    return Refused(
        RefusalCode.APPROVAL_REQUIRED,
        f"There are {limit} open questions of this principal already.",
        hint="Wait for answers (list_approvals); ask for less.",
        retry_after_s=60,
    )


def used_up(approval_id: str) -> Refused:
    """The refusal of a call whose answer cannot be used any more."""
    return Refused(
        RefusalCode.APPROVAL_REQUIRED,
        f"The approval {approval_id} was used already, or no longer fits the call.",
        hint="Call again to ask anew.",
    )


def said_why(approval: Approval) -> str:
    """The reason of a person's no, to follow a sentence."""
    return f": {quoted(approval.note, _REASON_SHOWN)}" if approval.note else ""


def whom(approval: Approval) -> str:
    """Whose yes is needed."""
    if approval.needed == 1:
        return "a person"
    return f"{approval.needed} people, {len(approval.votes)} of whom said yes"


def rule_shown(call: Call, decision: Decision, environment: str) -> dict[str, Any]:
    """Under which rule a question stands: people see it, and are held to it."""
    return {
        "environment": environment,
        "effect": call.effect.value,
        "rule": decision.rule,
        "profile": decision.profile,
        "approvers": list(decision.approvers),
    }


def question_of(approval: Approval) -> Question:
    """What a client is asked."""
    return Question(
        id=approval.id, kind=approval.kind, message=approval.message, digest=approval.digest
    )


def message(call: Call, shown: Mapping[str, Any]) -> str:
    """The question in three lines. What the agent filled in is quoted: it cannot forge a line."""
    target = call.target or call.about or "this server"
    given = {k: v for k, v in shown.items() if k not in ("reason", "dry_run")}
    # Each has its share, so that a long one cannot push another out of sight.
    share = max(_LEAST_SHOWN, _SHOWN // max(1, len(given)))
    arguments = ", ".join(f'"{name}": {quoted(value, share)}' for name, value in given.items())
    return (
        f"Allow {call.tool.name} ({call.effect.value}) on {target}?\n"
        f"Arguments: {arguments or 'none'}\n"
        f"Reason given by the agent: {quoted(shown.get('reason', ''), _REASON_SHOWN)}"
    )
