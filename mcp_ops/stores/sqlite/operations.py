"""The rows of operations: claims of a key, leases and their end. All within the ledger's jobs."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace

from mcp_ops.records import Entry, EntryKind, Operation

_FIELDS = (
    "id, key, digest, principal, tool, target, state, started_at, lease_until, ended_at, "
    "outcome, answer, progress"
)
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How long operations count, in seconds: for replays after their end, and for look-ups."""

    replay_s: float
    lookup_s: float


def holder(connection: sqlite3.Connection, key: str, since: float) -> Operation | None:
    """The operation under a key: unfinished, or ended after `since`."""
    row = connection.execute(
        f"SELECT {_FIELDS} FROM operations WHERE key = ? AND (ended_at IS NULL OR ended_at > ?) "  # noqa: S608 - names of ours
        "ORDER BY ended_at IS NULL DESC, ended_at DESC LIMIT 1",
        (key, since),
    ).fetchone()
    return None if row is None else Operation(**dict(row))


def by_id(connection: sqlite3.Connection, operation_id: str) -> Operation | None:
    """An operation by its id."""
    row = connection.execute(
        f"SELECT {_FIELDS} FROM operations WHERE id = ?",  # noqa: S608 - names of ours
        (operation_id,),
    ).fetchone()
    return None if row is None else Operation(**dict(row))


def claim(connection: sqlite3.Connection, operation: Operation, call_id: str) -> None:
    """Insert a running operation under its free key."""
    connection.execute(
        f"INSERT INTO operations ({_FIELDS}, call_id) "  # noqa: S608 - names of ours
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(operation.id, operation.key, operation.digest, operation.principal),
            *(operation.tool, operation.target, operation.state, operation.started_at),
            *(operation.lease_until, operation.ended_at, operation.outcome, operation.answer),
            *(operation.progress, call_id),
        ),
    )


def finish(connection: sqlite3.Connection, operation: Operation, *, keep: bool, at: float) -> bool:
    """Write how an operation ended; false if it had been given up as lost before.

    `keep` false frees the key: nothing was executed.
    """
    lost = connection.execute(
        "SELECT 1 FROM operations WHERE id = ? AND state = 'unknown'", (operation.id,)
    ).fetchone()
    connection.execute(
        "UPDATE operations SET state = ?, ended_at = ?, outcome = ?, answer = ?, progress = ?, "
        "key = CASE WHEN ? THEN key ELSE '' END WHERE id = ?",
        (
            *(operation.state, at, operation.outcome, operation.answer, operation.progress),
            *(keep, operation.id),
        ),
    )
    return lost is None


def renew(
    connection: sqlite3.Connection, operation_id: str, lease_until: float, progress: str
) -> None:
    """Keep a running operation's lease; one that was given up stays given up."""
    connection.execute(
        "UPDATE operations SET lease_until = ?, progress = ? WHERE id = ? AND state = 'running'",
        (lease_until, progress, operation_id),
    )


def lost(operation: Operation, now: float) -> bool:
    """Whether a running operation's process let its lease pass."""
    return operation.state == "running" and operation.lease_until < now


def give_up_lost(connection: sqlite3.Connection, now: float) -> list[Entry]:
    """Turn running operations whose lease passed into `unknown`; answers their last lines."""
    rows = connection.execute(
        f"SELECT {_FIELDS}, call_id FROM operations "  # noqa: S608 - names of ours
        "WHERE state = 'running' AND lease_until < ? LIMIT ?",
        (now, _BATCH),
    ).fetchall()
    connection.executemany(
        "UPDATE operations SET state = 'unknown', outcome = 'unknown', ended_at = ? WHERE id = ?",
        [(now, row["id"]) for row in rows],
    )
    return [_terminal(row, now) for row in rows]


def forget_old(connection: sqlite3.Connection, before: float) -> None:
    """Delete operations that ended before then; running ones always stay."""
    connection.execute("DELETE FROM operations WHERE ended_at < ?", (before,))


def _terminal(row: sqlite3.Row, now: float) -> Entry:
    return Entry(
        kind=EntryKind.ENDED,
        call_id=row["call_id"],
        at=now,
        tool=row["tool"],
        target=row["target"],
        principal=row["principal"],
        digest=row["digest"],
        verdict="unknown",
        outcome="unknown",
        evidence={"lost": "the process that ran it did not renew its lease"},
    )


def late(entry: Entry) -> Entry:
    """The end of an operation that had been given up: a correction, not a second end."""
    return replace(entry, kind=EntryKind.CHANGED, evidence={**entry.evidence, "late_end": True})
