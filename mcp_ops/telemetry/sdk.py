"""The SDK of OpenTelemetry, set up by the settings: who gets spans, metrics and log lines.

Exporters work in threads of their own behind bounded queues: one that hangs or refuses costs what
it was to be sent, and no call. Their libraries are loaded here and nowhere else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final
from uuid import uuid4

import anyio
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from mcp_ops.errors import ConfigurationError
from mcp_ops.settings_telemetry import TelemetrySettings, headers_of

CLOSE_S: Final = 3.0
"""Seconds for what waits to be sent when the server stops."""

# Without these, the exporter of Azure Monitor reports about itself to Microsoft, asks there for
# options, and may keep what it could not send in a folder for temporary files.
AZURE_QUIET: Final = {
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED": "true",
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
}
_ATTRIBUTE_LENGTH: Final = 256
_BATCH: Final = 512
_ANSWER: Final = 65_536
_OTLP: Final = {
    "traces": ("trace_exporter", "OTLPSpanExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
}
_AZURE: Final = {
    "traces": "AzureMonitorTraceExporter",
    "metrics": "AzureMonitorMetricExporter",
    "logs": "AzureMonitorLogExporter",
}
_ASKS_THE_CLIENT: Final = "MCP send "  # the SDK's spans; they quote what a client answers


def check_extras(settings: TelemetrySettings) -> None:
    """Raise `ConfigurationError` for libraries that are switched on and not installed."""
    wanted = [("opentelemetry.sdk", "telemetry", "telemetry")]
    if "otlp" in settings.exporters:
        module = "opentelemetry.exporter.otlp.proto.http"
        wanted.append((module, "telemetry.exporters otlp", "telemetry"))
    if "azure_monitor" in settings.exporters:
        module = "azure.monitor.opentelemetry.exporter"
        wanted.append((module, "telemetry.exporters azure_monitor", "azure-monitor"))
    if settings.prometheus:
        wanted.append(("opentelemetry.exporter.prometheus", "telemetry.prometheus", "telemetry"))
    for module, setting, extra in wanted:
        if not _installed(module):
            raise ConfigurationError(
                f"{setting} needs the library {module}, which is not installed.",
                hint=f"Install it: pip install 'mcp-ops[{extra}]'. OTEL_SDK_DISABLED=true starts "
                "without telemetry.",
            )


class Sdk:
    """Providers of traces, metrics and logs for the whole process, with their exporters."""

    def __init__(self, settings: TelemetrySettings, *, version: str) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = _resource(settings, version)
        self._text: Callable[[str], tuple[bytes, str]] | None = None
        self._senders = _push_readers(settings)
        readers = [*self._senders]
        if settings.prometheus:
            reader, self._text = _prometheus()
            readers.append(reader)
        traces = TracerProvider(
            sampler=_sampler(settings.sample_ratio if settings.exporters else 0.0),
            resource=resource,
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_span_attribute_length=_ATTRIBUTE_LENGTH),
        )
        for sender in _senders(BatchSpanProcessor, settings, "traces"):
            self._senders.append(sender)
            traces.add_span_processor(sender)
        trace.set_tracer_provider(traces)
        metrics.set_meter_provider(
            MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        )
        self._leave_logs: Callable[[], None] | None = None
        if settings.logs and settings.exporters:
            # Loaded only where somebody takes them.
            from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

            from mcp_ops.telemetry.logs import listen

            lines = _senders(BatchLogRecordProcessor, settings, "logs")
            self._senders += lines
            self._leave_logs = listen(lines, resource)

    @property
    def serves_text(self) -> bool:
        """Whether there is something for Prometheus."""
        return self._text is not None

    async def text(self, accept: str) -> tuple[bytes, str]:
        """All metrics as Prometheus reads them, and their media type."""
        assert self._text is not None  # noqa: S101 - asked only where `serves_text`
        # Thousands of lines take a while: not on the event loop.
        return await anyio.to_thread.run_sync(self._text, accept)

    async def close(self) -> None:
        """Send what waits, for at most `CLOSE_S`; what is not sent by then is lost."""
        if self._leave_logs is not None:
            self._leave_logs()
        until = time.monotonic() + CLOSE_S
        # Threads that the interpreter does not wait for: an exporter may hang in a socket. Each has
        # its own, and not the provider's, which closes one after the other.
        closing = [
            threading.Thread(target=sender.shutdown, name="mcp-ops telemetry", daemon=True)
            for sender in self._senders
        ]
        for each in closing:
            each.start()

        def wait() -> None:
            for each in closing:
                each.join(max(0.0, until - time.monotonic()))

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(wait)


def _resource(settings: TelemetrySettings, version: str) -> Any:
    """Who this is; OTEL_RESOURCE_ATTRIBUTES adds to it."""
    from opentelemetry.sdk.resources import Resource

    named = {"service.name": settings.service_name, "service.version": version}
    if settings.instance:
        named["service.instance.id"] = settings.instance
    found = Resource.create(named)
    if "service.instance.id" not in found.attributes:
        found = found.merge(Resource({"service.instance.id": str(uuid4())}))
    return found


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def _sampler(ratio: float) -> Any:
    from opentelemetry.sdk.trace.sampling import (
        Decision,
        ParentBased,
        Sampler,
        SamplingResult,
        StaticSampler,
        TraceIdRatioBased,
    )

    class OwnSpans(Sampler):
        """Leaves out the SDK's spans about questions to clients; ours say what is to be said."""

        def __init__(self, inner: Sampler) -> None:
            self._inner = inner

        def should_sample(
            self,
            parent_context: Context | None,
            trace_id: int,
            name: str,
            kind: SpanKind | None = None,
            attributes: Attributes = None,
            links: Sequence[Link] | None = None,
            trace_state: TraceState | None = None,
        ) -> SamplingResult:
            if name.startswith(_ASKS_THE_CLIENT):
                return SamplingResult(Decision.DROP)
            return self._inner.should_sample(
                parent_context, trace_id, name, kind, attributes, links, trace_state
            )

        def get_description(self) -> str:
            return f"OwnSpans({self._inner.get_description()})"

    if not ratio:  # nobody takes spans, or nobody shall: also not those that a client asks for
        return StaticSampler(Decision.DROP)
    return OwnSpans(ParentBased(TraceIdRatioBased(ratio)))


