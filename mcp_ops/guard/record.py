"""The ledger's lines: one frame a call, opened before anything is parsed, closed exactly once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import orjson

from mcp_ops.call import Call, Caller, shown_arguments, shown_digest
from mcp_ops.clock import Clock
from mcp_ops.errors import OpsError, Refused, StoreUnavailable, UnknownTool
from mcp_ops.guard import telemetry
from mcp_ops.guard.settle import clean
from mcp_ops.records import Entry, EntryKind, Ledger, Verdict
from mcp_ops.redact import Redactor, tame

_tame = lru_cache(maxsize=256)(tame)  # the same tools and clients come with every call
_log = logging.getLogger("mcp_ops.guard")
_MADE_UP = "?"  # before the name of a tool that there is not


class Frame:
    """The record of one call from its raw name to its end.

    `close` is idempotent: the first verdict counts, so a call has exactly one terminal record.
    """

    __slots__ = (
        "_call",
        "_caller",
        "_clock",
        "_ledger",
        "_raw",
        "_redactor",
        "_started",
        "_targets",
        "_tool",
        "approval",
        "call_id",
        "closed",
        "detached",
        "had_effect",
        "policy",
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
        self._raw: Mapping[str, Any] = {}
        self._targets: Collection[str] = ()
        self.policy = ""  # the rule that decided, once one did
        self.approval = ""  # the question that was answered, or that the call ended in
        self.call_id = call_id
        self.upstream_calls = 0
        self.closed = False
        self.had_effect = False
        self.detached = False  # a write's own task closes it, whatever becomes of the request

    def heard(self, raw: Mapping[str, Any], targets: Collection[str]) -> None:
        """Keep what the client sent, for the record of a call that cannot be parsed. What is none
        of the targets is not named there: it may be a value in the wrong place."""
        self._raw, self._targets = raw, targets

    def know(self, call: Call) -> None:
        """Add what parsing found out."""
        self._call = call

    def reached(self) -> None:
        """Count a call that reached a target."""
        self.upstream_calls += 1

    def changed(self) -> None:
        """Remember that a change at a target was done, or may have been."""
        self.had_effect = True

    def began(self, *, policy: str, approval: str) -> Entry:
        """The line that says that a write is about to run."""
        self.policy, self.approval = policy, approval
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

    def fail(self, error: OpsError) -> None:
        """Close a call that ends in an error of ours, with the question that it waits for."""
        question = error.details.get("approval_id")
        if not self.approval and isinstance(question, str):
            self.approval = question
        self.abandon(verdict_of(error), code=error.code)

    def abandon(self, verdict: Verdict, *, code: str = "") -> None:
        """Close a call that ends in an error anyway; a line that finds no room goes to the log."""
        try:
            self.close(verdict, code=code)
        except StoreUnavailable:
            _log.error("no room for the record of a call", extra={"call_id": self.call_id})

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close the frame by how what it encloses ends: for a call that answers no client."""
        try:
            yield
        except OpsError as error:
            self.abandon(verdict_of(error), code=error.code)
            raise
        except Exception:  # a defect of ours
            self.abandon("error", code="internal_error")
            raise
        except BaseException:
            self.abandon("failed", code="cancelled")
            raise
        self.close("ok")

    def _entry(self, kind: EntryKind, evidence: Mapping[str, Any], **end: Any) -> Entry:
        call, caller = self._call, self._caller
        # A made-up name must not stand among the lines of ours that have one (break_glass, …).
        mark = _MADE_UP if end.get("code") == UnknownTool.code else ""
        if call is None:
            known = self._unparsed()
        else:
            said = {
                "arguments": shown_arguments(call, self._redactor),
                "reason": call.reason,
                "object": call.object,
                "evidence": dict(evidence),
            }
            known = {
                **clean(said, self._redactor),
                "target": call.target or call.about,
                "effect": call.wanted.value,
                "dry_run": call.dry_run,
                "digest": shown_digest(call, self._redactor),
                "parent": call.parent,
            }
        return Entry(
            kind=kind,
            call_id=self.call_id,
            at=self._clock.now(),
            # Redacted before it is cut: both are a client's own words.
            tool=mark + _tame(self._redactor.text(self._tool[:1_000]), 64),
            principal=caller.principal,
            client=_tame(self._redactor.text(caller.client[:1_000]), 100),
            channel=caller.channel,
            era=caller.era,
            trace_id=caller.trace_id,
            policy=self.policy,
            approval=self.approval,
            **known,
            **end,
        )

    def _unparsed(self) -> dict[str, Any]:
        """What can be said of arguments that are not valid: which target, and whether they are
        the same as those of another call."""
        if not self._raw:
            return {}
        target = self._raw.get("target")
        known = isinstance(target, str) and target in self._targets
        return {
            "target": target if known else "?" if target else "",
            "digest": f"raw:{self._redactor.fingerprint(_body(self._raw))}",
        }


def _body(raw: Mapping[str, Any]) -> str:
    """Arguments as text that is the same for the same ones, whatever a client put into them."""
    try:
        return orjson.dumps(raw, option=orjson.OPT_SORT_KEYS, default=str).decode()
    except TypeError:  # a lone surrogate, a huge number, very deep
        pass
    try:
        return repr(raw)
    except RecursionError:
        return "too deep"


def open_frame(call: Call, *, ledger: Ledger, redactor: Redactor, clock: Clock) -> Frame:
    """The frame of a call that another call makes, known from the start."""
    frame = Frame(
        call_id=call.id,
        tool=call.tool.name,
        caller=call.caller,
        ledger=ledger,
        redactor=redactor,
        clock=clock,
    )
    frame.know(call)
    return frame


def verdict_of(error: OpsError) -> Verdict:
    """How an error stands in the ledger."""
    if isinstance(error, Refused):
        return "refused"
    if error.code in ("invalid_input", "unknown_tool"):
        return "invalid"
    return "error" if error.code == "internal_error" else "failed"
