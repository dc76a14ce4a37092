"""Writes whose end cannot be known, or not be stored: unknown, and never run again."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.errors import (
    ConnectionLost,
    Internal,
    NotFound,
    StoreUnavailable,
    Unreachable,
    UpstreamTimeout,
)
from mcp_ops.guard.operations import LEASE_S
from tests.guard.bench import WHY, Bench, bench
from tests.guard.test_writes import QUICK, X, on_disk
from tests.stores import records


@pytest.mark.parametrize("error", [ConnectionLost, UpstreamTimeout])
async def test_a_write_whose_answer_was_lost_is_unknown_and_never_run_again(
    tmp_path: Path, error: type[ConnectionLost]
) -> None:
    async with bench(tmp_path) as b:
        b.world.after.append(error("The answer was lost."))
        first = await b.ok("put_item", **X)
        assert first["outcome"] == "unknown"
        assert first["problem"] == "The answer was lost."
        assert (await b.ok("put_item", **X))["outcome"] == "unknown"
        assert b.world.effects == ["put x"]
        assert (await b.ends())[0] == ("unknown", error.code)
        state = await b.ok("get_operation", operation_id=first["audit_id"])
        assert state["state"] == "unknown"


async def test_a_write_that_did_nothing_can_be_tried_again_and_waits_in_the_dead_letters(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        b.world.plans.append(Unreachable("Nobody there."))
        failed = await b.error("put_one", **X)
        assert (failed["code"], failed["executed"]) == ("unreachable", "no")
        (item,) = (await b.ok("list_deadletters", target="mcp-ops"))["items"]
        assert (item["operation"], item["failure_type"]) == ("put_one", "unreachable")
        assert (await b.ok("put_one", **X))["outcome"] == "verified"
        assert b.world.effects == ["put x"]


async def test_only_failures_of_the_target_wait_in_the_dead_letters(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.world.plans += [NotFound("no"), Unreachable("no")]
        assert await b.code("put_one", **X) == "not_found"
        assert await b.code("put_item", **X) == "unreachable"  # it has a secret argument
        b.world.after.append(ConnectionLost("lost"))
        await b.ok("put_one", **X)
        assert await b.stores.failed.count() == 0


async def test_a_defect_in_a_write_is_unknown_and_hurts_no_other_write(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        hold = b.world.hold()
        async with anyio.create_task_group() as tasks:
            codes: list[str] = []

            async def call() -> None:
                codes.append(await b.code("put_item", name="other", reason=WHY))

            tasks.start_soon(call)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            b.world.after.append(ZeroDivisionError("secret detail"))
            broken = await b.error("put_item", **X)
            assert (broken["code"], broken["executed"]) == ("internal_error", "unknown")
            assert "detail" not in str(broken)
            hold.released.set()
        assert codes == ["ok"]
        assert (await b.ok("put_item", **X))["outcome"] == "unknown"
        assert b.world.effects.count("put x") == 1


async def test_a_declared_defect_is_recorded_as_unknown(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.world.after.append(Internal("A contradiction."))
        assert await b.code("put_item", **X) == "internal_error"
        (end,) = [e for e in await b.entries() if e.kind == "ended"]
        assert (end.verdict, end.outcome) == ("error", "unknown")
        assert (await b.ok("put_item", **X))["outcome"] == "unknown"


async def test_a_write_that_is_stopped_with_the_server_is_unknown(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        b.world.hold()
        operation = (await b.ok("put_item", **X))["operation_id"]
    async with bench(tmp_path) as b:
        status = await b.ok("get_operation", operation_id=operation)
        assert (status["state"], status["outcome"]) == ("unknown", "unknown")
        assert "server was stopped" in status["answer"]["problem"]
        assert (await b.ok("put_item", **X))["outcome"] == "unknown"
        assert b.world.effects == []
        lines = [(e.verdict, e.code) for e in await b.entries(call_id=operation)]
        assert lines == [("", ""), ("unknown", "cancelled")]


async def test_a_write_of_another_process_that_died_becomes_unknown(tmp_path: Path) -> None:
    """Two servers on one file: the second gets the same call while the first runs it."""
    async with bench(tmp_path, settings=QUICK) as first:
        hold = first.world.hold()
        handle = await first.ok("put_item", **X)
        async with bench(tmp_path, settings=QUICK, clock=first.clock) as second:
            same = await second.ok("put_item", **X)
            assert (same["outcome"], same["operation_id"]) == (
                "in_progress",
                handle["operation_id"],
            )
            assert same["replayed"] is True
            first.clock.advance(LEASE_S + 1)
            lost = await second.ok("put_item", **X)
            assert lost["outcome"] == "unknown"
            assert second.world.effects == []
        hold.released.set()
        assert await first.operations.drain(5) == 0
        ((state, outcome),) = on_disk(first, "SELECT state, outcome FROM operations")
        assert (state, outcome) == ("done", "verified")
        assert (await first.stores.ledger.verify()).ok


async def test_two_processes_that_get_a_call_at_the_same_instant_run_it_once(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as first, bench(tmp_path, clock=first.clock) as second:
        codes: list[dict[str, Any]] = []

        async def call(b: Bench) -> None:
            codes.append(await b.ok("put_item", **X))

        async with anyio.create_task_group() as tasks:
            for b in (first, second) * 5:
                tasks.start_soon(call, b)
        assert len(first.world.effects) + len(second.world.effects) == 1
        assert {answer["outcome"] for answer in codes} <= {"verified", "in_progress"}


async def test_a_change_of_the_guard_is_looked_at_again_each_time(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for _ in range(2):
            found = await b.ok("set_guard_mode", mode="critical", target="shelf", reason=WHY)
            assert found["replayed"] is False
        keyed = {"mode": "lockdown", "target": "shelf", "reason": WHY, "idempotency_key": "k"}
        assert (await b.ok("set_guard_mode", **keyed))["replayed"] is False
        assert (await b.ok("set_guard_mode", **keyed))["replayed"] is True


async def test_a_circuit_store_that_fails_does_not_hide_what_became_of_a_write(
    tmp_path: Path,
) -> None:
    """The file becomes read-only for the server after the effect and before the records."""
    async with bench(tmp_path) as b:
        blocker = sqlite3.connect(b.path / "s.db", isolation_level=None)

        async def block() -> None:
            blocker.execute("DROP TABLE circuits")
            blocker.execute("DROP TABLE operations")
            raise ConnectionLost("The answer was lost.")

        b.world.after.append(block)
        answer = await b.error("put_item", **X)
        blocker.close()
        assert (answer["code"], answer["executed"]) == ("store_unavailable", "unknown")
        assert b.world.effects == ["put x"]


async def test_a_write_is_not_begun_when_the_ledger_takes_no_intent(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.ok("look_at_item", name="x")
        blocker = sqlite3.connect(b.path / "s.db", isolation_level=None)
        blocker.execute("DROP TABLE operations")
        blocker.close()
        answer = await b.error("put_item", **X)
        assert (answer["code"], answer["executed"]) == ("store_unavailable", "no")
        assert b.world.asked == ["look x"]
        assert await b.code("look_at_item", name="x") == "ok"


async def test_a_failure_of_the_store_that_calls_share_says_of_each_whether_it_ran(
    tmp_path: Path,
) -> None:
    """The end of one write and the intent of another one fail in one commit."""
    answers: dict[str, dict[str, Any]] = {}
    async with bench(tmp_path) as b:

        async def put(name: str) -> None:
            answers[name] = await b.error("put_item", name=name, reason=WHY)

        async def before() -> None:
            with suppress(StoreUnavailable):  # it may be in that commit, too
                await b.stores.ledger.change(records.entry(b.clock, "before"))

        hold = b.world.hold()
        blocker = sqlite3.connect(b.path / "s.db", isolation_level=None)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(put, "x")
                await hold.arrived.wait()
                blocker.execute("BEGIN IMMEDIATE")
                blocker.execute("DROP TABLE operations")
                tasks.start_soon(before)
                await anyio.wait_all_tasks_blocked()
                hold.released.set()
                tasks.start_soon(put, "y")
                await anyio.wait_all_tasks_blocked()
                blocker.execute("COMMIT")
        blocker.close()
        assert b.world.effects == ["put x"]
    assert {name: each["executed"] for name, each in answers.items()} == {"x": "unknown", "y": "no"}


async def test_draining_says_how_many_writes_did_not_end(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        hold = b.world.hold()
        await b.ok("put_item", **X)
        assert await b.operations.drain(0.01) == 1
        hold.released.set()
        assert await b.operations.drain(5) == 0


async def test_a_server_that_ends_before_a_write_began_records_that_it_did_not(
    tmp_path: Path,
) -> None:
    """All places are taken by reads: the write waits in line when the server is closed."""
    async with bench(tmp_path, settings=QUICK) as b:
        holds = [b.world.hold() for _ in range(10)]

        async def look(number: int) -> None:
            await b.code("look_at_item", name=f"n{number}")

        async with anyio.create_task_group() as tasks:
            for number, hold in enumerate(holds):
                tasks.start_soon(look, number)
                await hold.arrived.wait()
            waiting = await b.ok("put_item", **X)
            assert waiting["outcome"] == "in_progress"
            tasks.cancel_scope.cancel()
    async with bench(tmp_path) as b:
        assert await b.ends(call_id=waiting["operation_id"]) == [("failed", "cancelled")]
        assert b.world.effects == []
