"""Spans around what takes its time or leaves the process. OpenTelemetry's API only.

A span is made only within one that is recorded: without an SDK, and in a trace that is not sampled,
asking costs little. Attributes are names, codes and numbers: never arguments,
payloads, queries, paths or text from a system.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from mcp_ops.errors import OpsError, Refused

CODE = "mcp_ops.code"
ERROR_TYPE = "error.type"
_LOOK_S = 1.0
_NOTHING = nullcontext(trace.INVALID_SPAN)
_tracer = trace.get_tracer("mcp_ops")


class _Tracing:
    """Whether somebody set a provider of tracers: for good once it is seen, else looked for again
    after a second. Each call asks some ten times, and a look goes through the environment."""

    __slots__ = ("_look_at", "_there")

    def __init__(self) -> None:
        self._there = False
        self._look_at = 0.0

    def __call__(self) -> bool:
        if not self._there and (now := time.monotonic()) >= self._look_at:
            self._there = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
            self._look_at = now + _LOOK_S
        return self._there


tracing = _Tracing()


def recording() -> bool:
    """Whether the current call is being recorded."""
    return tracing() and trace.get_current_span().is_recording()


def span(
    name: str, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: str
) -> AbstractContextManager[Span]:
    """A span under the current one; nothing where that is not recorded.

    In the names of attributes `__` stands for a dot.
    """
    if not recording():
        return _NOTHING
    dotted = {key.replace("__", "."): value for key, value in attributes.items() if value}
    return _span(name, kind, dotted)


def traced(
    method: Callable[..., Awaitable[Any]], name: str, **attributes: str
) -> Callable[..., Awaitable[Any]]:
    """A method of an adapter, with a span around each use."""

    async def use(*args: Any, **named: Any) -> Any:
        with span(name, kind=SpanKind.CLIENT, **attributes):
            return await method(*args, **named)

    return use


def ended_in(current: Span, error: BaseException) -> None:
    """Say on a span how it ended: by our code or the exception's class, never by its text.

    A refusal is the guard's work well done, and so is a question: they are no errors.
    """
    if not current.is_recording():
        return
    code = type(error).__qualname__
    if isinstance(error, OpsError):
        code = error.code
        current.set_attribute(CODE, code)
    if not isinstance(error, Refused) and not getattr(error, "expected", False):
        current.set_attribute(ERROR_TYPE, code)
        current.set_status(Status(StatusCode.ERROR))


@contextmanager
def _span(name: str, kind: SpanKind, attributes: dict[str, str]) -> Iterator[Span]:
    with _tracer.start_as_current_span(
        name,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            ended_in(current, error)
            raise
