"""Slow clients as a process: `slow_peer PORT COUNT KEY`, until it is killed."""

from __future__ import annotations

import sys

import anyio
import anyio.abc

_BODY = 5 * 1024 * 1024


async def main(port: int, count: int) -> None:
    """Open that many connections, each with one of five bad habits."""
    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(slow, port, number)
            await anyio.sleep(0.002)


async def slow(port: int, number: int) -> None:
    """A client of one of five bad habits, until the run is over or the server has enough."""
    try:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await _HABITS[number % len(_HABITS)](stream, port)
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
        return


def _head(port: int, method: str, *more: str) -> bytes:
    lines = [f"{method} /mcp HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"Authorization: Bearer {sys.argv[3]}", "Content-Type: application/json"]
    lines += ["Accept: application/json, text/event-stream", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _idle(stream: anyio.abc.SocketStream, _port: int) -> None:
    await anyio.sleep_forever()


async def _half_a_head(stream: anyio.abc.SocketStream, port: int) -> None:
    for byte in _head(port, "POST"):
        await stream.send(bytes([byte]))
        await anyio.sleep(0.5)


async def _endless_body(stream: anyio.abc.SocketStream, port: int) -> None:
    await stream.send(_head(port, "POST", f"Content-Length: {_BODY}"))
    for _ in range(_BODY // 1024):
        await stream.send(b" " * 1024)
        await anyio.sleep(0.2)


async def _whole_body(stream: anyio.abc.SocketStream, port: int) -> None:
    await stream.send(_head(port, "POST", f"Content-Length: {_BODY}") + b"[" * _BODY)
    await anyio.sleep_forever()


async def _open_stream(stream: anyio.abc.SocketStream, port: int) -> None:
    """Ask for the stream of events, and never read it."""
    await stream.send(_head(port, "GET"))
    await anyio.sleep_forever()


_HABITS = (_idle, _half_a_head, _endless_body, _whole_body, _open_stream)


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]), int(sys.argv[2]))
