"""The guarded server over HTTP on a socket, with a door of its own, and somebody in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
from pydantic import SecretStr
from starlette.applications import Starlette

from mcp_ops.app_http import step_up
from mcp_ops.approval_page import key_page
from mcp_ops.auth.door import Door, open_door
from mcp_ops.auth.keys import KeyBook
from mcp_ops.auth.ring import KeyRing
from mcp_ops.clock import ManualClock
from mcp_ops.guard.people import People
from mcp_ops.guard.targets import TargetInfo
from mcp_ops.settings import KeySettings, ServerSettings
from mcp_ops.transport_http import http_app, serve_http
from mcp_ops.transport_probes import probe_routes
from tests.auth.issuer import URL, OidcIssuer
from tests.guard.bench import OPEN, TWO, Bench, bench
from tests.guard.shelf import SHELF_TOOLS
from tests.transport_peer import health

VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}
ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
ALICE, BOB = "alice-key-0123456789", "bob-key-9876543210"
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


async def metrics(_: str) -> tuple[bytes, str]:
    """What a scraper gets here."""
    return b"calls 1", "text/plain"


def key(name: str, secret: str, *scopes: str, **more: Any) -> KeySettings:
    """A key of the configuration."""
    given = {"scopes": scopes} if scopes else {}
    return KeySettings.model_validate({"name": name, "key": SecretStr(secret), **given, **more})


def oidc(issuer: OidcIssuer, **more: Any) -> dict[str, Any]:
    """Settings of an issuer."""
    return {"name": "sso", "issuer": issuer.iss, **more}


@dataclass
class Standing:
    """An open server and a client without credentials of its own."""

    b: Bench
    app: Starlette
    door: Door
    ring: KeyRing
    http: httpx2.AsyncClient
    url: str

    @property
    def book(self) -> KeyBook:
        """The created keys."""
        assert self.ring.book is not None
        return self.ring.book

    async def ask(
        self,
        method: str,
        token: str = "",
        *,
        headers: Any = None,
        **params: Any,
    ) -> httpx2.Response:
        """A request of the revision without sessions."""
        head = {**ACCEPT, "mcp-protocol-version": VERSION, "mcp-method": method, **(headers or {})}
        if token:
            head["authorization"] = f"Bearer {token}"
        if "name" in params:
            head["mcp-name"] = params["name"]
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
        return await self.http.post("/mcp", headers=head, json=body)

    async def call(self, tool: str, token: str = "", **arguments: Any) -> httpx2.Response:
        """A call of a tool."""
        return await self.ask("tools/call", token, name=tool, arguments=arguments)

    async def tools(self, token: str = "") -> dict[str, Any]:
        """The tools that somebody sees, by name, with their schemas."""
        answer = await self.ask("tools/list", token)
        assert answer.status_code == 200, answer.text
        return {tool["name"]: tool["inputSchema"] for tool in answer.json()["result"]["tools"]}

    async def refused(self, tool: str, token: str, **arguments: Any) -> dict[str, Any]:
        """The error that a call ends in."""
        import json

        result = (await self.call(tool, token, **arguments)).json()["result"]
        assert result["isError"], result
        error: dict[str, Any] = json.loads(result["content"][0]["text"])["error"]
        return error


@asynccontextmanager
async def standing(
    path: Path,
    *,
    clock: ManualClock | None = None,
    infos: tuple[TargetInfo, ...] = TWO,
    url: str = URL,
    guard: Any = OPEN,
    **server: Any,
) -> AsyncIterator[Standing]:
    """Serve the bench's tools behind these settings of `[server]`."""
    chosen = ServerSettings.model_validate({"port": 0, "url": url, **server})
    stop, ready = anyio.Event(), anyio.Event()
    urls: list[str] = []

    def tell(base: str) -> None:
        urls.append(base)
        ready.set()

    with anyio.fail_after(30):
        async with bench(path, clock=clock, infos=infos, settings=guard) as b:
            book = KeyBook(b.stores.ledger, b.clock.now)
            ring = KeyRing(chosen.keys, b.clock, book=book, grants=chosen.grants)
            await ring.refresh()
            people = People(
                approvals=b.stores.approvals,
                ledger=b.stores.ledger,
                policy=b.guard.policy,
                clock=b.clock,
                redactor=b.redactor,
            )
            async with open_door(chosen, ring, clock=b.clock, redactor=b.redactor) as door:
                app = http_app(
                    b.server.mcp,
                    settings=chosen,
                    health=health,
                    sse=True,
                    pages=[*key_page(people, ring, b.clock), *probe_routes(health, metrics)],
                    door=door,
                    step_up=step_up(SHELF_TOOLS, b.stores.ledger, b.clock),
                )

                async def serve() -> None:
                    await serve_http(app, settings=chosen, stop=stop, on_ready=tell)

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(serve)
                    await ready.wait()
                    async with httpx2.AsyncClient(base_url=urls[0], timeout=20) as http:
                        yield Standing(b, app, door, ring, http, urls[0])
                    stop.set()
