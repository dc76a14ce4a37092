"""The ledger in PostgreSQL, for several servers that act as one guard.

Lines on writes and on changes of the guard are durable before the caller goes on. Lines on reads
and refusals (`note`) wait in memory, at most half a second or until the next durable line.
"""

from __future__ import annotations

from mcp_ops.questions import Redemption
from mcp_ops.records import (
    Anchor,
    AuditQuery,
    Begun,
    Budget,
    BudgetState,
    Entry,
    Line,
    Operation,
    Spent,
    Verification,
)
from mcp_ops.stores.chain import clean, decode
from mcp_ops.stores.postgres import jobs
from mcp_ops.stores.postgres.batch import OPERATION, Keeping, look, lost, to_operation
from mcp_ops.stores.postgres.connections import Connections, Values
from mcp_ops.stores.postgres.retention import Retention
from mcp_ops.stores.postgres.sealing import Sealing
from mcp_ops.stores.postgres.time import StoreTime
from mcp_ops.stores.postgres.writer import Writer

_LIST = ", ".join(OPERATION)
_SELECT = f"SELECT {_LIST} FROM mcp_ops.operations"  # noqa: S608 - names of ours
_TIMES = ("started_at", "lease_until", "ended_at")
_MOST_FOUND = 1_000
_SPENT = """
    SELECT tool, principal, sum(repeats)::bigint AS calls,
        sum(upstream_calls)::bigint AS upstream_calls,
        coalesce(sum(repeats) FILTER (WHERE verdict = 'refused'), 0)::bigint AS refused
    FROM (
        SELECT tool, principal, verdict, upstream_calls,
            -- A line of a flood stands for several calls, none of which reached a target.
            CASE WHEN upstream_calls > 0 OR position('"repeats":'::bytea IN body) = 0 THEN 1
                ELSE coalesce((convert_from(body, 'UTF8')::json #>> '{evidence,repeats}')::int, 1)
            END AS repeats
        FROM mcp_ops.entries WHERE kind = 'ended' AND at >= %s
    ) AS ended
    GROUP BY tool, principal ORDER BY 4 DESC, 3 DESC, 1, 2 LIMIT %s
"""


