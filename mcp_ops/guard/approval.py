"""Approval: the question that a call needs answered, and the answer that counts.

An answer counts only together with a question that this guard minted for exactly this principal,
tool, target and arguments under the policy in force, and it is used once. A "no" ends the call and
holds for ten minutes. Where nobody can be asked, the call is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from mcp_ops.call import Answer, Ask, Call, NeedsAnswer, Question, new_id, shown_arguments
from mcp_ops.capabilities.base import Effect
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import RefusalCode, Refused
from mcp_ops.guard.policy import Decision
from mcp_ops.records import Approval, Approvals, Redemption
from mcp_ops.redact import Redactor, quoted

DENIED_FOR_S = 600.0
MAX_PENDING = 20
ASK_WAIT_S = 50.0
_SHOWN = 1_500  # characters of the arguments in a question
_LEAST_SHOWN = 80
_REASON_SHOWN = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """Why a write may run: `how` is none, confirm or approve; `record` says it for the ledger.

    `approval` is the question to redeem when the call is taken; empty where none was needed.
    """

    how: Literal["none", "confirm", "approve"]
    record: str
    approval: str = ""

    def redemption(self, call: Call, decision: Decision) -> Redemption | None:
        """What a write uses up together with its intent; None where nothing was asked."""
        if not self.approval:
            return None
        return Redemption(
            approval_id=self.approval,
            principal=call.caller.principal,
            digest=call.binding,
            policy=decision.version,
        )


class Approver:
    """Obtains consent for a call, or refuses it, or ends it with a question."""

    def __init__(self, approvals: Approvals, clock: Clock, redactor: Redactor) -> None:
        self._approvals = approvals
        self._clock = clock
        self._redactor = redactor

    async def obtain(self, call: Call, decision: Decision, *, confirm_fallback: str) -> Consent:
        """Consent for this call; raises `Refused` or `NeedsAnswer`."""
        if call.approved_by:
            return Consent(how="confirm", record=f"covered by {call.approved_by}")
        if decision.require == "none":
            return Consent(how="none", record=decision.rule)
        await self._not_denied(call)
        # A yes from the client is no proof of a person: it never suffices for a destroy.
        if decision.require == "confirm" and call.effect is not Effect.DESTROY:
            consent = await self._confirm(call, decision, confirm_fallback)
            if consent is not None:
                return consent
        return await self._approve(call, decision)

    def asks_nobody(self, call: Call, decision: Decision, *, confirm_fallback: str) -> bool:
        """Whether consent needs no question: then there is nothing to check before asking."""
        if call.approved_by or decision.require == "none":
            return True
        caller = call.caller
        asked = caller.answered is not None or caller.asks_by_result or caller.ask is not None
        return (
            decision.require == "confirm"
            and not asked
            and _client_asserts(call, fallback=confirm_fallback)
        )

    async def redeem(self, consent: Consent, call: Call, decision: Decision) -> None:
        """Use the answer to a question about a read, once; raises `Refused` when it was used or
        changed meanwhile. A write uses its answer together with its intent."""
        if not consent.approval:
            return
        used = await self._approvals.redeem(
            consent.approval,
            principal=call.caller.principal,
            digest=call.binding,
            policy=decision.version,
            at=self._clock.now(),
        )
        if not used:
            raise used_up(consent.approval)

    async def _confirm(self, call: Call, decision: Decision, fallback: str) -> Consent | None:
        caller = call.caller
        if caller.answered is not None:
            return await self._redeem_answer(call, caller.answered)
        if caller.asks_by_result or caller.ask is not None:
            approval = await self._mint("confirm", call, decision)
            if approval.state == "approved":  # said yes to, and then stopped before it was used
                return _confirmed(approval)
            if caller.asks_by_result:
                raise NeedsAnswer(_question(approval))
            return await self._ask_now(caller.ask, approval)
        if _client_asserts(call, fallback=fallback):
            return Consent(how="confirm", record="confirm, client-asserted")
        return None

    async def _redeem_answer(self, call: Call, answered: tuple[str, Answer]) -> Consent:
        approval_id, answer = answered
        approval = await self._approvals.get(approval_id)
        if (
            approval is None
            or approval.kind != "confirm"
            or approval.principal != call.caller.principal
            or approval.digest != call.binding
        ):
            raise Refused(
                RefusalCode.APPROVAL_REQUIRED,
                "The answer belongs to no open question about this call.",
                hint="Call again without the answer; the question is asked anew.",
            )
        return await self._decide(approval, answer)

    async def _ask_now(self, ask: Ask | None, approval: Approval) -> Consent:
        answer: Answer | None = None
        with anyio.move_on_after(ASK_WAIT_S):
            answer = await ask(_question(approval)) if ask else None
        if answer is None:
            raise Refused(
                RefusalCode.APPROVAL_REQUIRED,
                f"Nobody answered the question within {ASK_WAIT_S:.0f} s; nothing was done.",
                hint="Call again when somebody can answer.",
                details={"approval_id": approval.id},
            )
        return await self._decide(approval, answer)

    async def _decide(self, approval: Approval, answer: Answer) -> Consent:
        accepted = answer == "accept"
        decided = await self._approvals.decide(
            approval.id,
            approved=accepted,
            by=f"{approval.principal} (client)",
            note="" if accepted else answer,
            at=self._clock.now(),
        )
        if decided is None:
            now = await self._approvals.get(approval.id)
            if accepted and now is not None and now.state == "approved":
                return _confirmed(now)  # the same yes, sent again before it was used
            raise Refused(
                RefusalCode.APPROVAL_REQUIRED,
                "The question was answered before, or has expired.",
                hint="Call again to ask anew.",
            )
        if not accepted:
            raise self._denied(decided)
        return _confirmed(decided)

    async def _approve(self, call: Call, decision: Decision) -> Consent:
        approval = await self._mint("approve", call, decision)
        if approval.state == "pending" and _decides_here(call, decision):
            answer = await call.caller.ask(_question(approval)) if call.caller.ask else None
            if answer is not None:
                approval = await self._decided_here(call, approval, answer)
        if approval.state == "approved":
            return Consent(
                how="approve",
                record=f"approve {approval.id} by {approval.decided_by}",
                approval=approval.id,
            )
        raise Refused(
            RefusalCode.APPROVAL_REQUIRED,
            f"{call.tool.name} needs the approval of a person; the question {approval.id} is open "
            f"until {rfc3339(approval.expires_at)}.",
            hint=f"A person runs: mcp-ops approvals approve {approval.id}. Poll get_operation with "
            "this id and call again with the same arguments when it says approved.",
            retry_after_s=15,
            details={"approval_id": approval.id, "expires_at": rfc3339(approval.expires_at)},
        )

    async def _decided_here(self, call: Call, approval: Approval, answer: Answer) -> Approval:
        decided = await self._approvals.decide(
            approval.id,
            approved=answer == "accept",
            by=call.caller.principal,
            note="on the terminal",
            at=self._clock.now(),
        )
        if decided is None or decided.state != "approved":
            raise self._denied(decided or approval)
        return decided

    async def _mint(
        self, kind: Literal["confirm", "approve"], call: Call, decision: Decision
    ) -> Approval:
        now = self._clock.now()
        shown: Mapping[str, Any] = self._redactor.value(shown_arguments(call))
        fresh = Approval(
            id=new_id(),
            kind=kind,
            state="pending",
            principal=call.caller.principal,
            tool=call.tool.name,
            target=call.target or call.about,
            digest=call.binding,
            policy=decision.version,
            message=_message(call, shown),
            arguments=shown,
            reason=self._redactor.text(call.reason),
            created_at=now,
            expires_at=now + decision.expires_s,
        )
        minted = await self._approvals.ask(fresh, max_pending=MAX_PENDING)
        if minted is None:
            raise Refused(
                RefusalCode.APPROVAL_REQUIRED,
                f"There are {MAX_PENDING} open questions of this principal already.",
                hint="Wait for answers (list_approvals); ask for less.",
                retry_after_s=60,
            )
        if minted.state == "denied":
            raise self._denied(minted)
        return minted

    async def _not_denied(self, call: Call) -> None:
        found = await self._approvals.denied(principal=call.caller.principal, digest=call.binding)
        if found is not None:
            raise self._denied(found)

    def _denied(self, approval: Approval) -> Refused:
        since = self._clock.now() - (approval.decided_at or self._clock.now())
        return Refused(
            RefusalCode.APPROVAL_DENIED,
            f"A person said no to this call (question {approval.id}).",
            hint="Do not ask again for the same thing; find another way or ask the person why.",
            retry_after_s=max(0.0, DENIED_FOR_S - since),
            details={"approval_id": approval.id},
        )


def used_up(approval_id: str) -> Refused:
    """The refusal of a call whose answer cannot be used any more."""
    return Refused(
        RefusalCode.APPROVAL_REQUIRED,
        f"The approval {approval_id} was used already, or no longer fits the call.",
        hint="Call again to ask anew.",
    )


def _client_asserts(call: Call, *, fallback: str) -> bool:
    """Whether the client's own permission dialog counts as a yes: never for a destroy."""
    allowed = call.caller.client_confirms and fallback == "client"
    return allowed and call.effect is not Effect.DESTROY


def _decides_here(call: Call, decision: Decision) -> bool:
    """Whether the caller may say yes to itself: an operator at a terminal, under `solo` only."""
    if decision.profile != "solo":
        return False
    caller = call.caller
    return caller.channel == "cli" and caller.ask is not None and "ops:approve" in caller.scopes


def _confirmed(approval: Approval) -> Consent:
    return Consent(how="confirm", record=f"confirm {approval.id}", approval=approval.id)


def _question(approval: Approval) -> Question:
    return Question(
        id=approval.id, kind=approval.kind, message=approval.message, digest=approval.digest
    )


def _message(call: Call, shown: Mapping[str, Any]) -> str:
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
