"""Connections that belong to another worker, with raw bytes: given away whole, or answered here."""

from __future__ import annotations

import asyncio
from asyncio import Protocol
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from uvicorn.protocols.http.h11_impl import H11Protocol

from mcp_ops.transport_handing import PAGE_WORKER, whose
from tests.handing import AWAY, answer, connected, on_each, request, rest, standing, tcp, until

ID = "02" + "a" * 30
HEADS = [
    (f"POST /mcp HTTP/1.1\r\nmcp-session-id: {ID}\r\n", 2),
    (f"POST /mcp HTTP/1.1\r\nhost: x\r\nMCP-SESSION-ID:{ID.upper()}\r\n", 2),
    (f"POST /mcp HTTP/1.1\r\nMcp-Session-Id: \t {ID}\r\n", 2),
    (f"POST /mcp HTTP/1.1\nMcp-Session-Id: {ID}\n", 2),
    (f"GET http://localhost:8/mcp HTTP/1.1\r\nmcp-session-id: {ID}\r\n", 2),
    (f"POST /messages/?session_id={ID} HTTP/1.1\r\n", 2),
    (f"POST /messages/?a=b&session_id={ID}&c HTTP/1.1\r\nmcp-session-id: 03\r\n", 2),
    (f"POST HTTPS://x/messages/?session_id=02{'A' * 6}-aaaa HTTP/1.1\r\n", 2),
    (f"POST /%6Dessages/?session_id={ID} HTTP/1.1\r\n", 2),
    (f"POST /messages/x?session_id={ID} HTTP/1.1\r\n", 0),
    (f"POST /mcp?session_id={ID} HTTP/1.1\r\n", 0),
    (f"POST /messages/?xsession_id={ID} HTTP/1.1\r\n", 0),
    ("POST /messages/?session_id=0 HTTP/1.1\r\n", 0),
    ("POST /messages/ HTTP/1.1\r\n", 0),
    (f"POST /mcp HTTP/1.1\r\nmcp-session-id:\r\n {ID}\r\n", 0),
    (f"POST /mcp HTTP/1.1\r\nmcp-session-id : {ID}\r\n", 0),
    (f"POST /mcp HTTP/1.1\r\nx: mcp-session-id: {ID}\r\n", 0),
    (f"POST /mcp HTTP/1.1\r\nx: y\r\n\r\nmcp-session-id: {ID}\r\n", 0),
    ("POST /mcp HTTP/1.1\r\nmcp-session-id: +2\r\n", 0),
    ("POST /mcp HTTP/1.1\r\nmcp-session-id: 2", 0),
    (f"POST /mcp HTTP/1.1\r\nmcp-session-id: ff{ID[2:]}\r\n", 255),
    ("GET /approvals HTTP/1.1\r\n", PAGE_WORKER),
    (f"GET /approvals/x?y HTTP/1.1\r\nmcp-session-id: {ID}\r\n", PAGE_WORKER),
    ("GET /%61pprovals/x HTTP/1.1\r\n", PAGE_WORKER),
    ("GET /approvalsx HTTP/1.1\r\n", 0),
    ("GET /metrics?worker=3 HTTP/1.1\r\n", 3),
    ("GET /metrics?a=b&worker=12 HTTP/1.1\r\n", 12),
    ("GET /metrics?worker=x HTTP/1.1\r\n", 0),
    ("GET /metrics HTTP/1.1\r\n", 0),
    ("GET / HTTP/1.1\r\n", 0),
    ("nonsense\r\n", 0),
    ("", 0),
]


@pytest.mark.parametrize(("head", "number"), HEADS)
def test_a_head_says_whose_the_request_is(head: str, number: int) -> None:
    assert whose(f"{head}\r\n".encode())[0] == number


def test_only_a_session_that_is_away_is_answered_by_others() -> None:
    assert whose(request(2)) == (2, False)
    assert whose(request(path=f"/messages/?session_id={ID}")) == (2, False)
    assert whose(request(path="/approvals", method="GET")) == (PAGE_WORKER, True)
    assert whose(request(path="/metrics?worker=2", method="GET")) == (2, True)


