"""A few calls with a tracer and a meter provider, in a process of its own; prints what the guard
told them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mcp_ops.errors import UnknownTool, Unreachable
from mcp_ops.ports import Mode
from tests.guard.bench import WHY, bench


async def main(path: Path) -> None:
    reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
    metrics.set_meter_provider(MeterProvider([reader]))
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    async with bench(path) as b:
        await b.ok("put_item", name="x", reason="payload-1")
        await b.ok("look_at_item", name="payload-2")
        with suppress(UnknownTool):
            await b.reply("made_up_by_a_client")
        b.world.plans.append(Unreachable("payload-5", retry_after_s=60))
        await b.error("look_at_item", name="payload-3")
        await b.ok("reset_circuit", target="depot", reason=WHY)
        await b.set_mode(Mode.LOCKDOWN)
        await b.code("look_at_item", name="payload-4")
    spans = [
        {
            "name": span.name,
            "scope": span.instrumentation_scope.name if span.instrumentation_scope else "",
            "attributes": dict(span.attributes or {}),
            "status": span.status.status_code.name,
            "description": span.status.description or "",
            "events": len(span.events),
        }
        for span in exporter.get_finished_spans()
        if span.name.startswith("guard ")
    ]
    print(json.dumps({"spans": spans, "metrics": {m["name"]: m for m in _metrics(reader)}}))


def _metrics(reader: InMemoryMetricReader) -> Iterator[dict[str, Any]]:
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else []:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name.startswith("mcp_ops."):
                    yield {
                        "name": metric.name,
                        "unit": metric.unit,
                        "scope": scope.scope.name,
                        "points": list(_points(metric)),
                        "bounds": _bounds(metric),
                    }


def _bounds(metric: Metric) -> list[float]:
    """The seconds at which a histogram's buckets end."""
    points = [p for p in metric.data.data_points if isinstance(p, HistogramDataPoint)]
    return list(points[0].explicit_bounds) if points else []


def _points(metric: Metric) -> Iterator[dict[str, Any]]:
    for point in metric.data.data_points:
        value = point.value if isinstance(point, NumberDataPoint) else point.count
        yield {"value": value, **dict(point.attributes or {})}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(main, Path(folder))
