"""A TCP proxy that breaks connections on purpose, for between a client and a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

import anyio
import anyio.abc

Fault = Literal["none", "refuse", "reset", "black_hole"]
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)
_CHUNK = 65_536


@dataclass(slots=True)
class Proxy:
    """One proxied port. Change the fields while it runs; they hold for the next byte.

    `latency_s` delays every chunk in both directions. `fault`: `refuse` closes new connections at
    once, `reset` breaks all connections at their next byte, `black_hole` swallows everything and
    answers nothing. `cut_to_server_after` and `cut_to_client_after` break a connection once that
    many further bytes have passed in the direction; both are used up by the first cut.
    `passed_to_server` is set when any byte has reached the server.
    """

    port: int = 0
    latency_s: float = 0.0
    fault: Fault = "none"
    cut_to_server_after: int | None = None
    cut_to_client_after: int | None = None
    connections: int = 0
    cuts: int = 0
    passed_to_server: anyio.Event = field(default_factory=anyio.Event)


@asynccontextmanager
async def proxy(upstream_port: int, *, port: int = 0) -> AsyncIterator[Proxy]:
    """Forward a loopback port to another one; `port` 0 takes a free one."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    taken = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not a query
    state = Proxy(port=taken)

    async def serve(client: anyio.abc.SocketStream) -> None:
        state.connections += 1
        async with client:
            if state.fault == "refuse":
                return
            with suppress(*_BROKEN):
                server = await anyio.connect_tcp("127.0.0.1", upstream_port)
                async with server, anyio.create_task_group() as both:
                    both.start_soon(_pump, state, client, server, True, both.cancel_scope)
                    both.start_soon(_pump, state, server, client, False, both.cancel_scope)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield state
        tasks.cancel_scope.cancel()


async def _pump(
    state: Proxy,
    source: anyio.abc.SocketStream,
    sink: anyio.abc.SocketStream,
    to_server: bool,
    both: anyio.CancelScope,
) -> None:
    with suppress(*_BROKEN):
        while True:
            chunk = await source.receive(_CHUNK)
            if state.latency_s:
                await anyio.sleep(state.latency_s)
            if state.fault == "black_hole":
                continue
            if state.fault == "reset":
                break
            passed, cut = _allowed(state, chunk, to_server=to_server)
            if passed:
                await sink.send(passed)
                if to_server:
                    state.passed_to_server.set()
            if cut:
                break
    both.cancel()


def _allowed(state: Proxy, chunk: bytes, *, to_server: bool) -> tuple[bytes, bool]:
    left = state.cut_to_server_after if to_server else state.cut_to_client_after
    if left is None:
        return chunk, False
    if len(chunk) < left:
        _set_left(state, left - len(chunk), to_server=to_server)
        return chunk, False
    _set_left(state, None, to_server=to_server)
    state.cuts += 1
    return chunk[:left], True


def _set_left(state: Proxy, left: int | None, *, to_server: bool) -> None:
    if to_server:
        state.cut_to_server_after = left
    else:
        state.cut_to_client_after = left
