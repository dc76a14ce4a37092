"""Slow and greedy clients on raw sockets: cut in time, and nobody else waits for them."""

from __future__ import annotations

from asyncio import Protocol
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import uvicorn
from anyio.abc import SocketStream
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcp_ops.auth.principal import Admitted, HttpPrincipal
from mcp_ops.transport_connection import MAX_HEAD, Bounds, guarded_protocol
from mcp_ops.transport_edge import MAX_OPEN_BODY
from mcp_ops.transport_handing import handing
from mcp_ops.transport_inbox import Inbox, Worker
from mcp_ops.transport_refusals import MAX_BODY
from mcp_ops.transport_streams import MAX_STREAMS_EACH
from tests.auth.standing import ACCEPT, ALICE, BOB, Standing, key, standing
from tests.served import loopback


@dataclass(frozen=True)
class Several:
    """The same where there are several workers."""

    base: type[Protocol]


BASES = (HttpToolsProtocol, H11Protocol)
BOTH = pytest.mark.parametrize("base", [*BASES, *map(Several, BASES)])
GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
BIG = 16 * 1024 * 1024  # more than the system keeps for a reader


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once; `/big` with much, `/read` after the whole body, `/stay` with nothing."""
    while scope["path"] == "/read" and (await receive()).get("more_body"):
        pass
    while scope["path"] == "/stay" and (await receive())["type"] != "http.disconnect":
        pass
    size = BIG if scope["path"] == "/big" else 2
    head = [(b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    for _ in range(size // 65_536):
        await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
    await send({"type": "http.response.body", "body": b"ok" if size == 2 else b""})


@asynccontextmanager
async def serving(base: Any, **bounds: Any) -> AsyncIterator[tuple[int, Any]]:
    """A port behind bounds of the test; and the server."""
    bound, url = loopback()
    over = Bounds
    if isinstance(base, Several):
        here = Worker(number=1, listener=bound, inbox=bound, directory=Path("nowhere"))
        base, over = base.base, handing(Inbox(here))
    config = uvicorn.Config(
        app,
        log_level="critical",
        lifespan="off",
        ws="none",
        http=guarded_protocol(base, over=over, **bounds),
        h11_max_incomplete_event_size=MAX_HEAD,
        timeout_keep_alive=30,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[bound])
    try:
        with anyio.fail_after(30):
            yield int(url.rpartition(":")[2]), server
    finally:
        await server.shutdown(sockets=[bound])


async def rest(stream: SocketStream) -> bytes:
    """Everything until the other side hangs up."""
    got = bytearray()
    try:
        while True:
            got += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return bytes(got)


@BOTH
@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET, GET + b"x: "])
async def test_a_head_that_does_not_end_is_cut(base: Any, sent: bytes) -> None:
    async with (
        serving(base, head_s=0.2) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        if sent:
            await stream.send(sent)
        got = await rest(stream)
    assert got.startswith(b"HTTP/1.1 408") if sent else got == b""


@BOTH
async def test_a_trickling_head_is_cut_also_on_a_connection_that_was_used(
    base: Any,
) -> None:
    async with (
        serving(base, head_s=0.3) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send(GET + b"\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 200")
        got: list[bytes] = []

        async def trickle() -> None:
            try:
                while True:  # each byte alone would keep a connection open for ever
                    await stream.send(b"G")
                    await anyio.sleep(0.02)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trickle)
            got.append(await rest(stream))
            tasks.cancel_scope.cancel()
    # An answer about the nonsense, or one about the time: the connection is closed.
    assert b"HTTP/1.1 40" in b"".join(got)


@BOTH
async def test_a_head_without_an_end_takes_no_memory(base: Any) -> None:
    async with (
        serving(base) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        got = b""
        try:
            await stream.send(GET)
            for _ in range(64):
                await stream.send(b"x-long: " + b"y" * 16_384 + b"\r\n")
        except anyio.BrokenResourceError:
            pass
        got = await rest(stream)
    assert got == b"" or b"HTTP/1.1 4" in got


@BOTH
async def test_who_does_not_read_is_cut(base: Any) -> None:
    async with (
        serving(base, stall_s=0.2) as (port, server),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send(GET.replace(b"/ ", b"/big ") + b"\r\n")
        while not server.server_state.tasks:
            await anyio.sleep(0.01)
        while server.server_state.tasks:  # it waits for a reader, and then no longer
            await anyio.sleep(0.02)
        assert len(await rest(stream)) < BIG


@BOTH
async def test_a_slow_reader_that_reads_is_served(base: Any) -> None:
    async with (
        serving(base, stall_s=5) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send(GET.replace(b"/ ", b"/big ") + b"connection: close\r\n\r\n")
        assert len(await rest(stream)) > BIG


@BOTH
async def test_a_body_that_nobody_waits_for_is_cut(base: Any) -> None:
    async with (
        serving(base, linger_s=0.2) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send(GET.replace(b"GET", b"POST") + b"content-length: 1000000\r\n\r\nx")
        assert (await stream.receive()).startswith(b"HTTP/1.1 200")
        assert await rest(stream) == b""


@BOTH
async def test_requests_one_after_the_other_are_not_cut(base: Any) -> None:
    async with (
        serving(base, head_s=0.5, linger_s=0.1) as (port, _),
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        for body in (b"", b"x" * 200_000, b"y"):
            for path in ("/", "/read"):
                assert (await http.post(path, content=body)).text == "ok"
        await anyio.sleep(0.7)  # longer than a head or a body may take; idle is neither
        assert (await http.get("/")).text == "ok"


@BOTH
async def test_a_connection_stays_whose_body_came_behind_its_answer(base: Any) -> None:
    async with (
        serving(base) as (port, server),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send(GET.replace(b"GET", b"POST") + b"content-length: 3\r\n\r\nx")
        assert (await stream.receive()).startswith(b"HTTP/1.1 200")
        await stream.send(b"yz")
        (connection,) = server.server_state.connections
        while connection.cycle.more_body:
            await anyio.sleep(0.01)
        connection._lingers(connection.cycle)  # the time is over that the rest has
        await stream.send(GET + b"\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 200")


@BOTH
async def test_the_rest_of_an_answered_body_gets_no_answer_of_its_own(base: Any) -> None:
    size = 10 * MAX_HEAD
    async with (
        serving(base, head_s=0.3) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send(GET.replace(b"GET", b"POST") + b"content-length: %d\r\n\r\n" % size)
        assert (await stream.receive()).startswith(b"HTTP/1.1 200")
        await stream.send(b"x" * size)
        assert await rest(stream) == b""  # idle from then on, it is closed without a word


@BOTH
@pytest.mark.parametrize("length", [b"content-length: 100", b"transfer-encoding: chunked"])
async def test_a_body_that_trickles_is_cut_and_nobody_waits_for_it(
    base: Any, length: bytes
) -> None:
    async with (
        serving(base, body_s=0.5) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        await stream.send(b"POST /read HTTP/1.1\r\nhost: x\r\n" + length + b"\r\n\r\n")
        await stream.send(b"1\r\n{\r\n" if b"chunked" in length else b"{")
        assert (await http.get("/")).text == "ok"
        got = await rest(stream)
    assert got.startswith(b"HTTP/1.1 408")


@BOTH
async def test_of_too_many_connections_the_last_is_cut(base: Any) -> None:
    async with (
        serving(base, most=2) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as first,
        await anyio.connect_tcp("127.0.0.1", port),
    ):
        async with await anyio.connect_tcp("127.0.0.1", port) as third:
            assert await rest(third) == b""
        await first.send(GET + b"\r\n")
        assert (await first.receive()).startswith(b"HTTP/1.1 200")


# ---- what the edge does


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[tuple[Standing, SocketStream]]:
    """A server, and a socket to it."""
    async with standing(path, keys=[key("alice", ALICE), key("bob", BOB)]) as s:
        port = int(s.url.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            yield s, stream


def posted(*lines: str, token: str = ALICE) -> bytes:
    head = ["POST /mcp HTTP/1.1", "host: localhost", f"authorization: Bearer {token}", *lines]
    return "\r\n".join([*head, "", ""]).encode()


async def test_a_stranger_is_refused_before_the_body_is_read(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, stream):
        await stream.send(posted("content-length: 100", "expect: 100-continue", token="x"))
        got = await stream.receive()
    assert got.startswith(b"HTTP/1.1 401")


async def test_of_a_stranger_no_large_body_is_kept(tmp_path: Path) -> None:
    """On the routes that are open to all: the rest of it is not even waited for."""
    async with connected(tmp_path) as (_, stream):
        head = ["POST /approvals/sign-in HTTP/1.1", "host: localhost", "content-length: 1000000"]
        await stream.send("\r\n".join([*head, "", ""]).encode() + b"x" * (MAX_OPEN_BODY + 1))
        got = await stream.receive()
    assert got.startswith(b"HTTP/1.1 413")


async def test_a_client_that_goes_away_with_half_a_body_leaves_nothing(tmp_path: Path) -> None:
    async with connected(tmp_path) as (s, stream):
        await stream.send(posted("content-length: 100") + b"{")
        await stream.aclose()
        for _ in range(3):
            assert (await s.ask("tools/list", BOB)).status_code == 200


async def test_headers_have_a_size(tmp_path: Path) -> None:
    async with standing(tmp_path, keys=[key("alice", ALICE)]) as s:
        small = {"x-padding": "x" * (MAX_HEAD - 2_000)}
        assert (await s.ask("tools/list", ALICE, headers=small)).status_code == 200
        many = [(f"x-{number}", "y" * 100) for number in range(MAX_HEAD // 100)]
        answer = await s.http.get("/mcp", headers=many)
        assert answer.status_code in (400, 431)
        large = await s.http.post(
            "/mcp", headers={**ACCEPT, "authorization": f"Bearer {ALICE}"}, content=b" " * MAX_BODY
        )
        assert large.status_code == 400


async def test_one_principal_has_so_many_streams_and_others_have_theirs(tmp_path: Path) -> None:
    async with standing(tmp_path, keys=[key("alice", ALICE), key("bob", BOB)]) as s:
        edge = s.app.state.edge
        mine = Admitted(principal=HttpPrincipal(id="key:alice", scopes=()))
        for _ in range(MAX_STREAMS_EACH):
            edge.streams._open[object()] = mine
        refused = await s.http.get("/sse", headers={"authorization": f"Bearer {ALICE}"})
        assert refused.status_code == 429
        assert refused.json()["error"] == "too_many_streams"
        async with s.http.stream(
            "GET", "/sse", headers={"authorization": f"Bearer {BOB}"}
        ) as stream:
            assert stream.status_code == 200
        edge.streams._open.clear()
