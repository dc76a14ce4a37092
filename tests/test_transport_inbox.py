"""The way of a connection from one worker to another: nothing is lost on it, nothing stays."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from asyncio import Protocol
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from anyio.abc import SocketStream
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcp_ops import transport_inbox
from mcp_ops.transport_inbox import Worker, bound_inboxes, leave
from tests.handing import answer, connected, on_each, request, rest, standing, tcp, until


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
