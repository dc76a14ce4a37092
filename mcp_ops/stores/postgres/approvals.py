"""The questions to people in PostgreSQL: each change locks the question that it starts from.

A write uses up its approval in the ledger's batch, together with the intent.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

from mcp_ops.questions import Approval, ApprovalState, Vote
from mcp_ops.stores.chain import clean
from mcp_ops.stores.postgres.connections import Connection, Connections, Row, rows
from mcp_ops.stores.postgres.time import StoreTime

_NAMES = tuple(f.name for f in fields(Approval))
_LIST = ", ".join(_NAMES)
_PLACES = ", ".join(f"%({name})s" for name in _NAMES)
_SELECT = f"SELECT {_LIST}, mcp_ops.now() AS now FROM mcp_ops.approvals"  # noqa: S608 - names of ours
_JSON = ("arguments", "votes", "seen_shown")
_TIMES = ("created_at", "expires_at", "decided_at", "execute_by")
# A question waits until `expires_at`; once it is approved it has its own time to be used.
_OPEN = (
    "((state = 'pending' AND expires_at > mcp_ops.now()) "
    "OR (state = 'approved' AND coalesce(execute_by, expires_at) > mcp_ops.now()))"
)
_ASKING = 0x6D63705F61736B


class Approvals:
    """Questions and answers in a database.

    A denied question stays the answer for `denied_s` seconds; questions are deleted `keep_s`
    seconds after they expire. All methods raise `StoreUnavailable`.
    """

    def __init__(
        self,
        connections: Connections,
        time: StoreTime,
        *,
        denied_s: float = 600,
        keep_s: float = 604_800,
    ) -> None:
        self._connections = connections
        self._time = time
        self._denied_s = denied_s
        self._keep_s = keep_s

    async def ask(self, approval: Approval, *, max_pending: int) -> Approval | None:
        """Add a pending question, or answer the one that stands for the same binding and kind.

        That is one pending or approved under the same policy, or denied a short while ago. None
        when this principal has `max_pending` open questions.
        """
        asked = self._time.to_store(approval, *_TIMES)
        async with self._connections.transaction() as connection:
            # One at a time: the same question asked twice at once is one, and the count holds.
            await rows(connection, "SELECT pg_advisory_xact_lock(%s)", (_ASKING,))
            await rows(
                connection,
                "DELETE FROM mcp_ops.approvals WHERE expires_at <= mcp_ops.now() - %s",
                (self._keep_s,),
            )
            for row in await self._standing(connection, asked):
                if row["state"] == "denied" or row["policy"] == clean(asked.policy):
                    return self._shown(row)
            pending = await rows(
                connection,
                "SELECT count(*) AS count FROM mcp_ops.approvals "
                "WHERE principal = %s AND state = 'pending' AND expires_at > mcp_ops.now()",
                (clean(asked.principal),),
            )
            if pending[0]["count"] >= max_pending:
                return None
            await _insert(connection, asked)
        return approval

    async def decide(
        self, approval_id: str, *, approved: bool, by: str, note: str, at: float
    ) -> Approval | None:
        """Say yes or no to a pending question; None when it is not pending any more.

        One no denies it; the last of the needed different people approves it, and from then on it
        may be used for `execute_s` seconds. A second yes of the same person changes nothing. The
        time of the decision is the store's; `at` is not used.
        """
        async with self._connections.transaction() as connection:
            found, now = await self._open(connection, approval_id, "pending")
            if found is None:
                return None
            vote = Vote(by=by, at=now, note=note)
            after = _counted(found, vote) if approved else _decided(found, "denied", vote)
            await _update(connection, after)
        return self._time.to_caller(after, *_TIMES)

    async def revoke(self, approval_id: str, *, by: str, note: str, at: float) -> Approval | None:
        """Take a question back that is pending or approved; None when it is neither any more."""
        async with self._connections.transaction() as connection:
            found, now = await self._open(connection, approval_id, "pending", "approved")
            if found is None:
                return None
            after = _decided(found, "revoked", Vote(by=by, at=now, note=note))
            await _update(connection, after)
        return self._time.to_caller(after, *_TIMES)

    async def redeem(
        self, approval_id: str, *, principal: str, digest: str, policy: str, at: float
    ) -> bool:
        """Use an approved question for exactly this call; true once, over all processes.

        `at` can only make an approval expire, never revive it: the store's time counts too.
        """
        found = await self._connections.fetch(
            "UPDATE mcp_ops.approvals SET state = 'redeemed' WHERE id = %s AND state = 'approved' "
            "AND principal = %s AND digest = %s AND policy = %s "
            "AND coalesce(execute_by, expires_at) > greatest(%s, mcp_ops.now()) RETURNING id",
            (
                *(clean(approval_id), clean(principal), clean(digest), clean(policy)),
                self._time.stored(at),
            ),
        )
        return len(found) == 1

    async def get(self, approval_id: str) -> Approval | None:
        """One question; expired ones say so."""
        found = await self._connections.fetch(f"{_SELECT} WHERE id = %s", (clean(approval_id),))
        return self._shown(found[0]) if found else None

    async def denied(self, *, principal: str, digest: str) -> Approval | None:
        """The question about this call, of either kind, that was lately denied."""
        found = await self._connections.fetch(
            f"{_SELECT} WHERE principal = %s AND digest = %s AND state = 'denied' "
            "AND decided_at > mcp_ops.now() - %s ORDER BY counter DESC LIMIT 1",
            (clean(principal), clean(digest), self._denied_s),
        )
        return self._shown(found[0]) if found else None

    async def recent(self, limit: int) -> list[Approval]:
        """Pending ones first, then the newest."""
        found = await self._connections.fetch(
            f"{_SELECT} ORDER BY state = 'pending' AND expires_at > mcp_ops.now() DESC, "
            "counter DESC LIMIT %s",
            (limit,),
        )
        return [self._shown(row) for row in found]

    async def _standing(self, connection: Connection, asked: Approval) -> list[Row]:
        return await rows(
            connection,
            f"{_SELECT} WHERE principal = %s AND digest = %s AND kind = %s AND ({_OPEN} OR "
            "(state = 'denied' AND decided_at > mcp_ops.now() - %s)) ORDER BY counter DESC",
            (clean(asked.principal), clean(asked.digest), asked.kind, self._denied_s),
        )

    async def _open(
        self, connection: Connection, approval_id: str, *states: ApprovalState
    ) -> tuple[Approval | None, float]:
        """A question in one of these states, locked, and the store's time after that."""
        sql = "SELECT 1 FROM mcp_ops.approvals WHERE id = %s FOR UPDATE"
        await rows(connection, sql, (clean(approval_id),))
        found = await rows(connection, f"{_SELECT} WHERE id = %s", (clean(approval_id),))
        if not found:
            return None, 0.0
        approval = _approval(found[0])
        return (approval if approval.state in states else None), found[0]["now"]

    def _shown(self, row: Row) -> Approval:
        self._time.learn(row["now"])
        return self._time.to_caller(_approval(row), *_TIMES)


