"""Elevation: for a while, for one incident, some calls need less than the policy asks.

A grant lowers `approve` to `confirm` or `none`, `confirm` to `none`. It lifts no deny, no freeze,
no mode, no protection, and never the approval that makes the guard itself looser.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Literal

from mcp_ops.call import Call, Caller, new_id
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import InvalidInput, NotFound, RefusalCode, Refused
from mcp_ops.guard.policy import Decision
from mcp_ops.ports import Grant, HotStore
from mcp_ops.records import Entry, EntryKind, Ledger
from mcp_ops.redact import Redactor

MOST_MINUTES = 480
_SCOPES = frozenset({"ops:admin", "ops:approve"})
_RANK = {"none": 0, "confirm": 1, "approve": 2}


def lowered(decision: Decision, call: Call, grants: Iterable[Grant]) -> Decision:
    """The decision under the grants in force; the lowest that matches holds."""
    mine = [grant for grant in grants if _matches(grant, call)]
    grant = min(mine, key=lambda each: _RANK[each.require], default=None)
    rank = _RANK.get(decision.require)
    if grant is None or rank is None or _RANK[grant.require] >= rank:
        return decision
    elevated = f"elevation {grant.id} for {grant.incident}"
    return replace(
        decision,
        require=grant.require,
        rule=f"{decision.rule}, {elevated}",
        elevated=f"{elevated} by {grant.author} until {rfc3339(grant.expires_at)}",
    )


def _matches(grant: Grant, call: Call) -> bool:
    return (
        fnmatchcase(call.caller.principal, grant.principal)
        and fnmatchcase(call.tool.name, grant.tool)
        and fnmatchcase(call.target or call.about, grant.target)
    )


class Elevations:
    """Gives and ends elevations in a person's name; each stands in the ledger before it holds."""

    def __init__(self, *, hot: HotStore, ledger: Ledger, clock: Clock, redactor: Redactor) -> None:
        self._hot = hot
        self._ledger = ledger
        self._clock = clock
        self._redactor = redactor

    async def grant(
        self,
        caller: Caller,
        *,
        principal: str,
        tool: str,
        target: str,
        require: Literal["none", "confirm"],
        minutes: int,
        incident: str,
        reason: str,
    ) -> Grant:
        """Elevate the principals, tools and targets that these globs match, for 1 to 480 minutes.

        Raises `Refused` for a caller that may not, or that would elevate itself; `InvalidInput`.
        """
        _may(caller)
        if not 1 <= minutes <= MOST_MINUTES:
            raise InvalidInput(f"minutes: must be from 1 to {MOST_MINUTES}.")
        if not incident.strip() or not reason.strip():
            raise InvalidInput("An elevation needs an incident and a reason.")
        if fnmatchcase(caller.principal, principal):
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                "Nobody elevates themselves: these principals include the one who grants it.",
                hint="Name the agent's principal, as mcp-ops audit tail shows it.",
            )
        now = self._clock.now()
        grant = Grant(
            id=new_id(),
            principal=principal,
            tool=tool,
            target=target,
            require=require,
            incident=self._redactor.text(incident),
            reason=self._redactor.text(reason),
            author=caller.principal,
            since=now,
            expires_at=now + minutes * 60,
        )
        await self._record(caller, grant, grant.reason, outcome="granted")
        await self._hot.set_grant(grant)
        return grant

    async def end(self, caller: Caller, grant_id: str) -> Grant:
        """End an elevation before its time, which only makes the guard stricter: raises
        `NotFound`."""
        for grant in await self._hot.grants():
            if grant.id == grant_id and await self._hot.clear_grant(grant_id):
                await self._record(caller, grant, "", outcome="ended")
                return grant
        raise NotFound("No elevation is in force under this id.", hint="See mcp-ops elevate list.")

    async def _record(self, caller: Caller, grant: Grant, reason: str, *, outcome: str) -> None:
        await self._ledger.change(
            Entry(
                kind=EntryKind.CHANGED,
                call_id=grant.id,
                at=self._clock.now(),
                tool="elevate",
                target=grant.target,
                principal=caller.principal,
                channel=caller.channel,
                reason=reason,
                outcome=outcome,
                evidence={
                    "principal": grant.principal,
                    "tool": grant.tool,
                    "require": grant.require,
                    "incident": grant.incident,
                    "expires_at": rfc3339(grant.expires_at),
                },
            )
        )


def _may(caller: Caller) -> None:
    if caller.channel != "cli" or not caller.scopes >= _SCOPES:
        raise Refused(
            RefusalCode.PERMISSION_DENIED,
            f"{caller.principal} may not elevate anybody.",
            hint="An operator does it at a terminal: mcp-ops elevate.",
        )
