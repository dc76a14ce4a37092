"""Time, injected: nothing else in the package reads the machine's clock for a decision."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from mcp_ops.ports import Port


class Clock(Port, Protocol):
    """Wall time for people and expiries, monotonic time for durations; both in seconds."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean something."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told to: for tests and for the lab's game days."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = 1_000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._now += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Change the wall clock only, as an operator or NTP does."""
        self._now += seconds


def rfc3339(seconds: float) -> str:
    """A Unix time as RFC 3339 in UTC with millisecond precision."""
    fraction, whole = math.modf(seconds)
    micros = round(fraction * 1_000_000)
    carried, micros = divmod(micros, 1_000_000)
    return f"{_second(int(whole) + carried)}.{micros // 1_000:03d}Z"


@lru_cache(maxsize=64)  # every answer says when it was observed
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
