"""What a stand-in does to the connection itself: its own clock in `Date`, and cut connections."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CUT: Final = b"x-lab-cut"


def cut_answer() -> Response:
    """The answer that is never sent: `Wire` cuts the connection in its place."""
    return Response(headers={_CUT.decode(): "1"})


class Wire:
    """Outermost layer of a stand-in's app.

    `refuse` answers in place of the app while it has something to answer. `now` feeds the
    `Date` header, so serve with uvicorn's own one switched off (`date_header=False`);
    otherwise there are two.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        now: Callable[[], float],
        refuse: Callable[[], Response | None] = lambda: None,
    ) -> None:
        self._app = app
        self._now = now
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cut = False

        async def say(message: Message) -> None:
            nonlocal cut
            if message["type"] == "http.response.start":
                headers = [(k.lower(), v) for k, v in message.get("headers", [])]
                cut = any(k == _CUT for k, _ in headers)
                date = formatdate(self._now(), usegmt=True).encode()
                message = {**message, "headers": [*headers, (b"date", date)]}
            if not cut:
                await send(message)

        await (self._refuse() or self._app)(scope, receive, say)
        if cut:
            await _cut(receive, send)


async def _cut(receive: Receive, send: Send) -> None:
    """Close the socket without an answer.

    ASGI has no message for it. uvicorn's `send` is a method of the object that owns the
    transport; with another server the answer breaks off in its first bytes instead.
    """
    transport: Any = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        headers = [(b"content-length", b"1024")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        return
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