@on_each
async def test_a_connection_goes_where_its_session_is_and_stays(base: type[Protocol]) -> None:
    async with standing(base) as workers, await connected(workers[0]) as stream:
        port = stream.extra(anyio.abc.SocketAttribute.local_port)
        for body in (b"", b"x" * 10, b"y" * 200_000):
            await stream.send(request(2, body=body))
            found = await answer(stream)
            assert (found["worker"], found["size"]) == (2, len(body))
            assert found["client"] == ["127.0.0.1", port]
        assert [each.connections for each in workers] == [0, 1, 0]
        await stream.send(request())
        assert (await answer(stream))["worker"] == 2
        for number in (3, 1, 1, 2):
            await stream.send(request(number, body=b"more"))
            found = await answer(stream)
            assert (found["worker"], found["size"]) == (number, 4)
        assert [each.connections for each in workers] == [0, 1, 0]


@on_each
async def test_bytes_that_come_one_by_one_make_the_same_request(base: type[Protocol]) -> None:
    async with standing(base) as workers, await connected(workers[0]) as stream:
        for number in (2, 3):
            for byte in request(number, body=b"body"):
                await stream.send(bytes([byte]))
                await asyncio.sleep(0)
            found = await answer(stream)
            assert (found["worker"], found["size"]) == (number, 4)


@on_each
async def test_a_large_body_goes_along_with_its_head(base: type[Protocol]) -> None:
    async with standing(base) as workers, await connected(workers[0]) as stream:
        body = b"z" * 4_000_000
        whole = request(3, body=body)
        await stream.send(whole[:400_000])
        await until(lambda: workers[2].heard)
        await stream.send(whole[400_000:])
        found = await answer(stream)
        assert (found["worker"], found["size"]) == (3, len(body))
        await stream.send(request(2, body=body))
        assert (await answer(stream))["size"] == len(body)


@on_each
async def test_a_session_of_a_worker_that_is_away_is_not_found_here(base: type[Protocol]) -> None:
    async with standing(base) as workers, await connected(workers[1]) as stream:
        await stream.send(request(AWAY, body=b"xx"))
        found = await answer(stream)
        assert (found["worker"], found["size"]) == (2, 2)
        await stream.send(request(path=f"/metrics?worker={AWAY}", method="GET"))
        assert (await answer(stream))["worker"] == 2
        await workers[0].inbox.close()
        await stream.send(request(1))
        assert (await answer(stream))["worker"] == 2
        await stream.send(request(path="/approvals", method="GET"))
        assert (await rest(stream)).startswith(b"HTTP/1.1 503 ")
        assert "/approvals" not in workers[1].heard


@on_each
async def test_a_connection_is_not_sent_to_and_fro(base: type[Protocol]) -> None:
    async with standing(base) as workers:
        with tcp() as (client, taken):
            workers[0].inbox.hand_over(2, taken.fileno(), request(3))
            taken.close()
            async with await SocketStream.from_socket(client) as stream:
                assert (await answer(stream))["worker"] == 2
                await stream.send(request(3))
                assert (await answer(stream))["worker"] == 3


@on_each
async def test_of_requests_at_once_the_first_is_answered(base: type[Protocol]) -> None:
    async with standing(base) as workers:
        for first, second in ((2, 3), (0, 2), (2, 0), (2, 2)):
            async with await connected(workers[0]) as stream:
                await stream.send(request(first, body=b"x") + request(second, body=b"y"))
                got = await rest(stream)
                assert got.count(b"HTTP/1.1 ") == 1
                assert b'"worker": %d' % (first or 1) in got
        async with await connected(workers[0]) as stream:
            await stream.send(request(path="/late"))
            await until(lambda: "/late" in workers[0].heard)
            await stream.send(request(2))
            await anyio.wait_all_tasks_blocked()
            workers[0].go_on.set()
            assert (await rest(stream)).count(b"HTTP/1.1 ") == 1
        assert not workers[1].heard[3:]


@on_each
async def test_the_rest_of_a_head_is_not_taken_for_a_request(base: type[Protocol]) -> None:
    """Its beginning came behind a request that had no answer yet."""
    async with standing(base) as workers, await connected(workers[0]) as stream:
        await stream.send(request(path="/late", body=b"x") + b"GET /here HTTP/1.1\r\nx: ")
        await until(lambda: "/late" in workers[0].heard)
        workers[0].go_on.set()
        if base is H11Protocol:  # which shows what waits: the connection is closed
            assert (await rest(stream)).count(b"HTTP/1.1 ") == 1
        else:
            assert (await answer(stream))["path"] == "/late"
            await stream.send(request(2))
            found = await rest_or_answer(stream)
            assert found in ({}, {"worker": 1, "path": "/here"})
        assert not workers[1].heard


async def rest_or_answer(stream: SocketStream) -> dict[str, Any]:
    found = await answer(stream)
    return {name: found[name] for name in ("worker", "path") if name in found}


