"""Why a write may run: what a person said to it, and what they saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mcp_ops.call import Call
from mcp_ops.guard.policy import Decision
from mcp_ops.guard.seen import Sight
from mcp_ops.questions import Redemption


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """Why a write may run: `how` is none, confirm or approve; `record` says it for the ledger.

    `approval` is the question to redeem when the call is taken; empty where none was needed.
    `pinned` are the items that the call may touch, where it selects some; `seen` is by what the
    target was approved, where it was. `sight` is where a dry run for people tells what it saw.
    """

    how: Literal["none", "confirm", "approve"]
    record: str
    approval: str = ""
    pinned: tuple[str, ...] | None = None
    sight: Sight | None = None
    seen: str = ""

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
