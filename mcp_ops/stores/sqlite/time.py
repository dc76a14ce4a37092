"""The store's time: wall time that an operator's or NTP's jump neither speeds up nor holds up.

The monotonic clock is one for all processes of a machine. The file holds the offset from it to
wall time. The first writer that finds the offset changed moves the times that matter by the
difference, in its transaction: a budget's window, a lease or an open circuit lasts as long as it
was meant to, whatever the wall clock did. A sleeping machine looks the same as a jump.
"""

from __future__ import annotations

import sqlite3

from mcp_ops.clock import Clock
from mcp_ops.stores.sqlite.schema import FOLLOWING

_JUMP_S = 1.0
_KEEP_S = 60.0


class StoreTime:
    """Unix seconds that move with the monotonic clock; safe to read from every thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.now() - clock.monotonic()

    def now(self) -> float:
        """Unix seconds of the store."""
        return self._clock.monotonic() + self._offset

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        return self._clock.monotonic()

    @property
    def jumped(self) -> bool:
        """Whether the wall clock left the store's time; the next write follows it."""
        return abs(self._clock.now() - self.now()) > _JUMP_S

    def follow(self, connection: sqlite3.Connection) -> None:
        """Take the file's offset, moved to the wall clock if that jumped. Within a write."""
        monotonic = self._clock.monotonic()
        offset = self._clock.now() - monotonic
        row = connection.execute("SELECT offset, monotonic FROM clock").fetchone()
        if row is None:
            self._keep(connection, offset, monotonic)
            return
        # A monotonic clock behind its last reading began anew: the machine was restarted, and
        # the wall clock is all there is to go by.
        if abs(offset - row["offset"]) > _JUMP_S or monotonic < row["monotonic"]:
            if monotonic >= row["monotonic"]:
                _shift(connection, offset - row["offset"], offset + monotonic)
            self._keep(connection, offset, monotonic)
            return
        self._offset = row["offset"]
        if monotonic - row["monotonic"] > _KEEP_S:
            self._keep(connection, self._offset, monotonic)

    def _keep(self, connection: sqlite3.Connection, offset: float, monotonic: float) -> None:
        connection.execute("REPLACE INTO clock VALUES (1, ?, ?)", (offset, monotonic))
        self._offset = offset


def _shift(connection: sqlite3.Connection, seconds: float, now: float) -> None:
    for table, column, ahead in FOLLOWING:
        if seconds > 0 and ahead is None:
            continue
        # Never further than such a time can lie ahead, should this be a restart after all.
        furthest = now + (ahead or 0)
        connection.execute(
            f"UPDATE {table} SET {column} = min({column} + ?, max({column}, ?))",  # noqa: S608 - names of ours
            (seconds, furthest),
        )
