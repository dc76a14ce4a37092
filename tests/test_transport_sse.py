"""SSE: plain calls run in the task of their POST, and answer as those of the dispatcher do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp.server.lowlevel import Server
from starlette.applications import Starlette
from starlette.requests import Request

from mcp_ops.auth.principal import HttpPrincipal
from mcp_ops.transport_calls import shorten
from mcp_ops.transport_eras import Opened
from mcp_ops.transport_http import http_app, serve_http
from mcp_ops.transport_inline import InlineCalls, Places
from mcp_ops.transport_sse import SseTransport
from tests.over_http import (
    BOTH,
    MODES,
    PING,
    SEAL,
    VERSION,
    Probe,
    Stream,
    call,
    modern,
    probing,
    settings,
    streaming,
)
from tests.served import serve
from tests.test_transport_front import CASES
from tests.transport_peer import build, health

CANCELLED = "notifications/cancelled"


def cancel(number: Any) -> dict[str, Any]:
    """The notification that cancels a call."""
    return {"jsonrpc": "2.0", "method": CANCELLED, "params": {"requestId": number}}


@asynccontextmanager
async def peer(most: int) -> AsyncIterator[httpx2.AsyncClient]:
    """The peer, of whose calls so many run in the task of their POST, and a client of it."""
    server = build(SEAL)
    inner = Starlette(routes=SseTransport(server, shorten(server), Places(most)).routes())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["mcp_ops.principal"] = HttpPrincipal(id="key:alice", scopes=())
        await inner(scope, receive, send)

    async with serve(app) as url, httpx2.AsyncClient(base_url=url, timeout=20) as http:
        yield http


def told(event: dict[str, Any]) -> dict[str, Any]:
    """What of an answer has to be the same: that there are no data need not be said."""
    error = event.get("error") or {}
    if error.get("data", 0) is None:
        del error["data"]
    return event


async def answered(stream: Stream, body: bytes, number: int) -> tuple[int, list[Any]]:
    """The status of a message, and all events that it brings: those before a ping's answer."""
    status = await stream.post(body)
    await stream.post({**PING, "id": f"ping-{number}"})
    events = []
    while (event := await stream.event()) is not None and event["id"] != f"ping-{number}":
        events.append(told(event))
    return status, events


@pytest.mark.parametrize("era", MODES)
async def test_whatever_comes_is_answered_as_the_dispatcher_answers_it(era: str) -> None:
    bodies = {name: case()[1] for name, case in CASES.items() if "header" not in name}
    if era != VERSION:
        for name, body in list(bodies.items()):
            bare = body.replace(b"io.modelcontextprotocol/protocolVersion", b"version")
            bodies[f"{name}, without an envelope"] = bare
    found: list[dict[str, Any]] = []
    with anyio.fail_after(60):
        for most in (500, 0):
            async with peer(most) as http, streaming(http, shake=era != VERSION) as stream:
                if era == VERSION:
                    await stream.ask(modern("look")[1])
                pairs = enumerate(bodies.items())
                found.append({name: await answered(stream, body, n) for n, (name, body) in pairs})
    for name, said in found[0].items():
        assert said == found[1][name], name
    assert found[0]["plain"][0] == 202


def odd(message: dict[str, Any]) -> dict[str, Any]:
    """The same call with something that makes it the dispatcher's."""
    return {**message, "params": {**message["params"], "task": None}}


@pytest.mark.parametrize("way", [dict, odd])
async def test_a_call_that_is_cancelled_ends_and_is_not_answered(way: Any) -> None:
    with anyio.fail_after(30):
        async with probing(sse=True) as (probe, http), streaming(http) as stream:
            await stream.post(way(call("hang")))
            await probe.began.wait()
            await stream.post(cancel(6))
            assert not probe.cancelled.is_set()
            await stream.post(cancel("5"))
            await probe.cancelled.wait()
            assert (await stream.ask({**PING, "id": 7}) or {})["id"] == 7


@pytest.mark.parametrize("way", [dict, odd])
async def test_a_call_ends_with_its_stream(way: Any) -> None:
    with anyio.fail_after(30):
        async with probing(sse=True) as (probe, http):
            async with streaming(http) as stream:
                await stream.post(way(call("hang")))
                await probe.began.wait()
            await probe.cancelled.wait()
            assert await stream.post(PING) == 404


