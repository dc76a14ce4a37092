"""Standard input and output as sources and sinks of bytes on the event loop.

Pipes and sockets are registered with the loop. What can't be (files, terminals, the null device,
everything on Windows) is read and written by a daemon thread each, which nothing has to wait for.
"""

from __future__ import annotations

import asyncio
import os
import queue
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from typing import Final, Protocol

import anyio

from mcp_ops.errors import ConfigurationError

HIGH_WATER: Final = 1024 * 1024
"""Bytes that may wait for a slow reader before a writer has to wait."""

FINISH_S: Final = 5.0
"""How long a reader that is slow at the end is waited for, in seconds."""

_CHUNK = 256 * 1024


class Source(Protocol):
    """Where bytes come from. They are handed to a callback on the loop; none means the end."""

    def pause(self) -> None:
        """Ask for no more bytes for now; what is on its way still comes."""
        ...

    def resume(self) -> None:
        """Ask for bytes again."""
        ...

    def close(self) -> None:
        """Never ask again."""
        ...


class Sink(Protocol):
    """Where bytes go."""

    async def write(self, data: bytes) -> None:
        """Take bytes, in order; wait while too many are under way.

        Raises BrokenResourceError when the reader has gone.
        """
        ...

    def on_broken(self, callback: Callable[[], None]) -> None:
        """Call this once when the reader has gone."""
        ...

    async def finish(self) -> None:
        """Write out what was taken, for at most `FINISH_S` seconds, and let go."""
        ...


@contextmanager
def claimed_stdio() -> Iterator[tuple[int, int]]:
    """Own standard input and output: private duplicates, while 0 and 1 lead elsewhere.

    Handlers and child processes read nothing from fd 0, and what they print on fd 1 goes to
    standard error. Both are put back on exit. The duplicates are for the caller to close.
    """
    try:
        saved = os.dup(0), os.dup(1)
    except OSError as exc:
        raise ConfigurationError(
            "standard input or output is closed; the stdio transport needs both",
            hint="start the server from an MCP client, or serve --transport http",
        ) from exc
    blocking = tuple(os.get_blocking(fd) if sys.platform != "win32" else True for fd in saved)
    wire = os.dup(0), os.dup(1)
    _divert(0, os.open(os.devnull, os.O_RDONLY))
    try:
        _divert(1, os.dup(2))
    except OSError:
        _divert(1, os.open(os.devnull, os.O_WRONLY))
    _flush_stdout()
    try:
        yield wire
    finally:
        _flush_stdout()
        for fd, private in enumerate(saved):
            if sys.platform != "win32":
                # The flag is on what both descriptors share with whoever started us.
                os.set_blocking(private, blocking[fd])
            _divert(fd, private)


def _divert(fd: int, to: int) -> None:
    os.dup2(to, fd)
    os.close(to)


def _flush_stdout() -> None:
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()


async def open_source(fd: int, feed: Callable[[bytes], None]) -> Source:
    """Read `fd`, which becomes the source's own, and hand what comes to `feed`."""
    if not _registers(fd):
        return _ThreadSource(fd, feed)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: _PipeReader(feed), FileIO(fd, "rb")
    )
    return _PipeSource(transport)


async def open_sink(fd: int) -> Sink:
    """Write to `fd`, which becomes the sink's own."""
    if not _registers(fd):
        return _ThreadSink(fd)
    writer = _PipeSink()
    await asyncio.get_running_loop().connect_write_pipe(lambda: writer, FileIO(fd, "wb"))
    return writer


def _registers(fd: int) -> bool:
    """Whether an event loop can wait for this descriptor without harm to others who share it."""
    if sys.platform == "win32":
        return False
    mode = os.fstat(fd).st_mode
    # Terminals would do, but non-blocking mode would outlive us in the user's shell.
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class _PipeReader(asyncio.Protocol):
    def __init__(self, feed: Callable[[bytes], None]) -> None:
        self._feed = feed

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._feed(b"")


class _PipeSource:
    def __init__(self, transport: asyncio.ReadTransport) -> None:
        self._transport = transport
        self._paused = False

    def pause(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        self._transport.close()


class _PipeSink(asyncio.BaseProtocol):
    """Collects what is written in one turn of the loop and writes it with one system call."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._slow = False
        self._moved = anyio.Event()
        self._lost = anyio.Event()
        self._callback: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101  # asyncio's promise
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._transport = transport

    def pause_writing(self) -> None:
        self._slow = True

    def resume_writing(self) -> None:
        self._slow = False
        self._moved.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        self._moved.set()
        if self._callback is not None:
            self._callback()

    def on_broken(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        if self._lost.is_set():
            callback()

    async def write(self, data: bytes) -> None:
        if self._lost.is_set():
            raise anyio.BrokenResourceError
        if not self._pending:
            self._loop.call_soon(self._write_out)
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > HIGH_WATER:
            self._write_out()
        while self._slow and not self._lost.is_set():
            self._moved = anyio.Event()
            await self._moved.wait()

    async def finish(self) -> None:
        self._callback = None
        self._write_out()
        if self._transport is None:
            return
        self._transport.close()
        with anyio.move_on_after(FINISH_S, shield=True) as waiting:
            await self._lost.wait()
        if waiting.cancelled_caught:
            self._transport.abort()

    def _write_out(self) -> None:
        if self._pending and self._transport is not None and not self._lost.is_set():
            self._transport.write(b"".join(self._pending))
        self._pending.clear()
        self._pending_bytes = 0


class _ThreadSource:
    def __init__(self, fd: int, feed: Callable[[bytes], None]) -> None:
        self._fd = fd
        self._feed = feed
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._go = threading.Event()
        self._go.set()
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def pause(self) -> None:
        self._go.clear()

    def resume(self) -> None:
        self._go.set()

    def close(self) -> None:
        # The thread may be inside a read for ever: it owns the descriptor, so that no other file
        # gets its number, and it dies with the process.
        self._open = False
        self._go.set()

    def _read(self) -> None:
        data = b"-"
        while data and self._open:
            self._go.wait()
            try:
                data = os.read(self._fd, _CHUNK)
            except OSError:
                data = b""
            with suppress(RuntimeError):  # the loop has gone, and with it who would be told
                self._loop.call_soon_threadsafe(self._feed, data)
        os.close(self._fd)


class _ThreadSink:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._waiting = 0
        self._moved = anyio.Event()
        self._done = anyio.Event()
        self._broken = False
        self._callback: Callable[[], None] | None = None
        threading.Thread(target=self._write, name="stdout", daemon=True).start()

    def on_broken(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        if self._broken:
            callback()

    async def write(self, data: bytes) -> None:
        if self._broken:
            raise anyio.BrokenResourceError
        self._waiting += len(data)
        self._chunks.put(data)
        while self._waiting > HIGH_WATER and not self._broken:
            self._moved = anyio.Event()
            await self._moved.wait()

    async def finish(self) -> None:
        self._callback = None
        self._chunks.put(b"")
        with anyio.move_on_after(FINISH_S, shield=True):
            await self._done.wait()

    def _written(self, count: int) -> None:
        self._waiting -= count
        self._moved.set()

    def _end(self, broken: bool) -> None:
        self._done.set()
        self._moved.set()
        if broken:
            self._broken = True
            if self._callback is not None:
                self._callback()

    def _write(self) -> None:
        broken = False
        while not broken and (data := self._chunks.get()):
            try:
                _write_all(self._fd, data)
            except OSError:
                broken = True
            with suppress(RuntimeError):  # the loop has gone, and with it who would be told
                self._loop.call_soon_threadsafe(self._written, len(data))
        os.close(self._fd)
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, broken)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