def _approval(row: Row) -> Approval:
    values: dict[str, Any] = {name: row[name] for name in _NAMES}
    for name in _JSON:
        values[name] = json.loads(values[name])
    values["votes"] = tuple(Vote(**vote) for vote in values["votes"])
    found = Approval(**values)
    until = found.expires_at
    if found.state == "approved" and found.execute_by is not None:
        until = found.execute_by
    if found.state in ("pending", "approved") and until <= row["now"]:
        return replace(found, state="expired")
    return found


def _counted(found: Approval, vote: Vote) -> Approval:
    """A pending question after one more yes: the last one that it needs approves it."""
    if any(earlier.by == vote.by for earlier in found.votes):
        return found
    after = replace(found, votes=(*found.votes, vote))
    if len(after.votes) < after.needed:
        return after
    return replace(_decided(after, "approved", vote), execute_by=vote.at + found.execute_s)


def _decided(found: Approval, state: ApprovalState, last: Vote) -> Approval:
    return replace(found, state=state, decided_by=last.by, decided_at=last.at, note=last.note)


async def _update(connection: Connection, after: Approval) -> None:
    await rows(
        connection,
        "UPDATE mcp_ops.approvals SET state = %s, decided_by = %s, decided_at = %s, note = %s, "
        "votes = %s, execute_by = %s WHERE id = %s",
        (
            *(after.state, clean(after.decided_by), after.decided_at, clean(after.note)),
            *(_json([asdict(vote) for vote in after.votes]), after.execute_by, after.id),
        ),
    )


async def _insert(connection: Connection, approval: Approval) -> None:
    values = {
        name: clean(value) if isinstance(value := getattr(approval, name), str) else value
        for name in _NAMES
    }
    values["arguments"] = _json(dict(approval.arguments))
    values["seen_shown"] = _json(dict(approval.seen_shown))
    values["votes"] = _json([asdict(vote) for vote in approval.votes])
    await rows(
        connection,
        f"INSERT INTO mcp_ops.approvals ({_LIST}) VALUES ({_PLACES})",  # noqa: S608 - names of ours
        values,
    )


def _json(value: Any) -> str:
    return json.dumps(value, default=str)
