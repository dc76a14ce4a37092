"""What questions to people must do in every store: votes, revocation, two expiries, races."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.questions import Approval, Approvals, Vote
from tests.stores import records
from tests.stores.backends import Backend

BINDING = {"principal": "agent:x@y", "digest": "d", "policy": "v1"}


async def yes(approvals: Approvals, by: str, at: float) -> Approval | None:
    return await approvals.decide("a1", approved=True, by=by, note=f"{by} says yes", at=at)


async def redeem(approvals: Approvals, at: float) -> bool:
    return await approvals.redeem("a1", **BINDING, at=at)


async def together(count: int, each: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """What `count` calls answer that are made at the same time."""
    answers: list[Any] = []

    async def one(number: int) -> None:
        answers.append(await each(number))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(one, number)
    return answers


async def test_a_question_comes_back_whole(backend: Backend, clock: ManualClock) -> None:
    question = records.approval(
        clock,
        needed=2,
        execute_s=60.0,
        seen="digest",
        seen_shown={"plan": ["restart api"], "state": {"generation": 7}, "items": ["a", "b"]},
    )
    async with backend.open(clock) as stores:
        assert await stores.approvals.ask(question, max_pending=3) == question
    async with backend.open(clock) as stores:
        assert await stores.approvals.get("a1") == question


async def test_it_takes_as_many_different_people_as_it_needs(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        approvals = stores.approvals
        await approvals.ask(records.approval(clock, needed=2, execute_s=60.0), max_pending=3)
        first = await yes(approvals, "operator:ada", clock.now())
        assert first is not None
        assert (first.state, first.execute_by, first.decided_at) == ("pending", None, None)
        clock.advance(5)
        assert await yes(approvals, "operator:ada", clock.now()) == first
        assert not await redeem(approvals, clock.now())
        second = await yes(approvals, "operator:bob", clock.now())
        assert second is not None
        assert (second.state, second.decided_by) == ("approved", "operator:bob")
        assert second.execute_by == clock.now() + 60
        assert second.votes == (
            Vote(by="operator:ada", at=clock.now() - 5, note="operator:ada says yes"),
            Vote(by="operator:bob", at=clock.now(), note="operator:bob says yes"),
        )
        assert await approvals.get("a1") == second
        assert await yes(approvals, "operator:eve", clock.now()) is None
        assert await redeem(approvals, clock.now())


async def test_one_no_denies_whoever_said_yes_before(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        approvals = stores.approvals
        await approvals.ask(records.approval(clock, needed=3), max_pending=3)
        await yes(approvals, "operator:ada", clock.now())
        denied = await approvals.decide(
            "a1", approved=False, by="operator:ada", note="I was wrong", at=clock.now()
        )
        assert denied is not None
        assert (denied.state, denied.note, len(denied.votes)) == ("denied", "I was wrong", 1)
        assert await yes(approvals, "operator:bob", clock.now()) is None
        assert not await redeem(approvals, clock.now())


async def test_an_approved_question_has_its_own_time_to_be_used(
    backend: Backend, clock: ManualClock
) -> None:
    """The time to answer and the time to act are two: a late yes leaves the whole second one."""
    async with backend.open(clock) as stores:
        approvals = stores.approvals
        await approvals.ask(records.approval(clock, execute_s=60.0), max_pending=3)
        clock.advance(899)
        approved = await yes(approvals, "z", clock.now())
        clock.advance(59)
        assert await approvals.get("a1") == approved
        assert await approvals.ask(records.approval(clock, "a2"), max_pending=3) == approved
        assert not await redeem(approvals, clock.now() + 1)
        clock.advance(1)
        late = await approvals.get("a1")
        assert late is not None
        assert late.state == "expired"
        assert not await redeem(approvals, 0)
        again = records.approval(clock, "a2")
        assert await approvals.ask(again, max_pending=3) == again


async def test_an_approval_is_used_before_its_time_though_its_question_is_old(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        await stores.approvals.ask(records.approval(clock), max_pending=3)
        clock.advance(899)
        await yes(stores.approvals, "z", clock.now())
        clock.advance(899)
        assert await redeem(stores.approvals, clock.now())


@pytest.mark.parametrize("approved", [False, True])
async def test_what_is_pending_or_approved_can_be_taken_back(
    backend: Backend, clock: ManualClock, approved: bool
) -> None:
    async with backend.open(clock) as stores:
        approvals = stores.approvals
        await approvals.ask(records.approval(clock), max_pending=1)
        if approved:
            await yes(approvals, "z", clock.now())
        gone = await approvals.revoke("a1", by="operator:z", note="drift", at=clock.now())
        assert gone is not None
        assert (gone.state, gone.decided_by, gone.note) == ("revoked", "operator:z", "drift")
        assert gone.decided_at == clock.now()
        assert await approvals.get("a1") == gone
        assert not await redeem(approvals, clock.now())
        assert await yes(approvals, "z", clock.now()) is None
        assert await approvals.revoke("a1", by="z", note="", at=clock.now()) is None
        assert await approvals.denied(principal="agent:x@y", digest="d") is None
        fresh = records.approval(clock, "a2")
        assert await approvals.ask(fresh, max_pending=1) == fresh


@pytest.mark.parametrize("end", ["denied", "redeemed", "expired", "unknown"])
async def test_what_is_over_can_not_be_taken_back(
    backend: Backend, clock: ManualClock, end: str
) -> None:
    async with backend.open(clock) as stores:
        approvals = stores.approvals
        if end != "unknown":
            await approvals.ask(records.approval(clock), max_pending=3)
        if end == "denied":
            await approvals.decide("a1", approved=False, by="z", note="", at=clock.now())
        elif end == "redeemed":
            await yes(approvals, "z", clock.now())
            assert await redeem(approvals, clock.now())
        elif end == "expired":
            clock.advance(901)
        before = await approvals.get("a1")
        assert await approvals.revoke("a1", by="z", note="", at=clock.now()) is None
        assert await approvals.get("a1") == before


async def test_a_yes_and_a_revocation_at_once_leave_it_revoked_or_refuse_the_second(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        approvals = stores.approvals
        for number in range(10):
            name = f"r{number}"
            await approvals.ask(records.approval(clock, name, digest=name), max_pending=20)

            async def act(which: int, name: str = name) -> tuple[str, bool]:
                if which:
                    done = await approvals.revoke(name, by="z", note="", at=clock.now())
                    return "revoked", done is not None
                done = await approvals.decide(name, approved=True, by="y", note="", at=clock.now())
                return "approved", done is not None

            done = dict(await together(2, act))
            after = await approvals.get(name)
            assert after is not None
            assert done["revoked"]  # a yes before it changes nothing about that
            assert after.state == "revoked"
            assert not await approvals.redeem(
                name, principal="agent:x@y", digest=name, policy="v1", at=clock.now()
            )


async def test_a_use_and_a_revocation_at_once_have_one_winner(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        approvals = stores.approvals
        for number in range(10):
            name = f"u{number}"
            await approvals.ask(records.approval(clock, name, digest=name), max_pending=20)
            await approvals.decide(name, approved=True, by="y", note="", at=clock.now())

            async def act(which: int, name: str = name) -> tuple[str, bool]:
                if which:
                    done = await approvals.revoke(name, by="z", note="", at=clock.now())
                    return "revoked", done is not None
                return "redeemed", await approvals.redeem(
                    name, principal="agent:x@y", digest=name, policy="v1", at=clock.now()
                )

            done = dict(await together(2, act))
            after = await approvals.get(name)
            assert after is not None
            assert list(done.values()).count(True) == 1
            assert done[after.state]


async def test_two_people_at_once_are_two_votes(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as first, backend.open(clock) as second:
        question = records.approval(clock, needed=2)
        await first.approvals.ask(question, max_pending=3)
        stores = (first, second)

        async def vote(number: int) -> Approval | None:
            return await yes(stores[number].approvals, f"operator:{number}", clock.now())

        await together(2, vote)
        after = await first.approvals.get("a1")
    assert after is not None
    assert after.state == "approved"
    assert {vote.by for vote in after.votes} == {"operator:0", "operator:1"}


async def test_one_person_fifty_times_at_once_is_one_vote(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        await stores.approvals.ask(records.approval(clock, needed=2), max_pending=3)
        await together(50, lambda _: yes(stores.approvals, "operator:ada", clock.now()))
        after = await stores.approvals.get("a1")
    assert after is not None
    assert (after.state, len(after.votes)) == ("pending", 1)


async def test_fifty_uses_at_once_have_one_winner(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as first, backend.open(clock) as second:
        await first.approvals.ask(records.approval(clock), max_pending=3)
        await yes(first.approvals, "z", clock.now())
        stores = (first, second)
        used = await together(50, lambda n: redeem(stores[n % 2].approvals, clock.now()))
    assert used.count(True) == 1


async def test_the_same_question_fifty_times_at_once_is_one(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        asked = await together(
            50,
            lambda n: stores.approvals.ask(records.approval(clock, f"n{n}"), max_pending=20),
        )
        assert len({question.id for question in asked}) == 1
        assert len(await stores.approvals.recent(100)) == 1


async def test_hostile_text_is_kept_as_it_is(backend: Backend, clock: ManualClock) -> None:
    nasty = "\u202e<script>\x1b[31m'\"; DROP TABLE approvals; --"
    question = records.approval(
        clock, message=nasty, reason=nasty, arguments={nasty: [nasty]}, seen_shown={"plan": [nasty]}
    )
    async with backend.open(clock) as stores:
        await stores.approvals.ask(question, max_pending=3)
        await stores.approvals.revoke("a1", by=nasty, note=nasty, at=clock.now())
        after = await stores.approvals.get("a1")
    wanted = replace(
        question, state="revoked", decided_by=nasty, note=nasty, decided_at=clock.now()
    )
    assert after == wanted
