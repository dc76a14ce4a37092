"""The official Python client 2.x over every transport, in both protocol eras."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import mcp_types as types
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests.clients.live import ROOT, Place, serving
from tests.clients.sweep import Said, said

TRANSPORTS = ("stdio", "sse", "http")
MODERN = "2026-07-28"
ERAS = (MODERN, "2025-11-25", "2025-03-26")
CALL_S = 60.0
# What the client can't say by itself; it is put in place of this on its way.
NAN = "@@NaN@@"


@dataclass(slots=True)
class Person:
    """Who sits at the client and says yes."""

    asked: list[str] = field(default_factory=list)

    async def __call__(
        self, context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult:
        """Accept."""
        self.asked.append(params.message)
        return types.ElicitResult(action="accept", content={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A connected client, and the calls of the sweep through it."""

    client: Client
    era: str

    async def call(self, tool: str, arguments: dict[str, Any]) -> Said:
        """Call a tool; the text is JSON in successes and errors."""
        result = await self.client.call_tool(tool, arguments, read_timeout_seconds=CALL_S)
        (block,) = result.content
        assert isinstance(block, types.TextContent)
        return said(block.text, result.structured_content, bool(result.is_error))


@asynccontextmanager
async def connected(
    place: Place, transport: str, era: str, *, person: Person | None = None
) -> AsyncIterator[Conversation]:
    """A server of its own, and the client on it."""
    if transport == "stdio":
        command = place.command("serve", "--transport", "stdio")
        parameters = StdioServerParameters(
            command=command[0], args=command[1:], env=place.environment, cwd=ROOT
        )
        with place.stderr.open("a", encoding="utf-8") as stderr:
            async with speaking(stdio_client(parameters, errlog=stderr), era, person) as talk:
                yield talk
        return
    async with (
        serving(place, transport) as server,
        remote(server.endpoint(transport), transport, era, person=person) as talk,
    ):
        yield talk


@asynccontextmanager
async def remote(
    url: str, transport: str, era: str, *, person: Person | None = None
) -> AsyncIterator[Conversation]:
    """The client on a server that runs."""
    if transport == "sse":
        streams = sse_client(url, httpx_client_factory=_with_nan)
        async with speaking(streams, era, person) as talk:
            yield talk
        return
    async with (
        _with_nan() as http,
        speaking(streamable_http_client(url, http_client=http), era, person) as talk,
    ):
        yield talk


@asynccontextmanager
async def speaking(
    streams: AbstractAsyncContextManager[Any], era: str, person: Person | None
) -> AsyncIterator[Conversation]:
    """The client on a transport, in one revision of the protocol."""
    legacy = era != MODERN
    offered = _offering(streams, era) if legacy else streams
    async with Client(
        offered,
        mode="legacy" if legacy else era,
        elicitation_callback=person,
    ) as client:
        assert client.protocol_version == era
        yield Conversation(client=client, era=era)


class _NanTransport(httpx2.AsyncHTTPTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        if NAN.encode() in body:
            content = body.replace(f'"{NAN}"'.encode(), b"NaN")
            headers = {k: v for k, v in request.headers.items() if k != "content-length"}
            request = httpx2.Request(
                request.method,
                request.url,
                headers=headers,
                content=content,
                extensions=request.extensions,
            )
        return await super().handle_async_request(request)


def _with_nan(
    headers: dict[str, str] | None = None,
    timeout: httpx2.Timeout | None = None,
    auth: httpx2.Auth | None = None,
) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        headers=headers,
        timeout=timeout or httpx2.Timeout(20, read=300),
        auth=auth,
        transport=_NanTransport(),
        follow_redirects=True,
    )


class _Offer:
    """A write stream that offers another revision than the client's newest."""

    def __init__(self, inner: Any, version: str) -> None:
        self._inner = inner
        self._version = version

    async def send(self, item: Any) -> None:
        """Send on; the first request names our revision."""
        message = item.message
        if getattr(message, "method", "") == "initialize":
            message.params["protocolVersion"] = self._version
        await self._inner.send(item)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._inner.aclose()

    async def __aenter__(self) -> _Offer:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> Any:
        return await self._inner.__aexit__(*exc)


@asynccontextmanager
async def _offering(
    streams: AbstractAsyncContextManager[Any], version: str
) -> AsyncIterator[tuple[Any, Any]]:
    async with streams as (reading, writing, *_):
        yield reading, _Offer(writing, version)
