"""The metrics as Prometheus reads them, and what was made of them for Grafana."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mcp_ops.telemetry.gauges import GAUGES

ROOT = Path(__file__).parent.parent.parent
GRAFANA = ROOT / "deploy" / "grafana"
PAGE = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
Sample = tuple[str, tuple[tuple[str, str], ...]]
# Prometheus's own: whether a scrape answered.
NOT_OURS = {"up"}
LABELS = {
    "code",
    "error_type",
    "gen_ai_operation_name",
    "gen_ai_tool_name",
    "http_request_method",
    "http_response_status_code",
    "le",
    "mcp_method_name",
    "mcp_protocol_version",
    "network_protocol_name",
    "network_transport",
    "partition",
    "server_address",
    "server_port",
    "state",
    "store",
    "target",
    "tool",
    "verdict",
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a server in every state writes."""

    async def run() -> str:
        path = tmp_path_factory.mktemp("exported")
        with anyio.fail_after(60):
            done = await anyio.run_process(
                [sys.executable, "-m", "tests.telemetry.exported_peer", str(path)], check=False
            )
        assert done.returncode == 0, done.stderr.decode()[-3_000:]
        assert done.stderr.startswith(b"text/plain")
        return done.stdout.decode()

    return anyio.run(run)


@pytest.fixture(scope="module")
def samples(text: str) -> dict[Sample, float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(samples: dict[Sample, float], name: str, **labels: str) -> float:
    """The value of the one sample with these labels."""
    return samples[name, tuple(sorted(labels.items()))]


def test_the_gauges_show_the_state_of_the_guard(samples: dict[Sample, float]) -> None:
    states = {
        state: of(samples, "mcp_ops_circuit_state", target="shelf", state=state)
        for state in ("closed", "open", "half_open", "isolated")
    }
    assert states == {"closed": 0, "open": 1, "half_open": 0, "isolated": 0}
    assert of(samples, "mcp_ops_circuit_state", target="depot", state="closed") == 1
    assert of(samples, "mcp_ops_mode", target="depot") == 3
    assert of(samples, "mcp_ops_limit_per_minute", target="shelf") == 30
    assert 0 <= of(samples, "mcp_ops_limit_remaining", target="shelf") < 30
    assert of(samples, "mcp_ops_api_usage_ratio", target="shelf") == 0.75
    assert of(samples, "mcp_ops_deadletters", target="depot") == 7
    assert of(samples, "mcp_ops_deadletters", target="mcp-ops") == 0
    assert of(samples, "mcp_ops_target_up", target="shelf") == 0
    assert of(samples, "mcp_ops_target_up", target="depot") == 1
    assert of(samples, "mcp_ops_store_up", store="hot_store") == 1
    assert of(samples, "mcp_ops_bulkhead_active", partition="depot") == 1
    assert of(samples, "mcp_ops_bulkhead_size", partition="depot") == 1
    assert of(samples, "mcp_ops_approvals_pending") == 1
    assert of(samples, "mcp_ops_ledger_unwritten") >= 5


def test_calls_refusals_and_requests_are_counted(samples: dict[Sample, float]) -> None:
    calls = "mcp_ops_calls_total"
    assert of(samples, calls, tool="look_at_item", target="shelf", verdict="failed") == 3
    assert of(samples, calls, tool="unknown", target="", verdict="invalid") == 1
    assert of(samples, "mcp_ops_refusals_total", code="circuit_open", target="shelf") == 1
    assert of(samples, "salesforce_api_calls_total", target="crm") == 1
    assert of(samples, "oauth_refresh_failure_total", target="crm", code="unreachable") == 1
    assert any(
        name == "http_client_request_duration_seconds_count"
        and dict(labels)["error_type"] == "unreachable"
        for name, labels in samples
    )
    assert any(
        name == "mcp_server_operation_duration_seconds_count"
        and dict(labels)["mcp_method_name"] == "tools/list"
        for name, labels in samples
    )


def test_labels_are_names_and_codes_of_the_server(text: str, samples: dict[Sample, float]) -> None:
    own = [key for key in samples if not key[0].startswith(("process_", "target_info"))]
    assert {label for _, labels in own for label, _ in labels} <= LABELS
    for word in ("payload", "secret", "made_up", "agent:", "operator:"):
        assert word not in text


def exported(samples: dict[Sample, float]) -> set[str]:
    return {name for name, _ in samples}


def names_in(expression: str) -> set[str]:
    """The metrics that an expression of PromQL asks for."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", bare)
    words = set(re.findall(r"(?<![\w.$])[a-z_]\w*(?!\w*\s*\()", bare))
    return words - {"or", "and", "unless", "offset", "by", "on"}


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((GRAFANA / "alerts.yml").read_text(encoding="utf-8"))
    (group,) = rules["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> Iterator[tuple[str, str]]:
    board = json.loads((GRAFANA / "dashboard.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"].removeprefix("label_values(").split(",")[0]


def test_alerts_ask_only_for_metrics_that_the_server_exports(
    samples: dict[Sample, float],
) -> None:
    known = exported(samples) | NOT_OURS
    assert len(alerts()) > 20
    for rule in alerts():
        wanted = names_in(rule["expr"])
        assert wanted, rule["alert"]
        assert wanted <= known, (rule["alert"], wanted - known)
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert {"summary", "description"} == set(rule["annotations"])
        assert rule["expr"].count("(") == rule["expr"].count(")"), rule["alert"]


def test_the_dashboard_asks_only_for_metrics_that_the_server_exports(
    samples: dict[Sample, float],
) -> None:
    known = exported(samples) | NOT_OURS
    found = list(panels())
    assert len(found) > 20
    for title, expression in found:
        wanted = names_in(expression)
        assert wanted, title
        assert wanted <= known, (title, wanted - known)
        assert expression.count("(") == expression.count(")"), title


def test_a_name_that_is_not_exported_would_be_found() -> None:
    rule = 'sum by (le) (rate(mcp_ops_calls_total{job="x"}[5m])) > 0 or no_such_metric offset 5m'
    assert names_in(rule) == {"mcp_ops_calls_total", "no_such_metric"}


def test_the_thresholds_are_those_of_get_health() -> None:
    from mcp_ops.guard.health import THRESHOLDS

    expressions = {rule["alert"]: rule["expr"] for rule in alerts()}
    for alert, figure in (
        ("CircuitsOpen", "open circuits"),
        ("HealthChecksFailing", "failed checks"),
        ("DeadLetters", "dead letters"),
    ):
        warning, critical = THRESHOLDS[figure]
        assert expressions[f"{alert}Warning"].endswith(f"> {warning}")
        assert expressions[f"{alert}Critical"].endswith(f"> {critical}")


def test_every_metric_is_on_its_page(samples: dict[Sample, float]) -> None:
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported(samples)}
    own = {name for name in named if not name.startswith(("process_", "target_info"))}
    assert {name for name in own if f"`{name}`" not in PAGE} == set()
    assert {gauge.name for gauge in GAUGES if f"`{gauge.name}`" not in PAGE} == set()
