"""`tools/call` answered as it is, without the SDK's models of each revision.

The SDK holds every request against two models and every answer against one more, twice on HTTP.
A call that is plainly right passes here instead: a name, arguments that the tool checks itself,
and an envelope that was found right before. Whatever else it carries (state and answers of the
multi-round trip, tasks, anything odd) goes the SDK's way, which also finds the words for what is
wrong. This is the innermost middleware: spans, sealing and the count of calls stay outside.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import anyio
import orjson
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.runner import modern_error_data
from mcp.server.session import ServerSession
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
    methods,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from mcp_ops.transport import Wire

METHOD: Final = "tools/call"

_MOST_ENVELOPES = 256
_LONGEST_ENVELOPE = 2_048
_MESSAGE = frozenset({"jsonrpc", "id", "method", "params"})
_PARAMS = frozenset({"name", "arguments", "_meta"})
_RESERVED = "io.modelcontextprotocol/"
_ENVELOPE = (PROTOCOL_VERSION_META_KEY, CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY)
_NOTHING: Final[dict[str, Any]] = {}
_log = logging.getLogger(__name__)


def plain_params(params: Mapping[str, Any] | None) -> bool:
    """Whether the parameters of a call are a name, arguments and metadata of the right shapes."""
    return (
        params is not None
        and params.keys() <= _PARAMS
        and type(params.get("name")) is str
        and type(params.get("arguments", _NOTHING)) is dict
        and type(params.get("_meta", _NOTHING)) is dict
        and type(params.get("_meta", _NOTHING).get("progressToken", "")) in (str, int)
    )


def plain_call(body: bytes) -> dict[str, Any] | None:
    """The message of a call that is plainly right, as far as this can be said without knowing the
    connection that it came by; None for everything else."""
    try:
        message = orjson.loads(body)
    except ValueError:
        return None
    plain = (
        type(message) is dict
        and message.keys() == _MESSAGE
        and message["jsonrpc"] == "2.0"
        and message["method"] == METHOD
        and type(message["id"]) in (int, str)
        and type(message["params"]) is dict
        and plain_params(message["params"])
    )
    return message if plain else None


def told_meta(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The metadata of plain parameters, under the names that the SDK gives to its fields."""
    if (said := params.get("_meta")) is None:
        return None
    meta = dict(said)
    if (token := meta.pop("progressToken", None)) is not None:
        meta["progress_token"] = token
    return meta


class PlainContext(ABC):
    """One plain call as the SDK's session sees it: it can notify, and ask where its kind can."""

    can_send_request: bool = False
    kind: str

    def __init__(self, message: Mapping[str, Any], request: Request) -> None:
        self.request_id: int | str = message["id"]
        self.params: dict[str, Any] = message["params"]
        self.request = request
        self.meta = told_meta(self.params)
        self.scope = anyio.CancelScope()

    @abstractmethod
    async def say(self, message: Mapping[str, Any]) -> None:
        """Send a message before the answer."""

    def context(self, connection: Connection, state: Any) -> ServerRequestContext[Any, Any]:
        """What the server's middleware and handler are given."""
        meta: Any = self.meta  # a TypedDict of the SDK's that takes all keys
        return ServerRequestContext(
            session=ServerSession(self, connection, request_meta=meta),
            lifespan_context=state,
            method=METHOD,
            params=self.params,
            request_id=self.request_id,
            meta=meta,
            protocol_version=connection.protocol_version,
            request=self.request,
        )

    @property
    def transport(self) -> TransportContext:
        """How the request came."""
        return TransportContext(
            kind=self.kind, can_send_request=self.can_send_request, headers=self.request.headers
        )

    @property
    def message_metadata(self) -> ServerMessageMetadata:
        """The request, for who looks for it here."""
        return ServerMessageMetadata(request_context=self.request)

    @property
    def cancel_requested(self) -> anyio.Event:
        """Never set: who cancels a call ends its scope."""
        return anyio.Event()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Ask the client; refused where a server does not ask."""
        raise NoBackChannelError(method)

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        """Send a notification."""
        body = {} if params is None else {"params": dict(params)}
        await self.say({"jsonrpc": "2.0", "method": method, **body})

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Say how far the call is, to a client that wants to hear it."""
        token = (self.meta or _NOTHING).get("progress_token")
        if token is None:
            return
        said: dict[str, Any] = {"progressToken": token, "progress": progress}
        if total is not None:
            said["total"] = total
        if message is not None:
            said["message"] = message
        await self.notify("notifications/progress", said)


class PlainParams(NamedTuple):
    """What the SDK's parameters of a call have, without the model."""

    name: str
    arguments: dict[str, Any] | None
    request_state: None = None
    input_responses: None = None
    task: None = None
    meta: None = None


