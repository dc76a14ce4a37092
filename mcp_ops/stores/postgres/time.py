"""The store's time, which is the database's, and what a process's own clock says for it.

Leases, windows and expiries are compared with `mcp_ops.now()` in the database. A process says
"until" in the time of its own clock, which may be wrong, or jump. So a time keeps its distance from
now on its way in and out: ninety seconds stay ninety seconds. Clocks that agree within a second
are taken as one, so that what is written comes back as it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from mcp_ops.clock import Clock

_AGREE_S = 1.0
T = TypeVar("T")


class StoreTime:
    """What the database's clock said last, carried on by the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._base = clock.now() - clock.monotonic()

    def learn(self, now: float) -> None:
        """The database says it is `now`, in Unix seconds."""
        self._base = now - self._clock.monotonic()

    def now(self) -> float:
        """The database's Unix seconds, as far as they are known here."""
        return self._base + self._clock.monotonic()

    def to_store(self, record: T, *names: str) -> T:
        """A record with these times as the store keeps them."""
        return _moved(record, names, -self._ahead())

    def to_caller(self, record: T, *names: str) -> T:
        """A record with these times as this process's clock counts."""
        return _moved(record, names, self._ahead())

    def stored(self, at: float) -> float:
        """One time as the store keeps it."""
        return at - self._ahead()

    def to_caller_at(self, at: float) -> float:
        """One time as this process's clock counts."""
        return at + self._ahead()

    def _ahead(self) -> float:
        """What this process's clock is ahead of the store's."""
        ahead = self._clock.now() - self.now()
        return ahead if abs(ahead) > _AGREE_S else 0.0


def _moved(record: T, names: tuple[str, ...], seconds: float) -> T:
    if not seconds:
        return record
    changed: dict[str, Any] = {
        name: value + seconds for name in names if (value := getattr(record, name)) is not None
    }
    return replace(record, **changed)  # type: ignore[type-var]
