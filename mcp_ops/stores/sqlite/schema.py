"""The tables of the embedded store, and which of their times follow a jump of the clock."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from mcp_ops.errors import StoreUnavailable

# One script a version; PRAGMA user_version counts them. Scripts that were released never change.
_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE clock (
        id INTEGER PRIMARY KEY CHECK (id = 1), offset REAL NOT NULL, monotonic REAL NOT NULL
    ) STRICT;

    CREATE TABLE entries (
        seq INTEGER PRIMARY KEY,
        kind TEXT NOT NULL, at REAL NOT NULL, tool TEXT NOT NULL, principal TEXT NOT NULL,
        target TEXT NOT NULL, verdict TEXT NOT NULL, trace_id TEXT NOT NULL,
        call_id TEXT NOT NULL, upstream_calls INTEGER NOT NULL,
        body BLOB NOT NULL, prev_hash BLOB NOT NULL, hash BLOB NOT NULL, tag BLOB NOT NULL
    ) STRICT;
    CREATE INDEX entries_at ON entries (at);
    CREATE INDEX entries_call ON entries (call_id);
    CREATE INDEX entries_trace ON entries (trace_id) WHERE trace_id != '';
    CREATE TABLE anchor (
        id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL, count INTEGER NOT NULL,
        hash BLOB NOT NULL, mac BLOB NOT NULL
    ) STRICT;
    INSERT INTO anchor VALUES (1, 0, 0, zeroblob(32), zeroblob(32));

    CREATE TABLE operations (
        id TEXT PRIMARY KEY, key TEXT NOT NULL, call_id TEXT NOT NULL, digest TEXT NOT NULL,
        principal TEXT NOT NULL, tool TEXT NOT NULL, target TEXT NOT NULL, state TEXT NOT NULL,
        started_at REAL NOT NULL, lease_until REAL NOT NULL, ended_at REAL,
        outcome TEXT NOT NULL, answer TEXT NOT NULL, progress TEXT NOT NULL
    ) STRICT;
    CREATE INDEX operations_key ON operations (key);
    CREATE INDEX operations_ended ON operations (ended_at);
    CREATE INDEX operations_lease ON operations (lease_until) WHERE state = 'running';
    CREATE UNIQUE INDEX operations_holder ON operations (key)
        WHERE state IN ('running', 'waiting');

    CREATE TABLE modes (
        scope TEXT NOT NULL, source TEXT NOT NULL, mode TEXT NOT NULL, reason TEXT NOT NULL,
        author TEXT NOT NULL, since REAL NOT NULL, expires_at REAL, PRIMARY KEY (scope, source)
    ) STRICT;
    CREATE TABLE circuits (
        target TEXT PRIMARY KEY, phase TEXT NOT NULL, failures INTEGER NOT NULL, opened_at REAL,
        retry_at REAL, last_error TEXT NOT NULL, by TEXT NOT NULL, reason TEXT NOT NULL,
        probe_until REAL, version INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE budget_events (
        key TEXT NOT NULL, at REAL NOT NULL, expires_at REAL NOT NULL, call_id TEXT NOT NULL
    ) STRICT;
    CREATE INDEX budget_events_key ON budget_events (key, at);
    CREATE INDEX budget_events_expiry ON budget_events (expires_at);

    CREATE TABLE approvals (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
        state TEXT NOT NULL, principal TEXT NOT NULL, tool TEXT NOT NULL, target TEXT NOT NULL,
        digest TEXT NOT NULL, policy TEXT NOT NULL, message TEXT NOT NULL,
        arguments TEXT NOT NULL, reason TEXT NOT NULL, created_at REAL NOT NULL,
        expires_at REAL NOT NULL, decided_by TEXT NOT NULL, decided_at REAL, note TEXT NOT NULL
    ) STRICT;
    CREATE INDEX approvals_binding ON approvals (principal, digest, kind);
    CREATE INDEX approvals_state ON approvals (state);
    CREATE INDEX approvals_expiry ON approvals (expires_at);

    CREATE TABLE failed (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
        operation TEXT NOT NULL, failure_type TEXT NOT NULL, error TEXT NOT NULL,
        target TEXT NOT NULL, principal TEXT NOT NULL, arguments TEXT NOT NULL,
        failed_at REAL NOT NULL, attempts INTEGER NOT NULL, last_retry REAL, notes TEXT NOT NULL,
        place TEXT NOT NULL, holder TEXT NOT NULL, held_until REAL,
        export_id TEXT NOT NULL, keep_until REAL
    ) STRICT;
    CREATE INDEX failed_place ON failed (place, number);
    CREATE INDEX failed_export ON failed (export_id) WHERE export_id != '';
    """,
    """
    CREATE TABLE modes_stacked (
        number INTEGER PRIMARY KEY, scope TEXT NOT NULL, source TEXT NOT NULL, mode TEXT NOT NULL,
        reason TEXT NOT NULL, author TEXT NOT NULL, since REAL NOT NULL, expires_at REAL,
        lifts INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    INSERT INTO modes_stacked (scope, source, mode, reason, author, since, expires_at)
        SELECT scope, source, mode, reason, author, since, expires_at FROM modes;
    DROP TABLE modes;
    ALTER TABLE modes_stacked RENAME TO modes;
    CREATE INDEX modes_scope ON modes (scope, source);

    CREATE TABLE grants (
        id TEXT PRIMARY KEY, principal TEXT NOT NULL, tool TEXT NOT NULL, target TEXT NOT NULL,
        require TEXT NOT NULL, incident TEXT NOT NULL, reason TEXT NOT NULL, author TEXT NOT NULL,
        since REAL NOT NULL, expires_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE partitions (
        target TEXT PRIMARY KEY, size INTEGER NOT NULL, reason TEXT NOT NULL,
        author TEXT NOT NULL, since REAL NOT NULL, expires_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE leases (
        name TEXT PRIMARY KEY, holder TEXT NOT NULL, fence INTEGER NOT NULL, until REAL NOT NULL
    ) STRICT;

    ALTER TABLE operations ADD COLUMN fence INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE operations ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE operations ADD COLUMN resume TEXT NOT NULL DEFAULT '';
    ALTER TABLE operations ADD COLUMN checkpoint TEXT NOT NULL DEFAULT '';
    ALTER TABLE operations ADD COLUMN cancel_by TEXT NOT NULL DEFAULT '';

    ALTER TABLE approvals ADD COLUMN needed INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE approvals ADD COLUMN votes TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE approvals ADD COLUMN execute_s REAL NOT NULL DEFAULT 900;
    ALTER TABLE approvals ADD COLUMN execute_by REAL;
    ALTER TABLE approvals ADD COLUMN seen TEXT NOT NULL DEFAULT '';
    ALTER TABLE approvals ADD COLUMN seen_shown TEXT NOT NULL DEFAULT '{}';

    CREATE INDEX budget_events_call ON budget_events (call_id);
    CREATE TABLE starts (
        writer TEXT PRIMARY KEY, seq INTEGER NOT NULL, hash BLOB NOT NULL, mac BLOB NOT NULL,
        pruned INTEGER NOT NULL, seal BLOB NOT NULL
    ) STRICT;
    """,
)


