"""Writes: at most once for a key, durable before and after, whatever becomes of the request."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from mcp_ops.call import Answer
from mcp_ops.errors import (
    ConnectionLost,
    Internal,
    NotFound,
    Unreachable,
    UpstreamTimeout,
)
from mcp_ops.guard.operations import LEASE_S
from mcp_ops.settings import GuardSettings
from tests.guard.bench import AGENT, OPEN_LIMITS, WHY, Bench, bench

QUICK = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"write_wait_s": 0.05}))
X = {"name": "x", "reason": WHY}


def on_disk(b: Bench, sql: str) -> list[tuple[Any, ...]]:
    """What another process sees in the file now."""
    connection = sqlite3.connect(b.path / "s.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


async def test_a_repeat_answers_the_recorded_outcome_and_runs_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        first = await b.ok("put_item", **X)
        again = await b.ok("put_item", **{**X, "reason": "said in other words"})
        assert again.pop("plan") == [
            "This is the recorded answer; to run it again pass a new idempotency_key."
        ]
        first.pop("plan")
        assert again == {**first, "replayed": True}
        assert b.world.effects == ["put x"]
        assert await b.ends() == [("ok", ""), ("ok", "replayed")]


async def test_a_replay_holds_whatever_the_mode_is_by_now(tmp_path: Path) -> None:
    from mcp_ops.ports import Mode

    async with bench(tmp_path) as b:
        await b.ok("put_item", **X)
        await b.set_mode(Mode.LOCKDOWN)
        assert (await b.ok("put_item", **X))["replayed"] is True


async def test_a_new_key_repeats_on_purpose_and_ten_minutes_end_the_replay(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        await b.ok("put_item", **X)
        await b.ok("put_item", **X, idempotency_key="second")
        await b.ok("put_item", **X, idempotency_key="second")
        assert len(b.world.effects) == 2
        b.clock.advance(601)
        assert "replayed" not in str(await b.ok("put_item", **X)) or len(b.world.effects) == 3
        assert len(b.world.effects) == 3


async def test_one_key_with_other_arguments_is_a_conflict(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.ok("put_item", **X, idempotency_key="k")
        refusal = await b.error("put_item", name="y", reason=WHY, idempotency_key="k")
        assert refusal["code"] == "idempotency_conflict"
        assert refusal["retryable"] is False
        other = replace(AGENT, principal="agent:other@host")
        assert await b.code("put_item", other, name="y", reason=WHY, idempotency_key="k") == "ok"
        assert b.world.effects == ["put x", "put y"]


async def test_a_conflict_with_a_write_in_flight_is_refused_too(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        hold = b.world.hold()
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                await b.ok("put_item", **X, idempotency_key="k")

            tasks.start_soon(call)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            code = await b.code("put_item", name="y", reason=WHY, idempotency_key="k")
            assert code == "idempotency_conflict"
            hold.released.set()


async def test_the_same_write_fifty_times_at_once_runs_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        hold = b.world.hold()
        answers: list[dict[str, Any]] = []

        async def call() -> None:
            answers.append(await b.ok("put_item", **X))

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(call)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            hold.released.set()
        assert b.world.effects == ["put x"]
        assert sum(answer.get("replayed", False) for answer in answers) == 49
        assert {answer["outcome"] for answer in answers} == {"verified"}
        assert len({answer["audit_id"] for answer in answers}) == 1


async def test_all_who_wait_for_a_write_hear_of_its_progress_and_its_end(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        hold = b.world.hold()
        heard: list[tuple[float, float, str]] = []
        done: list[str] = []

        async def progress(at: float, of: float, message: str) -> None:
            heard.append((at, of, message))

        async def call(caller: Any) -> None:
            done.append((await b.ok("put_item", caller, **X))["outcome"])

        async with anyio.create_task_group() as tasks:
            for caller in (AGENT, replace(AGENT, progress=progress), AGENT):
                tasks.start_soon(call, caller)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            await anyio.wait_all_tasks_blocked()
            (running,) = b.operations._by_id.values()
            running.progress(2, 2, "nearly")
            await anyio.wait_all_tasks_blocked()
            running.progress(2, 2, "there")
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(5):
                hold.released.set()
                while len(done) < 3:
                    await anyio.sleep(0)
        assert heard == [(1, 2, "putting"), (2, 2, "nearly"), (2, 2, "there")]


async def test_the_intent_is_durable_before_the_target_is_touched(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        seen: list[Any] = []

        async def look() -> None:
            seen.extend(on_disk(b, "SELECT state, tool FROM operations"))
            seen.extend(on_disk(b, "SELECT kind FROM entries"))

        b.world.plans.append(look)
        await b.ok("put_item", **X)
        assert seen == [("running", "put_item"), ("began",)]


async def test_the_end_is_durable_before_the_answer(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        answer = await b.ok("put_item", **X)
        assert on_disk(b, "SELECT kind, verdict FROM entries ORDER BY seq") == [
            ("began", ""),
            ("ended", "ok"),
        ]
        ((state, recorded),) = on_disk(b, "SELECT state, answer FROM operations")
        assert state == "done"
        assert orjson.loads(recorded) == answer


async def test_a_client_that_goes_away_in_a_write_finds_its_outcome_later(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        hold = b.world.hold()
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                await b.ok("put_item", **X)

            tasks.start_soon(call)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            tasks.cancel_scope.cancel()
        assert b.world.effects == []
        hold.released.set()
        again = await b.ok("put_item", **X)
        assert again["replayed"] is True
        assert again["outcome"] == "verified"
        assert b.world.effects == ["put x"]
        ends = [e for e in await b.entries(tool="put_item") if e.kind == "ended"]
        assert [(e.verdict, e.code) for e in ends] == [("ok", ""), ("ok", "replayed")]


async def test_a_call_that_was_asked_about_joins_the_same_write_that_began_meanwhile(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        hold = b.world.hold()
        answered, asked = anyio.Event(), anyio.Event()

        async def ask(_question: object) -> Answer:
            asked.set()
            await answered.wait()
            return "accept"

        found: list[dict[str, Any]] = []

        async def slow() -> None:
            found.append(await b.ok("put_item", replace(AGENT, ask=ask), **X))

        async def quick() -> None:
            found.append(await b.ok("put_item", **X))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow)
            with anyio.fail_after(5):
                await asked.wait()
            tasks.start_soon(quick)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            answered.set()
            await anyio.wait_all_tasks_blocked()
            hold.released.set()
        assert sorted(each["replayed"] for each in found) == [False, True]
        assert b.world.effects == ["put x"]
        assert sorted(await b.ends()) == [("ok", ""), ("ok", "replayed")]


async def test_a_lease_is_renewed_while_a_write_runs(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        hold = b.world.hold()
        operation = (await b.ok("put_item", **X))["operation_id"]
        b.tasks.start_soon(b.operations.keep_leases, 0.01)
        for _ in range(4):
            b.clock.advance(LEASE_S - 1)
            with anyio.fail_after(5):
                while on_disk(b, "SELECT lease_until FROM operations")[0][0] < (
                    b.clock.now() + LEASE_S - 0.01
                ):
                    await anyio.sleep(0.01)
        assert on_disk(b, "SELECT progress FROM operations") == [("1/2 putting",)]
        hold.released.set()
        assert await b.operations.drain(5) == 0
        found = await b.ok("get_operation", operation_id=operation)
        assert found["state"] == "done"


async def test_a_store_that_takes_no_budget_lets_no_write_pass(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        with sqlite3.connect(b.path / "s.db") as file:
            file.execute("DROP TABLE budget_events")
        file.close()
        found = await b.error("put_item", **X)
        assert found["code"] == "store_unavailable"
        assert b.world.asked == []


async def test_a_write_that_takes_long_answers_a_handle(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        hold = b.world.hold()
        first = await b.ok("put_item", **X)
        assert first["outcome"] == "in_progress"
        operation = first["operation_id"]
        assert first["next_steps"][0]["tool"] == "get_operation"
        assert (await b.ok("put_item", **X))["operation_id"] == operation
        status = await b.ok("get_operation", operation_id=operation)
        assert (status["state"], status["progress"]) == ("running", "1/2 putting")
        hold.released.set()
        assert await b.operations.drain(5) == 0
        status = await b.ok("get_operation", operation_id=operation)
        assert (status["state"], status["outcome"]) == ("done", "verified")
        assert status["answer"]["audit_id"] == operation
        assert (await b.ok("put_item", **X))["outcome"] == "verified"


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
        assert (await b.ok("put_item", **X))["outcome"] == "unknown"
        assert b.world.effects == []
        assert [e.verdict for e in await b.entries(call_id=operation)] == ["", "unknown"]


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


async def test_draining_says_how_many_writes_did_not_end(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=QUICK) as b:
        hold = b.world.hold()
        await b.ok("put_item", **X)
        assert await b.operations.drain(0.01) == 1
        hold.released.set()
        assert await b.operations.drain(5) == 0
