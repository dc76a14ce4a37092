"""The modes in force: rows, and which of them concern a call."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mcp_ops.ports import ALL_TARGETS, AdmitRequest, Mode, ModeEntry


def load(connection: sqlite3.Connection) -> tuple[ModeEntry, ...]:
    """All entries in the file, expired ones too."""
    rows = connection.execute(
        "SELECT scope, mode, source, reason, author, since, expires_at FROM modes "
        "ORDER BY scope, source"
    )
    return tuple(ModeEntry(**{**dict(row), "mode": Mode(row["mode"])}) for row in rows)


def put(connection: sqlite3.Connection, entry: ModeEntry, now: float) -> None:
    """Put an entry in the place of the one with its scope and source; expired ones go."""
    connection.execute("DELETE FROM modes WHERE expires_at <= ?", (now,))
    clear(connection, entry.scope, (entry.source,))
    connection.execute(
        "INSERT INTO modes (scope, source, mode, reason, author, since, expires_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(entry.scope, entry.source, entry.mode.value, entry.reason, entry.author),
            *(entry.since, entry.expires_at),
        ),
    )


def clear(connection: sqlite3.Connection, scope: str, sources: Iterable[str]) -> None:
    """Remove a scope's entries of these sources."""
    connection.executemany(
        "DELETE FROM modes WHERE scope = ? AND source = ?", [(scope, source) for source in sources]
    )


def in_force(entries: Iterable[ModeEntry], now: float) -> tuple[ModeEntry, ...]:
    """Entries that have not expired."""
    return tuple(e for e in entries if e.expires_at is None or e.expires_at > now)


def concerning(entries: Iterable[ModeEntry], target: str, now: float) -> tuple[ModeEntry, ...]:
    """Entries in force for a target: its own and those for all."""
    return tuple(e for e in in_force(entries, now) if e.scope in (target, ALL_TARGETS))


def allow(entries: Iterable[ModeEntry], request: AdmitRequest) -> bool:
    """Whether every one of these modes lets the call through."""
    return all(entry.mode in request.modes_allowed for entry in entries)


def factor(entries: Iterable[ModeEntry], request: AdmitRequest) -> float:
    """By how much these modes slow the target's rate down: the smallest factor."""
    return min((request.rate_factors.get(entry.mode, 1.0) for entry in entries), default=1.0)
