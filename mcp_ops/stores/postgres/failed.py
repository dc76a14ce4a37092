"""The dead-letter queue in PostgreSQL: this server's own writes that failed without effect.

An item is in one place: `waiting`, `resolved` or `exported`. Rows that left the queue stay a
while, so that pages keep their place and exports can be put back.
"""

from __future__ import annotations

import json
from typing import Any

from mcp_ops.failed import FailedOperation
from mcp_ops.stores.chain import clean
from mcp_ops.stores.postgres.connections import Connection, Connections, Row, rows
from mcp_ops.stores.postgres.time import StoreTime

_FIELDS = (
    "id, operation, failure_type, error, target, principal, arguments, failed_at, attempts, "
    "last_retry, notes"
)
_SELECT = f"SELECT {_FIELDS}, place, holder FROM mcp_ops.failed"  # noqa: S608 - names of ours
_FREE = "(held_until IS NULL OR held_until <= mcp_ops.now())"
_TIMES = ("failed_at", "last_retry")
_EXPORTS = 10  # exported rows: at most so many times the size of the queue


class FailedOperations:
    """The queue in a database, of at most `max_items`, each for at most `retention_s` seconds.

    All methods raise `StoreUnavailable`.
    """

    def __init__(
        self,
        connections: Connections,
        time: StoreTime,
        *,
        max_items: int = 10_000,
        retention_s: float = 604_800,
    ) -> None:
        self._connections = connections
        self._time = time
        self._max_items = max_items
        self._retention_s = retention_s

    async def add(self, item: FailedOperation) -> None:
        """Add an item; the oldest goes when the queue is full."""
        kept = self._time.to_store(item, *_TIMES)
        texts = (kept.id, kept.operation, kept.failure_type, kept.error, kept.target)
        async with self._connections.transaction() as connection:
            await rows(
                connection,
                f"INSERT INTO mcp_ops.failed ({_FIELDS}, place, holder, export_id) "  # noqa: S608 - names of ours
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, '', '')",
                (
                    *(clean(text) for text in (*texts, kept.principal)),
                    json.dumps(dict(kept.arguments), default=str),
                    *(kept.failed_at, kept.attempts, kept.last_retry, clean(kept.notes)),
                    "resolved" if kept.resolved else "waiting",
                ),
            )
            await self._forget(connection)

    async def count(self) -> int:
        """How many wait."""
        found = await self._connections.fetch(
            "SELECT count(*) AS count FROM mcp_ops.failed "
            "WHERE place = 'waiting' AND failed_at > mcp_ops.now() - %s",
            (self._retention_s,),
        )
        return int(found[0]["count"])

    async def page(self, *, after: str, limit: int) -> list[FailedOperation]:
        """Newest first, after the item with this id (which may have left the queue since)."""
        found = await self._connections.fetch(
            f"{_SELECT} WHERE place = 'waiting' AND failed_at > mcp_ops.now() - %s AND "  # noqa: S608 - names of ours
            "(%s = '' OR counter < (SELECT counter FROM mcp_ops.failed WHERE id = %s)) "
            "ORDER BY counter DESC LIMIT %s",
            (self._retention_s, clean(after), clean(after), limit),
        )
        return [self._shown(row) for row in found]

    async def get(self, item_id: str) -> FailedOperation | None:
        """One item, also one that was resolved a while ago."""
        found = await self._connections.fetch(
            f"{_SELECT} WHERE id = %s AND place <> 'exported' AND failed_at > mcp_ops.now() - %s",
            (clean(item_id), self._retention_s),
        )
        return self._shown(found[0]) if found else None

    async def hold(self, item_id: str, holder: str, until: float) -> FailedOperation | None:
        """Take an item for a retry; None when it is gone or another retry holds it."""
        found = await self._connections.fetch(
            "UPDATE mcp_ops.failed SET holder = %s, held_until = %s WHERE id = %s "  # noqa: S608 - names of ours
            f"AND place = 'waiting' AND failed_at > mcp_ops.now() - %s AND {_FREE} "
            f"RETURNING {_FIELDS}, place, holder",
            (clean(holder), self._time.stored(until), clean(item_id), self._retention_s),
        )
        return self._shown(found[0]) if found else None

    async def finish(self, item_id: str, *, resolved: bool, note: str, at: float) -> None:
        """End a retry: resolved items leave the queue, others count one more attempt."""
        await self._connections.fetch(
            "UPDATE mcp_ops.failed SET place = %s, attempts = attempts + 1, last_retry = %s, "
            "notes = %s, holder = '', held_until = NULL WHERE id = %s AND place = 'waiting'",
            (
                "resolved" if resolved else "waiting",
                *(self._time.stored(at), clean(note), clean(item_id)),
            ),
        )

    async def discard(self, item_ids: list[str], export_id: str, keep_until: float) -> list[str]:
        """Move items into an export; answers the ids that were there and not held by a retry."""
        found = await self._connections.fetch(
            "UPDATE mcp_ops.failed SET place = 'exported', export_id = %s, keep_until = %s "  # noqa: S608 - names of ours
            "WHERE id = ANY(%s) AND place = 'waiting' AND failed_at > mcp_ops.now() - %s "
            f"AND {_FREE} RETURNING id",
            (
                *(clean(export_id), self._time.stored(keep_until)),
                *([clean(item_id) for item_id in item_ids], self._retention_s),
            ),
        )
        gone = {row["id"] for row in found}
        return [item_id for item_id in dict.fromkeys(item_ids) if clean(item_id) in gone]

    async def restore(self, export_id: str) -> list[str] | None:
        """Put an export back; None when there is none (any more)."""
        found = await self._connections.fetch(
            "UPDATE mcp_ops.failed SET place = 'waiting', export_id = '', keep_until = NULL "
            "WHERE export_id = %s AND place = 'exported' AND keep_until > mcp_ops.now() "
            "RETURNING id",
            (clean(export_id),),
        )
        return [row["id"] for row in found] or None

    def _shown(self, row: Row) -> FailedOperation:
        values: dict[str, Any] = dict(row)
        values["resolved"] = values.pop("place") == "resolved"
        values["arguments"] = json.loads(values["arguments"])
        return self._time.to_caller(FailedOperation(**values), *_TIMES)

    async def _forget(self, connection: Connection) -> None:
        await rows(
            connection,
            "DELETE FROM mcp_ops.failed WHERE CASE place WHEN 'exported' "
            "THEN keep_until <= mcp_ops.now() ELSE failed_at <= mcp_ops.now() - %s END",
            (self._retention_s,),
        )
        for place, most in (
            ("waiting", self._max_items),
            ("resolved", self._max_items),
            ("exported", self._max_items * _EXPORTS),
        ):
            await rows(
                connection,
                "DELETE FROM mcp_ops.failed WHERE place = %s AND counter <= (SELECT counter FROM "
                "mcp_ops.failed WHERE place = %s ORDER BY counter DESC LIMIT 1 OFFSET %s)",
                (place, place, most),
            )
