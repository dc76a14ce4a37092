"""A few calls with a tracer provider, in a process of its own; prints the guard's spans, and the
stages of a read and of a write."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mcp_ops.errors import Unreachable
from mcp_ops.ports import Mode
from tests.guard.bench import bench


def tree(spans: Sequence[ReadableSpan]) -> list[tuple[str, str]]:
    """Each span with the name of its parent, in the order of their begin."""
    names = {span.context.span_id: span.name for span in spans if span.context}
    begun = sorted(spans, key=lambda span: span.start_time or 0)
    return [(span.name, names[span.parent.span_id] if span.parent else "") for span in begun]


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
        calls = exporter.get_finished_spans()
        await b.set_mode(Mode.NORMAL)
        stages = {}
        for tool in ("look_at_item", "put_item"):
            exporter.clear()
            why = {"reason": "payload-6"} if tool == "put_item" else {}
            await b.ok(tool, name="payload-7", **why)
            stages[tool] = tree(exporter.get_finished_spans())
    spans = [
        {
            "name": span.name,
            "attributes": dict(span.attributes or {}),
            "status": span.status.status_code.name,
        }
        for span in calls
        if span.name.startswith("guard ")
    ]
    print(json.dumps({"calls": spans, "stages": stages}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(main, Path(folder))
