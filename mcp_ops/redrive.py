"""A redrive: one run over the pinned items of a dead-letter queue, with exact counts.

Where it is stands durably in the store before each item. When its process is lost another one
goes on with the same items: what had become of the one in hand is settled by a look at the queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from mcp_ops.capabilities.base import Effect, Outcome
from mcp_ops.capabilities.deadletters import (
    DeadLetterQueue,
    DeadLetterRetry,
    ItemOutcome,
    Operation,
    OperationAnswer,
    OperationEndpoint,
    RetryEnd,
    Selected,
)
from mcp_ops.errors import Conflict, NotFound, OpsError, Refused, Rejected, Superseded, Upstream
from mcp_ops.tool import Linked, Write

_FAILURES_IN_A_ROW = 3
_SHOWN_PROBLEMS = 20
_SUPERSEDED = "a newer redrive took its place"


@dataclass(slots=True)
class Redrive:
    """One run over pinned ids. Every id is counted once: retried, failed, skipped or remaining."""

    source: DeadLetterQueue
    endpoint: Linked[OperationEndpoint] | None
    write: Write
    chosen: Selected
    retried: list[str] = field(default_factory=list)
    failed: int = 0
    skipped: int = 0
    worked_on: int = 0
    problems: list[ItemOutcome] = field(default_factory=list)
    unknown: int = 0
    stopped: str = ""
    fence: int = 0
    _earlier: int = 0
    _failing: int = 0

    async def all(self, *, rate_per_s: float, work_s: float) -> None:
        """Work on the ids one by one, at most `rate_per_s`, for at most `work_s` seconds.

        Raises `Interrupted` between two items when another process is to go on.
        """
        until = anyio.current_time() + work_s
        resumed = self._resume()
        for number, item_id in enumerate(self.chosen.ids[self.worked_on :]):
            pause = 1 / rate_per_s if number else 0.0
            if anyio.current_time() + pause > until:
                self.stopped = f"the {work_s:g} s of one call are over"
            else:
                await anyio.sleep(pause)
                await self._next(item_id, resumed=resumed and number == 0)
            if self.stopped:
                return

    async def _next(self, item_id: str, *, resumed: bool) -> None:
        """One item, after saying durably that it is the next."""
        await self.write.steps.at(self._where())
        if self.write.cancelled():
            self.stopped = "cancelled"
            return
        await (self._again(item_id) if resumed else self._one(item_id))
        if self.stopped == _SUPERSEDED:
            return
        self.worked_on += 1
        total, done = len(self.chosen.ids), self._done_in_all()
        self.write.progress(self.worked_on, total, f"{done} retried")
        if self._failing >= _FAILURES_IN_A_ROW:
            self.stopped = f"{_FAILURES_IN_A_ROW} failures in a row"

    async def answer(self) -> DeadLetterRetry:
        """The counts, and whether the queue shows what was done."""
        await self.write.steps.at(self._where())
        remaining = len(self.chosen.ids) - self.worked_on
        more = remaining or self.chosen.more
        done = self.chosen.checkpoints[: self.worked_on]
        outcome = await self._outcome()
        nothing = "nothing was retried" if outcome == "failed" else None
        return DeadLetterRetry(
            outcome=outcome,
            evidence={"searched": self.chosen.searched, "unknown": self.unknown},
            problem=self.stopped or nothing,
            retried=self._done_in_all(),
            failed=self.failed,
            skipped=self.skipped,
            remaining=remaining,
            checkpoint=done[-1] if more and done else "",
            problems=self.problems[:_SHOWN_PROBLEMS],
        )

    async def _outcome(self) -> Outcome:
        if self.unknown:
            return "unknown"
        if self._earlier:
            return "unconfirmed"  # another process moved some of them, before it was lost
        if not self.retried:
            return "failed" if self.failed or self.skipped else "verified"
        if self.endpoint is not None:
            return "unconfirmed"  # the endpoint said yes; its effect was not looked at
        try:
            left = await self.source.find_items(self.retried)
        except Upstream:
            return "unconfirmed"
        return "unconfirmed" if left else "verified"

    def _where(self) -> str:
        counts = (self.worked_on, self._done_in_all(), self.failed, self.skipped, self.unknown)
        return " ".join(map(str, counts))

    def _resume(self) -> bool:
        """Take up the counts of the process that was lost."""
        before = self.write.steps.before
        if not before:
            return False
        at, self._earlier, self.failed, self.skipped, self.unknown = map(int, before.split())
        self.worked_on = at
        return True

    def _done_in_all(self) -> int:
        return self._earlier + len(self.retried)

    async def _again(self, item_id: str) -> None:
        """The item that the lost process may have had in hand: a look settles what became of it."""
        if not await self.source.find_items([item_id]):
            self._done(item_id)  # it left the queue, and nobody else works on it
        elif self.endpoint is None:
            await self._move(item_id)
        else:
            await self._call(item_id, self.endpoint, resumed=True)

    async def _one(self, item_id: str) -> None:
        if self.endpoint is None:
            await self._move(item_id)
        else:
            await self._call(item_id, self.endpoint)

    async def _move(self, item_id: str) -> None:
        """Requeue one item; a lost answer is settled by a look at the queue."""
        try:
            move = await self.source.requeue(item_id, fence=self.fence)
        except Superseded as exc:
            self._supersede(item_id, exc.message)
        except (NotFound, Conflict) as exc:
            self._skip(item_id, exc.message)
        except Upstream as exc:
            if exc.executed == "no":
                self._fail(item_id, exc.message)
            else:
                await self._settle(item_id, exc.message)
        else:
            if move.done:
                self._done(item_id)
            else:
                self._skip(item_id, move.why)

    async def _settle(self, item_id: str, why: str) -> None:
        try:
            left = await self.source.find_items([item_id])
        except Upstream:
            self._unknown(item_id, f"{why} The item is in exactly one of the two queues.")
            self.stopped = "the queue cannot be looked at"
            return
        if left:
            self._fail(item_id, why)
        else:
            self._done(item_id)

    def _supersede(self, item_id: str, why: str) -> None:
        self.stopped = _SUPERSEDED
        self._note(item_id, why)

    async def _call(
        self, item_id: str, endpoint: Linked[OperationEndpoint], *, resumed: bool = False
    ) -> None:
        """Call the endpoint for one item that is held meanwhile.

        A cancellation leaves the hold: it runs out, and then the item counts as unknown.
        """
        try:
            operation = await self.source.begin_retry(item_id, fence=self.fence)
        except Superseded as exc:
            self._supersede(item_id, exc.message)
            return
        except (NotFound, Conflict) as exc:
            if resumed:  # the lost process had begun with it, and nobody knows how that ended
                self._unknown(item_id, exc.message)
            else:
                self._skip(item_id, exc.message)
            return
        except Upstream as exc:
            self._fail(item_id, exc.message)
            return
        end, why = await self._execute(operation, endpoint)
        try:
            await self.source.end_retry(operation, end=end, note=_NOTES[end])
        except OpsError as exc:
            self._unknown(item_id, f"{exc.message} The call ended as {end}; it is not repeated.")
            self.stopped = "the queue did not record the end of a retry"
            return
        self._count(item_id, end, why)

    async def _execute(
        self, operation: Operation, endpoint: Linked[OperationEndpoint]
    ) -> tuple[RetryEnd, str]:
        async def run(system: OperationEndpoint) -> OperationAnswer | None:
            if not system.allows(operation.operation):
                return None
            return await system.execute(operation)

        try:
            answer = await endpoint.use(run, effect=Effect.WRITE)
        except Refused as exc:
            self.stopped = f"refused: {exc.message}"
            return "released", exc.message
        except (Rejected, NotFound, Conflict) as exc:
            return "failed", exc.message
        except OpsError as exc:
            if exc.executed == "unknown":
                return "unknown", exc.message
            self._failing += 1
            return "released", exc.message
        self._failing = 0
        if answer is None:
            return "released", "its operation is not on the endpoint's allow-list"
        return ("resolved", "") if answer.success else ("failed", answer.error or "refused")

    def _count(self, item_id: str, end: RetryEnd, why: str) -> None:
        if end == "resolved":
            self._done(item_id)
        elif end == "unknown":
            self._unknown(item_id, f"outcome unknown, not repeated: {why}")
        elif end == "failed" or self._failing:
            self.failed += 1
            self._note(item_id, why)
        else:
            self.skipped += 1
            self._note(item_id, why)

    def _done(self, item_id: str) -> None:
        self._failing = 0
        self.retried.append(item_id)

    def _skip(self, item_id: str, why: str) -> None:
        self.skipped += 1
        self._note(item_id, why)

    def _fail(self, item_id: str, why: str) -> None:
        self._failing += 1
        self.failed += 1
        self._note(item_id, why)

    def _unknown(self, item_id: str, why: str) -> None:
        self.unknown += 1
        self.failed += 1
        self._note(item_id, why)

    def _note(self, item_id: str, why: str) -> None:
        self.problems.append(ItemOutcome(id=item_id, why=why))


_NOTES: dict[RetryEnd, str] = {
    "resolved": "retried through mcp-ops",
    "failed": "retried through mcp-ops, refused again",
    "unknown": "retried through mcp-ops, outcome unknown",
    "released": "",
}
