"""The embedded questions to people: each change compares the state it starts from, and sets it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from typing import Any

from mcp_ops.records import Approval, Redemption
from mcp_ops.stores.sqlite.database import Database

_FIELDS = (
    "id, kind, state, principal, tool, target, digest, policy, message, arguments, reason, "
    "created_at, expires_at, decided_by, decided_at, note"
)
_SELECT = f"SELECT {_FIELDS} FROM approvals"  # noqa: S608 - names of ours


class Approvals:
    """Questions and answers in a database.

    A denied question stays the answer for `denied_s` seconds; questions are deleted `keep_s`
    seconds after they expire. All methods raise `StoreUnavailable`.
    """

    def __init__(
        self, database: Database, *, denied_s: float = 600, keep_s: float = 604_800
    ) -> None:
        self._database = database
        self._denied_s = denied_s
        self._keep_s = keep_s

    async def ask(self, approval: Approval, *, max_pending: int) -> Approval | None:
        """Add a pending question, or answer the one that stands for the same binding and kind.

        That is one pending or approved under the same policy, or denied a short while ago. None
        when this principal has `max_pending` open questions.
        """

        def job(connection: sqlite3.Connection) -> Approval | None:
            now = self._now()
            connection.execute("DELETE FROM approvals WHERE expires_at <= ?", (now - self._keep_s,))
            standing = self._standing(
                connection, approval.principal, approval.digest, approval.kind
            )
            for found in standing:
                if found.state == "denied" or found.policy == approval.policy:
                    return found
            pending = connection.execute(
                "SELECT count(*) FROM approvals "
                "WHERE principal = ? AND state = 'pending' AND expires_at > ?",
                (approval.principal, now),
            ).fetchone()[0]
            if pending >= max_pending:
                return None
            _insert(connection, approval)
            return approval

        return await self._database.write(job)

    async def decide(
        self, approval_id: str, *, approved: bool, by: str, note: str, at: float
    ) -> Approval | None:
        """Approve or deny a pending question; None when it is not pending any more."""
        state = "approved" if approved else "denied"

        def job(connection: sqlite3.Connection) -> Approval | None:
            changed = connection.execute(
                "UPDATE approvals SET state = ?, decided_by = ?, note = ?, decided_at = ? "
                "WHERE id = ? AND state = 'pending' AND expires_at > ?",
                (state, by, note, at, approval_id, self._now()),
            ).rowcount
            return self._get(connection, approval_id) if changed else None

        return await self._database.write(job)

    async def redeem(
        self, approval_id: str, *, principal: str, digest: str, policy: str, at: float
    ) -> bool:
        """Use an approved question for exactly this call; true once, over all processes.

        `at` can only make an approval expire, never revive it: the store's time counts too.
        """

        wanted = Redemption(
            approval_id=approval_id, principal=principal, digest=digest, policy=policy
        )
        return await self._database.write(
            lambda connection: use(connection, wanted, max(at, self._now()))
        )

    async def get(self, approval_id: str) -> Approval | None:
        """One question; expired ones say so."""
        return await self._database.read(lambda connection: self._get(connection, approval_id))

    async def denied(self, *, principal: str, digest: str) -> Approval | None:
        """The question about this call, of either kind, that was lately denied."""

        def job(connection: sqlite3.Connection) -> Approval | None:
            row = connection.execute(
                f"{_SELECT} WHERE principal = ? AND digest = ? AND state = 'denied' "
                "AND decided_at > ? ORDER BY number DESC LIMIT 1",
                (principal, digest, self._now() - self._denied_s),
            ).fetchone()
            return None if row is None else self._shown(row)

        return self._database.read_now(job)

    async def recent(self, limit: int) -> list[Approval]:
        """Pending ones first, then the newest."""

        def job(connection: sqlite3.Connection) -> list[Approval]:
            rows = connection.execute(
                f"{_SELECT} ORDER BY state = 'pending' AND expires_at > ? DESC, number DESC "
                "LIMIT ?",
                (self._now(), limit),
            )
            return [self._shown(row) for row in rows]

        return await self._database.read(job)

    def _now(self) -> float:
        return self._database.time.now()

    def _get(self, connection: sqlite3.Connection, approval_id: str) -> Approval | None:
        row = connection.execute(f"{_SELECT} WHERE id = ?", (approval_id,)).fetchone()
        return None if row is None else self._shown(row)

    def _standing(
        self, connection: sqlite3.Connection, principal: str, digest: str, kind: str
    ) -> list[Approval]:
        now = self._now()
        rows = connection.execute(
            f"{_SELECT} WHERE principal = ? AND digest = ? AND kind = ? AND ("
            "(state IN ('pending', 'approved') AND expires_at > ?) "
            "OR (state = 'denied' AND decided_at > ?)) ORDER BY number DESC",
            (principal, digest, kind, now, now - self._denied_s),
        )
        return [self._shown(row) for row in rows]

    def _shown(self, row: sqlite3.Row) -> Approval:
        values: dict[str, Any] = dict(row)
        found = Approval(**{**values, "arguments": json.loads(values["arguments"])})
        if found.state in ("pending", "approved") and found.expires_at <= self._now():
            return replace(found, state="expired")
        return found


def use(connection: sqlite3.Connection, wanted: Redemption, now: float) -> bool:
    """Use up an approved question for exactly this call, within a write transaction."""
    cursor = connection.execute(
        "UPDATE approvals SET state = 'redeemed' WHERE id = ? AND state = 'approved' "
        "AND principal = ? AND digest = ? AND policy = ? AND expires_at > ?",
        (wanted.approval_id, wanted.principal, wanted.digest, wanted.policy, now),
    )
    return cursor.rowcount == 1


def _insert(connection: sqlite3.Connection, approval: Approval) -> None:
    connection.execute(
        f"INSERT INTO approvals ({_FIELDS}) "  # noqa: S608 - names of ours
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(approval.id, approval.kind, approval.state, approval.principal, approval.tool),
            *(approval.target, approval.digest, approval.policy, approval.message),
            json.dumps(dict(approval.arguments), default=str),
            *(approval.reason, approval.created_at, approval.expires_at, approval.decided_by),
            *(approval.decided_at, approval.note),
        ),
    )