def _senders(kind: Callable[..., Any], settings: TelemetrySettings, signal: str) -> list[Any]:
    """One for each exporter: a bounded queue, and a thread that sends what is in it."""
    room, batch = settings.queue, min(_BATCH, settings.queue)
    return [
        kind(exporter, max_queue_size=room, max_export_batch_size=batch)
        for exporter in _exporters(settings, signal)
    ]


def _exporters(settings: TelemetrySettings, signal: str) -> list[Any]:
    """Who gets traces, metrics or logs."""
    found: list[Any] = []
    if "otlp" in settings.exporters:
        module, name = _OTLP[signal]
        exporter = getattr(import_module(f"opentelemetry.exporter.otlp.proto.http.{module}"), name)
        headers = headers_of(settings.otlp_headers) or None
        address = f"{settings.otlp_endpoint}/v1/{signal}"
        found.append(exporter(endpoint=address, headers=headers, session=_session()))
    if "azure_monitor" in settings.exporters:
        exporter = getattr(import_module("azure.monitor.opentelemetry.exporter"), _AZURE[signal])
        found.append(exporter(**_azure(settings)))
    return found


def _session() -> Any:
    """For OTLP: reads as much of an answer as a receiver may have to say. Nobody looks at it, and
    the library would keep all of it, also of one without an end."""
    import requests

    class Session(requests.Session):
        def send(self, request: Any, **options: Any) -> Any:
            answer = super().send(request, **{**options, "stream": True})
            size = 0
            with answer:  # closes the connection where something is left
                for piece in answer.iter_content(_ANSWER):
                    size += len(piece)
                    if size >= _ANSWER:
                        break
            return answer

    return Session()


def _push_readers(settings: TelemetrySettings) -> list[Any]:
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    every = settings.interval_s * 1000
    return [
        PeriodicExportingMetricReader(each, export_interval_millis=every)
        for each in _exporters(settings, "metrics")
    ]


def _azure(settings: TelemetrySettings) -> dict[str, Any]:
    assert settings.azure_connection is not None  # noqa: S101 - the settings see to it
    return {
        "connection_string": settings.azure_connection.get_secret_value(),
        "disable_offline_storage": True,
    }


def _prometheus() -> tuple[Any, Callable[[str], tuple[bytes, str]]]:
    """A reader, and what writes the text; with the process's memory and open files."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    one_at_a_time = threading.Lock()

    def text(accept: str) -> tuple[bytes, str]:
        encode, media_type = choose_encoder(accept)
        with one_at_a_time:  # its collector keeps what is collected in one queue
            return encode(registry), media_type

    return reader, text
