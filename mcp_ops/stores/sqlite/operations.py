"""The rows of operations: claims of a key, leases and their end. All within the ledger's jobs."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace

from mcp_ops.records import Entry, EntryKind, Operation

_FIELDS = (
    "id, key, digest, principal, tool, target, state, started_at, lease_until, ended_at, "
    "outcome, answer, progress, fence, owner, resume, checkpoint, cancel_by"
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
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(operation.id, operation.key, operation.digest, operation.principal),
            *(operation.tool, operation.target, operation.state, operation.started_at),
            *(operation.lease_until, operation.ended_at, operation.outcome, operation.answer),
            *(operation.progress, operation.fence, operation.owner, operation.resume),
            *(operation.checkpoint, operation.cancel_by, call_id),
        ),
    )


def finish(connection: sqlite3.Connection, operation: Operation, *, keep: bool, at: float) -> bool:
    """Write how an operation ended; false if it had been given up as lost before, or if another
    process has taken it over: then that one's state stays.

    `keep` false frees the key: nothing was executed.
    """
    row = connection.execute(
        "SELECT state, fence FROM operations WHERE id = ?", (operation.id,)
    ).fetchone()
    if row is not None and row["fence"] > operation.fence:
        return False
    connection.execute(
        "UPDATE operations SET state = ?, ended_at = ?, outcome = ?, answer = ?, progress = ?, "
        "key = CASE WHEN ? THEN key ELSE '' END WHERE id = ?",
        (
            *(operation.state, at, operation.outcome, operation.answer, operation.progress),
            *(keep, operation.id),
        ),
    )
    return row is None or row["state"] != "unknown"


def renew(
    connection: sqlite3.Connection,
    operation_id: str,
    *,
    fence: int,
    lease_until: float,
    progress: str,
    checkpoint: str,
) -> Operation | None:
    """Keep a running operation's lease; one that was given up or taken over stays so."""
    changed = connection.execute(
        "UPDATE operations SET lease_until = ?, progress = ?, checkpoint = ? "
        "WHERE id = ? AND state = 'running' AND fence = ?",
        (lease_until, progress, checkpoint, operation_id, fence),
    ).rowcount
    return by_id(connection, operation_id) if changed else None


def cancel(connection: sqlite3.Connection, operation_id: str, by: str) -> Operation | None:
    """Ask a running operation to stop; the first who asked stays named."""
    connection.execute(
        "UPDATE operations SET cancel_by = ? WHERE id = ? AND state = 'running' AND cancel_by = ''",
        (by, operation_id),
    )
    found = by_id(connection, operation_id)
    return found if found is not None and found.state == "running" else None


def take_over(
    connection: sqlite3.Connection, owner: str, now: float, lease_until: float
) -> list[Operation]:
    """Lost operations that can be resumed, under a new fence, as this owner's."""
    rows = connection.execute(
        "SELECT id FROM operations "
        "WHERE state = 'running' AND lease_until < ? AND resume != '' LIMIT ?",
        (now, _BATCH),
    ).fetchall()
    connection.executemany(
        "UPDATE operations SET owner = ?, lease_until = ?, fence = fence + 1 WHERE id = ?",
        [(owner, lease_until, row["id"]) for row in rows],
    )
    found = [by_id(connection, row["id"]) for row in rows]
    return [operation for operation in found if operation is not None]


def lost(operation: Operation, now: float) -> bool:
    """Whether a running operation's process let its lease pass, and nobody can resume it."""
    passed = operation.state == "running" and operation.lease_until < now
    return passed and not operation.resume


def give_up_lost(connection: sqlite3.Connection, now: float) -> list[Entry]:
    """Turn running operations whose lease passed into `unknown`; answers their last lines.

    Those that can be resumed wait for a process that takes them over.
    """
    rows = connection.execute(
        f"SELECT {_FIELDS}, call_id FROM operations "  # noqa: S608 - names of ours
        "WHERE state = 'running' AND lease_until < ? AND resume = '' LIMIT ?",
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
