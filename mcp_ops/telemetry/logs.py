"""The server's own log lines, sent as OpenTelemetry's log records.

Of a line goes what stderr has of it, but for the words of exceptions: they may quote what a system
or a client said. Only loggers of this server are heard. Libraries quote what they are given, and
those of the exporters would tell of their own lines.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final

from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk.resources import Resource

from mcp_ops.log import line_of, missing, shown

_OURS: Final = "mcp_ops"
_MOST_RAISED: Final = 8
_MOST_FRAMES: Final = 20  # of each, the innermost


def listen(senders: Iterable[LogRecordProcessor], resource: Resource) -> Callable[[], None]:
    """Hand the server's lines to `senders` from now on; what comes back ends it."""
    provider = LoggerProvider(resource, shutdown_on_exit=False)
    for sender in senders:
        provider.add_log_record_processor(sender)
    handler = _Handler(provider)
    ours = logging.getLogger(_OURS)
    ours.addHandler(handler)
    return lambda: ours.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._provider = provider

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(record)
        except Exception:  # whoever logs must not be hurt
            self.handleError(record)

    def _send(self, record: logging.LogRecord) -> None:
        line = line_of(record)
        attributes = {"mcp_ops.call_id": line["call"]} if "call" in line else {}
        if record.exc_info and (error := record.exc_info[1]):
            attributes["exception.type"] = shown(_name(error))
            attributes["exception.stacktrace"] = shown("\n".join(_where(error)))
        self._provider.get_logger(line["logger"]).emit(
            timestamp=int(record.created * 1e9),
            severity_number=_severity(record.levelno),
            severity_text=line["level"],
            body=line["message"],
            attributes=attributes,
        )

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the library's name
        """Say so on stderr, which has the line itself."""
        missing(sys.stderr, record, "a line could not be sent")


def _severity(level: int) -> SeverityNumber:
    """The first of the four degrees of TRACE, DEBUG, INFO, WARN, ERROR, FATAL."""
    return SeverityNumber(1 + 4 * min(max(level, 0) // 10, 5))


def _where(error: BaseException) -> Iterator[str]:
    """What was raised where, the cause after what it caused: modules, lines and functions."""
    for number, each in enumerate(_raised(error)):
        if number == _MOST_RAISED:
            return
        yield f"{'because of ' if number else ''}{_name(each)}"
        yield from _frames(each.__traceback__)


def _raised(error: BaseException) -> Iterator[BaseException]:
    """An exception, those in it, and what it came from, each once."""
    todo, seen = [error], set[int]()
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        came_from = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        if came_from is not None:
            todo.append(came_from)
        if isinstance(each, BaseExceptionGroup):
            todo += reversed(each.exceptions)


def _frames(found: TracebackType | None) -> list[str]:
    """The way to where it was raised, the innermost last."""
    return [
        f"  {frame.f_globals.get('__name__', '?')}:{line} {frame.f_code.co_qualname}"
        for frame, line in traceback.walk_tb(found)
    ][-_MOST_FRAMES:]


def _name(error: BaseException) -> str:
    kind = type(error)
    place = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{place}{kind.__qualname__}"