@on_each
async def test_what_follows_an_early_answer_is_looked_at(base: type[Protocol]) -> None:
    async with standing(base) as workers, await connected(workers[0]) as stream:
        whole = request(path="/early", body=b"x" * 100)
        await stream.send(whole[:-50])
        assert (await answer(stream))["path"] == "/early"
        await stream.send(whole[-50:])
        (connection,) = workers[0].serving.server_state.connections
        await until(connection._between)  # type: ignore[union-attr]
        await stream.send(request(2))
        assert (await answer(stream))["worker"] == 2
        await stream.send(request(1))
        assert (await answer(stream))["worker"] == 1


@on_each
async def test_what_comes_at_once_with_the_end_of_an_answered_body(base: type[Protocol]) -> None:
    async with standing(base) as workers:
        early = request(path="/early", body=b"x" * 100)
        for behind, status, heard in (
            (request(), 200, True),
            (request(1, body=b"y"), 200, True),
            (request(2, body=b"y"), 503, False),
            (request(path="/approvals"), 200, True),  # the first worker's
            (request(path=f"/messages/?session_id={ID}", body=b"y"), 503, False),
        ):
            async with await connected(workers[0]) as stream:
                await stream.send(early[:-50])
                assert (await answer(stream))["path"] == "/early"
                await stream.send(early[-50:] + behind)
                got = await answer(stream)
                assert got["status"] == status
                assert ("worker" in got) is heard
                if not heard:
                    assert await rest(stream) == b""
        assert not workers[1].heard


@on_each
async def test_who_has_not_read_its_answer_is_not_given_away(base: type[Protocol]) -> None:
    async with standing(base) as workers, await connected(workers[0]) as stream:
        await stream.send(request(path="/big"))
        await until(lambda: "/big" in workers[0].heard)
        await stream.send(request(2))
        got = await rest(stream)
        assert got.count(b"HTTP/1.1 ") == 1
        assert len(got) > 8_000_000
        assert not workers[1].heard


@on_each
async def test_clients_that_leave_leave_nothing(base: type[Protocol]) -> None:
    async with standing(base) as workers:
        for sent in (request(2, body=b"x"), request(2, body=b"x")[:-1], request(2)[:-30]):
            for half in (True, False):
                async with await connected(workers[0]) as stream:
                    await stream.send(sent)
                    if half:
                        await stream.send_eof()
                        await rest(stream)
        await until(lambda: not any(each.connections for each in workers))
        async with await connected(workers[0]) as stream:
            await stream.send(request(2))
            assert (await answer(stream))["worker"] == 2


@on_each
async def test_a_head_has_its_bounds_before_it_is_looked_at(base: type[Protocol]) -> None:
    async with standing(base, head_s=1) as workers:
        async with await connected(workers[0]) as stream:
            await stream.send(request(2)[:-4])
            assert (await rest(stream)).startswith(b"HTTP/1.1 408")
        async with await connected(workers[0]) as stream:
            assert await rest(stream) == b""
        async with await connected(workers[0]) as stream:
            try:
                for _ in range(8):
                    await stream.send(b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000)
            except anyio.BrokenResourceError:
                pass
            assert b"HTTP/1.1 4" in await rest(stream) or workers[0].connections == 0
        async with await connected(workers[0]) as stream:
            await stream.send(b"\x16\x03\x01 this is TLS")
            assert (await rest(stream)).startswith(b"HTTP/1.1 400")


@on_each
async def test_blank_lines_before_a_request_change_nothing(base: type[Protocol]) -> None:
    async with standing(base) as workers, await connected(workers[0]) as stream:
        if base is H11Protocol:  # which refuses them
            await stream.send(b"\r\n" + request(2))
            assert (await rest(stream)).startswith(b"HTTP/1.1 400")
            return
        await stream.send(b"\r\n\r\n" + request(2, body=b"x") + b"\r\n")
        assert (await answer(stream))["worker"] == 2
        await stream.send(b"\r\n")
        await stream.send(request(3))
        assert (await answer(stream))["worker"] == 3


@on_each
async def test_of_too_many_connections_the_last_is_cut_where_it_goes(
    base: type[Protocol],
) -> None:
    async with (
        standing(base, most=2) as workers,
        await connected(workers[1]),
        await connected(workers[1]),
        await connected(workers[0]) as stream,
    ):
        await until(lambda: workers[1].connections == 2)
        await stream.send(request(2))
        assert await rest(stream) == b""
        await until(lambda: [each.connections for each in workers] == [0, 2, 0])
