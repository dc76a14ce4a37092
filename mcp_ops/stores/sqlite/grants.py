"""Elevations: rows of grants, until they expire."""

from __future__ import annotations

import sqlite3

from mcp_ops.ports import Grant

_COLUMNS = "id, principal, tool, target, require, incident, reason, author, since, expires_at"


def load(connection: sqlite3.Connection, now: float) -> tuple[Grant, ...]:
    """Those in force, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM grants WHERE expires_at > ? ORDER BY since, id",  # noqa: S608 - a constant
        (now,),
    )
    return tuple(Grant(**dict(row)) for row in rows)


def put(connection: sqlite3.Connection, grant: Grant, now: float) -> None:
    """Add one; expired ones go."""
    connection.execute("DELETE FROM grants WHERE expires_at <= ?", (now,))
    connection.execute(
        f"INSERT INTO grants ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
        (
            *(grant.id, grant.principal, grant.tool, grant.target, grant.require),
            *(grant.incident, grant.reason, grant.author, grant.since, grant.expires_at),
        ),
    )


def end(connection: sqlite3.Connection, grant_id: str, now: float) -> bool:
    """Remove one; false if none is in force under this id."""
    gone = connection.execute("DELETE FROM grants WHERE id = ? AND expires_at > ?", (grant_id, now))
    return gone.rowcount > 0
