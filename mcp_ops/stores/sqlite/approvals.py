"""The embedded questions to people: each change compares the state it starts from, and sets it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, replace
from typing import Any

from mcp_ops.questions import Approval, ApprovalState, Redemption, Vote
from mcp_ops.stores.sqlite.database import Database

_NAMES = (
    *("id", "kind", "state", "principal", "tool", "target", "digest", "policy", "message"),
    *("arguments", "reason", "created_at", "expires_at", "decided_by", "decided_at", "note"),
    *("needed", "votes", "execute_s", "execute_by", "seen", "seen_shown"),
)
_FIELDS = ", ".join(_NAMES)
_SELECT = f"SELECT {_FIELDS} FROM approvals"  # noqa: S608 - names of ours
# A question waits until `expires_at`; once it is approved it has its own time to be used.
_OPEN = (
    "((state = 'pending' AND expires_at > :now) "
    "OR (state = 'approved' AND COALESCE(execute_by, expires_at) > :now))"
)


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
        """Say yes or no to a pending question; None when it is not pending any more.

        One no denies it; the last of the needed different people approves it, and from then on it
        may be used for `execute_s` seconds. A second yes of the same person changes nothing.
        """
        vote = Vote(by=by, at=at, note=note)

        def job(connection: sqlite3.Connection) -> Approval | None:
            found = self._get(connection, approval_id)
            if found is None or found.state != "pending":
                return None
            after = counted(found, vote) if approved else _decided(found, "denied", vote)
            _update(connection, after)
            return after

        return await self._database.write(job)

    async def revoke(self, approval_id: str, *, by: str, note: str, at: float) -> Approval | None:
        """Take a question back that is pending or approved; None when it is neither any more."""

        def job(connection: sqlite3.Connection) -> Approval | None:
            found = self._get(connection, approval_id)
            if found is None or found.state not in ("pending", "approved"):
                return None
            after = _decided(found, "revoked", Vote(by=by, at=at, note=note))
            _update(connection, after)
            return after

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
            f"{_SELECT} WHERE principal = :principal AND digest = :digest AND kind = :kind "
            f"AND ({_OPEN} OR (state = 'denied' AND decided_at > :since)) ORDER BY number DESC",
            {
                "principal": principal,
                "digest": digest,
                "kind": kind,
                "now": now,
                "since": now - self._denied_s,
            },
        )
        return [self._shown(row) for row in rows]

    def _shown(self, row: sqlite3.Row) -> Approval:
        values: dict[str, Any] = dict(row)
        for name in ("arguments", "votes", "seen_shown"):
            values[name] = json.loads(values[name])
        values["votes"] = tuple(Vote(**vote) for vote in values["votes"])
        found = Approval(**values)
        until = found.expires_at
        if found.state == "approved" and found.execute_by is not None:
            until = found.execute_by
        if found.state in ("pending", "approved") and until <= self._now():
            return replace(found, state="expired")
        return found


def use(connection: sqlite3.Connection, wanted: Redemption, now: float) -> bool:
    """Use up an approved question for exactly this call, within a write transaction."""
    cursor = connection.execute(
        "UPDATE approvals SET state = 'redeemed' WHERE id = ? AND state = 'approved' "
        "AND principal = ? AND digest = ? AND policy = ? "
        "AND COALESCE(execute_by, expires_at) > ?",
        (wanted.approval_id, wanted.principal, wanted.digest, wanted.policy, now),
    )
    return cursor.rowcount == 1


def counted(found: Approval, vote: Vote) -> Approval:
    """A pending question after one more yes: the last one that it needs approves it."""
    if any(earlier.by == vote.by for earlier in found.votes):
        return found
    after = replace(found, votes=(*found.votes, vote))
    if len(after.votes) < after.needed:
        return after
    return replace(_decided(after, "approved", vote), execute_by=vote.at + found.execute_s)


def _decided(found: Approval, state: ApprovalState, last: Vote) -> Approval:
    return replace(found, state=state, decided_by=last.by, decided_at=last.at, note=last.note)


def _update(connection: sqlite3.Connection, after: Approval) -> None:
    connection.execute(
        "UPDATE approvals SET state = ?, decided_by = ?, decided_at = ?, note = ?, votes = ?, "
        "execute_by = ? WHERE id = ?",
        (
            *(after.state, after.decided_by, after.decided_at, after.note),
            *(_json([asdict(vote) for vote in after.votes]), after.execute_by, after.id),
        ),
    )


def _insert(connection: sqlite3.Connection, approval: Approval) -> None:
    values = {name: getattr(approval, name) for name in _NAMES}
    values["arguments"] = _json(dict(approval.arguments))
    values["seen_shown"] = _json(dict(approval.seen_shown))
    values["votes"] = _json([asdict(vote) for vote in approval.votes])
    places = ", ".join(f":{name}" for name in _NAMES)
    connection.execute(
        f"INSERT INTO approvals ({_FIELDS}) VALUES ({places})",  # noqa: S608 - names of ours
        values,
    )


def _json(value: Any) -> str:
    return json.dumps(value, default=str)
