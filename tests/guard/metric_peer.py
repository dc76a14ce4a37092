"""A few calls with a meter provider, in a process of its own; prints the guard's counters."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import anyio
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from mcp_ops.errors import UnknownTool
from mcp_ops.ports import Mode
from tests.guard.bench import bench


async def main(path: Path) -> None:
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    async with bench(path) as b:
        await b.ok("put_item", name="x", reason="payload-1")
        await b.ok("look_at_item", name="payload-2")
        with suppress(UnknownTool):
            await b.reply("made_up_by_a_client")
        await b.set_mode(Mode.LOCKDOWN)
        await b.code("look_at_item", name="payload-3")
    data = reader.get_metrics_data()
    points = [
        {"metric": metric.name, "value": point.value, **dict(point.attributes or {})}
        for resource in (data.resource_metrics if data else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if isinstance(point, NumberDataPoint)
    ]
    print(json.dumps(points))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(main, Path(folder))
