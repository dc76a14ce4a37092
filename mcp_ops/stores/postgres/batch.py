"""One commit: what several calls asked for, looked at together, decided in memory, written at once.

The row `head` is locked first, so that one batch of all processes runs at a time and what was read
stays true until the commit. A batch costs two round trips and one disk sync, however many calls
are in it. The decisions are plain code on what was read, in the order in which they were asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from mcp_ops.records import Budget, BudgetState, Entry, EntryKind, Operation
from mcp_ops.stores.chain import clean, decode
from mcp_ops.stores.postgres.connections import Row
from mcp_ops.stores.postgres.lines import Statement

OPERATION = tuple(f.name for f in fields(Operation))
_LIST = ", ".join(OPERATION)
_PLACES = ", ".join(f"%({name})s" for name in (*OPERATION, "call_id"))
_LOST = "state = 'running' AND lease_until < mcp_ops.now() AND resume = ''"
_MOST_LOST = 100
_LINES_OF = "SELECT body FROM mcp_ops.entries WHERE call_id = ANY(%s)"
_NO_LINES = "SELECT ''::bytea AS body WHERE false"  # planned without a look at every month


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How long operations count, in seconds: for replays after their end, and for look-ups."""

    replay_s: float
    lookup_s: float


@dataclass(slots=True)
class Wanted:
    """What the jobs of a batch have to look at."""

    keys: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    budgets: set[str] = field(default_factory=set)
    approvals: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    lost: bool = False

    def statements(self, keeping: Keeping) -> list[Statement]:
        """Reads in a fixed order: operations, those lost, uses of budgets, approvals, intents of
        lost ones, lines of calls."""
        found = (
            "id = ANY(%s) OR (key = ANY(%s) AND (ended_at IS NULL OR "
            "ended_at > mcp_ops.now() - %s))"
        )
        asked = (list(self.ids), list(self.keys), keeping.replay_s)
        operations = f"SELECT {_LIST}, call_id FROM mcp_ops.operations WHERE {found}"  # noqa: S608 - names of ours
        intents = (
            "SELECT entries.call_id, body, seq FROM mcp_ops.entries JOIN mcp_ops.operations "  # noqa: S608 - names of ours
            f"USING (call_id) WHERE entries.kind = 'began' AND {_LOST} AND ({found} OR %s) "
            "ORDER BY seq DESC LIMIT %s"
        )
        approvals = (
            "SELECT id, principal, digest, policy FROM mcp_ops.approvals "
            "WHERE id = ANY(%s) AND state = 'approved' "
            "AND coalesce(execute_by, expires_at) > mcp_ops.now() ORDER BY id FOR UPDATE"
        )
        uses = "SELECT key, at FROM mcp_ops.budget_events WHERE key = ANY(%s)"
        lost = f"SELECT {_LIST}, call_id FROM mcp_ops.operations WHERE {_LOST} LIMIT %s"  # noqa: S608 - names of ours
        return [
            (operations, asked),
            (lost, (_MOST_LOST if self.lost else 0,)),
            (uses, (list(self.budgets),)),
            (approvals, (list(self.approvals),)),
            (intents, (*asked, self.lost, _MOST_LOST)),
            (_LINES_OF, (list(self.calls),)) if self.calls else (_NO_LINES, ()),
        ]


