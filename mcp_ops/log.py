"""Logs: one JSON object a line on stderr, redacted. stdout belongs to the protocol."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson

from mcp_ops.clock import rfc3339
from mcp_ops.redact import Redactor, tame

_LINE = 4_000
_redactor = Redactor()


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": tame(_redactor.text(record.getMessage()), _LINE),
        }
        call = getattr(record, "call", None) or getattr(record, "call_id", None)
        if call:
            line["call"] = call
        if record.exc_info:
            line["exception"] = tame(_redactor.text(self.formatException(record.exc_info)), _LINE)
        return orjson.dumps(_redactor.value(line)).decode()


def to_stderr(level: str, redactor: Redactor | None = None) -> None:
    """Send all logs of the process to stderr; `redactor` knows the configured secrets."""
    global _redactor
    _redactor = redactor or _redactor
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper() if level.upper() in logging.getLevelNamesMapping() else "WARNING")
