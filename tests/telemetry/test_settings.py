"""What switches telemetry on, and what a start says when it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from mcp_ops.errors import ConfigurationError
from mcp_ops.settings import Settings
from mcp_ops.settings_file import load_settings
from mcp_ops.settings_options import secrets_in
from mcp_ops.settings_telemetry import headers_of
from tests.telemetry.receiver import observed

KEY = "00000000-0000-4000-8000-000000000000"
AZURE = f"InstrumentationKey={KEY};IngestionEndpoint=https://x.example/"


def loaded(tmp_path: Path, text: str = "", **variables: str) -> Settings:
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, variables, {})


def test_without_a_word_of_it_nothing_is_on(tmp_path: Path) -> None:
    others = {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER_ARG": "endpoint=http://elsewhere"}
    assert not loaded(tmp_path, **others, HEALTH_CHECK_INTERVAL="never").telemetry.on


def test_an_address_in_the_environment_switches_its_exporter_on(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        "[telemetry]\nsample_ratio = 0.5\nprometheus = true\n",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318/",
        OTEL_EXPORTER_OTLP_HEADERS="api-key=key-of-the-collector,x=a%20b",
        OTEL_TRACES_SAMPLER_ARG="0.25",
        OTEL_METRIC_EXPORT_INTERVAL="5000",
        HEALTH_CHECK_INTERVAL="30",
        APPLICATIONINSIGHTS_CONNECTION_STRING=f"{AZURE};",
    )
    telemetry = found.telemetry
    assert telemetry.on
    assert telemetry.exporters == ("otlp", "azure_monitor")
    assert telemetry.otlp_endpoint == "http://collector:4318"
    assert headers_of(telemetry.otlp_headers) == {"api-key": "key-of-the-collector", "x": "a b"}
    assert (telemetry.sample_ratio, telemetry.interval_s, telemetry.health_s) == (0.25, 5.0, 30.0)
    assert AZURE in set(secrets_in(found))


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("none", False), ("Console", False), ("otlp", True), ("otlp,console", True), ("", True)],
)
def test_logs_go_with_the_rest_unless_a_setting_keeps_them_back(
    variable: str, expected: bool, tmp_path: Path
) -> None:
    text = '[telemetry]\nexporters = ["otlp"]\n'
    assert loaded(tmp_path, text, OTEL_LOGS_EXPORTER=variable).telemetry.logs is expected
    assert not loaded(tmp_path, f"{text}logs = false\n").telemetry.logs


def test_the_variable_that_disables_opentelemetry_wins(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        "[telemetry]\nprometheus = true\n",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318",
        OTEL_SDK_DISABLED="true",
    )
    assert not found.telemetry.on


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        ('[telemetry]\nexporters = ["otlp"]\notlp_headers = "a=b"\n', {}, "otlp_headers"),
        ('[telemetry]\nexporters = ["azure_monitor"]\n', {}, "azure_connection"),
        ('[telemetry]\nexporters = ["zipkin"]\n', {}, "'otlp' or 'azure_monitor'"),
        (
            "",
            {"APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey=p@no-uuid"},
            "a connection string such as InstrumentationKey=",
        ),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:p@collector"}, "without user or query"),
        (
            "[telemetry]\nprometheus = true\n",
            {"OTEL_METRIC_EXPORT_INTERVAL": "often"},
            "OTEL_METRIC_EXPORT_INTERVAL",
        ),
        (
            "[telemetry]\nprometheus = true\n",
            {"OTEL_EXPORTER_OTLP_HEADERS": "no-value"},
            "headers such as name=value",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(
    text: str, variables: dict[str, str], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=expected) as caught:
        loaded(tmp_path, text, **variables)
    assert "p@" not in caught.value.message


@pytest.mark.parametrize(
    ("missing", "config", "extra"),
    [
        ("opentelemetry.exporter.otlp", 'exporters = ["otlp"]', "telemetry"),
        (
            "azure.monitor",
            'exporters = ["azure_monitor"]\nazure_connection = "env:AZURE"',
            "azure-monitor",
        ),
    ],
)
async def test_a_missing_extra_does_not_start_and_says_what_to_install(
    missing: str, config: str, extra: str, tmp_path: Path
) -> None:
    place = observed(tmp_path, f"[telemetry]\n{config}\n", AZURE=AZURE)
    code = (
        f"import sys; sys.modules[{missing!r}] = None; "
        "from mcp_ops.commands.serving import ServeOptions, serve; from pathlib import Path; "
        f"sys.exit(serve(ServeOptions(config=Path({str(place.config)!r}))))"
    )
    with anyio.fail_after(30):
        done = await anyio.run_process(
            [sys.executable, "-c", code], env=place.environment, check=False
        )
    said = done.stderr.decode()
    assert done.returncode == 4, said
    assert f"pip install 'mcp-ops[{extra}]'" in said
    assert "Traceback" not in said


async def test_without_logs_no_library_of_theirs_is_loaded() -> None:
    code = (
        "import sys\n"
        "from mcp_ops.settings_telemetry import TelemetrySettings\n"
        "from mcp_ops.telemetry.sdk import Sdk\n"
        "Sdk(TelemetrySettings(exporters=('otlp',), logs=False), version='0')\n"
        "Sdk(TelemetrySettings(prometheus=True), version='0')\n"
        "print([n for n in sys.modules if n.startswith(('opentelemetry.sdk._logs',"
        " 'mcp_ops.telemetry.logs'))])\n"
    )
    with anyio.fail_after(30):
        done = await anyio.run_process([sys.executable, "-c", code])
    assert done.stdout.decode().strip() == "[]"


async def test_without_telemetry_no_library_of_it_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys, anyio\n"
        "from pathlib import Path\n"
        "from mcp_ops.app import open_app\n"
        "from mcp_ops.settings import Settings\n"
        "async def main():\n"
        f"    async with open_app(Settings(state_dir=Path({str(tmp_path)!r})), environ={{}}):\n"
        "        print([n for n in sys.modules if n.startswith(('opentelemetry.sdk',"
        " 'opentelemetry.exporter', 'prometheus_client', 'azure'))])\n"
        "anyio.run(main)\n"
    )
    with anyio.fail_after(30):
        done = await anyio.run_process([sys.executable, "-c", code])
    assert done.stdout.decode().strip() == "[]"
