"""What is asked of the ledger's lines: which match, and who spent how much."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from mcp_ops.records import AuditQuery, Entry, Spent
from mcp_ops.stores.chain import clean, decode

_MOST_FOUND = 1_000
_SPENT = """
    SELECT tool, principal, sum(repeats) AS calls, sum(upstream_calls) AS upstream_calls,
        sum((verdict = 'refused') * repeats) AS refused
    FROM (
        SELECT tool, principal, verdict, upstream_calls,
            -- A line of a flood stands for several calls, none of which reached a target.
            CASE WHEN upstream_calls > 0 THEN 1
                ELSE coalesce(json_extract(CAST(body AS TEXT), '$.evidence.repeats'), 1)
            END AS repeats
        FROM entries WHERE kind = 'ended' AND at >= ?
    )
    GROUP BY tool, principal ORDER BY 4 DESC, 3 DESC, 1, 2 LIMIT ?
"""


def search(connection: sqlite3.Connection, query: AuditQuery) -> list[Entry]:
    """Lines, newest first, at most a thousand."""
    where, values = _conditions(query)
    sql = f"SELECT seq, body FROM entries {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608 - names of ours
    limit = max(1, min(query.limit, _MOST_FOUND))
    rows = connection.execute(sql, (*values, limit))
    return [decode(row["body"], row["seq"]) for row in rows]


def spent(connection: sqlite3.Connection, since: float, limit: int) -> list[Spent]:
    """Who spent the most upstream calls since then."""
    return [Spent(**dict(row)) for row in connection.execute(_SPENT, (since, limit))]


def ended_like_begun(connection: sqlite3.Connection, end: Entry) -> Entry:
    """The end of a write whose process was lost, with what its intent says of who, what and why."""
    row = connection.execute(
        "SELECT seq, body FROM entries WHERE call_id = ? AND kind = 'began' ORDER BY seq LIMIT 1",
        (clean(end.call_id),),
    ).fetchone()
    if row is None:
        return end
    said = ("kind", "at", "verdict", "outcome", "evidence")
    begun = decode(row["body"], row["seq"])
    return replace(begun, seq=0, **{name: getattr(end, name) for name in said})


def _conditions(query: AuditQuery) -> tuple[str, list[object]]:
    conditions: list[tuple[str, object]] = [
        (f"{column} = ?", clean(value))
        for column in ("principal", "tool", "target", "verdict", "trace_id", "call_id")
        if (value := getattr(query, column))
    ]
    bounds = (("at >= ?", query.since), ("at < ?", query.until), ("seq < ?", query.before_seq))
    conditions += [(text, value) for text, value in bounds if value is not None]
    where = " AND ".join(text for text, _ in conditions)
    return (f"WHERE {where}" if where else ""), [value for _, value in conditions]
