"""Paths by which a gate tells requests of one address: what they are about is in the body."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_AS_SENT: Final = "faults.path"


class Named:
    """Stands before a gate: gives requests that are sent with a body the path that `path_of` makes
    of theirs and of their body."""

    def __init__(self, app: ASGIApp, path_of: Callable[[str, Any], str]) -> None:
        self._app = app
        self._path_of = path_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body, more = bytearray(), True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        left: list[Message] = [{"type": "http.request", "body": bytes(body)}]

        async def again() -> Message:
            return left.pop() if left else await receive()

        path = self._path_of(scope["path"], _read(bytes(body)))
        await self._app({**scope, "path": path, _AS_SENT: scope["path"]}, again, send)


def _read(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError:
        return {}


def as_sent(app: ASGIApp) -> ASGIApp:
    """Stands behind the gate: the path is the one that was sent."""

    async def back(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "path": scope.get(_AS_SENT, scope.get("path"))}, receive, send)

    return back
