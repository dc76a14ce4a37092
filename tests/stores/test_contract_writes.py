"""What a ledger must do for writes: budgets, approvals, leases and fences, all with the intent."""

from __future__ import annotations

from dataclasses import replace

import anyio

from mcp_ops.clock import ManualClock
from mcp_ops.records import AuditQuery, Begun, EntryKind, Ledger
from tests.stores import records
from tests.stores.backends import Backend, Stores


async def begin(stores: Stores, clock: ManualClock, name: str, **more: object) -> Begun:
    mine = records.operation(clock, name, key=name, **more.pop("fields", {}))  # type: ignore[arg-type]
    return await stores.ledger.begin(records.began(clock, name), mine, **more)  # type: ignore[arg-type]


async def test_budgets_count_in_their_window(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        start = clock.now()
        both = (records.budget(), records.budget(limit=3, window_s=100.0, name="long"))
        first = await begin(stores, clock, "o1", budgets=both)
        assert [(b.used, b.allowed) for b in first.budgets] == [(0, True), (0, True)]
        clock.advance(10)
        assert (await begin(stores, clock, "o2", budgets=both)).claimed
        refused = await begin(stores, clock, "o3", budgets=both)
        assert not refused.claimed
        assert [(b.used, b.allowed, b.frees_at) for b in refused.budgets] == [
            (2, False, start + 60),
            (2, True, start + 100),
        ]
        assert await stores.ledger.budgets(both) == refused.budgets
        assert await stores.ledger.get_operation("o3") is None
        clock.advance(50)
        assert (await begin(stores, clock, "o4", budgets=both)).claimed
        assert not (await begin(stores, clock, "o5", budgets=both)).claimed
        assert [b.used for b in await stores.ledger.budgets(both)] == [2, 3]
        lines = await stores.ledger.search(AuditQuery())
    assert [line.call_id for line in lines] == ["o4", "o2", "o1"]


async def test_a_write_of_which_nothing_was_executed_is_no_use_of_its_budget(
    backend: Backend, clock: ManualClock
) -> None:
    limits = (records.budget(limit=1),)
    async with backend.open(clock) as stores:
        for keep, used in ((False, 0), (True, 1)):
            name = f"o-{keep}"
            assert (await begin(stores, clock, name, budgets=limits)).claimed
            done = records.operation(clock, name, key=name, state="done")
            await stores.ledger.end(records.entry(clock, name), done, keep=keep)
            assert (await stores.ledger.budgets(limits))[0].used == used


async def test_a_held_key_takes_neither_budget_nor_approval(
    backend: Backend, clock: ManualClock
) -> None:
    limits = (records.budget(limit=1),)
    async with backend.open(clock) as stores:
        await stores.approvals.ask(records.approval(clock), max_pending=3)
        await stores.approvals.decide("a1", approved=True, by="z", note="", at=clock.now())
        assert (await begin(stores, clock, "o1")).claimed
        again = records.operation(clock, "o2", key="o1")
        begun = await stores.ledger.begin(
            records.began(clock, "o2"), again, budgets=limits, approval=records.redemption()
        )
        assert not begun.claimed
        assert begun.holder is not None
        assert begun.holder.id == "o1"
        assert (await stores.ledger.budgets(limits))[0].used == 0
        used = await begin(stores, clock, "o3", budgets=limits, approval=records.redemption())
        assert used.claimed


async def test_an_approval_is_used_up_with_the_intent_or_not_at_all(
    backend: Backend, clock: ManualClock
) -> None:
    limits = (records.budget(limit=1),)
    async with backend.open(clock) as stores:
        await stores.approvals.ask(records.approval(clock), max_pending=3)
        pending = await begin(stores, clock, "o1", budgets=limits, approval=records.redemption())
        assert (pending.claimed, pending.approved) == (False, False)
        await stores.approvals.decide("a1", approved=True, by="z", note="", at=clock.now())
        for wrong in ({"principal": "agent:z"}, {"digest": "e"}, {"policy": "v2"}):
            other = await begin(stores, clock, "o2", approval=records.redemption(**wrong))
            assert (other.claimed, other.approved) == (False, False)
        assert (await stores.ledger.budgets(limits))[0].used == 0
        used = await begin(stores, clock, "o3", budgets=limits, approval=records.redemption())
        assert (used.claimed, used.approved) == (True, True)
        twice = await begin(stores, clock, "o4", approval=records.redemption())
        assert (twice.claimed, twice.approved) == (False, False)
        shown = await stores.approvals.get("a1")
    assert shown is not None
    assert shown.state == "redeemed"


async def test_a_spent_budget_leaves_the_approval_unused(
    backend: Backend, clock: ManualClock
) -> None:
    limits = (records.budget(limit=1),)
    async with backend.open(clock) as stores:
        await stores.approvals.ask(records.approval(clock), max_pending=3)
        await stores.approvals.decide("a1", approved=True, by="z", note="", at=clock.now())
        assert (await begin(stores, clock, "o1", budgets=limits)).claimed
        begun = await begin(stores, clock, "o2", budgets=limits, approval=records.redemption())
        assert (begun.claimed, begun.approved) == (False, True)
        shown = await stores.approvals.get("a1")
    assert shown is not None
    assert shown.state == "approved"


async def test_a_lost_operation_that_can_be_resumed_is_taken_over_once(
    backend: Backend, clock: ManualClock
) -> None:
    lease = {"lease_until": clock.now() + 15, "owner": "first"}
    async with backend.open(clock) as stores:
        ledger = stores.ledger
        await begin(stores, clock, "o1", fields={**lease, "resume": "{}", "checkpoint": "a"})
        await begin(stores, clock, "o2", fields=lease)
        kept = await ledger.renew(
            "o1", fence=1, lease_until=clock.now() + 20, progress="7/9", checkpoint="b"
        )
        assert kept is not None
        assert await ledger.take_over("second", clock.now() + 40) == []
        clock.advance(21)
        found = await ledger.find_operation("o1")
        assert found is not None
        assert found.state == "running"
        (taken,) = await ledger.take_over("second", clock.now() + 15)
        assert (taken.id, taken.owner, taken.fence) == ("o1", "second", 2)
        assert (taken.checkpoint, taken.progress) == ("b", "7/9")
        assert await ledger.take_over("third", clock.now() + 15) == []
        lost = await ledger.get_operation("o2")
        assert lost is not None
        assert lost.state == "unknown"


async def test_what_a_zombie_says_of_an_operation_changes_nothing(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        ledger = stores.ledger
        mine = records.operation(clock, "o1", key="o1", resume="{}")
        assert (await ledger.begin(records.began(clock, "o1"), mine)).claimed
        clock.advance(91)
        (taken,) = await ledger.take_over("second", clock.now() + 15)
        until = clock.now() + 60
        assert await ledger.renew("o1", fence=1, lease_until=until, progress="mine") is None
        zombie = replace(mine, state="done", outcome="verified", answer='{"by": "zombie"}')
        await ledger.end(records.entry(clock, "o1"), zombie, keep=True)
        now = await ledger.get_operation("o1")
        assert now == taken
        done = replace(taken, state="done", outcome="verified", answer='{"by": "second"}')
        await ledger.end(records.entry(clock, "o1"), done, keep=True)
        after = await ledger.get_operation("o1")
        assert after is not None
        assert (after.state, after.answer) == ("done", '{"by": "second"}')
        lines = await ledger.search(AuditQuery(call_id="o1"))
    assert [line.kind for line in lines] == [EntryKind.ENDED, EntryKind.CHANGED, EntryKind.BEGAN]
    assert lines[1].evidence["late_end"] is True


async def test_the_end_of_an_operation_that_was_forgotten_is_a_line_all_the_same(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        for keep in (True, False):
            name = f"o-{keep}"
            done = records.operation(clock, name, key=name, state="done", outcome="verified")
            await stores.ledger.end(records.entry(clock, name), done, keep=keep)
            (said,) = await stores.ledger.search(AuditQuery(call_id=name))
            assert said.kind is EntryKind.ENDED
            assert await stores.ledger.get_operation(name) is None
            assert (await begin(stores, clock, name)).claimed


async def test_who_asks_an_operation_to_stop_is_told_to_its_holder(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        ledger = stores.ledger
        await begin(stores, clock, "o1")
        for by in ("operator:z", "agent:x@y"):
            asked = await ledger.cancel("o1", by=by)
            assert asked is not None
            assert asked.cancel_by == "operator:z"
        kept = await ledger.renew("o1", fence=1, lease_until=clock.now() + 9, progress="")
        assert kept is not None
        assert kept.cancel_by == "operator:z"
        done = records.operation(clock, "o1", key="o1", state="done")
        await ledger.end(records.entry(clock, "o1"), done, keep=True)
        assert await ledger.cancel("o1", by="z") is None
        assert await ledger.cancel("nothing", by="z") is None


async def test_a_lease_has_one_holder_and_a_token_that_only_grows(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        ledger = stores.ledger
        first = await ledger.lock("redrive|q", "a", clock.now() + 15)
        assert first is not None
        assert await ledger.lock("redrive|q", "b", clock.now() + 15) is None
        other = await ledger.lock("redrive|other", "b", clock.now() + 15)
        assert other is not None
        assert other > first  # the two may name one queue
        clock.advance(10)
        assert await ledger.lock("redrive|q", "a", clock.now() + 15) == first
        clock.advance(16)
        second = await ledger.lock("redrive|q", "b", clock.now() + 15)
        assert second is not None
        assert second > first
        await ledger.unlock("redrive|q", first)
        assert await ledger.lock("redrive|q", "a", clock.now() + 15) is None
        await ledger.unlock("redrive|q", second)
        third = await ledger.lock("redrive|q", "a", clock.now() + 15)
        assert third is not None
        assert third > second
    async with backend.open(clock) as stores:
        assert await stores.ledger.lock("redrive|q", "c", clock.now() + 15) is None


async def test_names_that_are_leased_at_once_get_different_tokens(
    backend: Backend, clock: ManualClock
) -> None:
    tokens: list[int | None] = []
    async with backend.open(clock) as one, backend.open(clock) as other:

        async def lock(ledger: Ledger, name: str) -> None:
            tokens.append(await ledger.lock(name, "a", clock.now() + 15))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(lock, one.ledger, f"queue {number}")
                    tasks.start_soon(lock, other.ledger, f"queue {number} by another name")
    assert None not in tokens
    assert len(set(tokens)) == 40


async def test_facts_are_kept_replaced_and_removed(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        await stores.ledger.put_fact("modes", "[1]")
        await stores.ledger.put_fact("circuits", "{}")
        await stores.ledger.put_fact("modes", "[2]")
        await stores.ledger.put_fact("circuits", "")
    async with backend.open(clock) as stores:
        assert await stores.ledger.facts() == {"modes": "[2]"}
