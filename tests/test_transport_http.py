"""The HTTP transports on real sockets: who may call, both eras, sessions, limits, the end."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from pydantic import SecretStr

from mcp_ops.errors import ConfigurationError
from mcp_ops.settings import KeySettings, ServerSettings
from mcp_ops.transport import seal
from mcp_ops.transport_http import http_app, serve_http
from mcp_ops.transport_refusals import MAX_BODY
from tests.transport_peer import build, health

ROOT = Path(__file__).parent.parent
VERSION = "2026-07-28"
ALICE, BOB = "alice-key-0123456789", "bob-key-9876543210"
TWO_KEYS = (
    KeySettings(name="alice", key=SecretStr(ALICE), scopes=("ops:read",), host_confirms=True),
    KeySettings(name="bob", key=SecretStr(BOB)),
)
SEAL = [b"s" * 32]
ROUTES = ("/mcp", "/sse", "/messages/", "/messages/x", "/health", "/", "/nothing")
MODES = ("legacy", VERSION)
BOTH = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "1"},
    },
}
PING = {"jsonrpc": "2.0", "id": 2, "method": "ping"}


def settings(**changes: Any) -> ServerSettings:
    """Loopback, a free port, no keys, and what the test changes."""
    return ServerSettings.model_validate({"port": 0, **changes})


@asynccontextmanager
async def running(
    chosen: ServerSettings,
    *,
    sse: bool = True,
    stop: anyio.Event | None = None,
    seal_keys: list[bytes] = SEAL,
) -> AsyncIterator[str]:
    """The peer on a socket in this process; its base URL."""
    app = http_app(build(seal_keys), settings=chosen, health=health, sse=sse)
    ending = stop or anyio.Event()
    urls: list[str] = []
    ready = anyio.Event()

    def tell(url: str) -> None:
        urls.append(url)
        ready.set()

    async def serve() -> None:
        await serve_http(app, settings=chosen, stop=ending, on_ready=tell)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tg:
            tg.start_soon(serve)
            await ready.wait()
            yield urls[0]
            ending.set()


@asynccontextmanager
async def speaking(
    url: str,
    *,
    transport: str = "http",
    mode: str = VERSION,
    key: str = "",
    elicitation_callback: Any = None,
) -> AsyncIterator[Client]:
    """The official client, by Streamable HTTP or SSE."""
    headers = bearer(key)
    if transport == "sse":
        async with Client(
            sse_client(f"{url}/sse", headers=headers),
            mode=mode,
            elicitation_callback=elicitation_callback,
        ) as client:
            yield client
        return
    async with (
        httpx2.AsyncClient(headers=headers, timeout=20) as http,
        Client(
            streamable_http_client(f"{url}/mcp", http_client=http),
            mode=mode,
            elicitation_callback=elicitation_callback,
        ) as client,
    ):
        yield client


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"authorization": f"Bearer {key}"} if key else {}


async def accept(
    context: ClientRequestContext, params: types.ElicitRequestParams
) -> types.ElicitResult:
    """A person who says yes."""
    return types.ElicitResult(action="accept", content={"yes": True})


async def endpoint(lines: AsyncIterator[str]) -> str:
    """Where an SSE stream wants its messages posted. Who forgets `lines` closes the stream."""
    async for line in lines:
        if line.startswith("data: "):
            return line.removeprefix("data: ")
    raise AssertionError("the stream ended")


def modern(tool: str, **more: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """Headers and body of a 2026 call."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
    }
    params = {"name": tool, "arguments": {}, "_meta": meta, **more}
    head = {
        **BOTH,
        "mcp-protocol-version": VERSION,
        "mcp-method": "tools/call",
        "mcp-name": tool,
    }
    return head, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_the_official_client_calls_over_both_transports_in_both_eras(
    transport: str, mode: str
) -> None:
    async with (
        running(settings(keys=TWO_KEYS)) as url,
        speaking(url, transport=transport, mode=mode, key=ALICE) as client,
    ):
        tools = await client.list_tools()
        result = await client.call_tool("look", {"name": "api"})
    assert "look" in [tool.name for tool in tools.tools]
    assert result.structured_content is not None
    caller = result.structured_content["caller"]
    assert caller["principal"] == {
        "id": "key:alice",
        "scopes": ["ops:read"],
        "host_confirms": True,
        "reach": [],
    }
    assert caller["client"] == "mcp"
    assert caller["era"] == ("2026" if mode == VERSION else "session")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_a_person_is_asked_over_both_transports_in_both_eras(
    transport: str, mode: str
) -> None:
    async with (
        running(settings()) as url,
        speaking(url, transport=transport, mode=mode, elicitation_callback=accept) as client,
    ):
        result = await client.call_tool("confirm", {})
    assert result.structured_content is not None
    assert result.structured_content["action"] == "accept"


