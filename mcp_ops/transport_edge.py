"""What every HTTP request passes before anything else sees it: host, origin, size, method, door.

One pure ASGI middleware, on every route. It leaves the principal in the scope, and in the shape
in which the SDK looks for the owner of a session, so that a session is only found by the principal
that opened it. It reads bodies whole, so that nobody behind it waits for a slow client. It knows
the long-lived streams, and ends them when the server stops, or when who opened them is not let in
any more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_ops.auth.certificates import UNTRUSTED_PROXY
from mcp_ops.auth.challenge import WELL_KNOWN
from mcp_ops.auth.door import Door
from mcp_ops.auth.principal import Admitted, Denied, HttpPrincipal
from mcp_ops.errors import StoreUnavailable
from mcp_ops.settings import ServerSettings
from mcp_ops.transport import PRINCIPAL_SCOPE_KEY
from mcp_ops.transport_connection import LARGE_HEAD
from mcp_ops.transport_refusals import (
    BEHIND,
    HEAD,
    HOST,
    LENGTH,
    MAX_BODY,
    METHOD,
    ORIGIN,
    STOPPING,
    STREAMS,
    TOO_LARGE,
    TWICE,
    Refusal,
    answer,
    denial,
)
from mcp_ops.transport_streams import Streams

OPEN_ROUTES: Final = frozenset({"/health", "/health/live", "/health/ready"})
"""Routes that answer without a key; they tell less then."""

MAX_OPEN_BODY: Final = 16 * 1024
"""Bytes of a body that is kept of somebody without a key: a form of the approval page."""

LIVE_ROUTE: Final = "/health/live"
"""What answers while the server drains, too: it is alive, and no longer ready."""

APPROVALS_PATH: Final = "/approvals"
"""The approval page: people sign in there, with a session instead of a key."""

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_STREAMING = frozenset({"GET", "HEAD"})
_LISTEN = b"subscriptions/listen"
_ONCE = frozenset({b"host", b"origin", b"authorization", b"content-length", b"mcp-session-id"})
_MAX_USERS = 4_096
_CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, HEAD, OPTIONS"),
    (b"access-control-allow-headers", b"*"),
    (b"access-control-max-age", b"86400"),
)


StepUp = Callable[[HttpPrincipal, bytes], Denied | None]


class Edge:
    """The middleware. `step_up` refuses calls for which a user could give a scope."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServerSettings,
        door: Door,
        step_up: StepUp | None = None,
        open_routes: frozenset[str] = OPEN_ROUTES,
    ) -> None:
        self._app = app
        self._door = door
        self._step_up = step_up
        self._open_routes = open_routes
        public = urlsplit(settings.url).hostname
        self._hosts = LOOPBACK | {host.lower() for host in settings.allowed_hosts}
        self._hosts |= {public} if public else set()
        self._origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}
        self._once = _ONCE | door.headers
        self._users: OrderedDict[str, AuthenticatedUser] = OrderedDict()
        self.streams = Streams()
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Whether the server is about to end: hosts send it nothing new."""
        return self._stopping

    def refuse_new(self) -> None:
        """Answer 503 to everything that opens something new; streams and answers go on."""
        self._stopping = True

    def end_streams(self) -> None:
        """End the long-lived streams, properly closed, so that their connections close."""
        self.streams.end()

    def end_lost_streams(self) -> None:
        """End the streams of those who are not let in any more: key revoked, token expired."""
        self.streams.end(lambda admitted: not self._door.holds(admitted))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on with the principal in the scope."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            # Blanks around a value are no part of it; the faster parser leaves those behind it.
            scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        path: str = scope["path"]
        public = path == WELL_KNOWN or path.startswith(f"{WELL_KNOWN}/")
        refusal = self._check(scope, headers, public=public)
        if refusal is not None:
            await answer(refusal, send)
            return
        if public:
            await self._public(scope, receive, send)
            return
        client = scope.get("client")
        found = self._door.look(headers, client[0] if client else "")
        if found is None:
            found = await self._door.verify(headers)
        admitted = found if isinstance(found, Admitted) else None
        if isinstance(found, Denied):
            # Somebody who pretends to be the proxy gets nothing, not even what is open.
            is_open = path in self._open_routes or _is_page(path)
            if not is_open or found.code == UNTRUSTED_PROXY:
                await answer(self._denial(found, path), send)
                return
        scope[PRINCIPAL_SCOPE_KEY] = admitted.principal if admitted is not None else None
        if admitted is not None:
            scope["user"] = self._user(admitted.principal)
        await self._admitted(scope, receive, send, headers, admitted)

    async def _admitted(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: dict[bytes, bytes],
        admitted: Admitted | None,
    ) -> None:
        if scope["method"] in _STREAMING:
            await self._stream(scope, receive, send, admitted)
            return
        most = MAX_BODY if admitted is not None else MAX_OPEN_BODY
        body = await _whole_body(receive, most)
        if body is None:
            return  # the client is gone
        if len(body) > most:
            await answer(TOO_LARGE, send)
            return
        if admitted is not None and admitted.delegated and self._step_up is not None:
            try:
                lacking = self._step_up(admitted.principal, body)
            except StoreUnavailable:  # a refusal has its line, too
                await answer(BEHIND, send)
                return
            if lacking is not None:
                await answer(self._denial(lacking, scope["path"]), send)
                return
        again = _once_more(body, receive)
        if headers.get(b"mcp-method") == _LISTEN:  # a stream without an end of its own
            await self._stream(scope, again, send, admitted)
        else:
            await self._app(scope, again, send)

    async def _public(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What every page of the web may read: how to get in."""

        async def shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_CORS]}
            await send(message)

        if scope["method"] == "OPTIONS":
            await shared({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._app(scope, receive, shared)

    def _denial(self, denied: Denied, path: str) -> Refusal:
        return denial(denied, self._door.challenges.header(denied, path))

    def _check(self, scope: Scope, headers: dict[bytes, bytes], *, public: bool) -> Refusal | None:
        names = [name for name, _ in scope["headers"] if name in self._once]
        if len(names) != len(set(names)):
            return TWICE
        if LARGE_HEAD in scope:
            return HEAD
        host = headers.get(b"host", b"").decode("latin-1")
        # Probes of hosts call by the address of the machine, which no list can know; a page of
        # elsewhere can't: a name that leads here is what it would have to send.
        probed = scope["path"] in OPEN_ROUTES and _is_address(_name(f"//{host}"))
        if not probed and not self._host_allowed(host):
            return HOST
        if not public and self._foreign(scope["path"], headers, host):
            return ORIGIN
        if scope["method"] not in (_READING if public else _METHODS):
            return METHOD
        # A client answers what it was asked by POST with its session: those go on to the end.
        goes_on = scope["path"] in ("/messages/", LIVE_ROUTE) or b"mcp-session-id" in headers
        if self._stopping and not goes_on:
            return STOPPING
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return LENGTH
        # Bodies without a length are counted as they come.
        return TOO_LARGE if len(length) > 9 or int(length) > MAX_BODY else None

    def _foreign(self, path: str, headers: dict[bytes, bytes], host: str) -> bool:
        """Whether a page of an origin that is not on the list sent this."""
        if b"origin" not in headers:
            return False
        origin = headers[b"origin"].decode("latin-1")
        # The page's own forms come from the host that they are sent to; it looks at that, too.
        own = _is_page(path) and origin_host(origin) == host.lower() != ""
        return not own and not self._origin_allowed(origin)

    def _host_allowed(self, host: str) -> bool:
        # A name without a port is allowed with any; one with a port only with that one.
        return host.lower() in self._hosts or _name(f"//{host}") in self._hosts

    def _origin_allowed(self, origin: str) -> bool:
        if origin.lower() in self._origins:
            return True
        return origin.lower().startswith(("http://", "https://")) and _name(origin) in LOOPBACK

    def _user(self, principal: HttpPrincipal) -> AuthenticatedUser:
        # The SDK compares client_id of whoever opened a session with who uses it. It is the
        # principal's: a session goes on with a newer token, and with no other's.
        user = self._users.get(principal.id)
        if user is None:
            token = AccessToken(token="", client_id=principal.id, scopes=[])
            user = self._users[principal.id] = AuthenticatedUser(token)
            if len(self._users) > _MAX_USERS:
                self._users.popitem(last=False)
        return user

    async def _stream(
        self, scope: Scope, receive: Receive, send: Send, admitted: Admitted | None
    ) -> None:
        if admitted is not None and self.streams.full(admitted.principal.id):
            await answer(STREAMS, send)
        else:
            await self.streams.run(self._app, scope, receive, send, admitted)


async def _whole_body(receive: Receive, most: int) -> bytes | None:
    """The body, once all of it is here, or more of it than there may be; None when the client is
    gone. How long that may take is the connection's business."""
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            return body
        if not message.get("more_body", False):
            return body


def _once_more(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, and then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reachable from this machine alone."""
    return host.lower() in LOOPBACK


def origin_host(origin: str) -> str:
    """Host and port of a web origin in lower case; empty when it is none."""
    scheme, _, host = origin.lower().partition("://")
    return host if scheme in ("http", "https") and _name(f"//{host}") else ""


def _is_page(path: str) -> bool:
    return path == APPROVALS_PATH or path.startswith(f"{APPROVALS_PATH}/")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=64)  # a client names the same host with every request
def _name(url: str) -> str:
    """The host of a URL that is nothing but scheme, host and port; empty when it is more."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    # What is left over besides host and port (user, path, a stray character) is not trusted.
    name = parts.hostname or ""
    bare = f"[{name}]" if ":" in name else name
    expected = {bare, f"{bare}:"} if port is None else {f"{bare}:{port}"}
    return name if url.lower().partition("//")[2] in expected else ""
