"""Who may call over HTTP: hosts, origins, keys, sessions of others, sizes, methods."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from pydantic import SecretStr

from mcp_ops.errors import ConfigurationError
from mcp_ops.settings import KeySettings
from mcp_ops.transport_http import http_app
from mcp_ops.transport_refusals import MAX_BODY
from tests.over_http import (
    ALICE,
    BOB,
    BOTH,
    HELLO,
    PING,
    SEAL,
    TWO_KEYS,
    bearer,
    endpoint,
    modern,
    running,
    settings,
    speaking,
)
from tests.transport_peer import build, health

ROUTES = ("/mcp", "/sse", "/messages/", "/messages/x", "/health", "/", "/nothing")


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
