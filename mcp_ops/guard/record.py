"""The ledger's lines: one frame a call, opened before anything is parsed, closed exactly once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mcp_ops.call import Call, Caller, shown_arguments
from mcp_ops.clock import Clock
from mcp_ops.errors import OpsError, Refused
from mcp_ops.guard import telemetry
from mcp_ops.ports import Entry, EntryKind, Ledger, Verdict
from mcp_ops.redact import Redactor, tame


class Frame:
    """The record of one call from its raw name to its end.

    `close` is idempotent: the first verdict counts, so a call has exactly one terminal record.
    """

    __slots__ = (
        "_clock",
        "_entry",
        "_ledger",
        "_redactor",
        "_started",
        "call_id",
        "closed",
        "detached",
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
        self._entry = Entry(
            kind=EntryKind.ENDED,
            call_id=call_id,
            at=clock.now(),
            tool=tame(tool, 64),
            principal=caller.principal,
            client=tame(caller.client, 100),
            channel=caller.channel,
            era=caller.era,
            trace_id=caller.trace_id,
        )
        self.call_id = call_id
        self.upstream_calls = 0
        self.closed = False
        self.detached = False  # a write's own task closes it, whatever becomes of the request

    def know(self, call: Call) -> None:
        """Add what parsing found out."""
        self._entry = dataclasses.replace(
            self._entry,
            target=call.target or call.about,
            object=call.object,
            effect=call.tool.effect.value,
            dry_run=call.dry_run,
            digest=call.digest,
            arguments=shown_arguments(call),
            reason=call.reason,
            parent=call.parent,
        )

    def reached(self) -> None:
        """Count a call that reached a target."""
        self.upstream_calls += 1

    def began(self, *, policy: str, approval: str) -> Entry:
        """The line that says that a write is about to run."""
        self._entry = dataclasses.replace(self._entry, policy=policy, approval=approval)
        return self._clean(dataclasses.replace(self._entry, kind=EntryKind.BEGAN))

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
        telemetry.ended(
            tool=self._entry.tool,
            target=self._entry.target,
            verdict=verdict,
            code=code,
            seconds=seconds,
            upstream_calls=self.upstream_calls,
        )
        return self._clean(
            dataclasses.replace(
                self._entry,
                at=self._clock.now(),
                verdict=verdict,
                code=code,
                outcome=outcome,
                evidence=evidence or {},
                upstream_calls=self.upstream_calls,
                duration_ms=round(seconds * 1000, 3),
            )
        )

    def close(self, verdict: Verdict, *, code: str = "", outcome: str = "") -> None:
        """Close with a line that is written in the next batch; a closed frame stays as it is."""
        if not self.closed:
            self._ledger.note(self.ended(verdict, code=code, outcome=outcome))

    def _clean(self, entry: Entry) -> Entry:
        return dataclasses.replace(
            entry,
            arguments=self._redactor.value(dict(entry.arguments)),
            reason=self._redactor.text(entry.reason),
            evidence=self._redactor.value(dict(entry.evidence)),
        )


def verdict_of(error: OpsError) -> Verdict:
    """How an error stands in the ledger."""
    if isinstance(error, Refused):
        return "refused"
    if error.code in ("invalid_input", "unknown_tool"):
        return "invalid"
    return "error" if error.code == "internal_error" else "failed"