async def test_who_hangs_up_after_a_post_gets_the_answer_on_the_stream() -> None:
    with anyio.fail_after(30):
        async with probing(sse=True) as (probe, http), streaming(http) as stream:
            async with httpx2.AsyncClient(base_url=http.base_url) as other:
                posted = await other.post(stream.path, headers=BOTH, json=call("slow"))
                assert posted.status_code == 202
                await probe.slow.wait()
            probe.released.set()
            answer = await stream.event()
    assert answer is not None
    assert answer["result"]["content"][0]["text"] == "slow"


@pytest.mark.parametrize("way", [dict, odd])
async def test_progress_comes_before_the_answer(way: Any) -> None:
    asked = call("steps")
    asked["params"]["_meta"] = {"progressToken": "mine"}
    with anyio.fail_after(30):
        async with probing(sse=True) as (_, http), streaming(http) as stream:
            events = [await stream.ask(way(asked)), await stream.event(), await stream.event()]
    told_of = [(event or {}).get("params") for event in events[:2]]
    assert told_of == [
        {"progressToken": "mine", "progress": done, "total": 2, "message": "so far"}
        for done in (1, 2)
    ]
    assert (events[2] or {})["result"]["content"][0]["text"] == "steps"


@pytest.mark.parametrize("way", [dict, odd])
async def test_a_defect_is_told_without_its_text(
    way: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(30):
        async with probing(sse=True) as (_, http), streaming(http) as stream:
            answer = await stream.ask(way(call("fail")))
    assert answer is not None
    assert answer["error"]["code"] == types.INTERNAL_ERROR
    assert "inner" not in json.dumps(answer)


async def test_an_id_that_is_in_use_is_the_dispatchers_and_both_are_answered() -> None:
    with anyio.fail_after(30):
        async with probing(sse=True) as (probe, http), streaming(http) as stream:
            await stream.post(call("slow"))
            await probe.slow.wait()
            second = await stream.ask(call("look"))
            probe.released.set()
            first = await stream.event()
    texts = [(each or {})["result"]["content"][0]["text"] for each in (second, first)]
    assert texts == ["look", "slow"]


async def test_before_the_handshake_a_call_is_refused() -> None:
    with anyio.fail_after(30):
        async with probing(sse=True) as (_, http), streaming(http, shake=False) as stream:
            early = await stream.ask(call("look"))
            await stream.shake()
            late = await stream.ask(call("look"))
    assert (early or {})["error"]["code"] == types.INVALID_PARAMS
    assert (late or {})["result"]["content"] == [{"type": "text", "text": "look"}]


async def test_calls_beyond_the_places_are_the_dispatchers() -> None:
    server: Server[Any] = Server("probe")
    places = Places(most=1)

    async def write(_: bytes) -> None:
        raise AssertionError("nothing is run")

    made = InlineCalls(shorten(server), write, places)
    body = json.dumps(modern("look")[1]).encode()
    request = Request({"type": "http", "headers": []})
    assert made.take(body, request) is None
    made.open(Opened(None, {}))
    taken = made.take(body, request)
    assert taken is not None
    assert made.take(body.replace(b'"id": 1', b'"id": 2'), request) is None
    with pytest.raises(AssertionError):
        await made.run(taken)
    assert places.taken == 0
    await made.end()
    assert made.take(body, request) is None


async def test_stopping_tells_a_call_that_does_not_end() -> None:
    probe, stop, ready = Probe(), anyio.Event(), anyio.Event()
    server: Server[Any] = Server("probe", on_call_tool=probe.call)
    chosen = settings()
    app = http_app(server, settings=chosen, health=health, sse=True)
    urls: list[str] = []

    def tell(url: str) -> None:
        urls.append(url)
        ready.set()

    async def serve_it() -> None:
        await serve_http(app, settings=chosen, stop=stop, on_ready=tell)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_it)
            await ready.wait()
            async with (
                httpx2.AsyncClient(base_url=urls[0], timeout=20) as http,
                streaming(http) as stream,
            ):
                await stream.post(call("hang"))
                await probe.began.wait()
                app.state.edge.end_streams()
                last, end = await stream.event(), await stream.event()
            stop.set()
    assert (last or {})["error"] == {
        "code": types.CONNECTION_CLOSED,
        "message": "Connection closed",
    }
    assert end is None
