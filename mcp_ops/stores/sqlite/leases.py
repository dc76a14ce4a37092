"""Leases on names, each with a fencing token that only grows."""

from __future__ import annotations

import sqlite3


def lock(
    connection: sqlite3.Connection, name: str, holder: str, *, now: float, until: float
) -> int | None:
    """Take or keep a lease, within a write transaction; None while another one holds it.

    The row stays when the lease ends: the next token has to be higher.
    """
    row = connection.execute(
        "SELECT holder, fence, until FROM leases WHERE name = ?", (name,)
    ).fetchone()
    if row is not None and row["until"] > now and row["holder"] != holder:
        return None
    kept = row is not None and row["until"] > now
    if kept:
        fence = int(row["fence"])
    else:  # one row of numbers for all names: two names may stand for one queue
        fence = 1 + (connection.execute("SELECT max(fence) FROM leases").fetchone()[0] or 0)
    connection.execute("REPLACE INTO leases VALUES (?, ?, ?, ?)", (name, holder, fence, until))
    return fence


def unlock(connection: sqlite3.Connection, name: str, fence: int) -> None:
    """Give a lease back; one that another has taken since stays."""
    connection.execute(
        "UPDATE leases SET holder = '', until = 0 WHERE name = ? AND fence = ?", (name, fence)
    )
