"""A span and a duration for each message of the protocol, in the words of OpenTelemetry.

It takes the place of the SDK's own middleware, which puts a client's words into names of spans:
a name that is none of our tools, a method that there is not, the text of an exception. No session
id (it is as good as a key), no argument and no text of an error stands in what is made here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from mcp_types.version import SUPPORTED_PROTOCOL_VERSIONS
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from pydantic import ValidationError

from mcp_ops.spans import ERROR_TYPE, tracing

# What this server answers or is told; anything else that a client sends is `_OTHER`.
_METHODS: Final = frozenset(
    {
        "completion/complete",
        "initialize",
        "logging/setLevel",
        "notifications/cancelled",
        "notifications/initialized",
        "notifications/progress",
        "notifications/roots/list_changed",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "server/discover",
        "subscriptions/listen",
        "tools/call",
        "tools/list",
    }
)
_CALL: Final = "tools/call"
_SDKS_OWN: Final = "mcp.server._otel"
_OTHER: Final = "_OTHER"
# Numbers, counted names and UUIDs: a longer word of the client's may be anything.
_REQUEST_ID = re.compile(
    r"[0-9]{1,20}|[a-z]{0,8}[-_]?[0-9]{1,8}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
_BUCKETS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_MAX_HEADER: Final = 512
_tracer = trace.get_tracer("mcp_ops.transport")
_duration = metrics.get_meter("mcp_ops.transport").create_histogram(
    "mcp.server.operation.duration",
    unit="s",
    description="Time of the protocol's requests and notifications.",
    explicit_bucket_boundaries_advisory=_BUCKETS,
)
_w3c = TraceContextTextMapPropagator()


def observe(server: Server[Any], tools: Collection[str]) -> None:
    """Let `server` tell telemetry of its messages; `tools` are the names that may be told."""
    others = [each for each in server.middleware if type(each).__module__ != _SDKS_OWN]
    server.middleware[:] = [ServerSpans(frozenset(tools)), *others]


class ServerSpans:
    """The SDK's middleware: wraps every message. Without an SDK of telemetry it does nothing."""

    def __init__(self, tools: frozenset[str]) -> None:
        self._tools = tools

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """One message."""
        if not tracing():
            return await call_next(ctx)
        return await self._observed(ctx, call_next)

    async def _observed(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        name, facts = self._facts(ctx)
        parent, links = _parents(ctx)
        started = time.perf_counter()
        with _tracer.start_as_current_span(
            name,
            parent,
            kind=SpanKind.SERVER,
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            error = ""
            try:
                result = await call_next(ctx)
            except BaseException as exc:
                error = _error(exc)
                raise
            else:
                error = "tool_error" if facts.get("gen_ai.operation.name") and _bad(result) else ""
                return result
            finally:
                if error:
                    facts[ERROR_TYPE] = error
                    span.set_status(Status(StatusCode.ERROR))
                _duration.record(time.perf_counter() - started, facts)
                if span.is_recording():
                    span.set_attributes({**facts, **_of_the_span(ctx, error)})

    def _facts(self, ctx: ServerRequestContext[Any, Any]) -> tuple[str, dict[str, AttributeValue]]:
        """The name of the span, and what both span and metric are told."""
        method = ctx.method if ctx.method in _METHODS else _OTHER
        facts: dict[str, AttributeValue] = {
            "mcp.method.name": method,
            "mcp.protocol.version": _known(ctx.protocol_version),
            "network.transport": "pipe" if ctx.request is None else "tcp",
        }
        if ctx.request is not None:
            facts["network.protocol.name"] = "http"
        if method != _CALL:
            return method, facts
        facts["gen_ai.operation.name"] = "execute_tool"
        tool = ctx.params.get("name") if ctx.params else None
        if not isinstance(tool, str) or tool not in self._tools:
            return method, facts
        facts["gen_ai.tool.name"] = tool
        return f"{method} {tool}", facts


def _parents(ctx: ServerRequestContext[Any, Any]) -> tuple[Context, list[Link]]:
    """The parent: what the message says, else what the HTTP request says, which is a link then."""
    said, carried = _in_meta(ctx), _in_headers(ctx)
    parent, around = _span_context(said), _span_context(carried)
    if parent is None:
        return carried, []
    if around is None or around.span_id == parent.span_id:
        return said, []
    return said, [Link(around)]


def _in_meta(ctx: ServerRequestContext[Any, Any]) -> Context:
    return _extracted(ctx.meta or {})


def _in_headers(ctx: ServerRequestContext[Any, Any]) -> Context:
    return _extracted({} if ctx.request is None else ctx.request.headers)


def _extracted(carrier: Mapping[str, Any]) -> Context:
    found = {
        name: value
        for name in ("traceparent", "tracestate")
        if isinstance(value := carrier.get(name), str) and len(value) <= _MAX_HEADER
    }
    # Into an empty context: one connection's task serves many messages.
    return _w3c.extract(found, Context())


def _span_context(context: Context) -> trace.SpanContext | None:
    found = trace.get_current_span(context).get_span_context()
    return found if found.is_valid else None


def _known(version: str) -> str:
    return version if version in SUPPORTED_PROTOCOL_VERSIONS else _OTHER


def _error(exc: BaseException) -> str:
    if isinstance(exc, MCPError):
        return str(exc.error.code)
    if isinstance(exc, ValidationError):
        return str(INVALID_PARAMS)
    return type(exc).__qualname__


def _bad(result: HandlerResult) -> bool:
    failed = result.get("isError") if isinstance(result, dict) else None
    return failed is True or getattr(result, "is_error", False) is True


def _of_the_span(ctx: ServerRequestContext[Any, Any], error: str) -> dict[str, AttributeValue]:
    """What is of one message alone, and so no dimension of a metric."""
    found: dict[str, AttributeValue] = {}
    if error.lstrip("-").isdigit():
        found["rpc.response.status_code"] = error
    if ctx.request_id is not None and _REQUEST_ID.fullmatch(str(ctx.request_id)):
        found["jsonrpc.request.id"] = str(ctx.request_id)
    return found
