"""One connection of lines, in the era that the client opens it with.

`Server.run` of the SDK does the same, and relays every message through a further stream to be
able to look at the first one; that costs a fifth of a small call and keeps answers from being
written together. Here the first request is put back instead. The rules are the SDK's: a request
with the 2026 envelope opens a connection without sessions, anything else one with a handshake,
and a claim from the other era is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner, aclose_shielded, modern_on_request
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.dispatcher import DispatchContext, OnRequest
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.message import SessionMessage
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    JSONRPCRequest,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

logger = logging.getLogger(__name__)

Params = Mapping[str, Any] | None
Context = DispatchContext[TransportContext]


class Opened(NamedTuple):
    """A connection that is being served: what a call needs that does not come by its stream.

    `connection` is None where each request brings its own envelope.
    """

    connection: Connection | None
    state: Any


def _nobody(_: Opened) -> None:
    """Nobody answers calls beside the dispatcher."""


async def serve_era(
    server: Server[Any],
    opening: JSONRPCRequest,
    reader: ReadStream[SessionMessage | Exception],
    writer: WriteStream[SessionMessage],
    *,
    opened: Callable[[Opened], None] = _nobody,
) -> None:
    """Serve one connection until `reader` ends. `opening` is the first request that it gives;
    `opened` is told of the connection before that is answered."""
    async with server.lifespan(server) as state:
        if opening.method != "initialize" and enveloped(opening.params):
            opened(Opened(None, state))
            await _serve_modern(server, reader, writer, state)
        else:
            await serve_session(server, reader, writer, state, opened=opened)


async def serve_session(
    server: Server[Any],
    reader: ReadStream[SessionMessage | Exception],
    writer: WriteStream[SessionMessage],
    state: Any,
    *,
    opened: Callable[[Opened], None] = _nobody,
) -> None:
    """Serve one connection with a handshake until `reader` ends."""
    dispatcher: JSONRPCDispatcher[TransportContext] = JSONRPCDispatcher(
        # Inline, so that a request right behind it finds the session initialized.
        reader,
        writer,
        inline_methods=frozenset({"initialize"}),
    )
    connection = Connection.for_loop(dispatcher)
    runner: ServerRunner[Any] = ServerRunner(server, connection, state)
    opened(Opened(connection, state))

    async def on_request(ctx: Context, method: str, params: Params) -> dict[str, Any]:
        if method != "initialize" and enveloped(params):
            raise MCPError(
                INVALID_REQUEST,
                "this connection was opened with the initialize handshake; "
                "requests with the 2026-07-28 envelope need a connection of their own",
            )
        return await runner.on_request(ctx, method, params)

    try:
        await dispatcher.run(_contained(on_request), runner.on_notify)
    finally:
        await aclose_shielded(connection)


async def _serve_modern(
    server: Server[Any],
    reader: ReadStream[SessionMessage | Exception],
    writer: WriteStream[SessionMessage],
    state: Any,
) -> None:
    serve = modern_on_request(server, state)

    async def on_request(ctx: Context, method: str, params: Params) -> dict[str, Any]:
        if method == "initialize":
            raise MCPError(
                UNSUPPORTED_PROTOCOL_VERSION,
                "this connection was opened with the 2026-07-28 envelope; it has no handshake",
                _supported(params),
            )
        route = classify_inbound_request({"method": method, "params": params})
        if isinstance(route, InboundLadderRejection):
            raise MCPError(route.code, route.message, route.data)
        return await serve(ctx, method, params)

    async def on_notify(ctx: Context, method: str, params: Params) -> None:
        """Cancellation is the dispatcher's; the revision has no others from a client."""

    dispatcher: JSONRPCDispatcher[TransportContext] = JSONRPCDispatcher(reader, writer)
    await dispatcher.run(_contained(on_request), on_notify)


def _contained(on_request: OnRequest) -> OnRequest:
    async def contained(ctx: Context, method: str, params: Params) -> dict[str, Any]:
        try:
            return await on_request(ctx, method, params)
        except (MCPError, ValidationError):
            raise
        except Exception:
            # The SDK would send the text of the exception to a client of the older era.
            logger.exception("a request handler failed")
            raise MCPError(INTERNAL_ERROR, "Internal server error") from None

    return contained


def enveloped(params: Params) -> bool:
    """Whether a request carries the envelope of 2026-07-28, or half of it."""
    meta = (params or {}).get("_meta")
    return isinstance(meta, Mapping) and PROTOCOL_VERSION_META_KEY in meta


def _supported(params: Params) -> dict[str, Any]:
    data: dict[str, Any] = {"supported": list(MODERN_PROTOCOL_VERSIONS)}
    requested = (params or {}).get("protocolVersion")
    if isinstance(requested, str):
        data["requested"] = requested
    return data
