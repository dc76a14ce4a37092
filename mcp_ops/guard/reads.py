"""Reads: identical ones in flight share one upstream call, transient errors are tried again.

Only reads of one principal are shared or remembered. A follower survives a leader that was
cancelled: it takes the lead. Retries happen inside the deadline, with backoff, jitter and the
target's Retry-After, and add at most a fifth to a target's calls. An answer is forgotten when a
write on its target begins and again when it ends, and what was read meanwhile is not remembered.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

from mcp_ops.call import Call
from mcp_ops.capabilities.base import Effect
from mcp_ops.clock import Clock
from mcp_ops.errors import (
    ConfigurationError,
    ConnectionLost,
    DeadlineExceeded,
    OpsError,
    Unreachable,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from mcp_ops.ports import OWN_TARGET
from mcp_ops.tool import Tool

Body = Callable[[], Awaitable[Any]]

_TRANSIENT = (Unreachable, UpstreamUnavailable, ConnectionLost, UpstreamRateLimited)
_FIRST_BACKOFF_S = 0.1
_LONGEST_WAIT_S = 5.0  # a longer Retry-After is the caller's to wait for
_RETRY_SHARE = 0.2
_FREE_RETRIES = 5.0
CACHE_ITEMS = 200
CACHE_AGE_S = 60.0


@dataclass(slots=True)
class _Flight:
    landed: anyio.Event | None = None  # made by the first who waits
    over: bool = False
    result: Any = None
    error: OpsError | None = None
    abandoned: bool = False

    def end(self) -> anyio.Event:
        """What is set when it is over."""
        if self.landed is None:
            self.landed = anyio.Event()
        return self.landed

    def land(self) -> None:
        """It is over: whoever waits goes on."""
        self.over = True
        if self.landed is not None:
            self.landed.set()


class Reads:
    """Shares, retries and remembers the reads of this process.

    `cache` says for which tools an answer is given again, and for how many seconds.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        attempts: int,
        cache: Mapping[str, float] | None = None,
        jitter: Callable[[], float] = random.random,
        pause: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._clock = clock
        self._attempts = attempts
        self._seconds = cache or {}
        self._jitter = jitter
        self._pause = pause
        self._flights: dict[tuple[str, str, int], _Flight] = {}
        self._changes: dict[str, int] = {}
        self._credit: dict[str, float] = {}
        self._cache: OrderedDict[tuple[str, str, str], tuple[float, Any]] = OrderedDict()

    async def share(self, call: Call, body: Body, *, metered: bool, within_s: float) -> Any:
        """Run `body`, or wait at most `within_s` seconds for the same read that runs already.

        A read that began before a write on the target is none to share after it. Answers of
        metered targets are remembered, for the restrictive mode.
        """
        ends = math.inf
        while True:
            key = (
                call.caller.principal,
                f"{call.dry_run}{call.digest}",
                self._changes.get(call.target, 0),
            )
            flight = self._flights.get(key)
            if flight is None:  # the body has a deadline of its own
                return await self._lead(key, call, body, metered=metered)
            if ends == math.inf:
                ends = anyio.current_time() + within_s
            with anyio.CancelScope(deadline=ends):
                await flight.end().wait()
            if not flight.over:
                break
            if flight.abandoned:
                continue
            if flight.error is not None:
                raise flight.error
            return flight.result
        raise DeadlineExceeded(
            f"{call.target or 'The server'} gave no answer within {within_s:g} s.",
            hint="The same read ran for another call, and was given up. Call again.",
        )

    async def _lead(
        self, key: tuple[str, str, int], call: Call, body: Body, *, metered: bool
    ) -> Any:
        flight = self._flights[key] = _Flight(abandoned=True)
        try:
            flight.result = await body()
            flight.abandoned = False
            if self._changes.get(call.target, 0) == key[2]:
                self._remember(call, flight.result, metered=metered)
            return flight.result
        except OpsError as error:
            flight.error = error
            flight.abandoned = False
            raise
        finally:
            del self._flights[key]
            flight.land()

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
            await self._pause(wait)
            attempt += 1

    def _backoff(self, target: str, attempt: int, error: OpsError) -> float | None:
        if attempt >= self._attempts or self._credit[target] < 1:
            return None
        asked = error.retry_after_s or 0.0
        if asked > _LONGEST_WAIT_S:
            return None
        if not asked >= 0:  # what makes no sense (negative, not a number) is no wish
            asked = 0.0
        self._credit[target] -= 1
        # On top of what the target asked for: else all who were told the same come back at once.
        spread = _FIRST_BACKOFF_S * 2 ** (attempt - 1) * (0.5 + self._jitter())
        return float(asked + spread)

    def _remember(self, call: Call, data: Any, *, metered: bool) -> None:
        cached = call.tool.name in self._seconds
        if call.dry_run or call.target in ("", OWN_TARGET) or not (metered or cached):
            return
        if call.tool.ports and not cached:  # a reading that feeds the guard
            return
        key = (call.target, call.caller.principal, call.digest)
        self._cache[key] = (self._clock.monotonic(), data)
        self._cache.move_to_end(key)
        if len(self._cache) > CACHE_ITEMS:
            self._cache.popitem(last=False)

    @asynccontextmanager
    async def changing(self, target: str) -> AsyncIterator[None]:
        """Around a write: what was read before it, or during it, says nothing any more."""
        self._forget(target)
        try:
            yield
        finally:
            self._forget(target)

    def _forget(self, target: str) -> None:
        self._changes[target] = self._changes.get(target, 0) + 1
        for key in [key for key in self._cache if key[0] == target]:
            del self._cache[key]

    def recall(self, call: Call, *, restrictive: bool) -> dict[str, Any] | None:
        """The answer that the same principal got before, marked with its age in seconds: as old
        as the tool's setting allows, or a minute where the mode is `restrictive`.

        The server's own reads are never answered so: they look whether a target may be freed.
        """
        oldest = self._seconds.get(call.tool.name, 0.0)
        if restrictive:
            oldest = max(oldest, CACHE_AGE_S)
        if not oldest or call.caller.principal.startswith("server:"):
            return None
        found = self._cache.get((call.target, call.caller.principal, call.digest))
        if found is None:
            return None
        age = self._clock.monotonic() - found[0]
        return {**found[1], "cached_age_s": round(age, 1)} if age <= oldest else None


def check_cache(cache: Mapping[str, float], tools: Mapping[str, Tool]) -> None:
    """Raise `ConfigurationError` for a tool whose answers cannot be remembered."""
    for name in cache:
        tool = tools.get(name)
        if tool is None or tool.effect is not Effect.READ or tool.own:
            raise ConfigurationError(
                f"guard.cache.tools.{name}: expected the name of a tool that reads a target.",
                hint="docs/tools.md lists the tools and their effects.",
            )
