"""Connections that belong to another worker, with raw bytes: given away whole, or answered here."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
from asyncio import Protocol
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
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

from mcp_ops import transport_inbox
from mcp_ops.transport_answer import new_session_id
from mcp_ops.transport_connection import MAX_HEAD, guarded_protocol
from mcp_ops.transport_handing import PAGE_WORKER, handing, whose
from mcp_ops.transport_http import _Serving
from mcp_ops.transport_inbox import Inbox, Worker, bound_inboxes, leave
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


@contextmanager
def no_descriptors() -> Iterator[None]:
    """As in a process that has as many open as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(name) for name in os.listdir("/dev/fd")) + 1
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in held:
            os.close(each)


@on_each
async def test_without_descriptors_a_worker_is_busy_and_takes_what_waits_later(
    base: type[Protocol],
) -> None:
    async with standing(base) as workers, await connected(workers[0]) as stream:
        inbox = workers[1].inbox
        await until(lambda: workers[0].connections)
        path = str(transport_inbox._path(inbox._directory, 2, awake=True))
        with tcp() as (client, taken):
            with socket.socket(socket.AF_UNIX) as way:
                data = request(2)
                with no_descriptors():
                    await stream.send(request(2))
                    assert (await rest(stream)).startswith(b"HTTP/1.1 503 ")
                with no_descriptors():
                    way.connect(path)
                    sent = [transport_inbox._SIZE.pack(len(data)), data]
                    socket.send_fds(way, sent, [taken.fileno()])
                    await until(lambda: inbox._pause)
            taken.close()
            async with await SocketStream.from_socket(client) as other:
                assert (await answer(other))["worker"] == 2


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


@on_each
async def test_a_worker_that_can_take_no_more_is_busy(base: type[Protocol]) -> None:
    async with standing(base) as workers:
        inbox = workers[2].inbox
        asyncio.get_running_loop().remove_reader(inbox._socket)
        inbox._socket.listen(1)
        clients = []
        for _ in range(6):
            client = await connected(workers[0])
            clients.append(client)
            await until(lambda: workers[0].connections)
            await client.send(request(3))
            await until(lambda: not workers[0].connections)
        async with clients[-1] as last:
            got = await rest(last)
        assert got.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in got
        assert not workers[0].heard
        inbox._listen()
        async with clients[0] as first:
            assert (await answer(first))["worker"] == 3
        for client in clients[1:-1]:
            await client.aclose()


@on_each
async def test_a_thousand_leave_no_descriptor(base: type[Protocol]) -> None:
    async with standing(base) as workers:
        before = len(os.listdir("/dev/fd"))
        async with await connected(workers[0]) as stream:
            for turn in range(1_000):
                await stream.send(request(turn % 3 + 1))
                assert (await answer(stream))["worker"] == turn % 3 + 1
        await until(lambda: not any(each.connections for each in workers))
        await until(lambda: len(os.listdir("/dev/fd")) <= before)


@on_each
async def test_broken_messages_of_other_processes_end_nothing(base: type[Protocol]) -> None:
    async with standing(base, take_s=0.5) as workers:
        path = str(transport_inbox._path(workers[0].inbox._directory, 2, awake=True))
        before = len(os.listdir("/dev/fd"))
        with open(os.devnull, "rb") as null, socket.socket() as unconnected:
            tcp, size = unconnected.fileno(), transport_inbox._SIZE
            for data, descriptors in (
                (b"", []),
                (size.pack(3) + b"GET", []),
                (b"\0", [tcp]),
                (size.pack(100) + b"GET", [tcp]),
                (size.pack(2**32 - 1) + b"GET", [tcp]),
                (size.pack(3) + b"GET", [null.fileno()]),
                (size.pack(3) + b"GET", [tcp, tcp, null.fileno()]),
                (size.pack(3) + b"GET", [tcp]),
            ):
                with socket.socket(socket.AF_UNIX) as way:
                    way.connect(path)
                    if data:
                        socket.send_fds(way, [data], descriptors)
            silent = socket.socket(socket.AF_UNIX)
            silent.connect(path)  # says nothing, until it is not listened to any more
            async with await connected(workers[0]) as stream:
                await stream.send(request(2))
                assert (await answer(stream))["worker"] == 2
            await until(lambda: not workers[1].inbox._tasks)
            silent.close()
        await until(lambda: not any(each.connections for each in workers))
        await until(lambda: len(os.listdir("/dev/fd")) <= before)


@on_each
async def test_what_waits_at_a_worker_that_ends_is_taken(base: type[Protocol]) -> None:
    async with standing(base) as workers, await connected(workers[0]) as stream:
        inbox = workers[2].inbox
        asyncio.get_running_loop().remove_reader(inbox._socket)
        await stream.send(request(3))
        await until(lambda: workers[0].connections == 0)
        await inbox.close()
        assert (await answer(stream))["worker"] == 3
        async with await connected(workers[0]) as late:
            await late.send(request(3))
            assert (await answer(late))["worker"] == 1


async def test_of_another_user_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.geteuid()
    async with standing(HttpToolsProtocol) as workers, await connected(workers[0]) as stream:
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)  # as if the sender were another one
        await stream.send(request(2))
        assert await rest(stream) == b""
        monkeypatch.undo()
        assert not workers[1].heard


def test_the_directory_is_this_user_s_and_goes() -> None:
    with bound_inboxes(2) as inboxes:
        assert inboxes.directory.stat().st_mode & 0o777 == 0o700
        assert len(list(inboxes.directory.iterdir())) == 2
    assert not inboxes.directory.exists()


def test_who_leaves_last_takes_the_sockets_of_the_killed_along() -> None:
    with bound_inboxes(3) as inboxes, socket.socket() as unused:
        for number in (1, 2):  # the third was killed, and who starts it as well
            transport_inbox._rename(inboxes.directory, number, awake=True)
        first, second = (
            Worker(number=number, listener=unused, inbox=unused, directory=inboxes.directory)
            for number in (1, 2)
        )
        leave(first)
        assert {each.name for each in inboxes.directory.iterdir()} == {"2", "3.away"}
        leave(second)
        assert not inboxes.directory.exists()
        leave(first)  # nothing is left to take
