"""What a request is answered that does not get in, or not as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson
from starlette.types import Send

from mcp_ops.auth.principal import Denied
from mcp_ops.transport_connection import MAX_HEAD

MAX_BODY: Final = 1024 * 1024
"""Largest body of a request, in bytes."""

_UNAUTHORIZED, _UNAVAILABLE = 401, 503


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer instead of the application's."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


TWICE = Refusal(status=400, code="bad_request", message="A header appears more than once.")
HOST = Refusal(
    status=421,
    code="host_not_allowed",
    message="This Host is not served. The operator adds a public name to server.allowed_hosts.",
)
ORIGIN = Refusal(
    status=403,
    code="origin_not_allowed",
    message="Pages of this origin may not call. The operator adds it to server.allowed_origins.",
)
METHOD = Refusal(
    status=405,
    code="method_not_allowed",
    message="Only GET, HEAD, POST and DELETE are served.",
    headers=((b"allow", b"GET, HEAD, POST, DELETE"),),
)
LENGTH = Refusal(status=400, code="bad_request", message="Content-Length is not a number.")
TOO_LARGE = Refusal(
    status=413,
    code="too_large",
    message=f"A body may have at most {MAX_BODY} bytes.",
    headers=((b"connection", b"close"),),
)
HEAD = Refusal(
    status=431, code="too_large", message=f"The headers may have at most {MAX_HEAD} bytes."
)
STREAMS = Refusal(
    status=429,
    code="too_many_streams",
    message="There are too many open streams. Close some, or call again later.",
    headers=((b"retry-after", b"30"),),
)
STOPPING = Refusal(
    status=503,
    code="stopping",
    message="The server is stopping; nothing was run. Call again when it is back.",
    headers=((b"retry-after", b"5"), (b"connection", b"close")),
)

BEHIND = Refusal(
    status=503,
    code="store_unavailable",
    message="The record takes no further line at the moment; nothing was run. Call again later.",
    headers=((b"retry-after", b"5"),),
)


def denial(denied: Denied, challenge: bytes) -> Refusal:
    """The answer to somebody whom the door does not let in; `challenge` says how to get in."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if denied.status == _UNAVAILABLE:
        headers = ((b"retry-after", b"5"),)
    elif denied.status == _UNAUTHORIZED or denied.scope:
        headers = ((b"www-authenticate", challenge),)
    return Refusal(status=denied.status, code=denied.code, message=denied.message, headers=headers)


async def answer(refusal: Refusal, send: Send) -> None:
    body = orjson.dumps({"error": refusal.code, "message": refusal.message})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *refusal.headers,
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
