"""The embedded queue, over a store in memory that keeps what the port promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_ops.adapters.embedded import EmbeddedQueue
from mcp_ops.capabilities.deadletters import DeadLetterFilter, OperationAnswer
from mcp_ops.clock import ManualClock
from mcp_ops.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from mcp_ops.failed import FailedOperation
from mcp_ops.redact import Redactor
from tests.adapters.redis_lab import START, wiring

ALL = DeadLetterFilter()
TOOL = DeadLetterFilter(operation="restart_deployment")


class Records:
    """`FailedOperations` in memory."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.items: dict[str, FailedOperation] = {}
        self.until: dict[str, float] = {}
        self.exports: dict[str, list[FailedOperation]] = {}

    async def add(self, item: FailedOperation) -> None:
        self.items[item.id] = item

    async def count(self) -> int:
        return len(self.items)

    async def page(self, *, after: str, limit: int) -> list[FailedOperation]:
        newest = sorted(self.items.values(), key=lambda item: -item.failed_at)
        start = next((i + 1 for i, item in enumerate(newest) if item.id == after), 0)
        return newest[start : start + limit]

    async def get(self, item_id: str) -> FailedOperation | None:
        return self.items.get(item_id)

    async def hold(self, item_id: str, holder: str, until: float) -> FailedOperation | None:
        item = self.items.get(item_id)
        if item is None or self._is_held(item):
            return None
        self.items[item_id], self.until[item_id] = replace(item, holder=holder), until
        return self.items[item_id]

    def _is_held(self, item: FailedOperation) -> bool:
        return bool(item.holder) and self.until[item.id] > self._clock.now()

    async def finish(self, item_id: str, *, resolved: bool, note: str, at: float) -> None:
        item = self.items.pop(item_id)
        if not resolved:
            self.items[item_id] = replace(
                item, attempts=item.attempts + 1, notes=note, last_retry=at, holder=""
            )

    async def discard(self, item_ids: list[str], export_id: str, keep_until: float) -> list[str]:
        free = [i for i in item_ids if i in self.items and not self._is_held(self.items[i])]
        gone = [self.items.pop(i) for i in free]
        self.exports[export_id] = gone
        return [item.id for item in gone]

    async def restore(self, export_id: str) -> list[str] | None:
        back = self.exports.pop(export_id, None)
        if back is None:
            return None
        self.items.update({item.id: item for item in back})
        return [item.id for item in back]


def record(number: int, **changes: object) -> FailedOperation:
    item = FailedOperation(
        id=f"f{number}",
        operation="restart_deployment",
        failure_type="unreachable",
        error=f"no connection after {number} s",
        target="shop",
        principal="agent:test@user",
        arguments={"name": "api", "api_key": "very-secret-value"},
        failed_at=START + number,
    )
    return replace(item, **changes)  # type: ignore[arg-type]


class Setup:
    def __init__(self, count: int = 5) -> None:
        self.clock = ManualClock()
        self.records = Records(self.clock)
        self.records.items = {f"f{n}": record(n) for n in range(count)}
        self.ran: list[str] = []
        self.queue = EmbeddedQueue(
            self.records,
            self._rerun,
            clock=self.clock,
            redactor=Redactor(),
            retention_s=7 * 86_400,
        )

    async def _rerun(self, item: FailedOperation) -> OperationAnswer:
        self.ran.append(item.id)
        return OperationAnswer(success=True)


async def test_pages_hold_every_item_once_and_filters_select() -> None:
    setup = Setup(45)
    first = await setup.queue.list_items(ALL, limit=20, cursor="")
    second = await setup.queue.list_items(ALL, limit=20, cursor=first.next_cursor)
    third = await setup.queue.list_items(ALL, limit=20, cursor=second.next_cursor)
    ids = [item.id for page in (first, second, third) for item in page.items]
    assert ids == [f"f{n}" for n in reversed(range(45))]
    assert (third.truncated, third.next_cursor) == (False, "")
    none = await setup.queue.list_items(DeadLetterFilter(operation="x"), limit=20, cursor="")
    assert (none.items, none.searched) == ([], "45 failed operations of this server")
    with pytest.raises(InvalidInput):
        await setup.queue.list_items(ALL, limit=20, cursor="§")


