"""An open approval page over real sockets, a browser in front of it and the guard behind it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
from pydantic import SecretStr

from mcp_ops.approval_page import COOKIE, approval_routes
from mcp_ops.approval_page_sessions import (
    Credentials,
    KeyCredentials,
)
from mcp_ops.auth.ring import KeyRing
from mcp_ops.clock import ManualClock
from mcp_ops.guard.people import People
from mcp_ops.settings import GuardSettings, KeySettings, ServerSettings
from mcp_ops.transport_http import page_app
from tests.guard.bench import AGENT, WHY, Bench, bench
from tests.served import serve

ADA, BOB, PLAIN = "ada-key-0123456789ab", "bob-key-0123456789ab", "plain-key-0123456789"
APPROVES: Any = ("ops:read", "ops:write", "ops:destroy", "ops:approve")
KEYS = (
    KeySettings(name="ada", key=SecretStr(ADA), scopes=APPROVES),
    KeySettings(name="bob", key=SecretStr(BOB), scopes=APPROVES),
    KeySettings(name="plain", key=SecretStr(PLAIN)),
)
TEAM = GuardSettings.model_validate({"profile": "team"})
X = {"name": "x", "reason": WHY}
SIGNED_IN = 303


def desk(b: Bench) -> People:
    return People(
        approvals=b.stores.approvals,
        ledger=b.stores.ledger,
        policy=b.guard.policy,
        clock=b.clock,
        redactor=b.redactor,
    )


@dataclass
class Browser:
    """What a browser does with the page: it keeps the cookie, and names its origin with forms."""

    http: httpx2.AsyncClient
    base: str
    csrf: str = ""
    cookie: str = ""
    place: str = ""
    origin: str | None = ""

    def headers(self, **more: str) -> dict[str, str]:
        sent = {"cookie": f"{COOKIE}={self.cookie}"} if self.cookie else {}
        return {**sent, **more}

    async def get(self, path: str = "", **more: str) -> httpx2.Response:
        return await self.http.get(
            f"{self.base}/approvals{self.place}{path}", headers=self.headers(**more)
        )

    async def post(
        self, path: str, fields: Mapping[str, str] | None = None, **more: str
    ) -> httpx2.Response:
        origin = self.base if self.origin == "" else self.origin
        named = {} if origin is None else {"origin": origin}
        return await self.http.post(
            f"{self.base}/approvals{self.place}{path}",
            data={"csrf": self.csrf} if fields is None else dict(fields),
            headers=self.headers(**named, **more),
        )

    async def sign_in(self, secret: str = ADA, **more: str) -> httpx2.Response:
        response = await self.post("/sign-in", {"secret": secret}, **more)
        if response.status_code == SIGNED_IN:
            self.cookie = re.findall(rf"{COOKIE}=([^;]+)", response.headers["set-cookie"])[0]
            self.place = re.findall(r"/~[\w-]+", response.headers["location"])[0]
            self.csrf = re.findall(r'name="csrf" value="([^"]+)"', (await self.get()).text)[0]
        return response

    async def answer(self, question: str, verb: str, note: str = "seen") -> httpx2.Response:
        return await self.post(f"/{question}/{verb}", {"csrf": self.csrf, "note": note})


@dataclass
class Desk:
    """An open page, a browser in front of it and the guard behind it."""

    b: Bench
    browser: Browser

    async def ask(self, name: str = "x", principal: str = "agent:test@host") -> str:
        caller = replace(AGENT, principal=principal)
        refusal = await self.b.error("drop_item", caller, name=name, reason=WHY)
        return str(refusal["details"]["approval_id"])

    async def state(self, question: str) -> str:
        found = await self.b.stores.approvals.get(question)
        assert found is not None
        return found.state


@asynccontextmanager
async def open_page(
    path: Path, *, credentials: Credentials | None = None, **server: Any
) -> AsyncIterator[Desk]:
    chosen = ServerSettings.model_validate({"port": 0, **server})
    who = credentials or KeyCredentials(KeyRing(KEYS, ManualClock()))
    with anyio.fail_after(20):
        async with bench(path, settings=TEAM) as b:
            app = page_app(approval_routes(desk(b), who, b.clock), chosen)
            async with serve(app) as base, httpx2.AsyncClient() as http:
                yield Desk(b, Browser(http, base))


@asynccontextmanager
async def signed_in(path: Path, secret: str = ADA) -> AsyncIterator[tuple[Desk, str]]:
    async with open_page(path) as page:
        assert (await page.browser.sign_in(secret)).status_code == SIGNED_IN
        yield page, await page.ask()
