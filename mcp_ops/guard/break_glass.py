"""Break-glass: an operator's way past the guard in an emergency, with a credential of its own.

It passes modes, freezes, protections, budgets, rates, circuits and approvals; not the checks of
arguments, the scopes, a rule that denies, or that a write runs once. It is there at the command
line only, and loud: each use stands in the ledger before the call, in the log, and in the guard's
status for a day.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from dataclasses import replace

from pydantic import SecretStr

from mcp_ops.call import Caller, new_id
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import InvalidInput, RefusalCode, Refused
from mcp_ops.records import AuditQuery, Entry, EntryKind, Ledger
from mcp_ops.redact import Redactor, quoted

TOOL = "break_glass"
MOST_TRIES = 5
TRIES_S = 3_600.0
SHOWN_S = 86_400.0
_MOST_LINES = 200
_log = logging.getLogger("mcp_ops.guard")


class BreakGlass:
    """Checks the credential and makes its use known."""

    def __init__(
        self, key: SecretStr | None, *, ledger: Ledger, clock: Clock, redactor: Redactor
    ) -> None:
        self._key = key
        self._ledger = ledger
        self._clock = clock
        self._redactor = redactor

    async def open(
        self, caller: Caller, credential: str, *, tool: str, target: str, reason: str
    ) -> Caller:
        """The caller, past the guard for one call; durable in the ledger when this returns.

        Raises `InvalidInput` without a reason, `Refused` for a wrong credential, after five of
        them in an hour, for callers that are not at the command line, and where no key is set.
        """
        key = self._usable(caller)
        if not reason.strip():
            raise InvalidInput("Break-glass needs a reason.", hint="Pass reason=… .")
        # A try is durable before it is looked at: many at once are no more than many in a row.
        await self._not_too_many(MOST_TRIES - 1)
        number, said = new_id(), self._redactor.text(reason)
        line = self._line(caller, number, tool, target, said)
        await self._ledger.change(replace(line, outcome="tried"))
        await self._not_too_many(MOST_TRIES)
        if not hmac.compare_digest(_digest(credential), _digest(key)):
            denied = RefusalCode.PERMISSION_DENIED
            await self._ledger.change(replace(line, outcome="refused", code=denied.value))
            _log.warning("a wrong break-glass credential was given by %s", caller.principal)
            raise Refused(
                denied,
                "This is not the break-glass credential; the attempt was recorded.",
                hint=f"{MOST_TRIES} wrong ones in an hour close it for that hour.",
            )
        await self._ledger.change(replace(line, outcome="opened"))
        _log.warning(
            "BREAK-GLASS by %s: %s on %s: %s",
            *(caller.principal, tool, target or "this server", quoted(said, 200)),
        )
        return replace(caller, break_glass=True)

    def _usable(self, caller: Caller) -> str:
        if caller.channel != "cli":
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                "Break-glass is for an operator at the command line only.",
                hint="An operator runs: mcp-ops call TOOL … --break-glass.",
            )
        if self._key is None:
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                "Break-glass is not set up here.",
                hint="The operator sets guard.break_glass.key in the configuration.",
            )
        return self._key.get_secret_value()

    async def _not_too_many(self, most: int) -> None:
        now = self._clock.now()
        lines = await self._ledger.search(
            AuditQuery(tool=TOOL, since=now - TRIES_S, limit=_MOST_LINES)
        )
        opened = {line.call_id for line in lines if line.outcome == "opened"}
        tried = [line for line in lines if line.outcome == "tried" and line.call_id not in opened]
        if len(tried) <= most:
            return
        free = tried[most].at + TRIES_S
        raise Refused(
            RefusalCode.PERMISSION_DENIED,
            f"Break-glass is closed until {rfc3339(free)}: {len(tried)} wrong credentials since "
            f"{rfc3339(tried[-1].at)}.",
            hint="Wait, or the operator changes the modes and policy themselves.",
            retry_after_s=max(0.0, free - now),
        )

    def _line(self, caller: Caller, number: str, tool: str, target: str, reason: str) -> Entry:
        return Entry(
            kind=EntryKind.CHANGED,
            call_id=number,
            at=self._clock.now(),
            tool=TOOL,
            target=target,
            object=tool,
            principal=caller.principal,
            channel=caller.channel,
            client=caller.client,
            reason=reason,
        )


async def openings(ledger: Ledger, now: float) -> list[Entry]:
    """The uses of the last day, newest first: `object` is the tool that was called."""
    lines = await ledger.search(AuditQuery(tool=TOOL, since=now - SHOWN_S, limit=_MOST_LINES))
    return [line for line in lines if line.outcome == "opened"]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
