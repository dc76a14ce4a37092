"""Rate limits in memory: the generic cell rate algorithm, on monotonic time.

A key has one number, the theoretical arrival time (TAT): when its bucket will be full again. A
charge of `cost` moves it by cost x interval; it is allowed if it then lies at most burst x
interval ahead. Counters are per process and forgotten by a restart.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from mcp_ops.ports import Rate, RateState

MOST_KEYS = 10_000
_SLACK_S = 1e-6  # sums of floats differ by less than a microsecond from the exact time


@dataclass(slots=True)
class _Bucket:
    tat: float
    interval: float


class RateTable:
    """The counters of up to ten thousand keys; those closest to full are forgotten first."""

    def __init__(self, *, most_keys: int = MOST_KEYS) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._most_keys = most_keys

    def look(self, rate: Rate, factor: float, now: float) -> RateState:
        """Whether a charge would be allowed now. `factor` scales the rate of scaled limits.

        `retry_after_s` is exact, and infinite for what can never be allowed.
        """
        per_minute = rate.per_minute * factor if rate.scaled else rate.per_minute
        if per_minute <= 0:
            return RateState(
                name=rate.name,
                allowed=False,
                remaining=0,
                limit_per_minute=0.0,
                retry_after_s=math.inf,
            )
        interval = 60.0 / per_minute
        room = rate.burst * interval - self._owed(rate.key, interval, now)
        wait = math.inf if rate.cost > rate.burst else rate.cost * interval - room
        allowed = wait <= _SLACK_S
        return RateState(
            name=rate.name,
            allowed=allowed,
            remaining=max(0, math.floor((room + _SLACK_S) / interval)),
            limit_per_minute=per_minute,
            retry_after_s=0.0 if allowed else wait,
        )

    def take(self, rate: Rate, state: RateState, now: float) -> float:
        """Charge what `look` allowed; answers the key's TAT after it, for `give_back`."""
        interval = 60.0 / state.limit_per_minute
        tat = now + self._owed(rate.key, interval, now) + rate.cost * interval
        bucket = self._buckets.get(rate.key)
        if bucket is None:
            if len(self._buckets) >= self._most_keys:
                self._forget(now)
            self._buckets[rate.key] = _Bucket(tat, interval)
        else:
            bucket.tat, bucket.interval = tat, interval
        return tat

    def give_back(self, rate: Rate, state: RateState, mark: float, now: float) -> None:
        """Return a charge, except for what time has returned already.

        If the bucket was full again meanwhile nothing is left to return: returning it anyway
        would let one more through than the limit says.
        """
        bucket = self._buckets.get(rate.key)
        if bucket is None:
            return
        interval = 60.0 / state.limit_per_minute
        units = min(float(rate.cost), max(0.0, mark - now) / interval)
        bucket.tat -= units * bucket.interval

    def _owed(self, key: str, interval: float, now: float) -> float:
        bucket = self._buckets.get(key)
        if bucket is None or bucket.tat <= now:
            return 0.0
        # The debt is in units: a limit that a mode slows down owes the same units, not seconds.
        return (bucket.tat - now) * (interval / bucket.interval)

    def _forget(self, now: float) -> None:
        for key in [key for key, bucket in self._buckets.items() if bucket.tat <= now]:
            del self._buckets[key]
        surplus = len(self._buckets) - self._most_keys * 9 // 10
        nearest = heapq.nsmallest(surplus, self._buckets, key=lambda key: self._buckets[key].tat)
        for key in nearest:
            del self._buckets[key]
