"""The front of /mcp answers as the SDK would: shortcuts are held against the SDK itself."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import mcp_types as types
import pytest
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler

from mcp_ops.auth.principal import HttpPrincipal
from mcp_ops.transport_http import http_app, serve_http
from mcp_ops.transport_sessions import MAX_SESSIONS, Session, Sessions
from tests.served import serve
from tests.test_transport_http import BOTH, HELLO, VERSION, modern, running, settings
from tests.transport_peer import build, health

SEAL = [b"s" * 32]
Request = tuple[list[tuple[str, str]], bytes]


def sdk_alone() -> Any:
    """The same server on the SDK's own application."""
    inner = build(SEAL).streamable_http_app()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["mcp_ops.principal"] = HttpPrincipal(id="anonymous@loopback", scopes=())
        await inner(scope, receive, send)

    return app, inner


def plain(**changes: Any) -> Request:
    """A call that the shortcut takes, with changes of the body."""
    head, body = modern("look", arguments={"name": "api"})
    body = {**body, **changes}
    return list(head.items()), json.dumps(body).encode()


def params(**changes: Any) -> Request:
    """The same, with changes of its parameters; None takes one away."""
    _, body = modern("look", arguments={"name": "api"})
    made = {**body["params"], **changes}
    return plain(params={key: value for key, value in made.items() if value is not None})


def meta(**changes: Any) -> Request:
    """The same, with changes of its metadata."""
    _, body = modern("look")
    made = copy.deepcopy(body["params"]["_meta"])
    made.update({key.replace("__", "/"): value for key, value in changes.items()})
    return params(_meta={key: value for key, value in made.items() if value is not None})


def headers(*more: tuple[str, str], **changes: str | None) -> Request:
    """The same, with other headers."""
    head, body = modern("look", arguments={"name": "api"})
    named: dict[str, str | None] = {**head, **{k.replace("_", "-"): v for k, v in changes.items()}}
    kept = [(name, value) for name, value in named.items() if value is not None]
    return [*kept, *more], json.dumps(body).encode()


VERSION_KEY = "io.modelcontextprotocol__protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol__clientCapabilities"
INFO_KEY = "io.modelcontextprotocol__clientInfo"
CASES: dict[str, Callable[[], Request]] = {
    "plain": plain,
    "an id of text": lambda: plain(id="seven"),
    "an id that is null": lambda: plain(id=None),
    "an id that is true": lambda: plain(id=True),
    "an id that is a fraction": lambda: plain(id=1.5),
    "an id beyond 64 bits": lambda: plain(id=2**80),
    "another version of JSON-RPC": lambda: plain(jsonrpc="1.0"),
    "another method": lambda: plain(method="tools/list"),
    "a method that there is not": lambda: plain(method="tools/nothing"),
    "a key too many": lambda: plain(extra=1),
    "no parameters": lambda: plain(params=None),
    "parameters that are a list": lambda: plain(params=[]),
    "no arguments": lambda: params(arguments=None),
    "arguments that are text": lambda: params(arguments="x"),
    "a name that is none": lambda: params(name="nothing"),
    "a name that is a number": lambda: params(name=7),
    "a parameter too many": lambda: params(task={"ttl": 1}),
    "state that nobody sealed": lambda: params(requestState="made up"),
    "no metadata": lambda: params(_meta=None),
    "metadata that are text": lambda: params(_meta="x"),
    "no version in the metadata": lambda: meta(**{VERSION_KEY: None}),
    "another version in the metadata": lambda: meta(**{VERSION_KEY: "2025-11-25"}),
    "no capabilities": lambda: meta(**{CAPABILITIES_KEY: None}),
    "capabilities that are text": lambda: meta(**{CAPABILITIES_KEY: "x"}),
    "a client without a version": lambda: meta(**{INFO_KEY: {"name": "x"}}),
    "a client with all": lambda: meta(**{INFO_KEY: {"name": "x", "version": "1"}}),
    "a level of logs": lambda: meta(**{"io.modelcontextprotocol__logLevel": "debug"}),
    "a level of logs that is none": lambda: meta(**{"io.modelcontextprotocol__logLevel": "loud"}),
    "metadata of others": lambda: meta(other={"a": [1, None]}),
    "a token of progress": lambda: meta(progressToken=7),
    "a token of progress that is none": lambda: meta(progressToken=[]),
    "a token of progress that is true": lambda: meta(progressToken=True),
    "no tool in the headers": lambda: headers(mcp_name=None),
    "another tool in the headers": lambda: headers(mcp_name="wait"),
    "a tool in the headers, encoded": lambda: headers(mcp_name="=?base64?bG9vaw==?="),
    "a tool in the headers, not ASCII": lambda: headers(mcp_name="l\xffook"),
    "a tool twice in the headers": lambda: headers(("mcp-name", "look")),
    "no method in the headers": lambda: headers(mcp_method=None),
    "another method in the headers": lambda: headers(mcp_method="tools/list"),
    "a version that is none": lambda: headers(mcp_protocol_version="1999-01-01"),
    "a parameter in the headers": lambda: headers(("mcp-param-name", "api")),
    "takes JSON only": lambda: headers(accept="application/json"),
    "takes everything": lambda: headers(accept="*/*"),
    "takes images": lambda: headers(accept="image/png"),
    "takes nothing": lambda: headers(accept=None),
    "another type of content": lambda: headers(content_type="text/plain"),
    "a type of content with more": lambda: headers(content_type="application/json; charset=utf-8"),
    "no JSON": lambda: (headers()[0], b"{"),
    "nothing": lambda: (headers()[0], b""),
    "a list": lambda: (headers()[0], b"[" + plain()[1] + b"]"),
    "NaN": lambda: (headers()[0], plain()[1].replace(b'"api"', b"NaN")),
    "half a character": lambda: (headers()[0], plain()[1].replace(b'"api"', b'"\\ud800"')),
    "not UTF-8": lambda: (headers()[0], plain()[1].replace(b'"api"', b'"\xff"')),
    "very deep": lambda: (headers()[0], b"[" * 5_000),
}