class Follows(NamedTuple):
    """A column of times that moves with a jump of the clock, forward to at most `ahead` seconds
    from now; None: it is only moved back."""

    table: str
    column: str
    ahead: float | None


# What bounds what an agent may do keeps its duration over a jump in either direction. An approval
# is moved back only: it must not outlive its hour because a laptop slept.
FOLLOWING: tuple[Follows, ...] = (
    Follows("budget_events", "at", 0),
    Follows("budget_events", "expires_at", 86_400),
    Follows("circuits", "opened_at", 0),
    Follows("circuits", "retry_at", 3_600),
    Follows("circuits", "probe_until", 60),
    Follows("modes", "since", 0),
    Follows("modes", "expires_at", 86_400),
    Follows("grants", "since", 0),
    Follows("grants", "expires_at", None),
    Follows("partitions", "since", 0),
    Follows("partitions", "expires_at", 86_400),
    Follows("leases", "until", 600),
    Follows("operations", "lease_until", 600),
    Follows("operations", "ended_at", 0),
    Follows("approvals", "expires_at", None),
    Follows("approvals", "execute_by", None),
    Follows("approvals", "decided_at", 0),
    Follows("failed", "held_until", 3_600),
)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a file to the newest schema, in one transaction that excludes other processes."""
    newest = len(_MIGRATIONS)
    if _version(connection) == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)
        if version > newest:
            raise StoreUnavailable(
                "The guard's store was written by a newer version of mcp-ops.",
                hint="Install that version again, or give this one a state directory of its own.",
            )
        for script in _MIGRATIONS[version:]:
            for statement in script.split(";\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
