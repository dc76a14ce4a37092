"""What hosts ask a server over HTTP: its health, and whether it is ready. Part of the composition
root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio

from mcp_ops.clock import rfc3339
from mcp_ops.errors import OpsError, StoreUnavailable
from mcp_ops.guard.control import Control, Parts
from mcp_ops.guard.inside import Inside

READY_AGE_S: Final = 1.0
"""An answer that is not older is given again: a stranger who asks cannot make us ask the store."""

_READY_S: Final = 2.0
_STORE: Final = "store"
Probe = Callable[[], Awaitable[tuple[int, dict[str, Any]]]]


def health_of(parts: Parts, inside: Inside) -> Probe:
    """The health of everything.

    The code is about this server: a host that restarts it because a target is down would take
    away the tool that repairs the target.
    """

    async def health() -> tuple[int, dict[str, Any]]:
        try:
            found = await inside.health(Control(parts, inside.caller))
        except OpsError as error:
            return 503, {"status": "unhealthy", "problem": error.message}
        body = found.model_dump(mode="json", exclude_none=True)
        checks = body.pop("components")
        return 200, {
            "status": found.overall,
            **body,
            "uptime_seconds": found.uptime_s,
            "components": {
                _STORE: "unhealthy" if parts.away() else "healthy",
                **{each.name: each.status for each in found.components if each.kind != _STORE},
            },
            "checks": checks,
            "observed_at": rfc3339(parts.clock.now()),
        }

    return health


class Readiness:
    """Whether calls can be served now: not while the guard knows no modes, since then nothing
    is allowed, and not while the record takes no more lines.

    A shared store that is away leaves reads: the server stays ready, and `degraded`.
    """

    def __init__(self, parts: Parts, *, most_unwritten: int) -> None:
        self._parts = parts
        self._most_unwritten = most_unwritten
        self._asking = anyio.Lock()
        self._known: tuple[float, tuple[int, dict[str, Any]]] | None = None

    async def __call__(self) -> tuple[int, dict[str, Any]]:
        """A status code, and what it is because of."""
        async with self._asking:
            now = self._parts.clock.monotonic()
            if self._known is None or now - self._known[0] >= READY_AGE_S:
                self._known = (now, await self._ask())
            return self._known[1]

    async def _ask(self) -> tuple[int, dict[str, Any]]:
        try:
            with anyio.fail_after(_READY_S):
                await self._parts.guard.hot.modes()
        except StoreUnavailable as error:
            return 503, {"status": "unavailable", "problem": error.message}
        except TimeoutError:
            problem = f"the store did not answer within {_READY_S:g} s"
            return 503, {"status": "unavailable", "problem": problem}
        if self._parts.ledger.unwritten >= self._most_unwritten:
            return 503, {"status": "unavailable", "problem": "the record takes no more lines"}
        away = sorted(self._parts.away())
        return 200, {"status": "degraded", "away": away} if away else {"status": "ready"}
