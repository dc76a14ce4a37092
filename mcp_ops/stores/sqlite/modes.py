"""The modes in force: rows, and which of them concern a call."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mcp_ops.ports import ALL_TARGETS, PRINCIPAL_SCOPE, AdmitRequest, Mode, ModeEntry

MOST_KEPT = 8


def load(connection: sqlite3.Connection) -> tuple[ModeEntry, ...]:
    """All entries in the file, in the order in which they were set; expired ones too."""
    rows = connection.execute(
        "SELECT scope, mode, source, reason, author, since, expires_at FROM modes ORDER BY number"
    )
    return tuple(ModeEntry(**{**dict(row), "mode": Mode(row["mode"])}) for row in rows)


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
        "INSERT INTO modes (scope, source, mode, reason, author, since, expires_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*mine, entry.mode.value, entry.reason, entry.author, entry.since, entry.expires_at),
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


def in_force(entries: Iterable[ModeEntry], now: float) -> tuple[ModeEntry, ...]:
    """Of each scope and source the newest entry that has not expired."""
    newest = {(e.scope, e.source): e for e in entries if e.expires_at is None or e.expires_at > now}
    return tuple(newest.values())


def concerning(
    entries: Iterable[ModeEntry], target: str, principal: str, now: float
) -> tuple[ModeEntry, ...]:
    """Entries in force for a principal's call on a target: of both, and those for all."""
    scopes = (target, ALL_TARGETS, f"{PRINCIPAL_SCOPE}{principal}")
    return tuple(e for e in in_force(entries, now) if e.scope in scopes)


def allow(entries: Iterable[ModeEntry], request: AdmitRequest) -> bool:
    """Whether every one of these modes lets the call through."""
    return all(entry.mode in request.modes_allowed for entry in entries)


def factor(entries: Iterable[ModeEntry], request: AdmitRequest) -> float:
    """By how much these modes slow the target's rate down: the smallest factor."""
    return min((request.rate_factors.get(entry.mode, 1.0) for entry in entries), default=1.0)
