"""The lab's Railway on a socket, an adapter on it, and faults between the two."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_ops.adapters.railway.adapter import RailwayAdapter, RailwaySettings
from mcp_ops.capabilities.deployments import DeploymentDetail
from mcp_ops.clock import SystemClock
from mcp_ops.lab.railway.api import PATH, RailwayApi, railway_with_world
from mcp_ops.lab.railway.world import World
from mcp_ops.lab.standin import StandIn
from mcp_ops.redact import Redactor
from tests.kubernetes_lab import STEP_S, Fault, wiring
from tests.served import serve

TOKEN = "project-token-0123456789"
ACCOUNT = "account-token-0123456789"
WORKSPACE = "workspace-token-0123456789"
FOREIGN = "foreign-token-0123456789"
BACKEND = "ecommerce-backend"


@dataclass(slots=True)
class Between:
    """Stands before the API. `faults` are used up one request each, in order, by the requests of
    the operation that the key names; `seen` is what came through."""

    app: ASGIApp
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        name = str(json.loads(body)["operationName"])
        self.seen.append(name)
        self.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
        left: list[Message] = [{"type": "http.request", "body": bytes(body)}]

        async def again() -> Message:
            return left.pop() if left else await receive()

        if self.faults.get(name):
            return await self.faults[name].pop(0)(self.app, scope, again, send)
        return await self.app(scope, again, send)

    def inject(self, name: str, *faults: Fault) -> None:
        """The next requests of that operation meet these faults."""
        self.faults[name] = list(faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A served stand-in, an adapter on it, and what stands between them."""

    platform: RailwayAdapter
    stand_in: StandIn
    api: RailwayApi
    between: Between
    redactor: Redactor
    url: str
    directory: Path

    @property
    def world(self) -> World:
        """What is inside, to act as somebody else would."""
        return self.api.world

    def effects(self) -> list[str]:
        """What really happened, by the stand-in's own log."""
        return [line["effect"] for line in self.stand_in.log.read()]

    async def until(self, name: str, **holds: Any) -> DeploymentDetail:
        """Look until the service is so."""
        with anyio.fail_after(20):
            while True:
                found = await self.platform.describe(name)
                if all(getattr(found, key) == value for key, value in holds.items()):
                    return found
                await anyio.sleep(STEP_S)


def settings(base: str, /, **more: Any) -> RailwaySettings:
    """Those of a target with the project token of its environment."""
    given = {
        "token": SecretStr(TOKEN),
        "steady_s": 0.0,
        "recheck_s": STEP_S,
        "url": f"{base}{PATH}",
        **more,
    }
    return RailwaySettings.model_validate(given)


@asynccontextmanager
async def lab(directory: Path, **more: Any) -> AsyncIterator[Lab]:
    """Everything, as a target `shop`."""
    stand_in, api = railway_with_world(
        directory=directory,
        token=TOKEN,
        account_token=ACCOUNT,
        workspace_token=WORKSPACE,
        foreign_token=FOREIGN,
        settle_s=STEP_S,
    )
    between = Between(stand_in.app)
    redactor = Redactor()
    async with serve(between) as url:
        wired = wiring(directory, redactor, SystemClock())
        async with RailwayAdapter.open(settings(url, **more), wired) as platform:
            yield Lab(
                platform=platform,
                stand_in=stand_in,
                api=api,
                between=between,
                redactor=redactor,
                url=url,
                directory=directory,
            )
