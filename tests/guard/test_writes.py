"""Writes: at most once for a key, durable before and after, whatever becomes of the request."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import orjson

from mcp_ops.call import Answer
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
