"""The front of /mcp answers as the SDK would: shortcuts are held against the SDK itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import httpx2

from mcp_ops.auth.principal import HttpPrincipal
from tests.over_http import modern, running, settings
from tests.served import serve
from tests.transport_peer import build

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
