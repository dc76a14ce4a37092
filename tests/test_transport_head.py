"""The head of a response waits for its body, and never for long."""

from __future__ import annotations

from asyncio import BaseTransport, Protocol
from typing import Any

import anyio
import httpx2
import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcp_ops.transport_connection import NEXT_TURN, guarded_protocol
from tests.served import serve

BOTH = pytest.mark.parametrize("base", [HttpToolsProtocol, H11Protocol])


class Written:
    """A transport that remembers what is written to it."""

    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def watched(base: Any) -> tuple[type[Protocol], list[bytes]]:
    """A bounded protocol, and what it writes."""
    writes: list[bytes] = []

    class Watched(base):  # type: ignore[misc]
        def connection_made(self, transport: BaseTransport) -> None:
            super().connection_made(transport)
            self.transport = Written(transport, writes)

    return guarded_protocol(Watched), writes


class Late:
    """Answers `/late` with a body that waits for the test, `/empty` with none, others at once."""

    def __init__(self) -> None:
        self.go_on = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = b"0" if scope["path"] == "/empty" else b"4"
        head = [(b"content-length", size)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        if scope["path"] == "/late":
            await self.go_on.wait()
        if scope["path"] != "/empty":
            await send({"type": "http.response.body", "body": b"bo", "more_body": True})
            await send({"type": "http.response.body", "body": b"dy", "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@BOTH
async def test_a_response_begins_with_one_write(base: type[Protocol]) -> None:
    protocol, writes = watched(base)
    async with serve(Late(), http=protocol) as url, httpx2.AsyncClient(base_url=url) as http:
        with anyio.fail_after(20):
            answers = [await http.get("/"), await http.get("/")]
            empty = await http.get("/empty")
            bare = await http.head("/")
    assert [answer.text for answer in answers] == ["body", "body"]
    assert (empty.status_code, empty.text, bare.status_code) == (200, "", 200)
    for write in (write for write in writes if write.startswith(b"HTTP/1.1 200")):
        assert write.endswith((b"\r\n\r\nbo", b"\r\n\r\n"))
    assert sum(write.endswith(b"bo") for write in writes) == 2


@BOTH
async def test_a_head_does_not_wait_for_a_body_that_is_late(base: type[Protocol]) -> None:
    protocol, _ = watched(base)
    late = Late()
    async with serve(late, http=protocol) as url, httpx2.AsyncClient(base_url=url) as http:
        with anyio.fail_after(20):
            async with http.stream("GET", "/late") as answer:
                assert answer.status_code == 200
                late.go_on.set()
                assert await answer.aread() == b"body"


@BOTH
async def test_a_connection_that_closes_behind_its_answer_loses_nothing(
    base: type[Protocol],
) -> None:
    protocol, _ = watched(base)
    async with serve(Late(), http=protocol) as url, httpx2.AsyncClient(base_url=url) as http:
        with anyio.fail_after(20):
            answer = await http.get("/empty", headers={"connection": "close"})
            whole = await http.get("/", headers={"connection": "close"})
    assert (answer.status_code, whole.text) == (200, "body")


@BOTH
async def test_a_response_that_may_wait_is_written_behind_what_others_are_told(
    base: type[Protocol],
) -> None:
    protocol, writes = watched(base)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope[NEXT_TURN] = True
        head = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 202, "headers": head})
        await send({"type": "http.response.body", "body": b"body"})
        writes.append(b"told")
        await over.wait()  # however long the rest takes

    over = anyio.Event()
    async with serve(app, http=protocol) as url, httpx2.AsyncClient(base_url=url) as http:
        with anyio.fail_after(20):
            answers = [await http.post("/"), await http.post("/")]
            last = await http.post("/", headers={"connection": "close"})
        over.set()
    assert [answer.text for answer in (*answers, last)] == ["body"] * 3
    kinds = ["told" if write == b"told" else "whole" for write in writes]
    # The last one is written as its connection closes.
    assert kinds == ["told", "whole", "told", "whole", "whole", "told"]
    assert sum(write.endswith(b"\r\n\r\nbody") for write in writes) == 3
