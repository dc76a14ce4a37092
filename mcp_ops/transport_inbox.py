"""The way from one worker to another: a connection is given away with what was read of it.

Each worker has a Unix socket in a directory that only this user can enter. The sockets are bound by
who starts the workers, and inherited: what waits at one whose worker died is taken by the next
worker of that number. A socket has its name only while its worker serves, so that nobody is sent to
one that is away.

A message is a descriptor, the number of bytes that follow, and the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio

from mcp_ops.errors import ConfigurationError

BACKLOG: Final = 1_024
"""Connections that may wait for a worker to take them."""

TAKE_S: Final = 5.0
"""Seconds that a message may take from its first byte to its last."""

MOST_BYTES: Final = 1_048_576
"""Bytes that may come with a connection: a head, and what one read had more."""

_PAUSE_S = 1.0
_AT_ONCE = 64
_SIZE = struct.Struct("!I")
_PEER = struct.Struct("3i")
_PIECE = 65_536

Begin = Callable[[socket.socket, bytes], Awaitable[None]]


class Handed(enum.Enum):
    """What became of a connection that was to be given away."""

    TAKEN = enum.auto()
    """The other worker has it."""

    NOBODY = enum.auto()
    """There is no worker of this number."""

    AWAY = enum.auto()
    """It does not serve now."""

    FULL = enum.auto()
    """It can't take any more, or this process has no descriptors left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One of several workers: its number, from 1 on, and what it inherited."""

    number: int
    listener: socket.socket
    inbox: socket.socket
    directory: Path


class Inboxes:
    """The sockets of all workers, in the process that starts them."""

    def __init__(self, directory: Path, sockets: Sequence[socket.socket]) -> None:
        self.directory = directory
        self._sockets = sockets

    def descriptor(self, number: int) -> int:
        """What a worker inherits."""
        return self._sockets[number - 1].fileno()

    def gone(self, number: int) -> None:
        """Send nobody to a worker that has ended."""
        _rename(self.directory, number, awake=False)


@contextmanager
def bound_inboxes(count: int) -> Iterator[Inboxes]:
    """The sockets, bound and listening; leaving takes them away.

    Raises ConfigurationError when they can't be bound.
    """
    with ExitStack() as stack:
        try:
            directory = Path(tempfile.mkdtemp(prefix="mcp-ops-"))  # for this user alone
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            sockets = [_bound(directory, number, stack) for number in range(1, count + 1)]
        except OSError as exc:
            raise ConfigurationError(
                "server.workers: the sockets between the workers can't be made in "
                f"{tempfile.gettempdir()}: {exc.strerror or exc}",
                hint="let TMPDIR name a directory that can be written and whose path is short",
            ) from exc
        yield Inboxes(directory, sockets)


def _bound(directory: Path, number: int, stack: ExitStack) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    # Under its name: what cleans up old files lets alone a socket that is bound to its path.
    made.bind(str(_path(directory, number, awake=True)))
    _rename(directory, number, awake=False)
    made.listen(BACKLOG)
    made.setblocking(False)
    return made


def leave(worker: Worker) -> None:
    """Take away a worker's socket, since who made them was killed: the last one that serves takes
    the directory, with the sockets of those that were killed as well."""
    with contextlib.suppress(OSError):  # another one has taken it
        for awake in (True, False):
            _path(worker.directory, worker.number, awake=awake).unlink(missing_ok=True)
        if not any(each.name.isdigit() for each in worker.directory.iterdir()):
            shutil.rmtree(worker.directory, ignore_errors=True)


