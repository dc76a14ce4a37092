"""A server over HTTP and stdio, the official client in both eras, and a collector on a socket."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from tests.clients.live import serving
from tests.clients.official import MODERN, connected, remote
from tests.over_http import modern
from tests.telemetry.receiver import Received, Span, observed, receiver, system

SERVER, CLIENT = 2, 3
ERRONEOUS = 2
SECRET = "sk-live-4eC39HqLyjWDarjtT1zdp7dc"
PARENT = 0x00F067AA0BA902B7
TRACES = {"modern": 0xA1 << 120 | 7, "session": 0xB2 << 120 | 7, "header": 0xC3 << 120 | 7}
# All that may stand on a span: names, codes, numbers. No arguments, no session, no path or query.
KEYS = {
    "error.type",
    "gen_ai.operation.name",
    "gen_ai.tool.name",
    "http.request.method",
    "http.response.status_code",
    "jsonrpc.request.id",
    "mcp.method.name",
    "mcp.protocol.version",
    "mcp_ops.call_id",
    "mcp_ops.code",
    "mcp_ops.effect",
    "mcp_ops.kind",
    "mcp_ops.principal",
    "mcp_ops.target",
    "mcp_ops.verdict",
    "network.protocol.name",
    "network.transport",
    "rpc.response.status_code",
    "server.address",
    "server.port",
}


def hexed(trace_id: int) -> str:
    return trace.format_trace_id(trace_id)


def traceparent(trace_id: int) -> str:
    return f"00-{hexed(trace_id)}-{PARENT:016x}-01"


@contextmanager
def traced_by(trace_id: int) -> Iterator[None]:
    """What the client does here is part of this trace."""
    context = SpanContext(trace_id, PARENT, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        yield


async def asked_by_raw_http(url: str) -> list[int]:
    """Calls as bytes: one with the context in a header, and three that make words up."""
    statuses = []
    async with httpx2.AsyncClient(trust_env=False, timeout=20) as http:
        head, body = modern("get_health")
        head["traceparent"] = traceparent(TRACES["header"])
        statuses.append((await http.post(f"{url}/mcp", headers=head, json=body)).status_code)
        head, body = modern(SECRET)
        statuses.append((await http.post(f"{url}/mcp", headers=head, json=body)).status_code)
        head, body = modern("get_health", arguments={SECRET: SECRET})
        answer = await http.post(f"{url}/mcp", headers=head, json={**body, "id": SECRET})
        statuses.append(answer.status_code)
        head, body = modern("get_health")
        head["mcp-method"] = SECRET
        answer = await http.post(f"{url}/mcp", headers=head, json={**body, "method": SECRET})
        statuses.append(answer.status_code)
    return statuses


def of_trace(received: Received, trace_id: int) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = defaultdict(list)
    for span in received.spans():
        if span.trace == hexed(trace_id):
            found[span.name].append(span)
    return found


def check_call(spans: dict[str, list[Span]], version: str) -> None:
    """One call of get_health: who is whose child, and what each says."""
    (server,) = spans["tools/call get_health"]
    (guard,) = spans["guard get_health"]
    assert (server.kind, server.parent) == (SERVER, f"{PARENT:016x}")
    facts = {key: value for key, value in server.attributes.items() if key != "jsonrpc.request.id"}
    assert facts == {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": version,
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "get_health",
        "network.transport": "tcp",
        "network.protocol.name": "http",
    }
    assert guard.parent == server.id
    assert guard.attributes["mcp_ops.verdict"] == "ok"
    inner = {name for name, found in spans.items() for each in found if each.parent == guard.id}
    assert {"guard.plan", "guard.take", "guard.run", "guard.settle"} <= inner


async def stopped(process: Any) -> int:
    process.send_signal(signal.SIGTERM)
    code: int = await process.wait()
    return code


async def test_a_call_is_one_trace_in_both_eras_and_by_header(tmp_path: Path) -> None:
    async with receiver() as received, system() as url:
        place = observed(
            tmp_path,
            f'[targets.web]\nkind = "http"\nurl = "{url}"\n\n[telemetry]\nhealth_s = 0\n',
            OTEL_EXPORTER_OTLP_ENDPOINT=received.url,
            OTEL_EXPORTER_OTLP_HEADERS="x-token=the%20key-of-the-collector",
            OTEL_SERVICE_NAME="ops-of-tests",
            OTEL_METRIC_EXPORT_INTERVAL="60000",
        )
        with anyio.fail_after(60):
            async with serving(place, "http") as server:
                endpoint = server.endpoint("http")
                for name, era in (("modern", MODERN), ("session", "2025-11-25")):
                    async with remote(endpoint, "http", era) as talk:
                        with traced_by(TRACES[name]):
                            await talk.call("get_health", {})
                assert (await asked_by_raw_http(server.url))[0] == 200
                async with remote(endpoint, "http", MODERN) as talk:
                    lines = (await talk.call("search_audit", {"tool": "get_health"})).text["items"]
                assert await stopped(server.process) == 0
    assert {hexed(each) for each in TRACES.values()} <= {line.get("trace_id") for line in lines}

    modern_one = of_trace(received, TRACES["modern"])
    check_call(modern_one, MODERN)
    check_call(of_trace(received, TRACES["session"]), "2025-11-25")
    check_call(of_trace(received, TRACES["header"]), MODERN)

    (request,) = modern_one["GET"]
    (use,) = modern_one["http ping"]
    assert (request.parent, use.kind, request.kind) == (use.id, CLIENT, CLIENT)
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["server.address"] == "127.0.0.1"

    spans = received.spans()
    assert {key for span in spans for key in span.attributes} <= KEYS
    assert not any(span.events for span in spans)
    assert "mcp-python-sdk" not in {span.scope for span in spans}
    everything = b"".join(body for _, body in received.bodies)
    assert SECRET.encode() not in everything
    unknown = [s for s in spans if s.attributes.get("error.type") == "-32602"]
    assert [(s.name, s.status) for s in unknown] == [("tools/call", ERRONEOUS)]

    assert received.resource["service.name"] == "ops-of-tests"
    assert received.resource["service.version"]
    assert received.resource["service.instance.id"]
    assert {each["x-token"] for each in received.headers} == {"the key-of-the-collector"}
    assert {"mcp_ops.calls", "mcp_ops.store.up", "mcp.server.operation.duration"} <= (
        received.metrics()
    )


async def test_stdio_is_traced_over_a_pipe_and_what_waits_is_sent_at_the_end(
    tmp_path: Path,
) -> None:
    async with receiver() as received:
        config = f'[telemetry]\nexporters = ["otlp"]\notlp_endpoint = "{received.url}"\n'
        with anyio.fail_after(60):
            async with connected(observed(tmp_path, config), "stdio", MODERN) as talk:
                with traced_by(TRACES["modern"]):
                    await talk.call("get_guard_status", {})
    spans = of_trace(received, TRACES["modern"])
    (server,) = spans["tools/call get_guard_status"]
    assert server.attributes["network.transport"] == "pipe"
    assert server.parent == f"{PARENT:016x}"
    assert received.metrics() >= {"mcp_ops.calls"}