async def test_without_sessions_a_client_of_the_older_era_calls_and_is_not_asked() -> None:
    async with (
        running(settings(sessions=False), sse=False) as url,
        speaking(url, mode="legacy", elicitation_callback=accept) as client,
    ):
        looked = await client.call_tool("look", {"name": "api"})
        asked = await client.call_tool("confirm", {})
    assert looked.structured_content is not None
    assert looked.structured_content["arguments"] == {"name": "api"}
    assert asked.structured_content is not None
    assert asked.structured_content["action"] == "cannot ask"


async def test_without_keys_everybody_on_loopback_is_one_anonymous_principal() -> None:
    async with running(settings()) as url, speaking(url) as client:
        result = await client.call_tool("look", {})
    assert result.structured_content is not None
    assert result.structured_content["caller"]["principal"]["id"] == "anonymous@loopback"


async def test_every_route_refuses_a_host_that_is_not_on_the_list() -> None:
    strangers = ("evil.example", "localhost.evil.example", "127.0.0.1@evil.example", "", "a b")
    async with running(settings(keys=TWO_KEYS)) as url, httpx2.AsyncClient(base_url=url) as http:
        for route in ROUTES:
            for method in ("GET", "POST", "DELETE", "OPTIONS"):
                for host in strangers:
                    answer = await http.request(
                        method, route, headers={"host": host, **bearer(ALICE)}
                    )
                    assert answer.status_code == 421, (method, route, host)
                    assert answer.json()["error"] == "host_not_allowed"


async def test_probes_that_know_only_the_machine_s_address_reach_its_health_alone() -> None:
    async with running(settings(keys=TWO_KEYS)) as url, httpx2.AsyncClient(base_url=url) as http:
        for host in ("169.254.130.4:8000", "10.1.2.3", "[fd00::1]:8000"):
            probe = await http.get("/health", headers={"host": host})
            assert (probe.status_code, probe.json().keys()) == (200, {"status"})
            for route in ("/mcp", "/approvals"):
                answer = await http.get(route, headers={"host": host, **bearer(ALICE)})
                assert answer.status_code == 421, (host, route)
        stranger = await http.get("/health", headers={"host": "169.254.130.4.evil.example"})
        assert stranger.status_code == 421


async def test_every_route_refuses_an_origin_that_is_not_on_the_list() -> None:
    strangers = (
        "https://evil.example",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "http://localhost/evil",
        "null",
        "",
        "file://localhost",
    )
    async with running(settings(keys=TWO_KEYS)) as url, httpx2.AsyncClient(base_url=url) as http:
        for route in ROUTES:
            for method in ("GET", "POST", "DELETE", "OPTIONS"):
                for origin in strangers:
                    answer = await http.request(
                        method, route, headers={"origin": origin, **bearer(ALICE)}
                    )
                    assert answer.status_code == 403, (method, route, origin)
                    assert answer.json()["error"] == "origin_not_allowed"


async def test_loopback_and_configured_names_are_served() -> None:
    chosen = settings(
        allowed_hosts=["Ops.example.com", "one.example:8443"],
        allowed_origins=["https://ops.example.com"],
    )
    hosts = {
        "localhost": 200,
        "LOCALHOST:1": 200,
        "127.0.0.1:65535": 200,
        "[::1]:8000": 200,
        "ops.example.com": 200,
        "ops.example.com:443": 200,
        "one.example:8443": 200,
        "one.example": 421,
        "one.example:1": 421,
    }
    origins = {
        "http://localhost:3000": 200,
        "https://[::1]": 200,
        "https://ops.example.com": 200,
        "http://ops.example.com": 403,
    }
    async with running(chosen) as url, httpx2.AsyncClient(base_url=url) as http:
        for host, status in hosts.items():
            assert (await http.get("/health", headers={"host": host})).status_code == status, host
        for origin, status in origins.items():
            answer = await http.get("/health", headers={"origin": origin})
            assert answer.status_code == status, origin


