"""The lab's Kubernetes API server on a socket, an adapter on it, and faults between the two."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_ops.adapter import Wiring
from mcp_ops.adapters.kubernetes.adapter import KubernetesAdapter
from mcp_ops.adapters.kubernetes.settings import KubernetesSettings
from mcp_ops.capabilities.deployments import DeploymentDetail
from mcp_ops.clock import Clock, SystemClock
from mcp_ops.lab.kubernetes.api import kubeconfig, kubernetes
from mcp_ops.lab.standin import StandIn
from mcp_ops.redact import Redactor
from mcp_ops.tool import Write

TOKEN = "lab-token-0123456789abcdef"
STEP_S = 0.02

Fault = Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class Between:
    """Stands before the API server. `faults` are used up one request each, in order, by the
    requests whose method and path the key names; `seen` is what came through."""

    app: ASGIApp
    faults: dict[tuple[str, str], list[Fault]] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.seen.append((scope["method"], scope["path"]))
            self.queries.append(scope["query_string"].decode())
            for (method, part), faults in self.faults.items():
                if faults and method == scope["method"] and part in scope["path"]:
                    return await faults.pop(0)(self.app, scope, receive, send)
        await self.app(scope, receive, send)
        return None

    def count(self, method: str, part: str) -> int:
        """How many requests of that method had that part in their path."""
        return sum(each == method and part in path for each, path in self.seen)

    def inject(self, method: str, part: str, *faults: Fault) -> None:
        """The next requests of that method whose path has that part meet these faults."""
        self.faults[method, part] = list(faults)


def answering(status: int, body: Any, headers: dict[str, str] | None = None) -> Fault:
    """Answer this instead of asking the server; a body that is no bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        raw = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    return fault


async def passed(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Nothing is wrong with this one."""
    await app(scope, receive, send)


def changed(change: Callable[[Any], None]) -> Fault:
    """Let the server do it, and change the JSON that it answers."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        content = bytearray()

        async def collect(message: Message) -> None:
            content.extend(message.get("body", b""))

        await app(scope, receive, collect)
        answer = json.loads(content)
        change(answer)
        await answering(200, answer)(app, scope, receive, send)

    return fault


async def lost(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Let the server do it, then break the connection in the middle of the answer."""

    async def swallow(message: Message) -> None:
        return None

    await app(scope, receive, swallow)
    await broken(app, scope, receive, send)


async def broken(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Break the connection in the middle of an answer, without asking the server."""
    headers = [(b"content-length", b"1000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{", "more_body": False})


async def silent(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Take the request and say nothing until the client goes."""
    while (await receive())["type"] != "http.disconnect":
        continue


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A served stand-in, an adapter on it, and what stands between them."""

    platform: KubernetesAdapter
    stand_in: StandIn
    between: Between
    redactor: Redactor
    http: httpx2.AsyncClient
    directory: Path
    url: str

    def patches(self) -> list[dict[str, Any]]:
        """The patches that the server really carried out, by its own log."""
        return [line for line in self.stand_in.log.read() if line.get("verb") == "patch"]

    async def raw(self, path: str) -> Any:
        """An object as the API has it."""
        return (await self.http.get(path)).json()

    async def patch(self, path: str, body: Any) -> None:
        """Change an object as somebody else would."""
        headers = {"content-type": "application/strategic-merge-patch+json"}
        answer = await self.http.patch(path, content=json.dumps(body), headers=headers)
        assert answer.status_code == 200, answer.text

    async def until(self, name: str, holds: Callable[[DeploymentDetail], bool]) -> DeploymentDetail:
        """Look until the workload is so."""
        with anyio.fail_after(5):
            while not holds(found := await self.platform.describe(name)):
                await anyio.sleep(STEP_S)
            return found


def write(
    *, call_id: str = "call-1", dry_run: bool = False, cancelled: Callable[[], bool] | None = None
) -> Write:
    """The frame of a write, in which a second of waiting is one step of the stand-in."""
    return Write(
        reason="the workers are wedged",
        dry_run=dry_run,
        call_id=call_id,
        principal="agent:test",
        progress=lambda done, total, text: None,
        cancelled=cancelled or (lambda: False),
        pause=lambda seconds: anyio.sleep(seconds * STEP_S),
    )


def wiring(directory: Path, redactor: Redactor | None = None, clock: Clock | None = None) -> Wiring:
    """What the composition root would give the adapter."""
    return Wiring(
        target="shop",
        clock=clock or SystemClock(),
        redactor=redactor or Redactor(),
        report_usage=lambda name, percent: None,
        directory=directory,
    )


@asynccontextmanager
async def served(app: ASGIApp, *, date: bool = True) -> AsyncIterator[str]:
    """Serve an application on a loopback socket and answer its URL; `date`: with the time."""
    bound = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    config = uvicorn.Config(
        app,
        log_level="critical",
        lifespan="on",
        timeout_graceful_shutdown=1,
        date_header=date,
    )
    server = uvicorn.Server(config)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [bound])
            with anyio.fail_after(5):
                while not server.started:
                    await anyio.sleep(0.005)
            try:
                yield url
            finally:
                server.should_exit = True
    finally:
        bound.close()


@asynccontextmanager
async def lab(directory: Path, **settings: Any) -> AsyncIterator[Lab]:
    """Everything, as a target `shop` of one namespace."""
    stand_in = kubernetes(directory=directory, token=TOKEN, settle_s=STEP_S)
    between = Between(stand_in.app)
    redactor = Redactor()
    async with served(between) as url:
        path = directory / "kubeconfig"
        path.write_text(kubeconfig(url, TOKEN), encoding="utf-8")
        options = KubernetesSettings(kubeconfig=str(path), **settings)
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with (
            KubernetesAdapter.open(options, wiring(directory, redactor)) as platform,
            httpx2.AsyncClient(base_url=url, headers=headers) as http,
        ):
            yield Lab(
                platform=platform,
                stand_in=stand_in,
                between=between,
                redactor=redactor,
                http=http,
                directory=directory,
                url=url,
            )
