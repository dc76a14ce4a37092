"""What every HTTP request passes before anything else sees it: host, origin, key, size, method.

One pure ASGI middleware, on every route. It leaves the principal in the scope, and in the shape
in which the SDK looks for the owner of a session, so that a session is only found by the key that
opened it. It also knows the long-lived streams, and ends them when the server stops.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import anyio
import orjson
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_ops.errors import ConfigurationError
from mcp_ops.settings import KeySettings, ServerSettings
from mcp_ops.transport import PRINCIPAL_SCOPE_KEY, HttpPrincipal

MAX_BODY: Final = 1024 * 1024
"""Largest body of a request, in bytes."""

OPEN_ROUTES: Final = frozenset({"/health", "/health/live", "/health/ready"})
"""Routes that answer without a key; they tell less then."""

LIVE_ROUTE: Final = "/health/live"
"""What answers while the server drains, too: it is alive, and no longer ready."""

APPROVALS_PATH: Final = "/approvals"
"""The approval page: people sign in there, with a session instead of a key."""

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE"})
_ONCE = frozenset({b"host", b"origin", b"authorization", b"content-length", b"mcp-session-id"})
_ANONYMOUS = HttpPrincipal(id="anonymous@loopback", scopes=("ops:read", "ops:write", "ops:destroy"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer instead of the application's."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


_TWICE = Refusal(status=400, code="bad_request", message="A header appears more than once.")
_HOST = Refusal(
    status=421,
    code="host_not_allowed",
    message="This Host is not served. The operator adds a public name to server.allowed_hosts.",
)
_ORIGIN = Refusal(
    status=403,
    code="origin_not_allowed",
    message="Pages of this origin may not call. The operator adds it to server.allowed_origins.",
)
_METHOD = Refusal(
    status=405,
    code="method_not_allowed",
    message="Only GET, HEAD, POST and DELETE are served.",
    headers=((b"allow", b"GET, HEAD, POST, DELETE"),),
)
_LENGTH = Refusal(status=400, code="bad_request", message="Content-Length is not a number.")
_TOO_LARGE = Refusal(
    status=413, code="too_large", message=f"A body may have at most {MAX_BODY} bytes."
)
_KEY = Refusal(
    status=401,
    code="unauthorized",
    message="A valid key is needed: send it as Authorization: Bearer <key>.",
    headers=((b"www-authenticate", b'Bearer realm="mcp-ops"'),),
)
_STOPPING = Refusal(
    status=503,
    code="stopping",
    message="The server is stopping; nothing was run. Call again when it is back.",
    headers=((b"retry-after", b"5"), (b"connection", b"close")),
)


class Keys:
    """The configured keys as digests; without any, everybody on loopback is one principal."""

    def __init__(self, keys: Sequence[KeySettings]) -> None:
        secrets = [key.key.get_secret_value() for key in keys]
        if len(set(secrets)) < len(secrets):
            raise ConfigurationError("server.keys: each key needs its own value")
        self._digests = [
            (
                hashlib.sha256(secret.encode()).digest(),
                HttpPrincipal(
                    id=f"key:{key.name}", scopes=key.scopes, host_confirms=key.host_confirms
                ),
            )
            for key, secret in zip(keys, secrets, strict=True)
        ]

    def principal(self, authorization: bytes | None) -> HttpPrincipal | None:
        """Whose key this header carries; takes the same time whichever it is, or none."""
        if not self._digests:
            return _ANONYMOUS
        scheme, _, token = (authorization or b"").partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        found = None
        for known, principal in self._digests:
            if hmac.compare_digest(known, digest):
                found = principal
        return found if scheme.lower() == b"bearer" else None


class Edge:
    """The middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServerSettings,
        keys: Keys,
        open_routes: frozenset[str] = OPEN_ROUTES,
    ) -> None:
        self._app = app
        self._open_routes = open_routes
        self._keys = keys
        self._hosts = LOOPBACK | {host.lower() for host in settings.allowed_hosts}
        self._origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}
        self._users: dict[str, AuthenticatedUser] = {}
        self._streams: set[anyio.CancelScope] = set()
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
        for scope in list(self._streams):
            scope.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on with the principal in the scope."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        refusal = self._check(scope, headers)
        if refusal is not None:
            await _answer(refusal, send)
            return
        principal = self._keys.principal(headers.get(b"authorization"))
        if (
            principal is None
            and scope["path"] not in self._open_routes
            and not _is_page(scope["path"])
        ):
            await _answer(_KEY, send)
            return
        scope[PRINCIPAL_SCOPE_KEY] = principal
        if principal is not None:
            scope["user"] = self._user(principal)
        if scope["method"] == "GET":
            await self._stream(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> Refusal | None:
        names = [name for name, _ in scope["headers"] if name in _ONCE]
        if len(names) != len(set(names)):
            return _TWICE
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._host_allowed(host):
            return _HOST
        origin = headers.get(b"origin", b"").decode("latin-1")
        # The page's own forms come from the host that they are sent to; it looks at that, too.
        own = _is_page(scope["path"]) and origin_host(origin) == host.lower() != ""
        if b"origin" in headers and not own and not self._origin_allowed(origin):
            return _ORIGIN
        if scope["method"] not in _METHODS:
            return _METHOD
        # A client answers what it was asked by POST with its session: those go on to the end.
        goes_on = scope["path"] in ("/messages/", LIVE_ROUTE) or b"mcp-session-id" in headers
        if self._stopping and not goes_on:
            return _STOPPING
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return _LENGTH
        # Bodies without a length are counted by the SDK as they come.
        return _TOO_LARGE if len(length) > 9 or int(length) > MAX_BODY else None

    def _host_allowed(self, host: str) -> bool:
        # A name without a port is allowed with any; one with a port only with that one.
        return host.lower() in self._hosts or _name(f"//{host}") in self._hosts

    def _origin_allowed(self, origin: str) -> bool:
        if origin.lower() in self._origins:
            return True
        return origin.lower().startswith(("http://", "https://")) and _name(origin) in LOOPBACK

    def _user(self, principal: HttpPrincipal) -> AuthenticatedUser:
        # The SDK compares client_id of whoever opened a session with who uses it.
        user = self._users.get(principal.id)
        if user is None:
            token = AccessToken(token="", client_id=principal.id, scopes=list(principal.scopes))
            user = self._users[principal.id] = AuthenticatedUser(token)
        return user

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        open_body = False

        async def watched(message: Message) -> None:
            nonlocal open_body
            open_body = bool(
                message["type"] == "http.response.start" or message.get("more_body", False)
            )
            await send(message)

        with anyio.CancelScope() as stream:
            self._streams.add(stream)
            try:
                await self._app(scope, receive, watched)
            finally:
                self._streams.discard(stream)
        if stream.cancelled_caught and open_body:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reachable from this machine alone."""
    return host.lower() in LOOPBACK


def origin_host(origin: str) -> str:
    """Host and port of a web origin in lower case; empty when it is none."""
    scheme, _, host = origin.lower().partition("://")
    return host if scheme in ("http", "https") and _name(f"//{host}") else ""


def _is_page(path: str) -> bool:
    return path == APPROVALS_PATH or path.startswith(f"{APPROVALS_PATH}/")


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


async def _answer(refusal: Refusal, send: Send) -> None:
    body = orjson.dumps({"error": refusal.code, "message": refusal.message})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *refusal.headers,
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
