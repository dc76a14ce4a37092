"""An OTLP receiver on a socket, collectors that do not work, and a server that exports to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from anyio.abc import SocketStream
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.clients.live import Place
from tests.served import serve

NO_VARIABLES = dict[str, str]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span as it arrived."""

    name: str
    scope: str
    trace: str
    id: str
    parent: str
    kind: int
    attributes: dict[str, Any]
    links: list[str]
    status: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a log as it arrived."""

    logger: str
    body: str
    severity: int
    text: str
    trace: str
    span: str
    attributes: dict[str, Any]


@dataclass(slots=True)
class Received:
    """What arrived, as it came."""

    url: str = ""
    status: int = 200
    gate: anyio.Event | None = None
    """Where there is one, nothing is answered before it is set."""
    bodies: list[tuple[str, bytes]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)

    def spans(self) -> list[Span]:
        """All spans."""
        found = []
        for body in (body for path, body in self.bodies if path == "/v1/traces"):
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource |= _attributes(each.resource.attributes)
                for scope in each.scope_spans:
                    found += [_span(scope.scope.name, span) for span in scope.spans]
        return found

    def lines(self) -> list[Line]:
        """All lines of the log."""
        return [
            Line(
                logger=scope.scope.name,
                body=record.body.string_value,
                severity=record.severity_number,
                text=record.severity_text,
                trace=record.trace_id.hex(),
                span=record.span_id.hex(),
                attributes=_attributes(record.attributes),
            )
            for path, body in self.bodies
            if path == "/v1/logs"
            for each in ExportLogsServiceRequest.FromString(body).resource_logs
            for scope in each.scope_logs
            for record in scope.log_records
        ]

    def metrics(self) -> set[str]:
        """The names of all metrics."""
        return {
            metric.name
            for path, body in self.bodies
            if path == "/v1/metrics"
            for each in ExportMetricsServiceRequest.FromString(body).resource_metrics
            for scope in each.scope_metrics
            for metric in scope.metrics
        }


def _span(scope: str, span: Any) -> Span:
    return Span(
        name=span.name,
        scope=scope,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=span.kind,
        attributes=_attributes(span.attributes),
        links=[link.span_id.hex() for link in span.links],
        status=span.status.code,
        events=len(span.events),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@asynccontextmanager
async def receiver(status: int = 200) -> AsyncIterator[Received]:
    """A collector that keeps everything, and answers with a status."""
    received = Received(status=status)

    async def take(request: Request) -> Response:
        received.headers.append(dict(request.headers))
        received.bodies.append((request.url.path, await request.body()))
        if received.gate is not None:
            await received.gate.wait()
        return Response(b"", received.status, media_type="application/x-protobuf")

    signals = ("traces", "metrics", "logs")
    routes = [Route(f"/v1/{signal}", take, methods=["POST"]) for signal in signals]
    async with serve(Starlette(routes=routes)) as received.url:
        try:
            yield received
        finally:
            if received.gate is not None:
                received.gate.set()


@asynccontextmanager
async def system() -> AsyncIterator[str]:
    """A system whose health can be asked."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async with serve(Starlette(routes=[Route("/health", health)])) as url:
        yield url


@dataclass(slots=True)
class Hanging:
    """A collector that takes connections and bytes, and never says anything."""

    url: str
    asked: anyio.Event = field(default_factory=anyio.Event)


@asynccontextmanager
async def hanging() -> AsyncIterator[Hanging]:
    """Until left."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    place = Hanging(f"http://127.0.0.1:{port}")

    async def take(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            place.asked.set()
            await anyio.sleep_forever()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, take)
        yield place
        tasks.cancel_scope.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed(Place):
    """A server without a lab, with variables of its own."""

    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**super(Observed, self).environment, **self.variables}


def observed(path: Path, config: str, **variables: str) -> Observed:
    """A place with this configuration; the state directory is below it."""
    path.mkdir(parents=True, exist_ok=True)
    file = path / "config.toml"
    file.write_text(config, encoding="utf-8")
    return Observed(config=file, state=path / "state", variables=variables)
