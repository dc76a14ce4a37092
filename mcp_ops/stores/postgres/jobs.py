"""The jobs of a batch: what one call asks of the ledger, decided on what was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mcp_ops.errors import StoreUnavailable
from mcp_ops.questions import Redemption
from mcp_ops.records import Begun, Budget, Entry, EntryKind, Operation
from mcp_ops.stores.chain import clean, encode
from mcp_ops.stores.postgres.batch import (
    OPERATION,
    State,
    Wanted,
    cleaned,
    content,
    look,
    lost,
)

_LIST = ", ".join(OPERATION)
_PLACES = ", ".join(f"%({name})s" for name in (*OPERATION, "call_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """The intent of a write."""

    entry: Entry
    operation: Operation
    budgets: tuple[Budget, ...]
    approval: Redemption | None

    def want(self, wanted: Wanted) -> None:
        """The key, the budgets, the approval."""
        wanted.keys.add(clean(self.operation.key))
        wanted.ids.add(clean(self.operation.id))
        wanted.budgets.update(clean(budget.key) for budget in self.budgets)
        if self.approval is not None:
            wanted.approvals.add(clean(self.approval.approval_id))

    def decide(self, state: State) -> Begun:
        """The key first, then the budgets, then the approval; nothing is taken on a no."""
        operation = cleaned(self.operation)
        held = state.holder(operation.key)
        if held is not None and lost(held, state.now):
            state.give_up(held)
            held = state.holder(operation.key)
        if held is not None:
            return Begun(claimed=False, holder=held)
        looked = look(self.budgets, state.uses, state.now)
        if not all(each.allowed for each in looked):
            return Begun(claimed=False, budgets=looked)
        if self.approval and not _fits(self.approval, state):
            return Begun(claimed=False, budgets=looked, approved=False)
        if operation.id in state.operations:
            raise StoreUnavailable(
                "The ledger has an operation of this id already.", hint="Call again."
            )
        self._take(state, operation)
        return Begun(claimed=True, budgets=looked)

    def _take(self, state: State, operation: Operation) -> None:
        if self.approval:
            del state.approvals[clean(self.approval.approval_id)]
            sql = "UPDATE mcp_ops.approvals SET state = 'redeemed' WHERE id = %s"
            state.write(sql, (clean(self.approval.approval_id),))
        windows: dict[str, float] = {}
        for budget in self.budgets:
            key = clean(budget.key)
            windows[key] = max(windows.get(key, 0.0), budget.window_s)
        for key, window_s in windows.items():
            state.uses.setdefault(key, []).append(state.now)
            state.write(
                "INSERT INTO mcp_ops.budget_events VALUES (%s, %s, %s, %s)",
                (key, state.now, state.now + window_s, operation.id),
            )
        state.operations[operation.id] = operation
        state.calls[operation.id] = call_id = clean(self.entry.call_id)
        values = {name: getattr(operation, name) for name in OPERATION}
        state.write(
            f"INSERT INTO mcp_ops.operations ({_LIST}, call_id) VALUES ({_PLACES})",  # noqa: S608 - names of ours
            {**values, "call_id": call_id},
        )
        state.lines.append(self.entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The end of a call."""

    entry: Entry
    operation: Operation | None
    keep: bool

    def want(self, wanted: Wanted) -> None:
        """The operation as it is now."""
        if self.operation is not None:
            wanted.ids.add(clean(self.operation.id))

    def decide(self, state: State) -> None:
        """Write how it ended. Given up or taken over meanwhile: the line is a correction."""
        line = self.entry
        if self.operation is not None and not self._finish(state, cleaned(self.operation)):
            line = late(line)
        state.lines.append(line)

    def _finish(self, state: State, operation: Operation) -> bool:
        found = state.operations.get(operation.id)
        if found is None:
            return True
        if found.fence > operation.fence or found.state == "done":
            return False  # taken over; or ended already, and the answer to that was lost
        state.operations[operation.id] = after = replace(
            found,
            state=operation.state,
            ended_at=state.now,
            outcome=operation.outcome,
            answer=operation.answer,
            progress=operation.progress,
            key=found.key if self.keep else "",
        )
        state.write(
            "UPDATE mcp_ops.operations SET state = %s, ended_at = %s, outcome = %s, answer = %s, "
            "progress = %s, key = %s WHERE id = %s",
            (
                *(after.state, after.ended_at, after.outcome, after.answer, after.progress),
                *(after.key, after.id),
            ),
        )
        if found.state == "unknown":
            return False
        if not self.keep:
            state.write("DELETE FROM mcp_ops.budget_events WHERE operation = %s", (after.id,))
        return True


@dataclass(frozen=True, slots=True)
class Change:
    """A line on a change of the guard."""

    entry: Entry

    def want(self, wanted: Wanted) -> None:
        """Nothing."""

    def decide(self, state: State) -> None:
        """Add the line."""
        state.lines.append(self.entry)


@dataclass(frozen=True, slots=True)
class GiveUpLost:
    """Give up the operations whose process was lost; those that can be resumed wait for one that
    takes them over."""

    def want(self, wanted: Wanted) -> None:
        """All that were lost."""
        wanted.lost = True

    def decide(self, state: State) -> int:
        """Answers how many there were, of at most a hundred."""
        found = [each for each in state.operations.values() if lost(each, state.now)]
        for each in found:
            state.give_up(each)
        return len(found)


@dataclass(frozen=True, slots=True)
class Nothing:
    """Only the lines that were noted before."""

    def want(self, wanted: Wanted) -> None:
        """Nothing."""

    def decide(self, state: State) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Notes:
    """Lines that were kept elsewhere, durably added in their order.

    Those that are in the ledger already are left out, so that they may be given again whenever
    nobody knows what became of them.
    """

    entries: Sequence[Entry]

    def want(self, wanted: Wanted) -> None:
        """The lines of their calls."""
        wanted.calls.update(clean(entry.call_id) for entry in self.entries)

    def decide(self, state: State) -> int:
        """Add what is missing; answers how many lines that were."""
        before = len(state.lines)
        for entry in self.entries:
            said = content(encode(entry))
            if said not in state.known:
                state.known.add(said)
                state.lines.append(entry)
        return len(state.lines) - before


def late(entry: Entry) -> Entry:
    """The end of an operation that had been given up: a correction, not a second end."""
    return replace(entry, kind=EntryKind.CHANGED, evidence={**entry.evidence, "late_end": True})


def _fits(wanted: Redemption, state: State) -> bool:
    row = state.approvals.get(clean(wanted.approval_id))
    return row is not None and (row["principal"], row["digest"], row["policy"]) == (
        clean(wanted.principal),
        clean(wanted.digest),
        clean(wanted.policy),
    )
