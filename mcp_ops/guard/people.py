"""What people decide: an approval is given or denied by name, and stands in the ledger."""

from __future__ import annotations

from mcp_ops.call import Caller, new_id
from mcp_ops.clock import Clock
from mcp_ops.errors import Conflict, NotFound, RefusalCode, Refused
from mcp_ops.guard.policy import Policy
from mcp_ops.records import Approval, Approvals, Entry, EntryKind, Ledger

_SEE = "See mcp-ops approvals list."


class People:
    """Decides questions in a caller's name."""

    def __init__(
        self, *, approvals: Approvals, ledger: Ledger, policy: Policy, clock: Clock
    ) -> None:
        self._approvals = approvals
        self._ledger = ledger
        self._policy = policy
        self._clock = clock

    async def decide(
        self, approval_id: str, caller: Caller, *, approved: bool, note: str
    ) -> Approval:
        """Approve or deny a pending question.

        Raises `NotFound`, `Conflict` when it is not pending any more, `Refused` for a caller that
        may not approve, or not its own question where the profile wants another person.
        """
        approval = await self._approvals.get(approval_id)
        if approval is None:
            raise NotFound("There is no question with this id.", hint=_SEE)
        if approved:
            self._may_approve(approval, caller)
        at = self._clock.now()
        decided = await self._approvals.decide(
            approval_id, approved=approved, by=caller.principal, note=note, at=at
        )
        if decided is None:
            raise Conflict("The question is not pending any more.", hint=_SEE)
        await self._ledger.change(
            Entry(
                kind=EntryKind.CHANGED,
                call_id=new_id(),
                at=at,
                tool=decided.tool,
                target=decided.target,
                principal=caller.principal,
                channel=caller.channel,
                digest=decided.digest,
                reason=note,
                policy=decided.policy,
                approval=decided.id,
                outcome=decided.state,
            )
        )
        return decided

    def _may_approve(self, approval: Approval, caller: Caller) -> None:
        if "ops:approve" not in caller.scopes:
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                f"{caller.principal} may not approve.",
                hint="A person approves at a terminal: mcp-ops approvals approve.",
            )
        own = approval.principal == caller.principal
        if own and self._policy.profile_for(caller.channel) != "solo":
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                "The profile in force wants another person than the one who asked.",
                hint="Another operator approves it.",
            )
