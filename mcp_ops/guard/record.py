"""The ledger's lines: one frame a call, opened before anything is parsed, closed exactly once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mcp_ops.call import Call, Caller, shown_arguments
from mcp_ops.clock import Clock
from mcp_ops.errors import OpsError, Refused, StoreUnavailable, UnknownTool
from mcp_ops.guard import telemetry
from mcp_ops.guard.settle import clean
from mcp_ops.records import Entry, EntryKind, Ledger, Verdict
from mcp_ops.redact import Redactor, tame

_log = logging.getLogger("mcp_ops.guard")


class Frame:
    """The record of one call from its raw name to its end.

    `close` is idempotent: the first verdict counts, so a call has exactly one terminal record.
    """

    __slots__ = (
        "_call",
        "_caller",
        "_clock",
        "_ledger",
        "_policy",
        "_redactor",
        "_started",
        "_tool",
        "approval",
        "call_id",
        "closed",
        "detached",
        "had_effect",
        "upstream_calls",
    )

    def __init__(
        self,
        *,
        call_id: str,
        tool: str,
        caller: Caller,
        ledger: Ledger,
        redactor: Redactor,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._redactor = redactor
        self._clock = clock
        self._started = clock.monotonic()
        self._tool = tool
        self._caller = caller
        self._call: Call | None = None
        self._policy = ""
        self.approval = ""
        self.call_id = call_id
        self.upstream_calls = 0
        self.closed = False
        self.had_effect = False
        self.detached = False  # a write's own task closes it, whatever becomes of the request

    def know(self, call: Call) -> None:
        """Add what parsing found out."""
        self._call = call

    def reached(self) -> None:
        """Count a call that reached a target."""
        self.upstream_calls += 1

    def changed(self) -> None:
        """Remember that a change at a target came back as done."""
        self.had_effect = True

    def began(self, *, policy: str, approval: str) -> Entry:
        """The line that says that a write is about to run."""
        self._policy, self.approval = policy, approval
        return self._entry(EntryKind.BEGAN, {})

    def ended(
        self,
        verdict: Verdict,
        *,
        code: str = "",
        outcome: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> Entry:
        """The closing line; the caller writes it durably. Closes the frame."""
        self.closed = True
        seconds = self._clock.monotonic() - self._started
        entry = self._entry(
            EntryKind.ENDED,
            evidence or {},
            verdict=verdict,
            code=code,
            outcome=outcome,
            upstream_calls=self.upstream_calls,
            duration_ms=round(seconds * 1000, 3),
        )
        telemetry.ended(
            # A name that a client made up is no dimension of a metric: there is no end of them.
            tool=entry.tool if code != UnknownTool.code else "unknown",
            target=entry.target,
            verdict=verdict,
            code=code,
            seconds=seconds,
            upstream_calls=self.upstream_calls,
        )
        return entry

    def close(self, verdict: Verdict, *, code: str = "", outcome: str = "") -> None:
        """Close with a line that is written in the next batch; a closed frame stays as it is.

        Raises `StoreUnavailable` when no more lines can wait: what was not answered yet is then
        refused, and what is an error already stays the error that it is (`abandon`).
        """
        if not self.closed:
            self._ledger.note(self.ended(verdict, code=code, outcome=outcome))

    def abandon(self, verdict: Verdict, *, code: str = "") -> None:
        """Close a call that ends in an error anyway; a line that finds no room goes to the log."""
        try:
            self.close(verdict, code=code)
        except StoreUnavailable:
            _log.error("no room for the record of a call", extra={"call_id": self.call_id})

    def _entry(self, kind: EntryKind, evidence: Mapping[str, Any], **end: Any) -> Entry:
        call, caller = self._call, self._caller
        known: dict[str, Any] = {}
        if call is not None:
            said = {
                "arguments": shown_arguments(call),
                "reason": call.reason,
                "object": call.object,
                "evidence": dict(evidence),
            }
            known = {
                **clean(said, self._redactor),
                "target": call.target or call.about,
                "effect": call.tool.effect.value,
                "dry_run": call.dry_run,
                "digest": call.digest,
                "parent": call.parent,
            }
        return Entry(
            kind=kind,
            call_id=self.call_id,
            at=self._clock.now(),
            tool=tame(self._tool, 64),
            principal=caller.principal,
            client=tame(caller.client, 100),
            channel=caller.channel,
            era=caller.era,
            trace_id=caller.trace_id,
            policy=self._policy,
            approval=self.approval,
            **known,
            **end,
        )


def verdict_of(error: OpsError) -> Verdict:
    """How an error stands in the ledger."""
    if isinstance(error, Refused):
        return "refused"
    if error.code in ("invalid_input", "unknown_tool"):
        return "invalid"
    return "error" if error.code == "internal_error" else "failed"
