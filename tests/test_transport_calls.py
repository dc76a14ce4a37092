"""Calls that take the short way over Streamable HTTP: leaving, progress, defects, stopping."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import mcp_types as types
import pytest
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler

from mcp_ops.transport_http import http_app, serve_http
from tests.over_http import VERSION, Probe, modern, probing, settings, shaken
from tests.transport_peer import health


async def test_a_client_that_leaves_cancels_its_call() -> None:
    async with probing() as (probe, http):
        head, body = modern("hang")
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:

                async def ask() -> None:
                    await http.post("/mcp", headers=head, json=body)

                tasks.start_soon(ask)
                await probe.began.wait()
                tasks.cancel_scope.cancel()
            await probe.cancelled.wait()


async def test_progress_makes_the_answer_a_stream() -> None:
    async with probing() as (_, http):
        head, body = modern("steps")
        body["params"]["_meta"]["progressToken"] = "mine"
        answer = await http.post("/mcp", headers=head, json=body)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line[:6] == "data: "]
    assert answer.headers["content-type"] == "text/event-stream"
    assert [event["params"]["progress"] for event in events[:-1]] == [1, 2]
    assert {event["params"]["progressToken"] for event in events[:-1]} == {"mine"}
    assert events[-1]["result"]["content"][0]["text"] == "steps"


async def test_who_did_not_ask_for_progress_gets_none() -> None:
    async with probing() as (_, http):
        head, body = modern("steps")
        answer = await http.post("/mcp", headers=head, json=body)
    assert answer.headers["content-type"] == "application/json"


async def test_a_defect_is_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async with probing() as (_, http):
        head, body = modern("fail")
        answer = await http.post("/mcp", headers=head, json=body)
    assert answer.json()["error"] == {
        "code": types.INTERNAL_ERROR,
        "message": "Internal server error",
    }


@pytest.mark.parametrize("era", [VERSION, "session"])
async def test_a_long_call_keeps_its_connection_with_comments(era: str) -> None:
    async with probing() as (probe, http):
        head, body = modern("slow")
        if era == "session":
            head = await shaken(http)
            body["params"].pop("_meta")
        said = ""
        with anyio.fail_after(20):
            async with http.stream("POST", "/mcp", headers=head, json=body) as answer:
                async for piece in answer.aiter_text():
                    said += piece
                    probe.released.set()
    assert said.startswith(": ping")
    assert '"slow"' in said


async def test_stopping_answers_what_runs_and_ends_subscriptions_and_says_so_first() -> None:
    probe, stop, ready = Probe(), anyio.Event(), anyio.Event()
    bus = InMemorySubscriptionBus()
    server: Server[Any] = Server(
        "probe", on_call_tool=probe.call, on_subscriptions_listen=ListenHandler(bus)
    )
    server.get_tool_input_schema = lambda name: {"type": "object"}
    chosen = settings()
    app = http_app(server, settings=chosen, health=health, sse=False)
    urls: list[str] = []
    answers: list[httpx2.Response] = []
    events: list[dict[str, Any]] = []

    def tell(url: str) -> None:
        urls.append(url)
        ready.set()

    async def serve_it() -> None:
        await serve_http(app, settings=chosen, stop=stop, on_ready=tell)

    async def ask(http: httpx2.AsyncClient) -> None:
        head, body = modern("slow")
        answers.append(await http.post("/mcp", headers=head, json=body))

    async def listen(http: httpx2.AsyncClient, heard: anyio.Event) -> None:
        head, body = modern("slow")
        head = {**head, "mcp-method": "subscriptions/listen"}
        body = {**body, "method": "subscriptions/listen"}
        body["params"]["notifications"] = {"toolsListChanged": True}
        async with http.stream("POST", "/mcp", headers=head, json=body) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    events.append(json.loads(line[6:]))
                    heard.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_it)
            await ready.wait()
            async with (
                httpx2.AsyncClient(base_url=urls[0], timeout=20) as http,
                anyio.create_task_group() as clients,
            ):
                heard = anyio.Event()
                clients.start_soon(listen, http, heard)
                await heard.wait()
                clients.start_soon(ask, http)
                await probe.slow.wait()
                stop.set()
                while not app.state.edge.stopping:
                    await anyio.lowlevel.checkpoint()
                refused = await http.get("/health")
                probe.released.set()
    assert (refused.status_code, refused.json()["error"]) == (503, "stopping")
    assert answers[0].json()["result"]["content"][0]["text"] == "slow"
    assert [event.get("method", "") for event in events] == [
        "notifications/subscriptions/acknowledged",
        "",
    ]
    assert events[-1]["result"]["resultType"] == "complete"
