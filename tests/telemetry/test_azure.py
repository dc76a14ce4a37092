"""The exporter of Azure Monitor against an ingestion endpoint on a socket."""

from __future__ import annotations

import re
from pathlib import Path

import anyio

from tests.clients.live import serving
from tests.clients.official import MODERN, remote
from tests.telemetry.ingestion import ingestion
from tests.telemetry.receiver import observed, system
from tests.telemetry.test_front_door import stopped

STATUS = "get_guard_status"


async def test_calls_are_requests_and_metrics_keep_their_names(tmp_path: Path) -> None:
    async with ingestion() as azure, system() as url:
        place = observed(
            tmp_path,
            f'[targets.web]\nkind = "http"\nurl = "{url}"\n\n'
            f'[[guard.freeze]]\ncalendar = "file:{tmp_path}/gone.ics"\n',
            APPLICATIONINSIGHTS_CONNECTION_STRING=azure.connection,
        )
        with anyio.fail_after(90):
            async with serving(place, "http") as server:
                async with remote(server.endpoint("http"), "http", MODERN) as talk:
                    await talk.call("get_health", {})
                    await talk.call("get_guard_status", {})  # looks at the calendar
                assert await stopped(server.process) == 0
    requests = [each for each in azure.of("RequestData") if "get_health" in each["name"]]
    assert [each["name"] for each in requests] == ["tools/call get_health"]
    assert requests[0]["properties"]["gen_ai.tool.name"] == "get_health"
    assert requests[0]["success"] is True
    targets = {each.get("target") for each in azure.of("RemoteDependencyData")}
    assert any(re.fullmatch(r"127\.0\.0\.1(:\d+)?", target or "") for target in targets), targets
    metrics = {each["metrics"][0]["name"] for each in azure.of("MetricData")}
    assert {"mcp_ops.calls", "mcp_ops.store.up", "mcp_ops.circuit.state"} <= metrics
    (line,) = [item for item in azure.items if item["data"]["baseType"] == "MessageData"]
    (call,) = [
        item
        for item in azure.items
        if item["data"]["baseData"].get("name", "").endswith(STATUS)
        and item["data"]["baseType"] == "RequestData"
    ]
    said = line["data"]["baseData"]
    assert said["message"].startswith("a freeze calendar cannot be read and closes")
    assert (said["severityLevel"], said["properties"]) == (2, {"logger_name": "mcp_ops.guard"})
    assert line["tags"]["ai.operation.id"] == call["tags"]["ai.operation.id"]
    assert {item["tags"]["ai.cloud.role"] for item in azure.items} == {"mcp-ops"}
    assert azure.elsewhere == []
