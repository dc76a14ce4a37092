"""The transports on a socket in this process, and clients of them, for tests of HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import mcp_types as types
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from pydantic import SecretStr

from mcp_ops.settings import KeySettings, ServerSettings
from mcp_ops.transport_http import http_app, serve_http
from tests.served import serve
from tests.transport_peer import build, health

VERSION = "2026-07-28"
ALICE, BOB = "alice-key-0123456789", "bob-key-9876543210"
TWO_KEYS = (
    KeySettings(name="alice", key=SecretStr(ALICE), scopes=("ops:read",), host_confirms=True),
    KeySettings(name="bob", key=SecretStr(BOB)),
)
SEAL = [b"s" * 32]
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
async def probing(
    *, sse: bool = False, **changes: Any
) -> AsyncIterator[tuple[Probe, httpx2.AsyncClient]]:
    """The probe on a socket, and a client of it."""
    probe = Probe()
    server: Server[Any] = Server("probe", on_call_tool=probe.call)
    server.get_tool_input_schema = lambda name: {"type": "object"}
    app = http_app(server, settings=settings(**changes), health=health, sse=sse, ping_s=0.05)
    async with (
        app.router.lifespan_context(app),
        serve(app) as url,
        httpx2.AsyncClient(base_url=url, timeout=20) as http,
    ):
        yield probe, http


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


class Stream:
    """An SSE stream in the hands of a test: what is posted for it, and what comes on it."""

    def __init__(self, http: httpx2.AsyncClient, lines: AsyncIterator[str], path: str) -> None:
        self._http = http
        self._lines = lines
        self.path = path

    async def post(self, message: Any, key: str = "") -> int:
        """Post a message, or bytes that are none; the status."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        head = {**BOTH, **bearer(key)}
        return (await self._http.post(self.path, headers=head, content=data)).status_code

    async def event(self) -> dict[str, Any] | None:
        """The next message; None at the end of the stream."""
        async for line in self._lines:
            if line.startswith("data: "):
                found: dict[str, Any] = json.loads(line.removeprefix("data: "))
                return found
        return None

    async def ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Post a message and wait for the next event."""
        assert await self.post(message) == 202
        return await self.event()

    async def shake(self) -> None:
        """Begin a session of the older era."""
        assert (await self.ask(HELLO) or {}).get("result")
        assert await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}) == 202


@asynccontextmanager
async def streaming(http: httpx2.AsyncClient, *, shake: bool = True) -> AsyncIterator[Stream]:
    """An open SSE stream; with `shake` in the era of sessions."""
    async with http.stream("GET", "/sse") as answer:
        lines = answer.aiter_lines()
        stream = Stream(http, lines, await endpoint(lines))
        if shake:
            await stream.shake()
        yield stream