def told(answer: httpx2.Response) -> tuple[int, Any]:
    """What of an answer has to be the same; who called is not told to the SDK alone."""
    try:
        body: Any = json.loads(answer.content) if answer.content else None
    except ValueError:
        return answer.status_code, answer.text
    text = json.dumps(body)
    if '"caller"' in text:
        body = {**body, "result": {**body["result"], "content": None}}
        body["result"]["structuredContent"]["caller"].pop("principal")
    return answer.status_code, body


async def test_whatever_comes_is_answered_as_the_sdk_answers_it() -> None:
    app, inner = sdk_alone()
    async with (
        inner.router.lifespan_context(inner),
        serve(app) as sdk,
        running(settings()) as ours,
        httpx2.AsyncClient() as http,
    ):
        for name, case in CASES.items():
            head, body = case()
            found = []
            for url in (ours, sdk):
                raw = [(key.encode(), value.encode("latin-1")) for key, value in head]
                found.append(await http.post(f"{url}/mcp", headers=raw, content=body))
            assert told(found[0]) == told(found[1]), name


class Probe:
    """Tools that say what happens to them."""

    def __init__(self) -> None:
        self.began = anyio.Event()
        self.cancelled = anyio.Event()
        self.released = anyio.Event()
        self.slow = anyio.Event()

    async def call(
        self, ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        match params.name:
            case "hang":
                self.began.set()
                try:
                    await anyio.sleep_forever()
                finally:
                    self.cancelled.set()
            case "steps":
                for done in (1, 2):
                    await ctx.session.report_progress(done, 2, "so far")
            case "fail":
                raise RuntimeError("an inner detail")
            case "slow":
                self.slow.set()
                await self.released.wait()
        return types.CallToolResult(content=[types.TextContent(text=params.name)])


@asynccontextmanager
async def probing(**changes: Any) -> AsyncIterator[tuple[Probe, httpx2.AsyncClient]]:
    probe = Probe()
    server: Server[Any] = Server("probe", on_call_tool=probe.call)
    server.get_tool_input_schema = lambda name: {"type": "object"}
    app = http_app(server, settings=settings(**changes), health=health, sse=False, ping_s=0.05)
    async with (
        app.router.lifespan_context(app),
        serve(app) as url,
        httpx2.AsyncClient(base_url=url, timeout=20) as http,
    ):
        yield probe, http


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


async def shaken(http: httpx2.AsyncClient, path: str = "/mcp") -> dict[str, str]:
    """Open a session; the headers for its requests."""
    opened = await http.post(path, headers=BOTH, json=HELLO)
    session = {**BOTH, "mcp-session-id": opened.headers["mcp-session-id"]}
    session["mcp-protocol-version"] = "2025-11-25"
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await http.post(path, headers=session, json=note)).status_code == 202
    return session


