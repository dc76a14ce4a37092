"""What people decide: yes, no, or taken back, by name; each stands in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

from mcp_ops.call import FINGERPRINT, Caller, Channel, new_id
from mcp_ops.clock import Clock
from mcp_ops.errors import Conflict, NotFound, RefusalCode, Refused
from mcp_ops.guard.policy import Policy
from mcp_ops.ports import OWN_TARGET
from mcp_ops.questions import Approval, Approvals
from mcp_ops.reach import reaches
from mcp_ops.records import Entry, EntryKind, Ledger
from mcp_ops.redact import Redactor

_SEE = "See mcp-ops approvals list."


class People:
    """Decides questions in a caller's name."""

    def __init__(
        self,
        *,
        approvals: Approvals,
        ledger: Ledger,
        policy: Policy,
        clock: Clock,
        redactor: Redactor,
        environment_of: Callable[[str], str] = lambda _: "prod",
    ) -> None:
        """`environment_of` tells where a target stands, for who may approve in some only."""
        self._environment_of = environment_of
        self._approvals = approvals
        self._ledger = ledger
        self._policy = policy
        self._clock = clock
        self._redactor = redactor

    async def recent(self, limit: int) -> list[Approval]:
        """Pending questions first, then the newest."""
        return await self._approvals.recent(limit)

    async def get(self, approval_id: str) -> Approval:
        """One question; raises `NotFound`."""
        approval = await self._approvals.get(approval_id)
        if approval is None:
            raise NotFound("There is no question with this id.", hint=_SEE)
        return approval

    async def decide(
        self, approval_id: str, caller: Caller, *, approved: bool, note: str
    ) -> Approval:
        """Approve or deny a pending question; one that needs more people stays pending.

        Raises `NotFound`, `Conflict` when it is not pending any more, `Refused` for a caller that
        may not approve, or not its own question where the profile wants another person.
        """
        approval = await self.get(approval_id)
        if approved:
            self._may_approve(approval, caller)
        at, note = self._clock.now(), self._redactor.text(note)
        decided = await self._approvals.decide(
            approval_id, approved=approved, by=caller.principal, note=note, at=at
        )
        if decided is None:
            raise Conflict("The question is not pending any more.", hint=_SEE)
        again = decided.state == "pending" and decided.votes == approval.votes
        if not again:  # a second yes of the same person changes nothing
            outcome = "vote" if decided.state == "pending" else decided.state
            await self._changed(decided, caller, outcome, note, at)
        return decided

    async def revoke(self, approval_id: str, caller: Caller, *, note: str) -> Approval:
        """Take a pending or approved question back.

        Raises `NotFound`, and `Conflict` when it was used or is over.
        """
        await self.get(approval_id)
        at, note = self._clock.now(), self._redactor.text(note)
        gone = await self._approvals.revoke(approval_id, by=caller.principal, note=note, at=at)
        if gone is None:
            raise Conflict("The question was used already, or is over.", hint=_SEE)
        await self._changed(gone, caller, "revoked", note, at)
        return gone

    async def _changed(
        self, approval: Approval, caller: Caller, outcome: str, note: str, at: float
    ) -> None:
        await self._ledger.change(
            line_of(
                approval,
                by=caller.principal,
                channel=caller.channel,
                outcome=outcome,
                note=note,
                at=at,
            )
        )

    def _may_approve(self, approval: Approval, caller: Caller) -> None:
        if "ops:approve" not in caller.scopes:
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                f"{caller.principal} may not approve.",
                hint="A person approves at a terminal: mcp-ops approvals approve.",
            )
        target = approval.target or OWN_TARGET
        environment = self._environment_of(target)
        if not reaches(caller.reach, "ops:approve", target, environment):
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                f"{caller.principal} may approve on other targets than {target} only.",
                hint="The operator says where scopes hold: [[server.grants]].",
            )
        asked_under = str(approval.seen_shown.get("profile", ""))
        profile = asked_under or self._policy.profile_for(caller.channel)
        if profile != "solo" and approval.principal == caller.principal:
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                "The profile in force wants another person than the one who asked.",
                hint="Another operator approves it.",
            )
        approvers = tuple(str(glob) for glob in approval.seen_shown.get("approvers", ()))
        if not named(caller.principal, approvers):
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                f"The rule of this question names other approvers than {caller.principal}.",
                hint="The operator names them: approvers in [[policy]].",
            )


def named(principal: str, approvers: tuple[str, ...]) -> bool:
    """Whether a rule lets this principal say yes; one that names nobody lets everybody."""
    return not approvers or any(fnmatchcase(principal, glob) for glob in approvers)


def line_of(
    approval: Approval,
    *,
    by: str,
    channel: Channel | str,
    outcome: str,
    note: str,
    at: float,
) -> Entry:
    """The ledger's line on a change of a question.

    A digest that covers sensitive values stays in the store: beside the other arguments it would
    tell whoever tries likely values which one is right. The question's id leads to the call.
    """
    hidden = any(str(value).startswith(FINGERPRINT) for value in approval.arguments.values())
    return Entry(
        kind=EntryKind.CHANGED,
        call_id=new_id(),
        at=at,
        tool=approval.tool,
        target=approval.target,
        principal=by,
        channel=channel,
        digest="" if hidden else approval.digest,
        reason=note,
        policy=approval.policy,
        approval=approval.id,
        outcome=outcome,
        evidence={"yes": len(approval.votes), "needed": approval.needed},
    )
