"""Who is calling and what the client can do, whatever the transport; sealed request state.

The transports themselves are in `transport_stdio` and `transport_http`. `server.py` asks only
`caller_facts`; nothing above it needs to know which revision or transport a call came by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp_types import ClientCapabilities
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from opentelemetry import trace

from mcp_ops.auth.principal import HttpPrincipal
from mcp_ops.errors import ConfigurationError
from mcp_ops.spans import tracing

PRINCIPAL_SCOPE_KEY: Final = "mcp_ops.principal"
"""Where the HTTP transport leaves the `HttpPrincipal` in the ASGI scope of every request."""

DRAIN_S: Final = 25.0
"""How long calls in flight may go on after a stop, in seconds; hosts kill after 30."""

ASK_SINCE: Final = "2025-06-18"
"""The first revision of the session era in which a server may ask the client's user."""

Era = Literal["2026", "session"]

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_NOT_IN_A_LABEL = re.compile(r"[^A-Za-z0-9._-]+")
_LABEL_LENGTH = 64


class Wire(dict[str, Any]):
    """A result of `tools/call` in the form that 2026-07-28 sends, which nobody checks again."""


class CallerFacts(NamedTuple):
    """What the transport knows about one request.

    `principal` is None on stdio. `client` and `client_version` are the client's own words, cut to
    a label; empty when it did not say. `asks_by_result` and `can_elicit` exclude each other; with
    neither, this client can't be asked. `traceparent` is of the trace that the call belongs to:
    that of the message, else of the HTTP request; empty where there is none.

    A tuple, as every call has one: a frozen data class of its size takes 3 µs to make.
    """

    principal: HttpPrincipal | None
    client: str
    client_version: str
    protocol_version: str
    era: Era
    asks_by_result: bool
    can_elicit: bool
    traceparent: str
    progress_token: str | int | None


def caller_facts(ctx: ServerRequestContext[Any, Any]) -> CallerFacts:
    """What is known about the caller of this request, in both eras and on every transport."""
    session = ctx.session
    modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
    form = _shows_forms(session.client_capabilities)
    info = session.client_params.client_info if session.client_params is not None else None
    meta: Mapping[str, Any] = ctx.meta or {}
    return CallerFacts(
        principal=http_principal(ctx),
        client=_label(info.name) if info is not None else "",
        client_version=_label(info.version) if info is not None else "",
        protocol_version=ctx.protocol_version,
        era="2026" if modern else "session",
        asks_by_result=modern and form,
        can_elicit=(
            not modern and form and ctx.protocol_version >= ASK_SINCE and session.can_send_request
        ),
        traceparent=_traceparent(ctx, meta),
        progress_token=meta.get("progress_token"),
    )


scope_set = lru_cache(maxsize=256)(frozenset[str])
"""Scopes as the guard looks at them: the same with every call of a principal."""


def http_principal(ctx: ServerRequestContext[Any, Any]) -> HttpPrincipal | None:
    """The principal of exactly this HTTP request; None on stdio."""
    if ctx.request is None:
        return None
    principal = ctx.request.scope.get(PRINCIPAL_SCOPE_KEY)
    if not isinstance(principal, HttpPrincipal):
        # Fail closed: a request that came round the edge must not pass for the local user.
        raise TypeError("an HTTP request without a principal reached the server")
    return principal


def bind_caller(local: str) -> Callable[[ServerRequestContext[Any, Any]], str]:
    """What sealed request state is bound to: the HTTP principal, or `local` on stdio."""

    def bind(ctx: ServerRequestContext[Any, Any]) -> str:
        principal = http_principal(ctx)
        return local if principal is None else principal.id

    return bind


def seal(
    server: Server[Any],
    keys: Sequence[bytes],
    bind_principal: Callable[[ServerRequestContext[Any, Any]], str | None],
) -> None:
    """Seal the request state that leaves `server`; verify and open what comes back.

    The first key seals, all keys open; each has at least 32 random bytes. Replicas share them.
    State is bound to method, tool, arguments, principal and server name, and expires after 600 s.
    It can be presented again and again: using an answer once is the guard's business.

    Raises ConfigurationError when the keys are missing, too short or repeated.
    """
    try:
        security = RequestStateSecurity(keys=list(keys), bind_principal=bind_principal)
    except ValueError as exc:
        raise ConfigurationError(
            "the keys that seal request state must be at least one, distinct, of 32 bytes or more"
        ) from exc
    server.middleware.append(_Boundary(security, default_audience=server.name))


class _Boundary(RequestStateBoundary):
    """The SDK's, which is not asked about calls that neither bring state nor end in a question."""

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """The SDK's middleware."""
        if ctx.params is None or ctx.params.get("requestState") is not None:
            return await super().__call__(ctx, call_next)
        result = await call_next(ctx)
        if isinstance(result, dict) and result.get("resultType") != "input_required":
            return result

        async def known(_: ServerRequestContext[Any, Any]) -> HandlerResult:
            return result

        return await super().__call__(ctx, known)


def _shows_forms(capabilities: ClientCapabilities | None) -> bool:
    # Before url mode existed an empty object meant forms; a client with url alone shows none.
    asked = capabilities.elicitation if capabilities is not None else None
    return asked is not None and (asked.form is not None or asked.url is None)


def _traceparent(ctx: ServerRequestContext[Any, Any], meta: Mapping[str, Any]) -> str:
    """That of our own span, where there is one: it has the client's trace if it has one."""
    own = trace.get_current_span().get_span_context() if tracing() else trace.INVALID_SPAN_CONTEXT
    if own.is_valid:
        ids = trace.format_trace_id(own.trace_id), trace.format_span_id(own.span_id)
        return f"00-{ids[0]}-{ids[1]}-{own.trace_flags:02x}"
    header = None if ctx.request is None else _header(ctx.request.scope, b"traceparent")
    for value in (meta.get("traceparent"), header):
        if isinstance(value, str) and _TRACEPARENT.fullmatch(value):
            return value
    return ""


def _header(scope: Mapping[str, Any], wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            found: str = value.decode("latin-1")
            return found
    return None


def _label(text: str) -> str:
    return _cleaned(text[:_LABEL_LENGTH])


@lru_cache(maxsize=256)  # a client says the same with every call
def _cleaned(text: str) -> str:
    return _NOT_IN_A_LABEL.sub("-", text).strip("-")
