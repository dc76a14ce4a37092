"""Reads: identical ones in flight share one upstream call, transient errors are tried again.

Only reads of one principal are shared. A follower survives a leader that was cancelled: it takes
the lead. Retries happen inside the deadline, with backoff, jitter and the target's Retry-After,
and add at most a fifth to a target's calls.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from mcp_ops.call import Call
from mcp_ops.clock import Clock
from mcp_ops.errors import (
    ConnectionLost,
    OpsError,
    Unreachable,
    UpstreamRateLimited,
    UpstreamUnavailable,
)

Body = Callable[[], Awaitable[Any]]

_TRANSIENT = (Unreachable, UpstreamUnavailable, ConnectionLost, UpstreamRateLimited)
_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 5.0
_RETRY_SHARE = 0.2
_FREE_RETRIES = 5.0
CACHE_ITEMS = 200
CACHE_AGE_S = 60.0


@dataclass(slots=True)
class _Flight:
    landed: anyio.Event = field(default_factory=anyio.Event)
    result: Any = None
    error: OpsError | None = None
    abandoned: bool = False


class Reads:
    """Shares, retries and remembers the reads of this process."""

    def __init__(
        self, clock: Clock, *, attempts: int, jitter: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._attempts = attempts
        self._jitter = jitter
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._credit: dict[str, float] = {}
        self._cache: OrderedDict[tuple[str, str, str], tuple[float, Any]] = OrderedDict()

    async def share(self, call: Call, body: Body) -> Any:
        """Run `body`, or wait for the same read that runs already."""
        key = (call.caller.principal, f"{call.dry_run}{call.digest}")
        while True:
            flight = self._flights.get(key)
            if flight is None:
                return await self._lead(key, body)
            await flight.landed.wait()
            if flight.abandoned:
                continue
            if flight.error is not None:
                raise flight.error
            return flight.result

    async def _lead(self, key: tuple[str, str], body: Body) -> Any:
        flight = self._flights[key] = _Flight(abandoned=True)
        try:
            flight.result = await body()
            flight.abandoned = False
            return flight.result
        except OpsError as error:
            flight.error = error
            flight.abandoned = False
            raise
        finally:
            del self._flights[key]
            flight.landed.set()

    async def retry(self, target: str, body: Body) -> Any:
        """Run `body`; try again on errors that pass by themselves, within the retry budget."""
        self._credit[target] = min(
            _FREE_RETRIES, self._credit.get(target, _FREE_RETRIES) + _RETRY_SHARE
        )
        attempt = 1
        while True:
            try:
                return await body()
            except _TRANSIENT as error:
                wait = self._backoff(target, attempt, error)
                if wait is None:
                    raise
            await anyio.sleep(wait)
            attempt += 1

    def _backoff(self, target: str, attempt: int, error: OpsError) -> float | None:
        if attempt >= self._attempts or self._credit[target] < 1:
            return None
        asked = error.retry_after_s or 0.0
        if asked > _LONGEST_BACKOFF_S:
            return None
        self._credit[target] -= 1
        spread = _FIRST_BACKOFF_S * 2 ** (attempt - 1) * (0.5 + self._jitter())
        return float(max(asked, min(spread, _LONGEST_BACKOFF_S)))

    def remember(self, call: Call, data: Any) -> None:
        """Keep an answer for the restrictive mode, where cached answers are allowed."""
        if call.tool.ports:  # a reading that feeds the guard, or depends on the moment
            return
        key = (call.target, call.caller.principal, call.digest)
        self._cache[key] = (self._clock.monotonic(), data)
        self._cache.move_to_end(key)
        if len(self._cache) > CACHE_ITEMS:
            self._cache.popitem(last=False)

    def forget(self, target: str) -> None:
        """A write changed the target: what was read before it says nothing any more."""
        for key in [key for key in self._cache if key[0] == target]:
            del self._cache[key]

    def recall(self, call: Call) -> tuple[float, Any] | None:
        """An answer of at most a minute ago to the same principal, with its age in seconds."""
        found = self._cache.get((call.target, call.caller.principal, call.digest))
        if found is None:
            return None
        age = self._clock.monotonic() - found[0]
        return (age, found[1]) if age <= CACHE_AGE_S else None
