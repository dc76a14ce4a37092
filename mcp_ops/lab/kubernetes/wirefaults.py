"""Awkward answers for a number of requests: refusals, expired lists, cut and lost answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_ops.lab.kubernetes.call import parse_path
from mcp_ops.lab.kubernetes.kinds import POD, Kind
from mcp_ops.lab.kubernetes.status import (
    Cause,
    StatusError,
    already_exists,
    apply_conflict,
    conflict,
    expired,
    internal_error,
    invalid,
    timed_out,
    unavailable,
)

_WRITES: Final = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(slots=True, kw_only=True)
class _Armed:
    """A fault that some requests have yet to meet."""

    fault: str
    left: int
    methods: tuple[str, ...]
    path: str
    retry_after_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a request is about, as far as an answer names it."""

    kind: Kind
    name: str
    watch: bool
    retry_after_s: int


Refusal = Callable[[_Asked], Response]


def _told(make: Callable[[_Asked], StatusError]) -> Refusal:
    return lambda asked: make(asked).response()


def _expired(asked: _Asked) -> Response:
    """A list's page says it with its code, a watch with an event, after a good beginning."""
    if not asked.watch:
        why = "The provided continue parameter is too old to display a consistent list result."
        return expired(why).response()
    gone = {"type": "ERROR", "object": expired("too old resource version: 1 (2)").body()}
    return Response(json.dumps(gone) + "\n", media_type="application/json")


def _shed(asked: _Asked) -> Response:
    """What the overload filter sends: text, not a `Status`."""
    return PlainTextResponse(
        "Too many requests, please try again later.\n",
        status_code=429,
        headers={"Retry-After": str(asked.retry_after_s)},
    )


def _bad_field() -> list[Cause]:
    return [
        Cause(
            field="spec.template.spec.containers[0].image",
            reason="FieldValueRequired",
            message="Required value",
        )
    ]


# Instead of the request: nothing was done.
_REFUSALS: Final[dict[str, tuple[tuple[str, ...], Refusal]]] = {
    "conflict": (("PUT", "PATCH", "DELETE"), _told(lambda a: conflict(a.kind, a.name))),
    "exists": (("POST",), _told(lambda a: already_exists(a.kind, a.name))),
    "apply-conflict": (
        ("PATCH",),
        _told(lambda a: apply_conflict([('"kubectl"', ".spec.replicas")])),
    ),
    "expired": (("GET",), _expired),
    "invalid": (
        ("POST", "PUT", "PATCH"),
        _told(lambda a: invalid(a.kind, a.name, _bad_field())),
    ),
    "overload": ((), _shed),
    "internal": ((), _told(lambda a: internal_error("etcdserver: leader changed"))),
    "unavailable": ((), _told(lambda a: unavailable())),
}
# After the request: it was done, and the answer does not tell.
_AFTER: Final = ("cut", "lost", "timeout")
WIRE_FAULTS: Final = (*_REFUSALS, *_AFTER)


class WireFaults:
    """The awkward answers that are due; shared with the stand-in that serves them."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self.met: list[tuple[str, str, str]] = []

    def arm(
        self,
        fault: str,
        *,
        times: int = 1,
        methods: tuple[str, ...] = (),
        path: str = "",
        retry_after_s: int = 1,
    ) -> None:
        """Let the next `times` fitting requests meet a fault of `WIRE_FAULTS`.

        `methods` and `path`, a part of the path, narrow it; by default a fault meets those
        requests that a real server would answer so. `met` lists fault, method and path of what
        has been met. Raises `KeyError` for an unknown fault.
        """
        if fault not in WIRE_FAULTS:
            raise KeyError(fault)
        usual = _REFUSALS[fault][0] if fault in _REFUSALS else _WRITES
        self._armed.append(
            _Armed(
                fault=fault,
                left=times,
                methods=methods or usual,
                path=path,
                retry_after_s=retry_after_s,
            )
        )

    def disarm(self) -> None:
        """Let no further request meet a fault."""
        self._armed.clear()

    def take(self, scope: Scope) -> _Armed | None:
        """The fault that a request meets, if it meets one."""
        method, path = scope["method"], scope["path"]
        query = scope["query_string"].decode("ascii", "replace")
        for armed in self._armed:
            if armed.methods and method not in armed.methods:
                continue
            old = "continue=" in query or "watch=" in query
            if armed.path in path and (armed.fault != "expired" or old):
                armed.left -= 1
                if armed.left < 1:
                    self._armed.remove(armed)
                self.met.append((armed.fault, method, path))
                return armed
        return None


@dataclass(frozen=True, slots=True)
class Awkward:
    """The layer before the stand-in, which answers in its place when a fault is due."""

    app: ASGIApp
    faults: WireFaults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        armed = self.faults.take(scope) if scope["type"] == "http" else None
        if armed is None:
            await self.app(scope, receive, send)
        elif armed.fault in _REFUSALS:
            answer = _REFUSALS[armed.fault][1](_asked(scope, armed))
            await answer(scope, receive, send)
        elif armed.fault == "timeout":
            await self.app(scope, receive, _swallow)
            await timed_out().response()(scope, receive, send)
        elif armed.fault == "lost":
            await self.app(scope, receive, _swallow)
            while (await receive())["type"] != "http.disconnect":
                continue
        else:
            await self._cut(scope, receive, send)

    async def _cut(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head and half of the body; the server then closes the connection."""
        kept: list[Message] = []

        async def keep(message: Message) -> None:
            kept.append(message)

        await self.app(scope, receive, keep)
        body = b"".join(message.get("body", b"") for message in kept[1:])
        await send(kept[0])
        half = body[: max(len(body) // 2, 1)]
        await send({"type": "http.response.body", "body": half, "more_body": True})


async def _swallow(message: Message) -> None:
    """The answer that nobody gets."""


def _asked(scope: Scope, armed: _Armed) -> _Asked:
    address = parse_path(scope["path"])
    query: dict[str, Any] = parse_qs(scope["query_string"].decode("ascii", "replace"))
    return _Asked(
        kind=address.kind if address else POD,
        name=address.name if address else "",
        watch=query.get("watch", [""])[0].lower() in ("1", "true"),
        retry_after_s=armed.retry_after_s,
    )
