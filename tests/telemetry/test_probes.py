"""/health/live, /health/ready and /metrics on real sockets, and when a server is not ready."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from mcp_ops.app_probes import Readiness, health_of
from mcp_ops.settings import KeySettings, ServerSettings
from mcp_ops.transport_edge import OPEN_ROUTES
from mcp_ops.transport_http import http_app, serve_http
from mcp_ops.transport_probes import METRICS_PATH, probe_routes
from tests.clients.live import serving
from tests.guard.bench import bench
from tests.guard.test_store_away import shared
from tests.over_http import SEAL, bearer, speaking
from tests.stores.records import entry
from tests.telemetry.receiver import observed
from tests.transport_peer import build, health

READER, WRITER = "reader-key-0123456789", "writer-key-0123456789"
KEYS = (
    KeySettings(name="reader", key=SecretStr(READER), scopes=("ops:read",)),
    KeySettings(name="writer", key=SecretStr(WRITER), scopes=("ops:write",)),
)


async def ready() -> tuple[int, dict[str, Any]]:
    return 200, {"status": "ready", "details": "only for keys"}


async def metrics(accept: str) -> tuple[bytes, str]:
    return b"a 1\n", "text/plain"


@asynccontextmanager
async def probed(stop: anyio.Event, *, metrics_open: bool = False) -> AsyncIterator[str]:
    """The peer with the routes, on a socket."""
    chosen = ServerSettings(port=0, keys=KEYS)
    app = http_app(
        build(SEAL),
        settings=chosen,
        health=health,
        sse=False,
        pages=probe_routes(ready, metrics, metrics_open=metrics_open),
        open_routes=OPEN_ROUTES | ({METRICS_PATH} if metrics_open else set()),
    )
    urls: list[str] = []
    bound = anyio.Event()

    def tell(url: str) -> None:
        urls.append(url)
        bound.set()

    async def serve() -> None:
        await serve_http(app, settings=chosen, stop=stop, on_ready=tell)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await bound.wait()
            yield urls[0]
            stop.set()


async def test_probes_need_no_key_and_metrics_need_one_that_reads() -> None:
    async with probed(anyio.Event()) as url, httpx2.AsyncClient(base_url=url) as http:
        live, strange = await http.get("/health/live"), await http.get("/health/ready")
        known = await http.get("/health/ready", headers=bearer(READER))
        statuses = [
            (await http.get("/metrics", headers=bearer(key))).status_code
            for key in ("", "wrong-key-0123456789", WRITER, READER)
        ]
        posted = await http.post("/metrics", headers=bearer(READER))
    assert (live.status_code, live.json()) == (200, {"status": "alive"})
    assert (strange.status_code, strange.json()) == (200, {"status": "ready"})
    assert known.json()["details"] == "only for keys"
    assert statuses == [401, 401, 403, 200]
    assert posted.status_code == 405
    assert live.headers["cache-control"] == "no-store"


async def test_open_metrics_need_no_key() -> None:
    async with probed(anyio.Event(), metrics_open=True) as url, httpx2.AsyncClient() as http:
        answer = await http.get(f"{url}/metrics")
    assert (answer.status_code, answer.text) == (200, "a 1\n")


async def test_while_it_drains_a_server_is_alive_and_not_ready() -> None:
    stop = anyio.Event()
    async with (
        probed(stop) as url,
        speaking(url, mode="legacy", key=WRITER) as client,
        httpx2.AsyncClient(base_url=url) as http,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(client.call_tool, "wait", {})
        await client.call_tool("look", {})
        stop.set()
        codes = set()
        while (200, 503) not in codes:
            live, drained = await http.get("/health/live"), await http.get("/health/ready")
            codes.add((live.status_code, drained.status_code))
        tasks.cancel_scope.cancel()
    assert codes <= {(200, 200), (200, 503)}


async def test_ready_while_reads_are_served_and_not_while_nothing_is(tmp_path: Path) -> None:
    async with shared(tmp_path) as (b, server):
        ready = Readiness(b.parts, most_unwritten=10)
        assert await ready() == (200, {"status": "ready"})
        await server.crash()
        await b.code("look_at_item", name="a")
        b.clock.advance(2)
        assert await ready() == (200, {"status": "degraded", "away": ["hot store"]})
        for number in range(10):
            b.stores.ledger.note(entry(b.clock, f"c{number}"))
        assert (await ready())[1]["status"] == "degraded"  # asked a moment ago
        b.clock.advance(2)
        status, why = await ready()
        assert (status, why["problem"]) == (503, "the record takes no more lines")


async def test_health_names_components_as_the_runbook_does(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        status, found = await health_of(b.parts, b.inside)()
    assert status == 200
    assert found["status"] == "healthy"
    assert found["components"] == {"store": "healthy", "shelf": "healthy", "depot": "healthy"}
    assert found["uptime_seconds"] == 0
    assert [each["name"] for each in found["checks"]] == ["shelf", "depot"]


async def test_a_serving_process_is_scraped(tmp_path: Path) -> None:
    config = (
        '[[server.keys]]\nname = "reader"\nkey = "env:READER"\nscopes = ["ops:read"]\n\n'
        "[telemetry]\nprometheus = true\n"
    )
    place = observed(tmp_path, config, READER=READER)
    with anyio.fail_after(60):
        async with (
            serving(place, "http") as server,
            httpx2.AsyncClient(base_url=server.url, trust_env=False) as http,
        ):
            stranger = await http.get("/metrics")
            answer = await http.get("/metrics", headers=bearer(READER))
            newer = await http.get(
                "/metrics",
                headers={**bearer(READER), "accept": "application/openmetrics-text;version=1.0.0"},
            )
            assert (await http.get("/health/ready")).json() == {"status": "ready"}
    assert stranger.status_code == 401
    assert answer.headers["content-type"].startswith("text/plain")
    found = {
        sample.name: sample
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["mcp_ops_store_up"].value == 1
    assert found["target_info"].labels["service_name"] == "mcp-ops"
    assert found["process_open_fds"].value > 0
    assert newer.headers["content-type"].startswith("application/openmetrics-text")
    assert newer.text.endswith("# EOF\n")
