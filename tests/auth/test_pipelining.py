"""Requests sent before the answer to the one before: none is served, none costs more than it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.auth.test_slow import BOTH, GET, rest, serving

READ = b"POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: "


@BOTH
async def test_a_body_behind_another_request_holds_no_connection(base: Any) -> None:
    async with (
        serving(base, body_s=2) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send(READ + b"1\r\n\r\n")
        await anyio.wait_all_tasks_blocked()
        await stream.send(b"x" + READ + b"1000\r\n\r\ny")
        got = await rest(stream)
    assert got.count(b"HTTP/1.1 200") == 1


@BOTH
async def test_of_many_requests_at_once_the_first_is_answered(base: Any) -> None:
    async with (
        serving(base) as (port, server),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send((GET + b"\r\n") * 1_000)
        got = await rest(stream)
        assert server.server_state.total_requests == 1
    assert got.count(b"HTTP/1.1 ") == 1


@BOTH
@pytest.mark.parametrize("behind", [GET + b"\r\n", GET + b"x: " + b"y" * 100_000])
async def test_who_leaves_is_missed_whatever_was_sent_behind(base: Any, behind: bytes) -> None:
    async with serving(base) as (port, server):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(GET.replace(b"/ ", b"/stay ") + b"\r\n")
            while not server.server_state.tasks:
                await anyio.wait_all_tasks_blocked()
            await stream.send(behind)
        while server.server_state.tasks or server.server_state.connections:
            await anyio.sleep(0.01)


@BOTH
async def test_the_body_of_a_request_to_upgrade_is_no_request(base: Any) -> None:
    smuggled = GET + b"\r\n"
    upgrade = b"connection: upgrade\r\nupgrade: h2c\r\n"
    async with (
        serving(base) as (port, server),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        head = GET.replace(b"GET", b"POST") + upgrade
        await stream.send(head + b"content-length: %d\r\n\r\n" % len(smuggled))
        got = await stream.receive()
        with suppress(anyio.BrokenResourceError):  # it is closed already
            await stream.send(smuggled)
            await stream.send_eof()
        got += await rest(stream)
        assert server.server_state.total_requests == 1
    assert got.count(b"HTTP/1.1 ") == 1


@BOTH
async def test_who_tells_two_lengths_is_heard_no_more(base: Any) -> None:
    two = READ + b"6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    async with (
        serving(base) as (port, server),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        await stream.send(two)
        got = await stream.receive()
        with suppress(anyio.BrokenResourceError):  # it is closed already
            await stream.send(GET + b"\r\n")
            await stream.send_eof()
        got += await rest(stream)
        assert server.server_state.total_requests <= 1
    assert got.count(b"HTTP/1.1 ") == 1


async def test_an_empty_line_behind_a_request_is_no_request() -> None:
    async with (
        serving(HttpToolsProtocol) as (port, _),
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        for _ in range(2):
            await stream.send(READ + b"1\r\n\r\nx\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")
