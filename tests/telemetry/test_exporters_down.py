"""Collectors that refuse or hang cost no call, and do not hold the server up at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from opentelemetry.sdk.trace.export import SpanExportResult

from mcp_ops.settings_telemetry import TelemetrySettings
from mcp_ops.telemetry.sdk import _exporters
from tests.clients.live import serving
from tests.clients.official import MODERN, remote
from tests.telemetry.ingestion import ingestion
from tests.telemetry.receiver import hanging, observed
from tests.telemetry.test_front_door import stopped

CALLS = 20


@asynccontextmanager
async def collector(kind: str) -> AsyncIterator[tuple[str, anyio.Event]]:
    """Its address, and what is set once it was asked."""
    if kind == "refuses":
        asked = anyio.Event()
        asked.set()
        yield "http://127.0.0.1:9", asked  # the discard port: nobody listens
        return
    async with hanging() as place:
        yield place.url, place.asked


@pytest.mark.parametrize("kind", ["refuses", "hangs"])
async def test_a_collector_that_does_not_work_hurts_no_call(kind: str, tmp_path: Path) -> None:
    async with collector(kind) as (url, asked):
        place = observed(
            tmp_path,
            "[telemetry]\nqueue = 64\n[guard.limits]\nprincipal_per_minute = 1000\n"
            f'[[guard.freeze]]\ncalendar = "file:{tmp_path}/gone.ics"\n',  # a line of the log
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_METRIC_EXPORT_INTERVAL="1000",
            OTEL_BSP_SCHEDULE_DELAY="20",
            OTEL_BLRP_SCHEDULE_DELAY="20",
            MCP_OPS_LOG_LEVEL="DEBUG",
        )
        with anyio.fail_after(60):
            async with serving(place, "http") as server:
                async with remote(server.endpoint("http"), "http", MODERN) as talk:
                    said = [await talk.call("get_guard_status", {}) for _ in range(CALLS)]
                    await asked.wait()
                    said += [await talk.call("get_guard_status", {}) for _ in range(CALLS)]
                assert not any(each.is_error for each in said)
                assert await stopped(server.process) == 0


async def test_an_exporter_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    async with hanging() as place, ingestion() as azure:
        config = observed(
            tmp_path,
            f'[[guard.freeze]]\ncalendar = "file:{tmp_path}/gone.ics"\n',  # a line of the log
            OTEL_EXPORTER_OTLP_ENDPOINT=place.url,
            APPLICATIONINSIGHTS_CONNECTION_STRING=azure.connection,
            OTEL_BSP_SCHEDULE_DELAY="600000",  # all of it waits for the end
            OTEL_BLRP_SCHEDULE_DELAY="600000",
            OTEL_METRIC_EXPORT_INTERVAL="600000",
        )
        with anyio.fail_after(60):
            async with serving(config, "http") as server:
                async with remote(server.endpoint("http"), "http", MODERN) as talk:
                    await talk.call("get_guard_status", {})
                assert azure.items == []
                assert await stopped(server.process) == 0
        assert place.asked.is_set()
    assert azure.of("RequestData")
    assert azure.of("MetricData")
    assert azure.of("MessageData")


async def test_of_an_answer_without_an_end_little_is_read() -> None:
    piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    left = anyio.Event()

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            with suppress(anyio.BrokenResourceError):
                for _ in range(1_000):
                    await stream.send(piece)
                await anyio.sleep_forever()
            left.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    settings = TelemetrySettings(exporters=("otlp",), otlp_endpoint=f"http://127.0.0.1:{port}")
    (exporter,) = _exporters(settings, "traces")
    with anyio.fail_after(20):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, answer)
            sent = await anyio.to_thread.run_sync(exporter.export, [], abandon_on_cancel=True)
            await left.wait()
            tasks.cancel_scope.cancel()
    assert sent is SpanExportResult.SUCCESS
