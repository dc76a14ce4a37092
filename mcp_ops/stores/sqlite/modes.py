"""The modes in force: rows, and which of them concern a call."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mcp_ops.ports import Mode, ModeEntry

MOST_KEPT = 8


def load(connection: sqlite3.Connection) -> tuple[ModeEntry, ...]:
    """All entries in the file, in the order in which they were set; expired ones too."""
    rows = connection.execute(
        "SELECT scope, mode, source, reason, author, since, expires_at, lifts FROM modes "
        "ORDER BY number"
    )
    return tuple(
        ModeEntry(**{**dict(row), "mode": Mode(row["mode"]), "lifts": bool(row["lifts"])})
        for row in rows
    )


def put(connection: sqlite3.Connection, entry: ModeEntry, now: float) -> None:
    """Put an entry above those of its scope and source; what can never return goes.

    That is what has expired and what does not outlast the new one. Of more than eight the one
    above the lowest goes: the lowest is what remains when all others have expired.
    """
    connection.execute("DELETE FROM modes WHERE expires_at <= ?", (now,))
    if entry.expires_at is None:
        clear(connection, entry.scope, (entry.source,))
    mine = (entry.scope, entry.source)
    connection.execute(
        "DELETE FROM modes WHERE scope = ? AND source = ? AND expires_at <= ?",
        (*mine, entry.expires_at),
    )
    connection.execute(
        "INSERT INTO modes (scope, source, mode, reason, author, since, expires_at, lifts) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(*mine, entry.mode.value, entry.reason, entry.author, entry.since),
            *(entry.expires_at, entry.lifts),
        ),
    )
    connection.execute(
        "DELETE FROM modes WHERE number = (SELECT number FROM modes WHERE scope = ? AND "
        "source = ? ORDER BY number LIMIT 1 OFFSET 1) AND ? < "
        "(SELECT count(*) FROM modes WHERE scope = ? AND source = ?)",
        (*mine, MOST_KEPT, *mine),
    )


def clear(connection: sqlite3.Connection, scope: str, sources: Iterable[str]) -> None:
    """Remove a scope's entries of these sources."""
    connection.executemany(
        "DELETE FROM modes WHERE scope = ? AND source = ?", [(scope, source) for source in sources]
    )
