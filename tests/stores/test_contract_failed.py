"""What the embedded queue of failed operations must do."""

from __future__ import annotations

from dataclasses import replace

from mcp_ops.clock import ManualClock
from tests.stores import records
from tests.stores.backends import Backend


async def test_items_wait_newest_first_and_page(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        items = [records.failed(clock, f"f{index}", error=f"e{index}") for index in range(5)]
        for item in items:
            await stores.failed.add(item)
        assert await stores.failed.count() == 5
        page = await stores.failed.page(after="", limit=2)
        assert page == [items[4], items[3]]
        await stores.failed.finish("f3", resolved=True, note="done", at=clock.now())
        assert await stores.failed.page(after="f3", limit=9) == [items[2], items[1], items[0]]
        assert await stores.failed.page(after="nobody", limit=9) == []
        assert await stores.failed.count() == 4


async def test_one_retry_holds_an_item_until_it_ends_or_expires(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        await stores.failed.add(records.failed(clock))
        held = await stores.failed.hold("f1", "me", clock.now() + 60)
        assert held is not None
        assert held.holder == "me"
        assert await stores.failed.hold("f1", "other", clock.now() + 60) is None
        assert await stores.failed.discard(["f1"], "x1", clock.now() + 60) == []
        await stores.failed.finish("f1", resolved=False, note="again", at=clock.now())
        after = await stores.failed.get("f1")
        assert after is not None
        assert (after.attempts, after.last_retry, after.notes) == (1, clock.now(), "again")
        assert after.holder == ""
        assert await stores.failed.hold("f1", "other", clock.now() + 60) is not None
        clock.advance(60)
        left = await stores.failed.get("f1")
        assert left is not None
        assert left.holder == "other"  # nobody finished it: what comes next has to know
        assert await stores.failed.hold("f1", "third", clock.now() + 60) is not None
        await stores.failed.finish("f1", resolved=True, note="", at=clock.now())
        resolved = await stores.failed.get("f1")
        assert resolved is not None
        assert resolved.resolved
        assert await stores.failed.hold("f1", "me", clock.now() + 60) is None
        assert await stores.failed.hold("nobody", "me", clock.now() + 60) is None


async def test_discarded_items_can_be_restored_until_their_export_ends(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        for index in range(3):
            await stores.failed.add(records.failed(clock, f"f{index}"))
        gone = await stores.failed.discard(["f0", "f2", "f9"], "x1", clock.now() + 100)
        assert gone == ["f0", "f2"]
        assert await stores.failed.get("f0") is None
        assert await stores.failed.count() == 1
        assert sorted(await stores.failed.restore("x1") or []) == ["f0", "f2"]
        assert await stores.failed.restore("x1") is None
        assert await stores.failed.count() == 3
        await stores.failed.discard(["f1"], "x2", clock.now() + 100)
        clock.advance(100)
        assert await stores.failed.restore("x2") is None
        assert await stores.failed.restore("nothing") is None


async def test_the_oldest_goes_when_the_queue_is_full(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock, failed_items=3) as stores:
        for index in range(5):
            await stores.failed.add(records.failed(clock, f"f{index}"))
        page = await stores.failed.page(after="", limit=9)
        assert [item.id for item in page] == ["f4", "f3", "f2"]
        await stores.failed.add(replace(records.failed(clock, "f9"), resolved=True))
        assert await stores.failed.count() == 3


async def test_items_and_exports_go_after_their_time(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock, failed_s=1_000) as stores:
        await stores.failed.add(records.failed(clock, "old"))
        await stores.failed.add(records.failed(clock, "exported"))
        await stores.failed.discard(["exported"], "x1", clock.now() + 5_000)
        clock.advance(1_000)
        assert await stores.failed.count() == 0
        assert await stores.failed.page(after="", limit=9) == []
        assert await stores.failed.get("old") is None
        assert await stores.failed.hold("old", "me", clock.now() + 60) is None
        await stores.failed.add(records.failed(clock, "new"))
        assert await stores.failed.restore("x1") == ["exported"]
        await stores.failed.add(records.failed(clock, "newer"))
        assert await stores.failed.count() == 2