class Envelopes:
    """The 2026 envelopes that were found right, each with the connection that it makes.

    Clients send the same one with every call. At most 256 are kept, none of more than 2 KiB.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Connection] = {}

    def connection(self, meta: Mapping[str, Any]) -> Connection | None:
        """The connection of a request with this metadata; None unless all of it is right."""
        reserved = [meta.get(key) for key in _ENVELOPE]
        if None in reserved[:2] or any(
            key.startswith(_RESERVED) and key not in _ENVELOPE for key in meta
        ):
            return None
        try:
            key = orjson.dumps(reserved)
        except TypeError:
            return None
        known = self._known.get(key)
        return known if known is not None else self._learn(key, reserved)

    def _learn(self, key: bytes, reserved: list[Any]) -> Connection | None:
        version, capabilities, info = reserved
        if version not in MODERN_PROTOCOL_VERSIONS or len(key) > _LONGEST_ENVELOPE:
            return None
        pairs = zip(_ENVELOPE, reserved, strict=True)
        meta = {name: value for name, value in pairs if value is not None}
        try:
            methods.validate_client_request(METHOD, version, {"name": "", "_meta": meta})
        except ValidationError:
            return None
        if len(self._known) >= _MOST_ENVELOPES:
            self._known.pop(next(iter(self._known)))
        made = self._known[key] = Connection.from_envelope(version, info, capabilities)
        return made


class PlainCalls:
    """The middleware; `answer` is the same for who has looked at the request already."""

    def __init__(self, server: Server[Any]) -> None:
        self._server = server
        self.envelopes = Envelopes()
        self._stamp: dict[str, Any] = {SERVER_INFO_META_KEY: server.server_info_stamp}
        self._chain: CallNext | None = None

    def begin_anew(self) -> None:
        """Look at the server's middleware again with the next call."""
        self._chain = None

    async def outcome(self, ctx: ServerRequestContext[Any, Any]) -> tuple[str, Any]:
        """Run a plain call through all middleware of the server: the key under which the answer
        stands in its message ("result" or "error"), and the answer as JSON."""
        if self._chain is None:
            self._chain = _unreachable
            for each in reversed(self._server.middleware):
                self._chain = partial(_through, each, self._chain)
        try:
            result = await self._chain(ctx)
        except Exception as exc:  # the edge of the protocol: every failure is an answer
            return "error", modern_error_data(exc).model_dump(exclude_none=True)
        if isinstance(result, BaseModel):  # a question, sealed on its way out
            result = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        return "result", result

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """The SDK's middleware: wraps every message."""
        if ctx.method == METHOD and self._plain(ctx):
            return await self.answer(ctx)
        return await call_next(ctx)

    def _plain(self, ctx: ServerRequestContext[Any, Any]) -> bool:
        if ctx.params is None or not plain_params(ctx.params):
            return False
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return self.envelopes.connection(ctx.params.get("_meta", _NOTHING)) is not None
        # Before the handshake the SDK refuses.
        return ctx.session.client_params is not None

    async def answer(self, ctx: ServerRequestContext[Any, Any]) -> dict[str, Any]:
        """Run the handler on a plain call; its result in the form of the call's revision.

        Raises what the handler raises, `MCPError` among it.
        """
        assert ctx.params is not None  # noqa: S101 - plain
        entry = self._server.get_request_handler(METHOD)
        if entry is None:
            raise MCPError(METHOD_NOT_FOUND, "Method not found", METHOD)
        params = PlainParams(ctx.params["name"], ctx.params.get("arguments"))
        result = await entry.handler(ctx, params)
        modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        if type(result) is not Wire:
            made = self._by_the_book(ctx.protocol_version, result)
        elif modern:
            made = result
        else:
            made = {name: value for name, value in result.items() if name != "resultType"}
        if modern:
            made = {**made, "_meta": {**(made.get("_meta") or {}), **self._stamp}}
        return made

    def _by_the_book(self, version: str, result: HandlerResult) -> dict[str, Any]:
        """What the SDK would do: hold the result against the revision's model."""
        data = (
            result.model_dump(by_alias=True, mode="json", exclude_none=True)
            if isinstance(result, BaseModel)
            else dict(result or {})
        )
        try:
            return methods.serialize_server_result(METHOD, version, data)
        except ValidationError:
            _log.exception("the handler of a call returned an invalid result")
            raise MCPError(INTERNAL_ERROR, "Handler returned an invalid result") from None


def _through(middleware: Any, call_next: CallNext, ctx: Any) -> Awaitable[HandlerResult]:
    passed: Awaitable[HandlerResult] = middleware(ctx, call_next)
    return passed


async def _unreachable(ctx: ServerRequestContext[Any, Any]) -> HandlerResult:
    raise AssertionError("a plain call is answered before")


def shorten(server: Server[Any]) -> PlainCalls:
    """Put the middleware behind all others, once a server; transports do it when they begin."""
    for each in server.middleware:
        if isinstance(each, PlainCalls):
            each.begin_anew()
            return each
    made = PlainCalls(server)
    server.middleware.append(made)
    return made
