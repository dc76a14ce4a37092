"""What a ledger, its operations, approvals and the queue of failed operations must do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import anyio

from mcp_ops.clock import ManualClock
from mcp_ops.records import AuditQuery, Begun, EntryKind, Spent
from tests.stores import records
from tests.stores.backends import Backend


async def test_lines_come_back_whole_and_newest_first(backend: Backend, clock: ManualClock) -> None:
    full = records.entry(
        clock,
        "c2",
        object="api",
        client="claude",
        channel="stdio",
        era="2026-07-28",
        effect="write",
        dry_run=True,
        digest="d",
        arguments={"name": "api", "deep": {"list": [1, None]}},
        reason="it hangs",
        policy="solo",
        approval="a1",
        code="x",
        outcome="succeeded",
        evidence={"before": 1},
        upstream_calls=3,
        duration_ms=0.0,
        trace_id="t",
        parent="c1",
    )
    async with backend.open(clock) as stores:
        stores.ledger.note(records.entry(clock, "c1"))
        await stores.ledger.change(full)
        found = await stores.ledger.search(AuditQuery())
    bare = [replace(line, seq=0, writer="") for line in found]
    assert bare == [full, records.entry(clock, "c1")]
    assert [line.seq for line in found] == [2, 1]


async def test_each_field_of_a_query_selects(backend: Backend, clock: ManualClock) -> None:
    start = clock.now()
    async with backend.open(clock) as stores:
        for index in range(4):
            fields = {"tool": f"t{index}", "target": f"g{index}", "principal": f"p{index}"}
            line = records.entry(clock, f"c{index}", trace_id=f"r{index}", **fields)
            stores.ledger.note(replace(line, verdict="failed" if index == 2 else "ok"))
            clock.advance(1)
        queries = [
            AuditQuery(tool="t2"),
            AuditQuery(target="g2"),
            AuditQuery(principal="p2"),
            AuditQuery(trace_id="r2"),
            AuditQuery(call_id="c2"),
            AuditQuery(verdict="failed"),
            AuditQuery(since=start + 2, until=start + 3),
            AuditQuery(before_seq=4, limit=1),
        ]
        for query in queries:
            found = await stores.ledger.search(query)
            assert [line.call_id for line in found] == ["c2"], query
        assert await stores.ledger.search(AuditQuery(tool="\ud800")) == []


async def test_lines_of_hostile_text_are_kept(backend: Backend, clock: ManualClock) -> None:
    circle: dict[str, object] = {}
    circle["self"] = circle
    odd: list[Mapping[Any, object]] = [
        {"a": "\ud800", "b": 2**70},
        {"set": {"y", "x"}, "object": clock.__class__, (1, 2): "key"},
        circle,
        MappingProxyType({"read": "only"}),
    ]
    async with backend.open(clock) as stores:
        for arguments in odd:
            stores.ledger.note(records.entry(clock, tool="\ud800\x00", arguments=arguments))
        found = await stores.ledger.search(AuditQuery())
        assert (await stores.ledger.verify()).ok
    assert len(found) == 4
    assert found[1].evidence == {"unreadable": True}
    assert found[0].arguments == {"read": "only"}
    assert found[3].arguments == {"a": "?", "b": 2**70}


async def test_spending_is_summed_by_tool_and_principal(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        stores.ledger.note(records.entry(clock, tool="old", upstream_calls=99))
        clock.advance(10)
        since = clock.now()
        stores.ledger.note(records.began(clock, tool="a", upstream_calls=50))
        stores.ledger.note(records.entry(clock, tool="a", upstream_calls=2))
        stores.ledger.note(records.entry(clock, tool="a", verdict="refused"))
        stores.ledger.note(records.entry(clock, tool="b", principal="p", upstream_calls=7))
        assert await stores.ledger.spent(since, 5) == [
            Spent(tool="b", principal="p", calls=1, upstream_calls=7, refused=0),
            Spent(tool="a", principal="agent:x@y", calls=2, upstream_calls=2, refused=1),
        ]
        assert len(await stores.ledger.spent(since, 1)) == 1


async def test_a_key_is_held_while_its_write_runs_and_ten_minutes_after(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        first, second = records.operation(clock, "o1"), records.operation(clock, "o2")
        assert (await stores.ledger.begin(records.began(clock), first)).claimed
        begun = await stores.ledger.begin(records.began(clock, "c2"), second)
        assert begun == Begun(claimed=False, holder=first)
        done = replace(first, state="done", outcome="succeeded", answer="{}", progress="3/3")
        await stores.ledger.end(records.entry(clock), done, keep=True)
        held = (await stores.ledger.begin(records.began(clock, "c2"), second)).holder
        assert held == replace(done, ended_at=clock.now())
        clock.advance(599)
        assert await stores.ledger.find_operation(first.key) == held
        clock.advance(2)
        assert await stores.ledger.find_operation(first.key) is None
        assert await stores.ledger.get_operation("o1") == held
        assert (await stores.ledger.begin(records.began(clock, "c3"), second)).claimed
        lines = await stores.ledger.search(AuditQuery())
    assert [(line.kind, line.call_id) for line in lines] == [
        (EntryKind.BEGAN, "c3"),
        (EntryKind.ENDED, "c1"),
        (EntryKind.BEGAN, "c1"),
    ]


async def test_a_key_is_freed_when_nothing_was_executed(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        mine = records.operation(clock)
        await stores.ledger.begin(records.began(clock), mine)
        done = replace(mine, state="done", outcome="failed")
        await stores.ledger.end(records.entry(clock, verdict="failed"), done, keep=False)
        assert await stores.ledger.find_operation(mine.key) is None
        again = records.operation(clock, "o2")
        assert (await stores.ledger.begin(records.began(clock, "c2"), again)).claimed
        freed = await stores.ledger.get_operation("o1")
        assert freed is not None
        assert freed.outcome == "failed"


async def test_an_end_without_operation_is_a_line(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        await stores.ledger.end(records.entry(clock), None, keep=False)
        assert len(await stores.ledger.search(AuditQuery())) == 1


async def test_operations_are_forgotten_a_week_after_their_end(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        done = records.operation(clock, "o1")
        runs = records.operation(clock, "o2", key="other", lease_until=clock.now() + 1e7)
        await stores.ledger.begin(records.began(clock), done)
        await stores.ledger.begin(records.began(clock, "c2"), runs)
        await stores.ledger.end(records.entry(clock), replace(done, state="done"), keep=True)
        clock.advance(604_801)
        await stores.ledger.begin(records.began(clock), records.operation(clock, "o3"))
        assert await stores.ledger.get_operation("o1") is None
        assert await stores.ledger.get_operation("o2") == runs


async def test_a_lost_lease_becomes_unknown_whoever_looks(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        for index, key in enumerate(("begin", "find", "get", "recover")):
            mine = records.operation(clock, key, key=key, lease_until=clock.now() + 10 + index)
            await stores.ledger.begin(records.began(clock, f"c-{key}"), mine)
        renewed = await stores.ledger.renew(
            "begin", fence=1, lease_until=clock.now() + 12, progress="half", checkpoint="7"
        )
        assert renewed is not None
        assert renewed.checkpoint == "7"
        clock.advance(10.5)
        running = await stores.ledger.find_operation("begin")
        assert running is not None
        assert (running.state, running.progress) == ("running", "half")
        clock.advance(2)
        mine = records.operation(clock, "second", key="begin")
        held = (await stores.ledger.begin(records.began(clock), mine)).holder
        found = await stores.ledger.find_operation("find")
        clock.advance(0.7)
        got = await stores.ledger.get_operation("get")
        clock.advance(10)
    async with backend.open(clock) as stores:
        recovered = await stores.ledger.get_operation("recover")
        lines = await stores.ledger.search(AuditQuery(verdict="unknown"))
    for operation in (held, found, got, recovered):
        assert operation is not None
        assert (operation.state, operation.outcome) == ("unknown", "unknown")
        assert operation.ended_at is not None
    assert sorted(line.call_id for line in lines) == ["c-begin", "c-find", "c-get", "c-recover"]
    assert {line.kind for line in lines} == {EntryKind.ENDED}


async def test_the_late_end_of_a_lost_operation_is_a_correction(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        mine = records.operation(clock)
        await stores.ledger.begin(records.began(clock), mine)
        clock.advance(91)
        assert (await stores.ledger.get_operation("o1")) is not None
        zombie = await stores.ledger.renew(
            "o1", fence=1, lease_until=clock.now() + 90, progress="zombie"
        )
        assert zombie is None
        done = replace(mine, state="done", outcome="succeeded")
        await stores.ledger.end(records.entry(clock), done, keep=True)
        after = await stores.ledger.get_operation("o1")
        lines = await stores.ledger.search(AuditQuery(call_id="c1"))
    assert after is not None
    assert (after.state, after.outcome) == ("done", "succeeded")
    assert [line.kind for line in lines] == [EntryKind.CHANGED, EntryKind.ENDED, EntryKind.BEGAN]
    assert lines[0].evidence["late_end"] is True


async def test_notes_reach_the_file_by_themselves(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as writer, backend.open(clock) as reader:
        writer.ledger.note(records.entry(clock))
        with anyio.fail_after(5):
            while not await reader.ledger.search(AuditQuery()):
                await anyio.sleep(0.01)


async def test_lines_that_are_not_written_yet_are_counted(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        for index in range(3):
            stores.ledger.note(records.entry(clock, f"c{index}"))
        assert stores.ledger.unwritten == 3
        assert len(await stores.ledger.search(AuditQuery())) == 3
        assert stores.ledger.unwritten == 0


async def test_notes_are_written_when_the_store_closes(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        for index in range(2_500):
            stores.ledger.note(records.entry(clock, f"c{index}"))
    async with backend.open(clock) as stores:
        assert (await stores.ledger.verify()).entries == 2_500
        newest = await stores.ledger.search(AuditQuery(limit=1))
    assert newest[0].call_id == "c2499"


async def test_a_cancelled_caller_cancels_no_write(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stores.ledger.change(records.entry(clock))
        assert scope.cancelled_caught
        stores.ledger.note(records.entry(clock, "c2"))
        found = await stores.ledger.search(AuditQuery())
    assert [line.call_id for line in found] == ["c2", "c1"]


async def test_a_question_is_asked_once_for_a_binding(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        ask = stores.approvals.ask
        first = records.approval(clock)
        assert await ask(first, max_pending=3) == first
        assert await ask(records.approval(clock, "a2"), max_pending=3) == first
        confirm = records.approval(clock, "a3", kind="confirm")
        assert await ask(confirm, max_pending=3) == confirm
        newer_policy = records.approval(clock, "a4", policy="v2")
        assert await ask(newer_policy, max_pending=3) == newer_policy
        assert await ask(records.approval(clock, "a5", digest="e"), max_pending=3) is None
        other = records.approval(clock, "a6", principal="other")
        assert await ask(other, max_pending=3) == other
        clock.advance(901)
        again = records.approval(clock, "a7", digest="e")
        assert await ask(again, max_pending=3) == again


async def test_an_approved_question_is_redeemed_once_for_exactly_its_call(
    backend: Backend, clock: ManualClock
) -> None:
    right = {"principal": "agent:x@y", "digest": "d", "policy": "v1", "at": clock.now()}
    async with backend.open(clock) as stores:
        approvals = stores.approvals
        await approvals.ask(records.approval(clock), max_pending=3)
        assert not await approvals.redeem("a1", **right)  # type: ignore[arg-type]
        decided = await approvals.decide(
            "a1", approved=True, by="operator:z", note="go", at=clock.now()
        )
        assert decided is not None
        assert (decided.state, decided.decided_by, decided.note) == ("approved", "operator:z", "go")
        assert await approvals.decide("a1", approved=False, by="q", note="", at=0) is None
        standing = await approvals.ask(records.approval(clock, "a2"), max_pending=3)
        assert standing == decided
        for wrong in ("principal", "digest", "policy"):
            assert not await approvals.redeem("a1", **{**right, wrong: "other"})  # type: ignore[arg-type]
        assert not await approvals.redeem("a1", **{**right, "at": clock.now() + 901})  # type: ignore[arg-type]
        assert await approvals.redeem("a1", **right)  # type: ignore[arg-type]
        assert not await approvals.redeem("a1", **right)  # type: ignore[arg-type]
        used = await approvals.get("a1")
        assert used is not None
        assert used.state == "redeemed"


async def test_expired_questions_say_so_and_can_not_be_used(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        approvals = stores.approvals
        await approvals.ask(records.approval(clock), max_pending=3)
        await approvals.ask(records.approval(clock, "a2", digest="e"), max_pending=3)
        await approvals.decide("a2", approved=True, by="z", note="", at=clock.now())
        clock.advance(900)
        assert await approvals.decide("a1", approved=True, by="z", note="", at=0) is None
        assert not await approvals.redeem(
            "a2", principal="agent:x@y", digest="e", policy="v1", at=0
        )
        for approval_id in ("a1", "a2"):
            shown = await approvals.get(approval_id)
            assert shown is not None
            assert shown.state == "expired"
        assert await approvals.get("none") is None
        clock.advance(604_801)
        await approvals.ask(records.approval(clock, "a9"), max_pending=3)
        assert [a.id for a in await approvals.recent(10)] == ["a9"]


async def test_a_denied_question_stays_denied_for_ten_minutes(
    backend: Backend, clock: ManualClock
) -> None:
    binding = {"principal": "agent:x@y", "digest": "d"}
    async with backend.open(clock) as stores:
        approvals = stores.approvals
        await approvals.ask(records.approval(clock, expires_at=clock.now() + 60), max_pending=3)
        denied = await approvals.decide("a1", approved=False, by="z", note="no", at=clock.now())
        clock.advance(599)
        assert await approvals.denied(**binding) == denied
        later = records.approval(clock, "a2", policy="v2")
        assert await approvals.ask(later, max_pending=3) == denied
        clock.advance(2)
        assert await approvals.denied(**binding) is None
        assert await approvals.ask(later, max_pending=3) == later


async def test_recent_questions_are_pending_ones_first(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        for index in range(4):
            question = records.approval(clock, f"a{index}", digest=f"d{index}")
            await stores.approvals.ask(question, max_pending=9)
        await stores.approvals.decide("a3", approved=True, by="z", note="", at=clock.now())
        recent = await stores.approvals.recent(3)
    assert [question.id for question in recent] == ["a2", "a1", "a0"]