def call(name: str, number: int = 5) -> dict[str, Any]:
    """A call of the older era."""
    params = {"name": name, "arguments": {}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


async def test_a_session_answers_a_plain_call_with_a_plain_body() -> None:
    async with probing() as (_, http):
        session = await shaken(http)
        answer = await http.post("/mcp", headers=session, json=call("look"))
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["content"] == [{"type": "text", "text": "look"}]
    assert answer.headers["mcp-session-id"] == session["mcp-session-id"]


async def test_a_client_of_a_session_that_leaves_cancels_nothing_but_a_notification_does() -> None:
    async with probing() as (probe, http):
        session = await shaken(http)
        answers: list[httpx2.Response] = []

        async def ask() -> None:
            answers.append(await http.post("/mcp", headers=session, json=call("hang")))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await probe.began.wait()
                twice = await http.post("/mcp", headers=session, json=call("hang"))
                note = {
                    "jsonrpc": "2.0",
                    "method": "notifications/cancelled",
                    "params": {"requestId": 5},
                }
                await http.post("/mcp", headers=session, json=note)
            await probe.cancelled.wait()
    assert twice.status_code == 400
    assert answers[0].headers["content-type"] == "text/event-stream"
    assert "-32800" in answers[0].text


async def test_a_session_has_one_stream_and_ends_once() -> None:
    async with probing() as (_, http):
        session = await shaken(http)
        async with http.stream("GET", "/mcp", headers=session) as stream:
            assert stream.status_code == 200
            second = await http.get("/mcp", headers=session)
            assert (await http.delete("/mcp", headers=session)).status_code == 200
            with anyio.fail_after(20):
                async for _ in stream.aiter_bytes():
                    pass
        gone = await http.post("/mcp", headers=session, json=call("look"))
        blind = await http.get("/mcp", headers={**session, "accept": "application/json"})
    assert (second.status_code, gone.status_code, blind.status_code) == (409, 404, 404)


async def test_who_waits_in_a_session_that_ends_is_told() -> None:
    async with probing() as (probe, http):
        session = await shaken(http)
        answers: list[httpx2.Response] = []

        async def ask() -> None:
            answers.append(await http.post("/mcp", headers=session, json=call("hang")))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await probe.began.wait()
                await http.delete("/mcp", headers=session)
            await probe.cancelled.wait()
    assert answers[0].status_code == 404


async def test_what_is_no_message_of_a_session_is_refused() -> None:
    async with probing() as (_, http):
        session = await shaken(http)
        found = {
            "no session": await http.post("/mcp", headers=BOTH, json=call("look")),
            "no stream either": await http.get("/mcp", headers=BOTH),
            "no JSON": await http.post("/mcp", headers=session, content=b"{"),
            "no message": await http.post("/mcp", headers=session, content=b"{}"),
            "no SSE": await http.post(
                "/mcp", headers={**session, "accept": "application/json"}, json=call("look")
            ),
            "no type": await http.post(
                "/mcp", headers={**session, "content-type": "text/plain"}, content=b"{}"
            ),
            "blind": await http.get("/mcp", headers={**session, "accept": "application/json"}),
            "the other era": await http.post("/mcp", headers=session, content=plain()[1]),
        }
    assert {name: answer.status_code for name, answer in found.items()} == {
        "no session": 400,
        "no stream either": 400,
        "no JSON": 400,
        "no message": 400,
        "no SSE": 406,
        "no type": 400,
        "blind": 406,
        "the other era": 200,
    }
    assert found["no JSON"].json()["error"]["code"] == types.PARSE_ERROR
    assert found["no message"].json()["error"]["code"] == types.INVALID_PARAMS
    assert found["the other era"].json()["error"]["code"] == types.INVALID_REQUEST


async def test_a_handshake_that_fails_opens_no_session() -> None:
    async with probing() as (_, http):
        wrong = {**HELLO, "params": {}}
        opened = await http.post("/mcp", headers=BOTH, json=wrong)
        session = {**BOTH, "mcp-session-id": opened.headers["mcp-session-id"]}
        after = await http.post("/mcp", headers=session, json=call("look"))
    assert opened.json()["error"]["code"] == types.INVALID_PARAMS
    assert after.status_code == 404


async def test_without_sessions_each_request_stands_alone() -> None:
    async with probing(sessions=False) as (_, http):
        opened = await http.post("/mcp", headers=BOTH, json=HELLO)
        assert "mcp-session-id" not in opened.headers
        answer = await http.post("/mcp", headers=BOTH, json=call("look"))
        listening = await http.get("/mcp", headers=BOTH)
    assert '"text":"look"' in answer.text
    assert listening.status_code == 405


async def test_nobody_takes_the_sessions_of_all_others() -> None:
    sessions = Sessions(Server("probe"))
    made = [Session("key:alice" if number else "key:bob", 15) for number in range(MAX_SESSIONS)]
    for each in made:
        each._last_use -= 60
    made[7]._last_use -= 1
    sessions._open = {each.id: each for each in made}
    assert sessions._has_room()
    assert made[7].id not in sessions._open
    assert made[0].id in sessions._open
    assert len(sessions._open) == MAX_SESSIONS - 1
    made.append(Session("key:bob", 15))
    sessions._open[made[-1].id] = made[-1]
    for each in made:
        each.use(1)
    assert not sessions._has_room()
    for each in made:
        each.close()
        each.messages.close()