async def test_a_missing_and_a_wrong_key_get_the_same_answer_on_every_route() -> None:
    wrong = ("", "x" * 20, ALICE[:-1], ALICE + "0", f"{ALICE} {BOB}")
    async with running(settings(keys=TWO_KEYS)) as url, httpx2.AsyncClient(base_url=url) as http:
        for route in ROUTES:
            if route == "/health":
                continue
            answers = [await http.post(route, headers=bearer(key)) for key in wrong]
            answers.append(await http.post(route, headers={"authorization": f"Basic {ALICE}"}))
            answers.append(await http.post(f"{route}?key={ALICE}"))
            assert {answer.status_code for answer in answers} == {401}, route
            assert len({answer.content for answer in answers}) == 1
            assert answers[0].headers["www-authenticate"] == 'Bearer realm="mcp-ops"'


async def test_health_tells_strangers_only_the_status() -> None:
    async with running(settings(keys=TWO_KEYS)) as url, httpx2.AsyncClient(base_url=url) as http:
        stranger = await http.get("/health")
        wrong = await http.get("/health", headers=bearer("wrong-key-0123456789"))
        known = await http.get("/health", headers=bearer(BOB))
    assert stranger.json() == wrong.json() == {"status": "ok"}
    assert known.json() == {"status": "ok", "targets": ["crm"]}
    assert "server" not in stranger.headers


async def test_a_session_is_found_only_by_the_key_that_opened_it() -> None:
    async with running(settings(keys=TWO_KEYS)) as url, httpx2.AsyncClient(base_url=url) as http:
        opened = await http.post("/mcp", headers={**BOTH, **bearer(ALICE)}, json=HELLO)
        session = {**BOTH, "mcp-session-id": opened.headers["mcp-session-id"]}
        foreign = [
            await http.post("/mcp", headers={**session, **bearer(BOB)}, json=PING),
            await http.get("/mcp", headers={**session, **bearer(BOB)}),
            await http.delete("/mcp", headers={**session, **bearer(BOB)}),
        ]
        own = await http.post("/mcp", headers={**session, **bearer(ALICE)}, json=PING)
    assert [answer.status_code for answer in foreign] == [404, 404, 404]
    assert own.status_code == 200


async def test_an_sse_session_is_found_only_by_the_key_that_opened_it() -> None:
    async with (
        running(settings(keys=TWO_KEYS)) as url,
        httpx2.AsyncClient(base_url=url) as http,
        http.stream("GET", "/sse", headers=bearer(ALICE)) as stream,
    ):
        lines = stream.aiter_lines()
        path = await endpoint(lines)
        foreign = await http.post(path, headers={**BOTH, **bearer(BOB)}, json=HELLO)
        own = await http.post(path, headers={**BOTH, **bearer(ALICE)}, json=HELLO)
    assert (foreign.status_code, own.status_code) == (404, 202)


async def test_state_that_was_sealed_for_one_key_is_refused_from_another() -> None:
    async with running(settings(keys=TWO_KEYS)) as url, httpx2.AsyncClient(base_url=url) as http:
        head, body = modern("confirm")
        asked = (await http.post("/mcp", headers={**head, **bearer(ALICE)}, json=body)).json()
        retry = {
            "requestState": asked["result"]["requestState"],
            "inputResponses": {"confirm": {"action": "accept"}},
        }
        head, body = modern("confirm", **retry)
        foreign = (await http.post("/mcp", headers={**head, **bearer(BOB)}, json=body)).json()
        own = (await http.post("/mcp", headers={**head, **bearer(ALICE)}, json=body)).json()
    assert foreign["error"]["code"] == types.INVALID_PARAMS
    assert own["result"]["structuredContent"]["action"] == "accept"


async def test_a_question_is_open_to_every_key_and_sealed_by_the_first() -> None:
    old, new = b"o" * 32, b"n" * 32
    retry = {"inputResponses": {"confirm": {"action": "accept"}}}

    async def spoken(*keys: bytes, state: str = "") -> dict[str, Any]:
        head, body = modern("confirm", **({**retry, "requestState": state} if state else {}))
        async with (
            running(settings(), seal_keys=list(keys)) as url,
            httpx2.AsyncClient(base_url=url) as http,
        ):
            found: dict[str, Any] = (await http.post("/mcp", headers=head, json=body)).json()
            return found

    asked_by_old = (await spoken(old))["result"]["requestState"]
    asked_by_new = (await spoken(new, old))["result"]["requestState"]
    for keys, state, opens in (
        ((new, old), asked_by_old, True),
        ((new,), asked_by_old, False),
        ((new,), asked_by_new, True),
        ((old,), asked_by_new, False),
    ):
        answer = await spoken(*keys, state=state)
        assert ("result" in answer) is opens, (keys, answer)


