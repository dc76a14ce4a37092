"""Approval: the question that a call needs answered, and the answer that counts.

An answer counts only together with a question that this guard minted for exactly this principal,
tool, target and arguments under the policy in force, and it is used once. A "no" ends the call and
holds for ten minutes. Where nobody can be asked, the call is refused.

A question to a person shows what the target looked like (`seen.py`); it counts only while the
target still does, and while those who said yes may still say it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping
from typing import Any, Literal

import anyio

from mcp_ops.call import Answer, Ask, Call, NeedsAnswer, new_id, shown_arguments
from mcp_ops.capabilities.base import Effect, Result
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import RefusalCode, Refused
from mcp_ops.guard.asking import (
    message,
    question_of,
    rule_shown,
    said_why,
    too_many,
    used_up,
    whom,
)
from mcp_ops.guard.consent import Consent
from mcp_ops.guard.people import line_of, named
from mcp_ops.guard.policy import Decision
from mcp_ops.guard.record import Frame, open_frame
from mcp_ops.guard.seen import Seen, Sight, look, pinned
from mcp_ops.guard.targets import Targets
from mcp_ops.questions import Approval, Approvals
from mcp_ops.records import Ledger
from mcp_ops.redact import Redactor

DENIED_FOR_S = 600.0
MAX_PENDING = 20
ASK_WAIT_S = 50.0
_UNSEEN = Seen()
_SCANNED = 200
_TRIES = 3
_DRIFT = "the target changed since this was asked"
_LOST = "somebody who said yes may not say it any more"


Rehearse = Callable[[Call, Frame, Consent], Awaitable[Result]]


class Approver:
    """Obtains consent for a call, or refuses it, or ends it with a question."""

    def __init__(
        self,
        approvals: Approvals,
        clock: Clock,
        redactor: Redactor,
        *,
        ledger: Ledger,
        targets: Targets,
        rehearse: Rehearse,
        keys: Container[str] | None = None,
    ) -> None:
        """`keys` are the principals of the keys that may approve now; None: it is not known."""
        self._approvals = approvals
        self._clock = clock
        self._redactor = redactor
        self._ledger = ledger
        self._targets = targets
        self._rehearse = rehearse
        self._keys = keys

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
                raise NeedsAnswer(question_of(approval))
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
            answer = await ask(question_of(approval)) if ask else None
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
        found = await self._find(call, decision)
        if found is None:  # and what appears meanwhile is not touched
            return Consent(how="none", record="nothing selected", pinned=())
        approval, gone = found
        if approval.state == "pending" and _decides_here(call, decision):
            answer = await call.caller.ask(question_of(approval)) if call.caller.ask else None
            if answer is not None:
                approval = await self._decided_here(call, approval, answer)
        if approval.state == "approved":
            by = ", ".join(vote.by for vote in approval.votes)
            return Consent(
                how="approve",
                record=f"approve {approval.id} by {by}",
                approval=approval.id,
                pinned=pinned(approval),
                seen=approval.seen,
            )
        before = f"The approval {gone.id} was taken back: {gone.note}. " if gone else ""
        raise Refused(
            RefusalCode.APPROVAL_REQUIRED,
            f"{before}{call.tool.name} needs the approval of {whom(approval)}; the question "
            f"{approval.id} is open until {rfc3339(approval.expires_at)}.",
            hint=f"A person runs: mcp-ops approvals approve {approval.id}. Poll get_operation with "
            "this id and call again with the same arguments when it says approved.",
            retry_after_s=15,
            details={"approval_id": approval.id, "expires_at": rfc3339(approval.expires_at)},
        )

    async def _find(
        self, call: Call, decision: Decision
    ) -> tuple[Approval, Approval | None] | None:
        """The question that stands for this call, and one that had to be taken back for it; None
        when the call selects nothing: nobody is asked about that.

        An approved one stands only if it still holds. While one is pending the target is not
        looked at again: an agent that asks in a loop reaches nothing.
        """
        standing = await self._standing(call, decision)
        if standing is not None:
            return standing, None
        seen = _UNSEEN
        if call.effect is not Effect.READ:
            seen = await look(call, self._plan, self._redactor)
            if seen.nothing:
                return None
        gone: Approval | None = None
        for _ in range(_TRIES):
            approval = await self._mint("approve", call, decision, seen)
            stale = self._stale(approval, decision, seen)
            if not stale:
                return approval, gone
            gone = await self._take_back(approval, stale) or gone
        raise Refused(
            RefusalCode.APPROVAL_REQUIRED,
            "The question about this call changed at this moment.",
            hint="Call again.",
            retry_after_s=1,
        )

    async def _plan(self, call: Call, sight: Sight) -> Result:
        """Run the plan that people are shown; it has a record of its own."""
        frame = open_frame(call, ledger=self._ledger, redactor=self._redactor, clock=self._clock)
        with frame.closing():
            return await self._rehearse(
                call, frame, Consent(how="none", record="seen", sight=sight)
            )

    async def _standing(self, call: Call, decision: Decision) -> Approval | None:
        """The pending question about this call; raises `Refused` when too many are pending."""
        principal = call.caller.principal
        found = await self._approvals.recent(_SCANNED)
        pending = [a for a in found if a.state == "pending" and a.principal == principal]
        binding = ("approve", call.binding, decision.version)
        for approval in pending:
            if (approval.kind, approval.digest, approval.policy) == binding:
                return approval
        approved = any(a.state == "approved" and a.digest == call.binding for a in found)
        if len(pending) >= MAX_PENDING and not approved:
            raise too_many(MAX_PENDING)
        return None

    def _stale(self, approval: Approval, decision: Decision, seen: Seen) -> str:
        """Why a question does not hold any more; empty while it does."""
        if approval.seen != seen.digest:
            return _DRIFT
        if approval.state == "approved" and not self._enough(approval, decision):
            return _LOST
        return ""

    def _enough(self, approval: Approval, decision: Decision) -> bool:
        """Whether enough of those who said yes may say it by the rule and the keys of now."""
        counted = {vote.by for vote in approval.votes if named(vote.by, decision.approvers)}
        if decision.profile != "solo":
            counted.discard(approval.principal)
        if self._keys is not None:
            counted = {by for by in counted if not by.startswith("key:") or by in self._keys}
        return len(counted) >= max(decision.needed, approval.needed)

    async def _take_back(self, approval: Approval, why: str) -> Approval | None:
        at = self._clock.now()
        gone = await self._approvals.revoke(approval.id, by="guard", note=why, at=at)
        if gone is not None:
            line = line_of(gone, by="guard", channel="", outcome="revoked", note=why, at=at)
            await self._ledger.change(line)
        return gone

    async def _decided_here(self, call: Call, approval: Approval, answer: Answer) -> Approval:
        decided = await self._approvals.decide(
            approval.id,
            approved=answer == "accept",
            by=call.caller.principal,
            note="on the terminal",
            at=self._clock.now(),
        )
        if decided is None or decided.state == "denied":
            raise self._denied(decided or approval)
        return decided

    async def _mint(
        self,
        kind: Literal["confirm", "approve"],
        call: Call,
        decision: Decision,
        seen: Seen = _UNSEEN,
    ) -> Approval:
        now = self._clock.now()
        shown: Mapping[str, Any] = self._redactor.value(shown_arguments(call, self._redactor))
        fresh = Approval(
            id=new_id(),
            kind=kind,
            state="pending",
            principal=call.caller.principal,
            tool=call.tool.name,
            target=call.target or call.about,
            digest=call.binding,
            policy=decision.version,
            message=message(call, shown),
            arguments=shown,
            reason=self._redactor.text(call.reason),
            created_at=now,
            expires_at=now + decision.expires_s,
            needed=decision.needed if kind == "approve" else 1,
            execute_s=decision.execute_s,
            seen=seen.digest,
            seen_shown={**rule_shown(call, decision, self._environment(call)), **seen.shown},
        )
        minted = await self._approvals.ask(fresh, max_pending=MAX_PENDING)
        if minted is None:
            raise too_many(MAX_PENDING)
        if minted.state == "denied":
            raise self._denied(minted)
        return minted

    def _environment(self, call: Call) -> str:
        target = call.target or call.about
        return self._targets.info(target).environment if target else "prod"

    async def _not_denied(self, call: Call) -> None:
        found = await self._approvals.denied(principal=call.caller.principal, digest=call.binding)
        if found is not None:
            raise self._denied(found)

    def _denied(self, approval: Approval) -> Refused:
        since = self._clock.now() - (approval.decided_at or self._clock.now())
        return Refused(
            RefusalCode.APPROVAL_DENIED,
            f"A person said no to this call (question {approval.id}){said_why(approval)}.",
            hint="Do not ask again for the same thing; find another way or ask the person why.",
            retry_after_s=max(0.0, DENIED_FOR_S - since),
            details={"approval_id": approval.id},
        )


def _client_asserts(call: Call, *, fallback: str) -> bool:
    """Whether the client's own permission dialog counts as a yes: never for a destroy."""
    allowed = call.caller.client_confirms and fallback == "client"
    return allowed and call.effect is not Effect.DESTROY


def _decides_here(call: Call, decision: Decision) -> bool:
    """Whether the caller may say yes to itself: an operator at a terminal, under `solo` only."""
    if decision.profile != "solo" or not named(call.caller.principal, decision.approvers):
        return False
    caller = call.caller
    return caller.channel == "cli" and caller.ask is not None and "ops:approve" in caller.scopes


def _confirmed(approval: Approval) -> Consent:
    return Consent(how="confirm", record=f"confirm {approval.id}", approval=approval.id)
