"""What telemetry is told of an HTTP request: method, host, status and how long; nothing else.

Paths and queries name objects and carry data, and headers carry credentials: none is in a span.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import metrics
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from mcp_ops.errors import OpsError
from mcp_ops.spans import ERROR_TYPE, span

_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30)
_duration = metrics.get_meter("mcp_ops.wire").create_histogram(
    "http.client.request.duration",
    unit="s",
    description="Time of HTTP requests to targets.",
    explicit_bucket_boundaries_advisory=_BUCKETS,
)


@dataclass(slots=True)
class Exchange:
    """A request and what became of it."""

    status: int = 0
    code: str = ""

    def facts(self, method: str, url: str) -> dict[str, AttributeValue]:
        """The attributes of span and metric."""
        found: dict[str, AttributeValue] = {"http.request.method": method, **_server(url)}
        if self.status:
            found["http.response.status_code"] = self.status
        if self.code or self.status >= 400:
            found[ERROR_TYPE] = self.code or str(self.status)
        return found


@contextmanager
def exchange(method: str, url: str) -> Iterator[Exchange]:
    """Around one request; the caller notes the answer's status."""
    noted = Exchange()
    started = time.perf_counter()
    with span(method, kind=SpanKind.CLIENT) as current:
        try:
            yield noted
        except OpsError as error:
            noted.code = error.code
            raise
        except BaseException as error:
            noted.code = type(error).__qualname__
            raise
        finally:
            facts = noted.facts(method, url)
            _duration.record(time.perf_counter() - started, facts)
            _say(current, noted, facts)


def _say(current: Span, noted: Exchange, facts: dict[str, AttributeValue]) -> None:
    if current.is_recording():
        current.set_attributes(facts)
        if noted.status >= 400:
            current.set_status(Status(StatusCode.ERROR))


def _server(url: str) -> dict[str, AttributeValue]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return {}
    found: dict[str, AttributeValue] = {"server.address": parts.hostname or ""}
    found["server.port"] = port or (443 if parts.scheme == "https" else 80)
    return found