async def test_a_body_that_is_too_large_is_refused_with_and_without_a_length() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // 65_536 + 1):
            yield b" " * 65_536

    async with running(settings()) as url, httpx2.AsyncClient(base_url=url) as http:
        told = await http.post("/mcp", headers=BOTH, content=b" " * (MAX_BODY + 1))
        streamed = await http.post("/mcp", headers=BOTH, content=pieces())
        modern_head, _ = modern("look")
        era = await http.post("/mcp", headers=modern_head, content=pieces())
        fits = await http.post("/mcp", headers=BOTH, content=b" " * MAX_BODY)
    assert [told.status_code, streamed.status_code, era.status_code] == [413, 413, 413]
    assert told.json()["error"] == "too_large"
    assert fits.status_code == 400


async def test_repeated_headers_and_odd_methods_are_refused() -> None:
    async with running(settings()) as url, httpx2.AsyncClient(base_url=url) as http:
        twice = [("mcp-session-id", "a"), ("mcp-session-id", "b")]
        repeated = await http.post("/mcp", headers=httpx2.Headers(twice))
        odd = await http.request("PATCH", "/mcp")
    assert repeated.status_code == 400
    assert (odd.status_code, odd.headers["allow"]) == (405, "GET, HEAD, POST, DELETE")


async def test_session_ids_and_bodies_are_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    secret = "0123456789abcdef" * 2
    async with running(settings()) as url, httpx2.AsyncClient(base_url=url) as http:
        opened = await http.post("/mcp", headers=BOTH, json=HELLO)
        session = {**BOTH, "mcp-session-id": opened.headers["mcp-session-id"]}
        await http.delete("/mcp", headers=session)
        await http.post("/mcp", headers={**BOTH, "mcp-session-id": secret}, json=PING)
        await http.post(f"/messages/?session_id={secret}", headers=BOTH, json=PING)
        async with http.stream("GET", "/sse") as stream:
            lines = stream.aiter_lines()
            path = await endpoint(lines)
            await http.post(path, headers=BOTH, content=b'{"jsonrpc": "a body in the log"}')
    ours = [record for record in caplog.records if record.name.startswith("mcp")]
    text = "\n".join(logging.Formatter().format(record) for record in ours)
    assert opened.headers["mcp-session-id"] not in text
    assert path.partition("=")[2] not in text.replace("-", "")
    assert secret not in text
    assert "a body in the log" not in text


async def test_stopping_ends_open_streams_and_answers_what_is_in_flight() -> None:
    stop = anyio.Event()
    got: list[Any] = []
    async with (
        running(settings(), stop=stop) as url,
        speaking(url, mode="legacy") as client,
        speaking(url, mode="legacy", transport="sse") as other,
    ):

        async def wait(caller: Client) -> None:
            got.append((await caller.call_tool("wait", {})).structured_content)

        async with anyio.create_task_group() as tg:
            tg.start_soon(wait, client)
            tg.start_soon(wait, other)
            await client.call_tool("look", {})
            await other.call_tool("look", {})
            await client.call_tool("release", {})
            stop.set()
    assert got == [{"waited": True}, {"waited": True}]


def test_without_a_key_only_loopback_is_served() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "ops.example.com"):
        with pytest.raises(ConfigurationError, match="no key"):
            http_app(build(SEAL), settings=settings(host=host), health=health, sse=False)
    for host in ("127.0.0.1", "::1", "localhost"):
        http_app(build(SEAL), settings=settings(host=host), health=health, sse=False)


def test_two_keys_of_the_same_value_are_refused() -> None:
    same = (TWO_KEYS[0], KeySettings(name="b", key=SecretStr(ALICE)))
    with pytest.raises(ConfigurationError) as error:
        http_app(build(SEAL), settings=settings(keys=same), health=health, sse=False)
    assert ALICE not in str(error.value)


def test_seal_keys_that_are_missing_or_short_are_refused() -> None:
    for keys in ([], [b"short"], [SEAL[0], SEAL[0]]):
        with pytest.raises(ConfigurationError):
            seal(Server("x"), keys, lambda ctx: None)


async def test_sigterm_ends_the_server_with_exit_code_0() -> None:
    command = [sys.executable, str(ROOT / "tests" / "transport_peer.py"), "http"]
    command += ["--settings", json.dumps({"port": 0})]
    process = await anyio.open_process(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    async with process:
        assert process.stderr is not None
        with anyio.fail_after(20):
            url = (await process.stderr.receive()).decode().strip()
            async with speaking(url) as client:
                await client.call_tool("look", {})
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
