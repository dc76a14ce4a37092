"""Spans and counters where the guard works. OpenTelemetry's API only: a no-op without an SDK.

Attributes are names and codes: never arguments, payloads or text from a system.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, Status, StatusCode

from mcp_ops.call import Call
from mcp_ops.errors import OpsError, Refused

_tracer = trace.get_tracer("mcp_ops.guard")
_meter = metrics.get_meter("mcp_ops.guard")
_calls = _meter.create_counter("mcp_ops.calls", unit="{call}", description="Ended tool calls.")
_refusals = _meter.create_counter(
    "mcp_ops.refusals", unit="{call}", description="Calls that the guard refused, by code."
)
_durations = _meter.create_histogram(
    "mcp_ops.call.duration", unit="s", description="Time from frame to answer."
)
_upstream = _meter.create_counter(
    "mcp_ops.upstream_calls", unit="{call}", description="Calls that reached a target."
)


@contextmanager
def call_span(call: Call) -> Iterator[Span]:
    """A span around one call; its end says the verdict (see `ended`)."""
    with _tracer.start_as_current_span(
        f"guard {call.tool.name}", record_exception=False, set_status_on_exception=False
    ) as span:
        if span.is_recording():
            span.set_attributes(
                {
                    "mcp_ops.call_id": call.id,
                    "gen_ai.tool.name": call.tool.name,
                    "mcp_ops.target": call.target or call.about,
                    "mcp_ops.effect": call.effect.value,
                    "mcp_ops.principal": call.caller.principal,
                }
            )
        try:
            yield span
        except OpsError as error:  # its record is closed after this span has ended
            _say(span, "refused" if isinstance(error, Refused) else "failed", error.code)
            raise


def ended(
    *, tool: str, target: str, verdict: str, code: str, seconds: float, upstream_calls: int
) -> None:
    """Count a call that ended."""
    attributes = {"tool": tool, "target": target, "verdict": verdict}
    _calls.add(1, attributes)
    _durations.record(seconds, attributes)
    if upstream_calls:
        _upstream.add(upstream_calls, {"tool": tool, "target": target})
    if verdict == "refused":
        _refusals.add(1, {"code": code, "target": target})
    _say(trace.get_current_span(), verdict, code)


def _say(span: Span, verdict: str, code: str) -> None:
    if span.is_recording():
        span.set_attribute("mcp_ops.verdict", verdict)
        if code:
            span.set_attribute("mcp_ops.code", code)
        if verdict in ("failed", "error", "unknown"):
            span.set_status(Status(StatusCode.ERROR, code))
