"""Spans and counters where the guard works: names and codes, never arguments or payloads."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mcp_ops.errors import UnknownTool
from tests.guard.bench import bench

CANARY = "canary-token-0123456789"


@pytest.fixture(scope="module")
def recorded() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """The SDK of the process, in memory: the API takes one provider for its whole life."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    return spans, reader


def counted(reader: InMemoryMetricReader, name: str) -> dict[tuple[str, ...], float]:
    """The points of a counter by the values of their attributes."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        tuple(str(value) for _, value in sorted((point.attributes or {}).items())): point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
        if isinstance(point, NumberDataPoint)
    }


async def test_calls_leave_spans_and_counters_without_their_arguments(
    tmp_path: Path, recorded: tuple[InMemorySpanExporter, InMemoryMetricReader]
) -> None:
    spans, reader = recorded
    spans.clear()
    async with bench(tmp_path) as b:
        await b.ok("put_item", name="x", reason=f"it is {CANARY}")
        await b.ok("look_at_item", name="x")
        await b.code("look_at_item", name="x" * 5_000)
    found = {span.name: dict(span.attributes or {}) for span in spans.get_finished_spans()}
    assert found["guard put_item"]["mcp_ops.verdict"] == "ok"
    assert found["guard put_item"]["mcp_ops.effect"] == "write"
    assert found["guard look_at_item"]["mcp_ops.target"] == "shelf"
    calls = counted(reader, "mcp_ops.calls")
    assert calls[("shelf", "put_item", "ok")] >= 1
    assert calls[("shelf", "look_at_item", "ok")] >= 1
    assert CANARY not in str(found)
    assert CANARY not in str(calls)


async def test_a_refusal_is_counted_by_its_code(
    tmp_path: Path, recorded: tuple[InMemorySpanExporter, InMemoryMetricReader]
) -> None:
    from mcp_ops.ports import Mode

    spans, reader = recorded
    spans.clear()
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.LOCKDOWN)
        assert await b.code("look_at_item", name="x") == "locked_down"
    assert counted(reader, "mcp_ops.refusals")[("locked_down", "shelf")] >= 1
    (span,) = [span for span in spans.get_finished_spans() if span.name == "guard look_at_item"]
    assert dict(span.attributes or {})["mcp_ops.code"] == "locked_down"


async def test_names_that_a_client_makes_up_become_no_series(
    tmp_path: Path, recorded: tuple[InMemorySpanExporter, InMemoryMetricReader]
) -> None:
    _, reader = recorded
    async with bench(tmp_path) as b:
        with pytest.raises(UnknownTool):
            await b.reply("made_up_by_a_client")
    calls = counted(reader, "mcp_ops.calls")
    assert not [values for values in calls if "made_up_by_a_client" in values]
    assert calls[("", "unparsed", "invalid")] >= 1
