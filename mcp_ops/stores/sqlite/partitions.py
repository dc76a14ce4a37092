"""Sizes that people gave bulkhead partitions: rows, until they expire."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mcp_ops.ports import Partition


def load(connection: sqlite3.Connection) -> tuple[Partition, ...]:
    """All rows in the file, expired ones too."""
    rows = connection.execute(
        "SELECT target, size, reason, author, since, expires_at FROM partitions ORDER BY target"
    )
    return tuple(Partition(**dict(row)) for row in rows)


def put(connection: sqlite3.Connection, partition: Partition, now: float) -> None:
    """Set a size in the place of the target's present one; expired rows go."""
    connection.execute("DELETE FROM partitions WHERE expires_at <= ?", (now,))
    connection.execute(
        "REPLACE INTO partitions (target, size, reason, author, since, expires_at) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            *(partition.target, partition.size, partition.reason, partition.author),
            *(partition.since, partition.expires_at),
        ),
    )


def clear(connection: sqlite3.Connection, target: str, now: float) -> bool:
    """Remove a target's row; whether it was in force."""
    found = connection.execute(
        "DELETE FROM partitions WHERE target = ? RETURNING expires_at", (target,)
    ).fetchone()
    return found is not None and found["expires_at"] > now


def in_force(partitions: Iterable[Partition], now: float) -> tuple[Partition, ...]:
    """Those that have not expired."""
    return tuple(each for each in partitions if each.expires_at > now)


def size_of(partitions: Iterable[Partition], target: str, now: float) -> int | None:
    """The size that is in force for a target, if a person gave it one."""
    for each in partitions:
        if each.target == target and each.expires_at > now:
            return each.size
    return None
