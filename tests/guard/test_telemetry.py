"""Spans and counters where the guard works: names and codes, never arguments or what a client
made up."""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import StatusCode

from mcp_ops.guard import telemetry

PUT, LOOK, RESET = ("put_item", "shelf"), ("look_at_item", "shelf"), ("reset_circuit", "depot")


async def test_calls_and_refusals_are_counted_by_names_and_codes_alone() -> None:
    """In a process of its own: a provider is set once for all."""
    with anyio.fail_after(60):
        done = await anyio.run_process([sys.executable, "-m", "tests.guard.telemetry_peer"])
    assert b"payload" not in done.stdout
    assert b"made_up" not in done.stdout
    told = json.loads(done.stdout)
    told_spans(told["spans"])
    told_metrics(told["metrics"])


def told_spans(spans: list[dict[str, Any]]) -> None:
    ended = [
        (PUT, "write", "ok", "", "UNSET"),
        (LOOK, "read", "ok", "", "UNSET"),
        (LOOK, "read", "failed", "unreachable", "ERROR"),
        (RESET, "write", "ok", "", "UNSET"),
        (LOOK, "read", "refused", "locked_down", "UNSET"),
    ]
    assert len({span["attributes"].pop("mcp_ops.call_id") for span in spans}) == len(ended)
    assert spans == [
        {
            "name": f"guard {tool}",
            "scope": "mcp_ops.guard",
            "attributes": {
                "gen_ai.tool.name": tool,
                "mcp_ops.target": target,
                "mcp_ops.effect": effect,
                "mcp_ops.principal": "agent:test@host",
                "mcp_ops.verdict": verdict,
                **({"mcp_ops.code": code} if code else {}),
                **({"error.type": code} if status == "ERROR" else {}),
            },
            "status": status,
            "description": "",
            "events": 0,
        }
        for (tool, target), effect, verdict, code, status in ended
    ]


def told_metrics(metrics: dict[str, Any]) -> None:
    assert {name: (each["unit"], each["scope"]) for name, each in metrics.items()} == {
        "mcp_ops.calls": ("{call}", "mcp_ops.guard"),
        "mcp_ops.refusals": ("{call}", "mcp_ops.guard"),
        "mcp_ops.call.duration": ("s", "mcp_ops.guard"),
        "mcp_ops.upstream_calls": ("{call}", "mcp_ops.guard"),
    }
    ends = [(*PUT, "ok"), (*LOOK, "ok"), (*LOOK, "failed"), (*RESET, "ok"), (*LOOK, "refused")]
    counted = [
        {"value": 1, "tool": tool, "target": target, "verdict": verdict}
        for tool, target, verdict in (*ends, ("unknown", "", "invalid"))
    ]
    for name in ("mcp_ops.calls", "mcp_ops.call.duration"):
        points = metrics[name]["points"]
        assert sorted(points, key=str) == sorted(counted, key=str)
    assert metrics["mcp_ops.call.duration"]["bounds"] == [
        *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
        *(1, 2, 5, 10, 30, 60),
    ]
    assert metrics["mcp_ops.refusals"]["points"] == [
        {"value": 1, "code": "locked_down", "target": "shelf"}
    ]
    upstream = {
        (p["tool"], p["target"]): p["value"] for p in metrics["mcp_ops.upstream_calls"]["points"]
    }
    assert upstream == {PUT: 1, LOOK: 2}


def test_an_end_that_is_a_fault_is_one_on_the_span_that_is_current() -> None:
    tracer = TracerProvider().get_tracer("tests")
    for verdict, code, status in (
        ("ok", "", StatusCode.UNSET),
        ("refused", "frozen", StatusCode.UNSET),
        ("invalid", "invalid_input", StatusCode.UNSET),
        ("failed", "unreachable", StatusCode.ERROR),
        ("error", "internal_error", StatusCode.ERROR),
        ("unknown", "connection_lost", StatusCode.ERROR),
        ("unknown", "", StatusCode.ERROR),
    ):
        with tracer.start_as_current_span("call") as span:
            telemetry.ended(
                tool="t", target="shelf", verdict=verdict, code=code, seconds=0.1, upstream_calls=1
            )
        assert isinstance(span, ReadableSpan)
        assert span.status.status_code is status
        fault = (code or verdict) if status is StatusCode.ERROR else None
        assert (span.attributes or {}).get("error.type") == fault
