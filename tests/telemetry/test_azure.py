"""The exporter of Azure Monitor against an ingestion endpoint on a socket."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.clients.live import serving
from tests.clients.official import MODERN, remote
from tests.served import serve
from tests.telemetry.receiver import observed, system
from tests.telemetry.test_front_door import stopped

KEY = "12345678-1234-4abc-8def-1234567890ab"


@dataclass(slots=True)
class Ingestion:
    """What was sent."""

    url: str = ""
    items: list[dict[str, Any]] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [item["data"]["baseData"] for item in self.items if item["data"]["baseType"] == kind]


@asynccontextmanager
async def ingestion() -> AsyncIterator[Ingestion]:
    found = Ingestion()

    async def answer(request: Request) -> Response:
        if request.url.path.lstrip("/") != "v2.1/track":
            found.elsewhere.append(request.url.path)
            return Response(status_code=404)
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        items = json.loads(body)
        found.items += items
        return JSONResponse(
            {"itemsReceived": len(items), "itemsAccepted": len(items), "errors": []}
        )

    routes = [Route("/{path:path}", answer, methods=["GET", "POST"])]
    async with serve(Starlette(routes=routes)) as found.url:
        yield found


async def test_calls_are_requests_and_metrics_keep_their_names(tmp_path: Path) -> None:
    async with ingestion() as azure, system() as url:
        place = observed(
            tmp_path,
            f'[targets.web]\nkind = "http"\nurl = "{url}"\n',
            APPLICATIONINSIGHTS_CONNECTION_STRING=(
                f"InstrumentationKey={KEY};IngestionEndpoint={azure.url}/"
            ),
        )
        with anyio.fail_after(90):
            async with serving(place, "http") as server:
                async with remote(server.endpoint("http"), "http", MODERN) as talk:
                    await talk.call("get_health", {})
                assert await stopped(server.process) == 0
    requests = [each for each in azure.of("RequestData") if "get_health" in each["name"]]
    assert [each["name"] for each in requests] == ["tools/call get_health"]
    assert requests[0]["properties"]["gen_ai.tool.name"] == "get_health"
    assert requests[0]["success"] is True
    targets = {each.get("target") for each in azure.of("RemoteDependencyData")}
    assert any(re.fullmatch(r"127\.0\.0\.1(:\d+)?", target or "") for target in targets), targets
    metrics = {each["metrics"][0]["name"] for each in azure.of("MetricData")}
    assert {"mcp_ops.calls", "mcp_ops.store.up", "mcp_ops.circuit.state"} <= metrics
    assert {item["tags"]["ai.cloud.role"] for item in azure.items} == {"mcp-ops"}
    assert azure.elsewhere == []
