"""The embedded dead-letter queue: this server's own writes that failed without effect.

An item is in one place: `waiting`, `resolved` or `exported`. Rows that left the queue stay a
while, so that pages keep their place and exports can be put back.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from mcp_ops.failed import FailedOperation
from mcp_ops.stores.sqlite.database import Database

_FIELDS = (
    "id, operation, failure_type, error, target, principal, arguments, failed_at, attempts, "
    "last_retry, notes"
)
_SELECT = f"SELECT {_FIELDS}, place, holder, held_until FROM failed"  # noqa: S608 - names of ours
_EXPORTS = 10  # exported rows: at most so many times the size of the queue


class FailedOperations:
    """The queue in a database, of at most `max_items`, each for at most `retention_s` seconds.

    All methods raise `StoreUnavailable`.
    """

    def __init__(
        self, database: Database, *, max_items: int = 10_000, retention_s: float = 604_800
    ) -> None:
        self._database = database
        self._max_items = max_items
        self._retention_s = retention_s

    async def add(self, item: FailedOperation) -> None:
        """Add an item; the oldest goes when the queue is full."""

        def job(connection: sqlite3.Connection) -> None:
            connection.execute(
                f"INSERT INTO failed ({_FIELDS}, place, holder, export_id) "  # noqa: S608 - names of ours
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', '')",
                (
                    *(item.id, item.operation, item.failure_type, item.error, item.target),
                    item.principal,
                    json.dumps(dict(item.arguments), default=str),
                    *(item.failed_at, item.attempts, item.last_retry, item.notes),
                    "resolved" if item.resolved else "waiting",
                ),
            )
            self._forget(connection)

        await self._database.write(job)

    async def count(self) -> int:
        """How many wait."""

        def job(connection: sqlite3.Connection) -> int:
            sql = "SELECT count(*) FROM failed WHERE place = 'waiting' AND failed_at > ?"
            return int(connection.execute(sql, (self._oldest(),)).fetchone()[0])

        return await self._database.read(job)

    async def page(self, *, after: str, limit: int) -> list[FailedOperation]:
        """Newest first, after the item with this id (which may have left the queue since)."""

        def job(connection: sqlite3.Connection) -> list[FailedOperation]:
            rows = connection.execute(
                f"{_SELECT} WHERE place = 'waiting' AND failed_at > ? AND "  # noqa: S608 - names of ours
                "(? = '' OR number < (SELECT number FROM failed WHERE id = ?)) "
                "ORDER BY number DESC LIMIT ?",
                (self._oldest(), after, after, limit),
            )
            return [self._shown(row) for row in rows]

        return await self._database.read(job)

    async def get(self, item_id: str) -> FailedOperation | None:
        """One item, also one that was resolved a while ago."""
        return await self._database.read(lambda connection: self._get(connection, item_id))

    async def hold(self, item_id: str, holder: str, until: float) -> FailedOperation | None:
        """Take an item for a retry; None when it is gone or another retry holds it."""

        def job(connection: sqlite3.Connection) -> FailedOperation | None:
            changed = connection.execute(
                "UPDATE failed SET holder = ?, held_until = ? WHERE id = ? AND place = 'waiting' "
                "AND failed_at > ? AND (held_until IS NULL OR held_until <= ?)",
                (holder, until, item_id, self._oldest(), self._now()),
            ).rowcount
            return self._get(connection, item_id) if changed else None

        return await self._database.write(job)

    async def finish(self, item_id: str, *, resolved: bool, note: str, at: float) -> None:
        """End a retry: resolved items leave the queue, others count one more attempt."""
        place = "resolved" if resolved else "waiting"

        def job(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE failed SET place = ?, attempts = attempts + 1, last_retry = ?, notes = ?, "
                "holder = '', held_until = NULL WHERE id = ? AND place = 'waiting'",
                (place, at, note, item_id),
            )

        await self._database.write(job)

    async def discard(self, item_ids: list[str], export_id: str, keep_until: float) -> list[str]:
        """Move items into an export; answers the ids that were there and not held by a retry."""

        def job(connection: sqlite3.Connection) -> list[str]:
            now, oldest = self._now(), self._oldest()
            return [
                item_id
                for item_id in item_ids
                if connection.execute(
                    "UPDATE failed SET place = 'exported', export_id = ?, keep_until = ? "
                    "WHERE id = ? AND place = 'waiting' AND failed_at > ? "
                    "AND (held_until IS NULL OR held_until <= ?)",
                    (export_id, keep_until, item_id, oldest, now),
                ).rowcount
            ]

        return await self._database.write(job)

    async def restore(self, export_id: str) -> list[str] | None:
        """Put an export back; None when there is none (any more)."""

        def job(connection: sqlite3.Connection) -> list[str] | None:
            rows = connection.execute(
                "UPDATE failed SET place = 'waiting', export_id = '', keep_until = NULL "
                "WHERE export_id = ? AND place = 'exported' AND keep_until > ? RETURNING id",
                (export_id, self._now()),
            ).fetchall()
            return [row["id"] for row in rows] or None

        return await self._database.write(job)

    def _now(self) -> float:
        return self._database.time.now()

    def _oldest(self) -> float:
        return self._now() - self._retention_s

    def _get(self, connection: sqlite3.Connection, item_id: str) -> FailedOperation | None:
        row = connection.execute(
            f"{_SELECT} WHERE id = ? AND place != 'exported' AND failed_at > ?",
            (item_id, self._oldest()),
        ).fetchone()
        return None if row is None else self._shown(row)

    def _shown(self, row: sqlite3.Row) -> FailedOperation:
        values: dict[str, Any] = dict(row)
        values.pop("held_until")
        place = values.pop("place")
        return FailedOperation(
            **{
                **values,
                "arguments": json.loads(values["arguments"]),
                "resolved": place == "resolved",
            }
        )

    def _forget(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "DELETE FROM failed WHERE CASE place WHEN 'exported' THEN keep_until <= ? "
            "ELSE failed_at <= ? END",
            (self._now(), self._oldest()),
        )
        for place, most in (
            ("waiting", self._max_items),
            ("resolved", self._max_items),
            ("exported", self._max_items * _EXPORTS),
        ):
            connection.execute(
                "DELETE FROM failed WHERE place = ? AND number <= (SELECT number FROM failed "
                "WHERE place = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (place, place, most),
            )
