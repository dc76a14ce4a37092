"""Questions to people: approvals, the votes for them, and the protocol of their store.

As in `ports.py` one method is one atomic operation of the backend, and times are Unix seconds of
the store's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

ApprovalState = Literal["pending", "approved", "denied", "redeemed", "expired", "revoked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One person's yes to a question."""

    by: str
    at: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A question to a person, bound to principal, tool, target, digest and policy; used once.

    `kind` "confirm" is asked through the caller's client, "approve" of a person elsewhere. It is
    approved once `needed` different people said yes, and has then to be used before `execute_by`
    (`execute_s` seconds after the last yes). `seen` is the digest of what the target looked like
    when it was asked, `seen_shown` the same for people.
    """

    id: str
    kind: Literal["confirm", "approve"]
    state: ApprovalState
    principal: str
    tool: str
    target: str
    digest: str
    policy: str
    message: str
    arguments: Mapping[str, Any]
    reason: str
    created_at: float
    expires_at: float
    decided_by: str = ""
    decided_at: float | None = None
    note: str = ""
    needed: int = 1
    votes: tuple[Vote, ...] = ()
    execute_s: float = 900.0
    execute_by: float | None = None
    seen: str = ""
    seen_shown: Mapping[str, Any] = field(default_factory=dict)


class Approvals(Protocol):
    """Questions and answers. Each change is a compare-and-set on the state."""

    async def ask(self, approval: Approval, *, max_pending: int) -> Approval | None:
        """Add a pending question, or answer the one that is pending or approved for the same
        binding and kind; None when this principal has too many pending."""
        ...

    async def decide(
        self, approval_id: str, *, approved: bool, by: str, note: str, at: float
    ) -> Approval | None:
        """Say yes or no to a pending question; None when it is not pending any more.

        One no denies it. It is approved by the last of the needed different people; until then it
        stays pending, with one vote more. A second yes of the same person changes nothing.
        """
        ...

    async def revoke(self, approval_id: str, *, by: str, note: str, at: float) -> Approval | None:
        """Take a question back that is pending or approved; None when it is neither any more."""
        ...

    async def redeem(
        self, approval_id: str, *, principal: str, digest: str, policy: str, at: float
    ) -> bool:
        """Use an approved question for exactly this call; true once. Writes use theirs in
        `Ledger.begin`, together with the intent."""
        ...

    async def get(self, approval_id: str) -> Approval | None:
        """One question; expired ones say so."""
        ...

    async def denied(self, *, principal: str, digest: str) -> Approval | None:
        """The question about this call, of either kind, that was denied a short time ago."""
        ...

    async def recent(self, limit: int) -> list[Approval]:
        """Pending ones first, then the newest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Redemption:
    """An approval that a write uses up: it has to fit exactly this call."""

    approval_id: str
    principal: str
    digest: str
    policy: str
