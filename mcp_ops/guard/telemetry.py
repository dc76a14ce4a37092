"""Spans and counters where the guard works. OpenTelemetry's API only: a no-op without an SDK.

Attributes are names and codes: never arguments, payloads or text from a system.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from opentelemetry import metrics, trace
from opentelemetry.trace import INVALID_SPAN, Span, Status, StatusCode

from mcp_ops.call import Call
from mcp_ops.errors import OpsError, Refused
from mcp_ops.spans import CODE, ERROR_TYPE, ended_in, tracing
from mcp_ops.spans import span as inner_span

_NOTHING = nullcontext(INVALID_SPAN)
_tracer = trace.get_tracer("mcp_ops.guard")
_meter = metrics.get_meter("mcp_ops.guard")
_calls = _meter.create_counter("mcp_ops.calls", unit="{call}", description="Ended tool calls.")
_refusals = _meter.create_counter(
    "mcp_ops.refusals", unit="{call}", description="Calls that the guard refused, by code."
)
_durations = _meter.create_histogram(
    "mcp_ops.call.duration",
    unit="s",
    description="Time from frame to answer.",
    explicit_bucket_boundaries_advisory=(
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60
    ),
)  # fmt: skip
_upstream = _meter.create_counter(
    "mcp_ops.upstream_calls", unit="{call}", description="Requests of calls to a target."
)


def stage(name: str, target: str = "") -> AbstractContextManager[Span]:
    """A span around one stage of a call, where the call is recorded."""
    if not tracing():  # each call has six
        return _NOTHING
    return inner_span(f"guard.{name}", mcp_ops__target=target)


# The span of the call that the current task works for; a write's own task may outlive it.
_of_call: ContextVar[Span] = ContextVar("mcp_ops_call_span", default=INVALID_SPAN)


def call_span(call: Call) -> AbstractContextManager[Span]:
    """A span around one call; its end says the verdict (see `ended`)."""
    if not tracing():
        return _NOTHING
    return _call_span(call)


@contextmanager
def _call_span(call: Call) -> Iterator[Span]:
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
        token = _of_call.set(span)
        try:
            yield span
        except OpsError as error:  # its record is closed after this span has ended
            _say(span, "refused" if isinstance(error, Refused) else "failed", error.code)
            raise
        except BaseException as error:
            ended_in(span, error)
            raise
        finally:
            _of_call.reset(token)


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
    for span in (_of_call.get(), trace.get_current_span()):
        _say(span, verdict, code)


def _say(span: Span, verdict: str, code: str) -> None:
    if span.is_recording():
        span.set_attribute("mcp_ops.verdict", verdict)
        if code:
            span.set_attribute(CODE, code)
        if verdict in ("failed", "error", "unknown"):
            span.set_attribute(ERROR_TYPE, code or verdict)
            span.set_status(Status(StatusCode.ERROR))
