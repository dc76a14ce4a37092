"""Settings of telemetry: what is exported where, and the variables of OpenTelemetry's own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from mcp_ops.settings_base import Frozen
from mcp_ops.settings_draft import Draft

Exporter = Literal["otlp", "azure_monitor"]

VARIABLES: dict[str, tuple[str, ...]] = {
    "OTEL_SERVICE_NAME": ("telemetry", "service_name"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("telemetry", "otlp_endpoint"),
    "OTEL_EXPORTER_OTLP_HEADERS": ("telemetry", "otlp_headers"),
    "OTEL_TRACES_SAMPLER_ARG": ("telemetry", "sample_ratio"),
    "OTEL_METRIC_EXPORT_INTERVAL": ("telemetry", "interval_s"),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("telemetry", "queue"),
    "OTEL_LOGS_EXPORTER": ("telemetry", "logs"),
    "APPLICATIONINSIGHTS_CONNECTION_STRING": ("telemetry", "azure_connection"),
    "HEALTH_CHECK_INTERVAL": ("telemetry", "health_s"),
}
DISABLED = "OTEL_SDK_DISABLED"

_SWITCH_ON: Mapping[str, Exporter] = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "otlp",
    "APPLICATIONINSIGHTS_CONNECTION_STRING": "azure_monitor",
}
_SECRET = frozenset({"OTEL_EXPORTER_OTLP_HEADERS", "APPLICATIONINSIGHTS_CONNECTION_STRING"})
_STDERR_ONLY = ("none", "console")  # the console has all lines anyway
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    plain = parts.username is None and not parts.query and not parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise ValueError("a URL such as http://localhost:4318, without user or query")
    return text.rstrip("/")


def _headers(secret: SecretStr) -> SecretStr:
    if not headers_of(secret):
        raise ValueError("headers such as name=value,other=value")
    return secret


def _connection(secret: SecretStr) -> SecretStr:
    parts = [part for part in secret.get_secret_value().strip().split(";") if part]
    named = {part.partition("=")[0].strip().lower(): part.partition("=")[2] for part in parts}
    plain = all(part.count("=") == 1 for part in parts)
    if not plain or not _UUID.fullmatch(named.get("instrumentationkey", "").lower()):
        raise ValueError("a connection string such as InstrumentationKey=…;IngestionEndpoint=…")
    return SecretStr(";".join(parts))


def headers_of(secret: SecretStr | None) -> dict[str, str]:
    """The headers in the text of a variable, whose values may be percent-encoded; none where one
    of them makes no sense."""
    if secret is None:
        return {}
    found: dict[str, str] = {}
    for part in secret.get_secret_value().split(","):
        name, separator, value = part.partition("=")
        plain = unquote(value.strip())
        if not separator or not _HEADER.fullmatch(name.strip()) or not plain.isprintable():
            return {}
        found[name.strip().lower()] = plain
    return found


class TelemetrySettings(Frozen):
    """Traces, metrics and logs that leave the process; off unless something is named."""

    enabled: bool = Field(True, description="false switches all of it off.")
    exporters: tuple[Exporter, ...] = Field((), description="otlp, azure_monitor.")
    otlp_endpoint: Annotated[str, AfterValidator(_endpoint)] = Field(
        "http://localhost:4318",
        description="OTLP over HTTP; /v1/traces, /v1/metrics, /v1/logs follow.",
    )
    otlp_headers: Annotated[SecretStr, AfterValidator(_headers)] | None = Field(
        None, description="A reference to name=value,other=value."
    )
    azure_connection: Annotated[SecretStr, AfterValidator(_connection)] | None = Field(
        None, description="A reference to the connection string of Application Insights."
    )
    logs: bool = Field(True, description="Exporters take the server's own log lines, too.")
    prometheus: bool = Field(False, description="Serve /metrics, over sse and http.")
    metrics_open: bool = Field(False, description="/metrics without a key.")
    service_name: str = Field("mcp-ops", min_length=1, max_length=100)
    instance: str = Field("", max_length=100, description="Empty: a new one for each start.")
    sample_ratio: float = Field(1, ge=0, le=1, description="Share of traces begun here.")
    interval_s: float = Field(60, ge=1, le=3600, description="Metrics are sent so often, seconds.")
    queue: int = Field(
        2_048, ge=64, le=65_536, description="Spans that wait, and lines; more are dropped."
    )
    health_s: float = Field(
        60, ge=0, le=3600, description="Targets are asked so often for gauges, seconds; 0: never."
    )

    @model_validator(mode="after")
    def _azure_has_an_address(self) -> Self:
        if "azure_monitor" in self.exporters and self.azure_connection is None:
            raise ValueError("an azure_connection where azure_monitor is among the exporters")
        return self

    @property
    def on(self) -> bool:
        """Whether anything of it is switched on."""
        return self.enabled and bool(self.exporters or self.prometheus)


def read_telemetry(draft: Draft, environ: Mapping[str, str]) -> None:
    """Put what OpenTelemetry's variables say over a draft. An address switches its exporter on.

    While nothing is on they are not looked at: they may be meant for something else.
    """
    if environ.get(DISABLED, "").strip().lower() == "true":
        draft.put(("telemetry", "enabled"), False, f"environment variable {DISABLED}")
        return
    table = draft.table("telemetry")
    if not any(environ.get(name, "").strip() for name in _SWITCH_ON) and not (
        table.get("exporters") or table.get("prometheus")
    ):
        return
    for name, key in VARIABLES.items():
        text = environ.get(name, "").strip()
        if not text:
            continue
        where = f"environment variable {name}"
        draft.put(key, f"env:{name}" if name in _SECRET else _value(name, text), where)
        if exporter := _SWITCH_ON.get(name):
            named = draft.table("telemetry").get("exporters", [])
            if isinstance(named, list) and exporter not in named:
                draft.put(("telemetry", "exporters"), [*named, exporter], where)


def _value(name: str, text: str) -> str | float | bool:
    """Milliseconds are OpenTelemetry's unit, seconds ours; who takes logs are the exporters."""
    if name == "OTEL_LOGS_EXPORTER":
        return text.lower() not in _STDERR_ONLY
    if name == "OTEL_METRIC_EXPORT_INTERVAL":
        try:
            return float(text) / 1000 if math.isfinite(float(text)) else text
        except ValueError:
            return text
    return text
