"""A few calls with a tracer provider, in a process of its own; prints the guard's spans."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mcp_ops.errors import Unreachable
from mcp_ops.ports import Mode
from tests.guard.bench import bench


async def main(path: Path) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    async with bench(path) as b:
        await b.ok("look_at_item", name="payload-1")
        b.world.plans.append(Unreachable("payload-5", retry_after_s=60))
        await b.error("look_at_item", name="payload-2")
        await b.set_mode(Mode.READ_ONLY)
        await b.error("put_item", name="payload-3", reason="payload-4")
    spans = [
        {
            "name": span.name,
            "attributes": dict(span.attributes or {}),
            "status": span.status.status_code.name,
        }
        for span in exporter.get_finished_spans()
        if span.name.startswith("guard ")
    ]
    print(json.dumps(spans))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(main, Path(folder))
