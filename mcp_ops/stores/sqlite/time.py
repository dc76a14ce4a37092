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
        self._offset = self._next = clock.now() - clock.monotonic()

    def now(self) -> float:
        """Unix seconds of the store."""
        return self._clock.monotonic() + self._offset

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        return self._clock.monotonic()

    @property
    def offset(self) -> float:
        """What the store's time is ahead of the monotonic clock."""
        return self._offset

    @property
    def jumped(self) -> bool:
        """Whether the wall clock left the store's time; the next write follows it."""
        return abs(self._clock.now() - self.now()) > _JUMP_S

    def follow(self, connection: sqlite3.Connection) -> bool:
        """Look for the file's offset within a write, and move it to the wall clock if that jumped.

        True if the file's times were moved: commit, call `arrive`, and only then go on. Never is
        a time of the file compared with a time that does not belong to it and would free it.
        """
        monotonic = self._clock.monotonic()
        offset = self._clock.now() - monotonic
        row = connection.execute("SELECT offset, monotonic FROM clock").fetchone()
        # A monotonic clock behind its last reading began anew: the machine was restarted, and
        # the wall clock is all there is to go by.
        restarted = row is None or monotonic < row["monotonic"]
        if not restarted and abs(offset - row["offset"]) <= _JUMP_S:
            self._offset = row["offset"]
            if monotonic - row["monotonic"] > _KEEP_S:
                connection.execute("UPDATE clock SET monotonic = ?", (monotonic,))
            return False
        if not restarted:
            _shift(connection, offset - row["offset"], offset + monotonic)
        connection.execute("REPLACE INTO clock VALUES (1, ?, ?)", (offset, monotonic))
        self._next = offset
        self._offset = min(offset, self._offset)
        return True

    def arrive(self) -> None:
        """The moved times are in the file: take the new offset."""
        self._offset = self._next


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