async def test_an_item_is_shown_without_its_secrets() -> None:
    setup = Setup()
    shown = await setup.queue.get_item("f1")
    assert "very-secret-value" not in shown.model_dump_json()
    assert '"name":"api"' in shown.payload
    with pytest.raises(NotFound):
        await setup.queue.get_item("none")


async def test_a_retry_runs_the_item_and_takes_it_out_of_the_queue() -> None:
    setup = Setup()
    held = await setup.queue.begin_retry("f1")
    with pytest.raises(Conflict, match="another retry"):
        await setup.queue.begin_retry("f1")
    assert setup.queue.allows(held.operation)
    assert (await setup.queue.execute(held)).success
    await setup.queue.end_retry(held, end="resolved", note="done")
    assert setup.ran == ["f1"]
    assert "f1" not in setup.records.items
    with pytest.raises(Conflict):
        await setup.queue.end_retry(held, end="resolved", note="again")


async def test_a_retry_that_failed_counts_and_ten_are_the_end() -> None:
    setup = Setup()
    for _ in range(10):
        held = await setup.queue.begin_retry("f1")
        await setup.queue.end_retry(held, end="failed", note="no")
    with pytest.raises(Conflict, match="10 times"):
        await setup.queue.begin_retry("f1")


async def test_an_unknown_outcome_and_a_hold_that_ran_out_are_not_run_again() -> None:
    setup = Setup()
    held = await setup.queue.begin_retry("f1")
    await setup.queue.end_retry(held, end="unknown", note="lost")
    with pytest.raises(Conflict, match="without an answer"):
        await setup.queue.begin_retry("f1")
    await setup.queue.begin_retry("f2")
    setup.clock.advance(301)
    for _ in range(2):
        with pytest.raises(Conflict, match="without an answer"):
            await setup.queue.begin_retry("f2")
    assert setup.ran == []


async def test_a_zombie_cannot_end_the_retry_of_another() -> None:
    setup = Setup()
    held = await setup.queue.begin_retry("f1")
    setup.clock.advance(301)
    await setup.records.hold("f1", "somebody", setup.clock.now() + 10)
    with pytest.raises(Conflict, match="does not hold"):
        await setup.queue.end_retry(held, end="resolved", note="late")
    assert "f1" in setup.records.items


async def test_discarded_items_come_back() -> None:
    setup = Setup()
    await setup.queue.begin_retry("f3")
    gone = await setup.queue.discard(["f1", "f2", "f3", "none"], export_id="e")
    assert {m.id: m.done for m in gone.moves} == {
        "f1": True,
        "f2": True,
        "f3": False,
        "none": False,
    }
    assert gone.restorable_until == setup.clock.now() + 7 * 86_400
    assert [m.id for m in await setup.queue.restore("e")] == ["f1", "f2"]
    with pytest.raises(NotFound):
        await setup.queue.restore("e")


async def test_a_selection_is_oldest_first_and_goes_on_after_a_checkpoint() -> None:
    setup = Setup(6)
    first = await setup.queue.select_ids(TOOL, max_items=2)
    assert (first.ids, first.more) == (("f0", "f1"), True)
    second = await setup.queue.select_ids(TOOL, max_items=9, checkpoint=first.checkpoints[-1])
    assert (second.ids, second.more) == (("f2", "f3", "f4", "f5"), False)
    given = await setup.queue.select_ids(DeadLetterFilter(ids=("f1", "f1", "f2")), max_items=1)
    assert (given.ids, given.more) == (("f1",), True)


async def test_stats_count_what_waits() -> None:
    setup = Setup(60)
    stats = await setup.queue.stats()
    assert (stats.total, stats.level, stats.groups[0].error) == (
        60,
        "warning",
        "no connection after # s",
    )
    await setup.queue.ping()


def test_it_is_not_a_kind_that_a_configuration_can_open() -> None:
    with pytest.raises(ConfigurationError):
        EmbeddedQueue.open(EmbeddedQueue.Settings(), wiring(Path()))
