"""Workers in this process that hand each other connections, and clients with raw bytes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from asyncio import Protocol
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
import uvicorn
import uvloop
from anyio.abc import SocketStream
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcp_ops.transport_answer import new_session_id
from mcp_ops.transport_connection import MAX_HEAD, guarded_protocol
from mcp_ops.transport_handing import handing
from mcp_ops.transport_http import _Serving
from mcp_ops.transport_inbox import Inbox, Worker, bound_inboxes
from tests.served import loopback

AWAY = 4
"""A number that no worker of these tests has."""


@dataclass
class Standing:
    """A worker in this process, on a port of its own: a test chooses who takes a connection."""

    number: int
    port: int
    inbox: Inbox
    serving: _Serving
    heard: list[str] = field(default_factory=list)
    go_on: anyio.Event = field(default_factory=anyio.Event)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what it knows of a request; `/late` when the test says so, `/early` before it
        has the body, `/big` with much."""
        self.heard.append(scope["path"])
        size = 0
        while scope["path"] != "/early":
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        if scope["path"] == "/late":
            await self.go_on.wait()
        facts = {"worker": self.number, "size": size, "client": scope["client"]}
        facts |= {"path": scope["path"], "method": scope["method"]}
        body = json.dumps(facts).encode() + (b" " * 8_000_000 if scope["path"] == "/big" else b"")
        head = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    @property
    def connections(self) -> int:
        return len(self.serving.server_state.connections)


@asynccontextmanager
async def standing(
    base: type[Protocol], *, take_s: float = 20, **bounds: Any
) -> AsyncIterator[list[Standing]]:
    """Three workers. `workers[1]` is the one of number 2."""
    with bound_inboxes(3) as inboxes:
        async with AsyncExitStack() as stack:
            made = []
            for number in (1, 2, 3):
                bound, url = loopback()
                inherited = socket.socket(fileno=os.dup(inboxes.descriptor(number)))
                stack.enter_context(inherited)
                worker = Worker(
                    number=number, listener=bound, inbox=inherited, directory=inboxes.directory
                )
                inbox = Inbox(worker, take_s=take_s)
                config = uvicorn.Config(
                    None,  # type: ignore[arg-type] # it is set below
                    log_level="critical",
                    lifespan="off",
                    ws="none",
                    interface="asgi3",
                    http=guarded_protocol(base, over=handing(inbox), **bounds),
                    h11_max_incomplete_event_size=MAX_HEAD,
                )
                port = int(url.rpartition(":")[2])
                serving = _Serving(config, lambda: None, inbox)
                each = Standing(number=number, port=port, inbox=inbox, serving=serving)
                config.app = each.app
                config.load()
                serving.lifespan = config.lifespan_class(config)
                await serving.startup(sockets=[bound])
                stack.push_async_callback(serving.shutdown, [bound])
                made.append(each)
            with anyio.fail_after(30):
                yield made


def on_each(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test with both parsers, on both loops."""

    @pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
    @pytest.mark.parametrize("base", [HttpToolsProtocol, H11Protocol])
    def run(base: type[Protocol], loop: Any) -> None:
        anyio.run(test, base, backend_options={"loop_factory": loop})

    run.__name__ = test.__name__
    each: Callable[..., None] = run
    return each


def request(
    worker: int = 0, path: str = "/mcp", *, body: bytes = b"", method: str = "POST", **more: str
) -> bytes:
    """A request of a session of this worker; 0 is of none."""
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", "Accept: text/event-stream"]
    if worker:
        head.append(f"Mcp-Session-Id: {new_session_id(worker)}")
    head += [f"{name}: {value}" for name, value in more.items()]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


async def answer(stream: SocketStream) -> dict[str, Any]:
    """What the next answer says, with its status."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += await stream.receive()
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    size = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    while len(body) < size:
        body += await stream.receive()
    assert len(body) == size
    facts = json.loads(body) if body.startswith(b"{") else {}
    return {"status": int(lines[0].split()[1]), **facts}


async def rest(stream: SocketStream) -> bytes:
    """Everything until the other side hangs up."""
    got = b""
    try:
        while True:
            got += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return got


async def connected(worker: Standing) -> SocketStream:
    """A connection that this worker takes."""
    return await anyio.connect_tcp("127.0.0.1", worker.port)


async def until(found: Callable[[], Any]) -> None:
    """Wait for what no event tells."""
    while not found():
        await anyio.sleep(0.01)


@contextmanager
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection; the server's is second."""
    bound, _ = loopback()
    with bound, socket.socket() as client:
        bound.listen()
        client.connect(bound.getsockname())
        taken, _ = bound.accept()
        with taken:
            yield client, taken