@dataclass(slots=True)
class State:
    """What the jobs of a batch find, and what they make of it."""

    now: float
    keeping: Keeping
    operations: dict[str, Operation]
    calls: dict[str, str]
    uses: dict[str, list[float]]
    approvals: dict[str, Row]
    intents: dict[str, Entry]
    known: set[bytes]
    lines: list[Entry] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)

    @classmethod
    def of(cls, now: float, keeping: Keeping, found: list[list[Row]]) -> State:
        """What the statements of `Wanted` found."""
        operations, more, uses, approvals, intents, known = found
        operations = [*operations, *more]
        by_key: dict[str, list[float]] = {}
        for use in uses:
            by_key.setdefault(use["key"], []).append(use["at"])
        return cls(
            now=now,
            keeping=keeping,
            operations={row["id"]: to_operation(row) for row in operations},
            calls={row["id"]: row["call_id"] for row in operations},
            uses=by_key,
            approvals={row["id"]: row for row in approvals},
            intents={row["call_id"]: decode(bytes(row["body"]), 0) for row in intents},
            known={content(bytes(row["body"])) for row in known},
        )

    def write(self, sql: str, values: Any) -> None:
        """Add a statement."""
        self.statements.append((sql, values))

    def holder(self, key: str) -> Operation | None:
        """The operation under a key: unfinished, or the one that ended last within its time."""
        since = self.now - self.keeping.replay_s
        held = [
            each
            for each in self.operations.values()
            if each.key == key and (each.ended_at is None or each.ended_at > since)
        ]
        return max(held, key=lambda each: (each.ended_at is None, each.ended_at or 0), default=None)

    def give_up(self, operation: Operation) -> None:
        """Turn a running operation whose lease passed into `unknown`, with its last line."""
        self.operations[operation.id] = replace(
            operation, state="unknown", outcome="unknown", ended_at=self.now
        )
        self.write(
            "UPDATE mcp_ops.operations SET state = 'unknown', outcome = 'unknown', ended_at = %s "
            "WHERE id = %s",
            (self.now, operation.id),
        )
        self.lines.append(self._terminal(operation))

    def _terminal(self, lost: Operation) -> Entry:
        call_id = self.calls[lost.id]
        plain = Entry(
            kind=EntryKind.ENDED,
            call_id=call_id,
            at=self.now,
            tool=lost.tool,
            target=lost.target,
            principal=lost.principal,
            digest=lost.digest,
        )
        return replace(
            self.intents.get(call_id, plain),
            kind=EntryKind.ENDED,
            at=self.now,
            writer="",
            seq=0,
            verdict="unknown",
            outcome="unknown",
            evidence={"lost": "the process that ran it did not renew its lease"},
        )


class Job(Protocol):
    """What one call asks of a batch."""

    def want(self, wanted: Wanted) -> None:
        """Say what it has to look at."""
        ...

    def decide(self, state: State) -> Any:
        """Look, add what is to be written, and answer; what it raises is its caller's alone."""
        ...


def look(
    budgets: Iterable[Budget], uses: dict[str, list[float]], now: float
) -> tuple[BudgetState, ...]:
    """What each budget says, by the times of its uses."""
    states = []
    for budget in budgets:
        counted = [at for at in uses.get(clean(budget.key), ()) if at > now - budget.window_s]
        frees_at = min(counted) + budget.window_s if counted else None
        states.append(
            BudgetState(name=budget.name, limit=budget.limit, used=len(counted), frees_at=frees_at)
        )
    return tuple(states)


def forget(keeping: Keeping) -> list[Statement]:
    """What deletes operations and uses that nobody asks for any more; running ones stay."""
    return [
        (
            "DELETE FROM mcp_ops.operations WHERE ended_at < mcp_ops.now() - %s",
            (keeping.lookup_s,),
        ),
        ("DELETE FROM mcp_ops.budget_events WHERE expires_at <= mcp_ops.now()", ()),
    ]


def lost(operation: Operation, now: float) -> bool:
    """Whether a running operation's process let its lease pass, and nobody can resume it."""
    passed = operation.state == "running" and operation.lease_until < now
    return passed and not operation.resume


def content(body: bytes) -> bytes:
    """What a line says, whoever wrote it: the same for a line that comes a second time."""
    try:
        said = json.loads(body)
    except ValueError:  # damaged: `verify` says so
        return body
    plain = {**said, "writer": ""} if isinstance(said, dict) else said
    return json.dumps(plain, sort_keys=True).encode("utf-8")


def cleaned(operation: Operation) -> Operation:
    """An operation whose texts PostgreSQL can hold."""
    texts = {n: clean(v) for n in OPERATION if isinstance(v := getattr(operation, n), str)}
    return replace(operation, **texts)  # type: ignore[arg-type]


def to_operation(row: Row) -> Operation:
    """The operation of a row."""
    return Operation(**{name: row[name] for name in OPERATION})
