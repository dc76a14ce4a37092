"""What every ledger must do with its lines: hand them out with their hashes, remove old ones."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from mcp_ops.clock import ManualClock
from mcp_ops.records import AuditQuery, Line
from mcp_ops.stores.floods import closes
from tests.stores import records
from tests.stores.backends import Backend, Stores

DAY = 86_400.0


async def lines(stores: Stores, **query: float) -> list[Line]:
    return await stores.ledger.lines(**{"after": 0, "limit": 1_000, **query})  # type: ignore[arg-type]


async def calls(stores: Stores) -> list[str]:
    """The calls of the lines that are left, oldest first; not what retention says of itself."""
    found = await stores.ledger.search(AuditQuery(limit=1_000))
    return [entry.call_id for entry in found[::-1] if entry.kind != "changed"]


async def test_lines_come_with_hashes_that_anybody_can_check(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        stores.ledger.note(records.entry(clock, "c1", reason="ümläut \ud800 \u2028"))
        await stores.ledger.change(records.entry(clock, "c2", arguments={"big": 2**80}))
        stores.ledger.note(records.entry(clock, "c3"))
        found = await lines(stores)
    assert [line.entry.call_id for line in found] == ["c1", "c2", "c3"]
    previous = "00" * 32
    for line in found:
        assert line.previous == previous
        previous = hashlib.sha256(bytes.fromhex(line.previous) + line.body).hexdigest()
        assert line.hash == previous


async def test_lines_page_by_number_and_begin_at_a_time(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        for number in range(5):
            stores.ledger.note(records.entry(clock, f"c{number}"))
            clock.advance(10)
        first = await lines(stores, limit=2)
        rest = await lines(stores, after=first[-1].entry.seq)
        late = await lines(stores, since=clock.now() - 20)
    assert [line.entry.call_id for line in first + rest] == ["c0", "c1", "c2", "c3", "c4"]
    assert [line.entry.call_id for line in late] == ["c3", "c4"]


async def test_old_lines_are_removed_and_the_rest_still_verifies(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        for number in range(700):
            stores.ledger.note(records.entry(clock, f"old{number}"))
        clock.advance(DAY)
        stores.ledger.note(records.entry(clock, "new"))
        assert await stores.ledger.prune(clock.now() - 1) == 700
        assert await stores.ledger.prune(clock.now() - 1) == 0
        assert await calls(stores) == ["new"]
        assert (await stores.ledger.verify()).ok
        await stores.ledger.change(records.entry(clock, "newer"))
    async with backend.open(clock) as stores:
        assert (await stores.ledger.verify()).ok


async def test_a_ledger_can_be_pruned_to_nothing_and_goes_on(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        assert await stores.ledger.prune(clock.now() + 1) == 0
        stores.ledger.note(records.entry(clock, "c1"))
        assert await stores.ledger.prune(clock.now() + 1) == 1
        assert await calls(stores) == []
        stores.ledger.note(records.entry(clock, "c2"))
        assert await calls(stores) == ["c2"]
        assert (await stores.ledger.verify()).ok


async def test_lines_of_an_operation_that_is_not_over_stay(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        stores.ledger.note(records.entry(clock, "before"))
        begun = await stores.ledger.begin(
            records.began(clock, "write"), records.operation(clock, lease_until=clock.now() + DAY)
        )
        assert begun.claimed
        stores.ledger.note(records.entry(clock, "after"))
        clock.advance(60)
        assert await stores.ledger.prune(clock.now()) == 1
        assert await calls(stores) == ["write", "after"]
        await stores.ledger.end(
            records.entry(clock, "write"),
            records.operation(clock, state="done", outcome="verified"),
            keep=True,
        )
        clock.advance(60)
        await stores.ledger.prune(clock.now())
        assert await calls(stores) == []
        assert (await stores.ledger.verify()).ok


async def test_a_flood_of_free_calls_shares_lines_and_loses_no_call(
    backend: Backend, clock: ManualClock
) -> None:
    """Refused calls cost no rate: what one client makes of them must not fill the disk."""
    async with backend.open(clock) as stores:
        refused = records.entry(clock, verdict="refused", code="frozen", upstream_calls=0)
        for number in range(2_500):
            stores.ledger.note(replace(refused, call_id=f"c{number}"))
            if number % 100 == 0:
                stores.ledger.note(records.entry(clock, f"ok{number}", principal="other"))
        found = await lines(stores)
        (spent, *_) = [s for s in await stores.ledger.spent(0, 10) if s.principal != "other"]
        assert (await stores.ledger.verify()).ok
    closed = [call for line in found for call in closes(line.entry)]
    assert len(found) < 700
    assert sorted(closed) == sorted(
        [f"c{n}" for n in range(2_500)] + [f"ok{n}" for n in range(0, 2_500, 100)]
    )
    assert (spent.calls, spent.refused) == (2_500, 2_500)
