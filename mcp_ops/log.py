"""Logs: one JSON object a line on stderr, redacted. stdout belongs to the protocol.

Who else tells of a record (`telemetry/logs.py`) takes it from its line.
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any

import orjson
from opentelemetry import trace

from mcp_ops.clock import rfc3339
from mcp_ops.redact import Redactor, tame

_LINE = 4_000
_READ = 64_000  # so much of a message is looked at: more than a line shows, and bounded
_redactor = Redactor()
# Below this they write down whole messages of the protocol, with the arguments of every call:
# what is sensitive in them is known to be so only once it has been parsed.
_NOT_BELOW_INFO = ("mcp", "sse_starlette", "asyncio")
_MADE = "mcp_ops_line"
_EXCEPTIONS = logging.Formatter()


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return orjson.dumps(line_of(record), default=str).decode()


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    """What may be told of a record: redacted, tame, and made once for all who tell it."""
    made: dict[str, Any] | None = record.__dict__.get(_MADE)
    if made is None:
        made = record.__dict__[_MADE] = _line(record)
    return made


def _line(record: logging.LogRecord) -> dict[str, Any]:
    line: dict[str, Any] = {
        "at": rfc3339(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": shown(_message(record)),
    }
    call = getattr(record, "call", None) or getattr(record, "call_id", None)
    if call:
        line["call"] = call
    if record.exc_info:
        # What was raised stands at the end of a traceback.
        line["exception"] = shown(_EXCEPTIONS.formatException(record.exc_info)[-_READ:])
    return {**_redactor.value(line), **_trace()}  # ids are ours, and look like secrets


def _trace() -> dict[str, str]:
    """Which trace and span a line belongs to, where telemetry is on."""
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(found.trace_id),
        "span_id": trace.format_span_id(found.span_id),
    }


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        # A format that does not fit its arguments; logging would print both as they are.
        return str(record.msg)


def shown(text: str) -> str:
    """Text as a line may have it."""
    # Redacted before it is cut: half a secret is no secret to the redactor.
    return tame(_redactor.text(text[:_READ]), _LINE)


class _Handler(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the library's name
        """Say that a line is missing; the library would print the record as it is."""
        missing(self.stream, record, "a line could not be written")


def missing(stream: Any, record: logging.LogRecord, message: str) -> None:
    """A line about one that is not where it should be, with nothing of it but whose it was."""
    line = {"level": "error", "logger": "mcp_ops.log", "message": message}
    with suppress(OSError, ValueError):  # nobody reads any more: who logs goes on all the same
        stream.write(orjson.dumps({**line, "of": tame(record.name, 100)}).decode() + "\n")


def to_stderr(level: str, redactor: Redactor | None = None) -> None:
    """Send all logs of the process to stderr; `redactor` knows the configured secrets.

    So do exceptions that nobody caught: what Python prints of them goes the same way.
    """
    global _redactor
    _redactor = redactor or _redactor
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper() if level.upper() in logging.getLevelNamesMapping() else "WARNING")
    for name in _NOT_BELOW_INFO:
        logging.getLogger(name).setLevel(max(root.level, logging.INFO))
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("mcp_ops").critical("uncaught", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