class Inbox:
    """A worker's end: gives connections to the others, takes theirs."""

    def __init__(self, worker: Worker, *, take_s: float = TAKE_S) -> None:
        self.number = worker.number
        self._socket = worker.inbox
        self._directory = worker.directory
        self._take_s = take_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def hand_over(self, number: int, connection: int, data: bytes) -> Handed:
        """Give a worker a connection with what was read of it. Never waits.

        Where it is taken the caller lets go of its own descriptor, without a shutdown.
        """
        with ExitStack() as stack:
            try:
                way = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                way.setblocking(False)
                way.connect(str(_path(self._directory, number, awake=True)))
                size = _SIZE.pack(len(data))
                sent = socket.send_fds(way, (size, data), (connection,))
            except (FileNotFoundError, ConnectionRefusedError):
                known = _path(self._directory, number, awake=False).exists()
                return Handed.AWAY if known else Handed.NOBODY
            except OSError:
                return Handed.FULL
            if sent < len(size) + len(data):
                stack.pop_all()
                self._run(self._send(way, (size + data)[sent:]))
        return Handed.TAKEN

    def open(self, begin: Begin) -> None:
        """Take what comes, and have `begin` serve it."""
        self._begin = begin
        self._socket.setblocking(False)
        self._listen()
        _rename(self._directory, self.number, awake=True)

    async def close(self) -> None:
        """Take nothing more than what waits already."""
        _rename(self._directory, self.number, awake=False)
        while self._arrivals():
            pass
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._take_s)
            for task in late:
                task.cancel()

    async def _send(self, way: socket.socket, data: bytes) -> None:
        with way, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._take_s):
                await asyncio.get_running_loop().sock_sendall(way, data)

    def _listen(self) -> None:
        self._pause = None
        asyncio.get_running_loop().add_reader(self._socket, self._arrivals)

    def _arrivals(self) -> bool:
        """Take what waits; whether there may be more."""
        for _ in range(_AT_ONCE):
            try:
                way, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except ConnectionAbortedError:
                continue
            except OSError:  # no descriptors left: it would be said again at once, and again
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._socket)
                self._pause = loop.call_later(_PAUSE_S, self._listen)
                return False
            way.setblocking(False)
            self._run(self._take(way))
        return True

    async def _take(self, way: socket.socket) -> None:
        with ExitStack() as stack:
            try:
                with way:
                    async with asyncio.timeout(self._take_s):
                        connection, data = await _received(way, stack)
                await self._begin(connection, data)
            except (OSError, EOFError, TimeoutError):
                return  # who sent it has gone, or its client has
            stack.pop_all()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _received(way: socket.socket, stack: ExitStack) -> tuple[socket.socket, bytes]:
    """The connection, which `stack` closes, and the bytes. Raises EOFError when it ends before."""
    if not _ours(way):
        raise EOFError
    first: tuple[bytes, list[int]] | None = None
    while first is None:
        try:
            first = socket.recv_fds(way, _PIECE, 1)[:2]
        except BlockingIOError:
            await anyio.wait_readable(way)
    got, descriptors = bytearray(first[0]), first[1]
    if not descriptors:
        raise EOFError
    os.set_inheritable(descriptors[0], False)
    try:
        connection = stack.enter_context(socket.socket(fileno=descriptors[0]))
    except OSError:
        os.close(descriptors[0])
        raise
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    while missing := _missing(got):
        piece = await loop.sock_recv(way, min(missing, _PIECE))
        if not piece:
            raise EOFError
        got += piece
    return connection, bytes(got[_SIZE.size :])


def _missing(got: bytearray) -> int:
    """How many bytes have to come still, as far as is known."""
    if len(got) < _SIZE.size:
        return _SIZE.size - len(got)
    (size,) = _SIZE.unpack_from(got)
    if size > MOST_BYTES:
        raise EOFError
    return max(0, int(size) + _SIZE.size - len(got))


def _rename(directory: Path, number: int, *, awake: bool) -> None:
    with contextlib.suppress(OSError):  # it has the name already, or the directory is gone
        _path(directory, number, awake=not awake).rename(_path(directory, number, awake=awake))


def _path(directory: Path, number: int, *, awake: bool) -> Path:
    return directory / (str(number) if awake else f"{number}.away")


def _ours(way: socket.socket) -> bool:
    """Whether a process of this user sent it. Where it can't be asked the directory keeps others
    out by itself."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    peer = way.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return bool(_PEER.unpack(peer)[1] == os.geteuid())