class Ledger:
    """The record of every call, and the operations under their keys.

    All methods but `note` raise `StoreUnavailable` within some ten seconds.
    """

    def __init__(
        self,
        connections: Connections,
        writer: Writer,
        sealing: Sealing,
        retention: Retention,
        *,
        keeping: Keeping,
        time: StoreTime,
    ) -> None:
        self._connections = connections
        self._writer = writer
        self._sealing = sealing
        self._retention = retention
        self._keeping = keeping
        self._time = time

    def note(self, entry: Entry) -> None:
        """Add a line that is written within a second: no waiting."""
        self._writer.note(entry)

    @property
    def unwritten(self) -> int:
        """How many noted lines this process has not written yet."""
        return self._writer.unwritten

    async def flush(self) -> None:
        """Write all noted lines now; they are kept for the next try if that fails."""
        await self._writer.flush()

    async def begin(
        self,
        entry: Entry,
        operation: Operation,
        *,
        budgets: tuple[Budget, ...] = (),
        approval: Redemption | None = None,
    ) -> Begun:
        """Durably write the intent, claim the key, charge the budgets and use up the approval, or
        say what stands in the way."""
        moved = self._time.to_store(operation, *_TIMES)
        job = jobs.Begin(entry=entry, operation=moved, budgets=budgets, approval=approval)
        begun: Begun = await self._writer.do(job)
        return Begun(
            claimed=begun.claimed,
            holder=None if begun.holder is None else self._shown(begun.holder),
            budgets=self._states(begun.budgets),
            approved=begun.approved,
        )

    async def end(self, entry: Entry, operation: Operation | None, *, keep: bool) -> None:
        """Durably write the end; `keep` false frees the key and the budgets, because nothing was
        executed. If the operation was given up or taken over meanwhile the line is a correction."""
        await self._writer.do(jobs.End(entry=entry, operation=operation, keep=keep))

    async def change(self, entry: Entry) -> None:
        """Durably add a line on a change of the guard."""
        await self._writer.do(jobs.Change(entry))

    async def budgets(self, requests: tuple[Budget, ...]) -> tuple[BudgetState, ...]:
        """Look at budgets without charging."""
        found = await self._connections.fetch(
            "SELECT key, at, clock.now FROM (SELECT mcp_ops.now() AS now) AS clock "
            "LEFT JOIN mcp_ops.budget_events ON key = ANY(%s)",
            ([clean(budget.key) for budget in requests],),
        )
        uses: dict[str, list[float]] = {}
        for row in found:
            self._time.learn(row["now"])
            if row["key"] is not None:
                uses.setdefault(row["key"], []).append(row["at"])
        return self._states(look(requests, uses, found[0]["now"]))

    async def renew(
        self,
        operation_id: str,
        *,
        fence: int,
        lease_until: float,
        progress: str,
        checkpoint: str = "",
    ) -> Operation | None:
        """Keep a running operation's lease and say how far it is; None when this fence does not
        hold it any more."""
        return await self._one(
            "UPDATE mcp_ops.operations SET lease_until = %s, progress = %s, checkpoint = %s "  # noqa: S608 - names of ours
            f"WHERE id = %s AND state = 'running' AND fence = %s RETURNING {_LIST}",
            (
                *(self._time.stored(lease_until), clean(progress), clean(checkpoint)),
                *(clean(operation_id), fence),
            ),
        )

    async def cancel(self, operation_id: str, *, by: str) -> Operation | None:
        """Ask a running operation to stop; the first who asked stays named."""
        return await self._one(
            "UPDATE mcp_ops.operations "  # noqa: S608 - names of ours
            "SET cancel_by = CASE cancel_by WHEN '' THEN %s ELSE cancel_by END "
            f"WHERE id = %s AND state = 'running' RETURNING {_LIST}",
            (clean(by), clean(operation_id)),
        )

    async def take_over(self, owner: str, lease_until: float) -> list[Operation]:
        """Resumable operations whose process was lost, now this owner's, under a new fence each."""
        await self._writer.recover()
        found = await self._connections.fetch(
            "UPDATE mcp_ops.operations SET owner = %s, lease_until = %s, fence = fence + 1 "  # noqa: S608 - names of ours
            "WHERE id IN (SELECT id FROM mcp_ops.operations WHERE state = 'running' "
            "AND lease_until < mcp_ops.now() AND resume <> '' ORDER BY id FOR UPDATE SKIP LOCKED) "
            f"AND state = 'running' RETURNING {_LIST}",
            (clean(owner), self._time.stored(lease_until)),
        )
        return [self._shown(to_operation(row)) for row in found]

    async def lock(self, name: str, holder: str, until: float) -> int | None:
        """A lease on a name, with its fencing token; None while another one holds it.

        No token is given twice, for whatever name: two names may stand for one queue.
        """
        found = await self._connections.fetch(
            "INSERT INTO mcp_ops.leases "
            "VALUES (%(name)s, %(holder)s, nextval('mcp_ops.fences'), %(until)s) "
            "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until, "
            "fence = CASE WHEN leases.until > mcp_ops.now() THEN leases.fence "
            "ELSE excluded.fence END "
            "WHERE leases.holder = excluded.holder OR leases.until <= mcp_ops.now() "
            "RETURNING fence",
            {
                "name": clean(name),
                "holder": clean(holder),
                "until": self._time.stored(until),
            },
        )
        return int(found[0]["fence"]) if found else None

    async def unlock(self, name: str, fence: int) -> None:
        """Give a lease back; one that another has taken since stays."""
        await self._connections.fetch(
            "UPDATE mcp_ops.leases SET holder = '', until = 0 WHERE name = %s AND fence = %s",
            (clean(name), fence),
        )

    async def facts(self) -> dict[str, str]:
        """What the hot store wants to find again if it loses everything."""
        found = await self._connections.fetch("SELECT name, value FROM mcp_ops.facts ORDER BY name")
        return {row["name"]: row["value"] for row in found}

    async def put_fact(self, name: str, value: str) -> None:
        """Durably keep a fact in the place of the one with its name; an empty one is removed."""
        if not value:
            sql = "DELETE FROM mcp_ops.facts WHERE name = %s"
            await self._connections.fetch(sql, (clean(name),))
            return
        await self._connections.fetch(
            "INSERT INTO mcp_ops.facts VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (clean(name), clean(value)),
        )

    async def find_operation(self, key: str) -> Operation | None:
        """The operation under a key: unfinished, or ended within the time for replays."""
        return await self._current(
            f"{_SELECT} WHERE key = %s AND (ended_at IS NULL OR ended_at > mcp_ops.now() - %s) "
            "ORDER BY ended_at DESC NULLS FIRST LIMIT 1",
            (clean(key), self._keeping.replay_s),
        )

    async def get_operation(self, operation_id: str) -> Operation | None:
        """An operation by id, for a week after its end."""
        return await self._current(f"{_SELECT} WHERE id = %s", (clean(operation_id),))

    async def search(self, query: AuditQuery) -> list[Entry]:
        """Lines, newest first, at most a thousand; lines noted before are among them."""
        await self.flush()
        where, values = _conditions(query)
        found = await self._connections.fetch(
            f"SELECT seq, body FROM mcp_ops.entries {where} ORDER BY seq DESC LIMIT %s",  # noqa: S608 - names of ours
            (*values, max(1, min(query.limit, _MOST_FOUND))),
        )
        return [decode(bytes(row["body"]), row["seq"]) for row in found]

    async def spent(self, since: float, limit: int) -> list[Spent]:
        """Who spent the most upstream calls since then."""
        await self.flush()
        return [Spent(**row) for row in await self._connections.fetch(_SPENT, (since, limit))]

    async def verify(self) -> Verification:
        """Walk the chains of all writers."""
        await self.flush()
        return await self._sealing.verify()

    async def lines(self, *, after: int, limit: int, since: float | None = None) -> list[Line]:
        """Lines with their hashes, oldest first, at most a thousand; lines noted before too."""
        await self.flush()
        return await self._sealing.lines(after=after, limit=limit, since=since)

    async def prune(self, before: float) -> int:
        """Remove lines older than `before` from the start; answers how many.

        Lines of an operation that is not over stay, with all that follow them. Raises
        `StoreUnavailable`, also when the lines are not as they were sealed.
        """
        await self.flush()
        return await self._retention.prune(before)

    async def anchors(self) -> list[Anchor]:
        """Where the order of all lines stands now, noted lines among them."""
        await self.flush()
        return await self._sealing.anchors()

    async def contradiction(self, anchor: Anchor) -> str:
        """What of the present ledger contradicts an earlier anchor; empty for nothing."""
        await self.flush()
        return await self._sealing.contradiction(anchor)

    async def _one(self, sql: str, values: Values) -> Operation | None:
        found = await self._connections.fetch(sql, values)
        return self._shown(to_operation(found[0])) if found else None

    async def _current(self, sql: str, values: Values) -> Operation | None:
        looked = sql.replace("SELECT ", "SELECT mcp_ops.now() AS now, ", 1)
        found = await self._connections.fetch(looked, values)
        if found and lost(to_operation(found[0]), found[0]["now"]):
            await self._writer.recover()
            found = await self._connections.fetch(looked, values)
        if not found:
            return None
        self._time.learn(found[0]["now"])
        return self._shown(to_operation(found[0]))

    def _shown(self, operation: Operation) -> Operation:
        return self._time.to_caller(operation, *_TIMES)

    def _states(self, states: tuple[BudgetState, ...]) -> tuple[BudgetState, ...]:
        return tuple(self._time.to_caller(state, "frees_at") for state in states)


def _conditions(query: AuditQuery) -> tuple[str, list[object]]:
    conditions: list[tuple[str, object]] = [
        (f"{column} = %s", clean(value))
        for column in ("principal", "tool", "target", "verdict", "trace_id", "call_id")
        if (value := getattr(query, column))
    ]
    bounds = (("at >= %s", query.since), ("at < %s", query.until), ("seq < %s", query.before_seq))
    conditions += [(text, value) for text, value in bounds if value is not None]
    where = " AND ".join(text for text, _ in conditions)
    return (f"WHERE {where}" if where else ""), [value for _, value in conditions]
