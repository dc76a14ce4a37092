"""Jobs behind HTTP endpoints: what their status says, and that each is started once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.errors import (
    BadAnswer,
    Conflict,
    ConnectionLost,
    Failed,
    InvalidInput,
    NotFound,
    Rejected,
    Unauthenticated,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mcp_ops.tools.jobs import list_jobs, resume_job, run_job, stop_job, suspend_job
from tests.adapters.http_jobs_stage import TAKES_S, Stage, jobs, stage
from tests.kubernetes_lab import answering, broken, changed, lost, silent
from tests.second_run import goes_on

STATUS = "/admin/sync-sales/status"


async def run(
    place: Stage, name: str = "sales", mode: str = "", wait_s: int = 60, **frame: Any
) -> Any:
    return await run_job.function(place.scheduler, place.write(**frame), name, mode, wait_s)


async def act(place: Stage, tool: Any, *arguments: Any) -> Any:
    return await tool.function(place.scheduler, place.write(), "knowledge", *arguments)


async def told(place: Stage) -> dict[str, Any]:
    page: Any = await list_jobs.function(place.scheduler, 20, "")
    return {job.name: job for job in page.items}


async def test_jobs_are_listed_with_state_and_modes(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        await place.scheduler.ping()
        found = await told(place)
        assert list(found) == ["knowledge", "sales"]
        assert found["sales"].state == "idle"
        assert found["sales"].modes == ["dry-run", "incremental", "full"]
        assert (found["knowledge"].schedule, found["knowledge"].modes) == ("daily 02:00", [])
        place.backend.inject("stale")
        assert (await told(place))["sales"].state == "stale"
        first = await place.scheduler.list_jobs(limit=1, cursor="")
        second = await place.scheduler.list_jobs(limit=1, cursor=first.next_cursor)
        assert [job.name for job in (*first.items, *second.items)] == ["knowledge", "sales"]
        assert (first.truncated, second.next_cursor) == (True, "")


async def test_run_is_verified_when_the_new_run_ended_well(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        done = await run(place, mode="full")
        assert (done.outcome, done.id, done.ready) == ("verified", "sales-1", "1/1")
        assert done.evidence["mode"] == "full"
        assert done.evidence["last_success_before"] != done.evidence["last_success"]
        assert (await told(place))["sales"].state == "succeeded"
        (effect,) = place.backend.log.read()
        assert effect["mode"] == "full"


async def test_default_mode_is_taken_and_others_are_refused(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        assert (await run(place)).outcome == "verified"
        assert place.backend.log.read()[0]["mode"] == "incremental"
        for name, mode in (("sales", "everything"), ("knowledge", "full")):
            with pytest.raises(InvalidInput):
                await run(place, name, mode)
        with pytest.raises(NotFound):
            await run(place, "payroll")
        assert place.effects() == ["sync-started"]


async def test_dry_run_of_the_call_starts_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        planned = await run(place, mode="full", dry_run=True)
        assert planned.plan == [
            "Start a run of sales in mode full: POST /admin/sync-sales.",
            "Now: idle.",
        ]
        assert place.effects() == []


async def test_failed_run_says_what_the_job_said(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.backend.inject("sync-fails")
        done = await run(place)
        assert done.outcome == "failed"
        assert done.problem == "The run failed: Login failed for user 'sync_reader'"
        assert (await told(place))["sales"].problem == "Login failed for user 'sync_reader'"


async def test_run_that_hangs_is_told_and_ended(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.backend.inject("hung")
        done = await run(place, "knowledge")
        assert done.outcome == "unconfirmed"
        # The looks themselves take a moment of the minute.
        assert re.fullmatch(r"Not ready in time: it runs, since (5\d|60) seconds\.", done.problem)
        place.wired.clock.advance(600)
        found = (await told(place))["knowledge"]
        assert (found.state, found.running) == ("running_too_long", 1)
        assert 650 <= found.age_s <= 660
        with pytest.raises(Conflict) as raised:
            await run(place, "knowledge", call_id="call-2")
        assert f"runs already since {found.age_s} seconds" in raised.value.message
        ended = await act(place, stop_job, 10)
        assert ended.outcome == "verified"
        again = await act(place, stop_job, 10)
        assert again.plan == ["Nothing to do: it does not run."]
        assert place.effects() == ["sync-started", "sync-cancel"]


async def test_schedule_is_held_and_let_go(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        held = await act(place, suspend_job)
        assert held.outcome == "verified"
        assert held.undo.tool == "resume_job"
        assert (await told(place))["knowledge"].state == "suspended"
        again = await act(place, suspend_job)
        assert again.plan == ["Nothing to do: it is held."]
        gone_on = await act(place, resume_job)
        assert gone_on.outcome == "verified"
        assert place.effects() == ["sync-pause", "sync-unpause"]


async def test_what_the_configuration_does_not_give_is_refused_clearly(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        for one in (suspend_job, resume_job):
            with pytest.raises(InvalidInput) as raised:
                await one.function(place.scheduler, place.write(), "sales")
        assert "jobs.sales.resume" in raised.value.hint
        with pytest.raises(InvalidInput):
            await stop_job.function(place.scheduler, place.write(), "sales", 5)
    told_only = {"sales": {**jobs()["sales"], "trigger": None}}
    async with stage(tmp_path, jobs=told_only) as place:
        with pytest.raises(InvalidInput):
            await run(place)


async def test_lost_answer_is_settled_by_the_run_that_began(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.backend.inject("lost-response")
        done = await run(place)
        assert (done.outcome, done.id) == ("verified", "sales-1")
        assert "the service does not say who caused it" in done.evidence["found_by"]
        for tool in (suspend_job, resume_job):
            one = await act(place, tool)
            assert one.outcome == "verified"
        assert place.effects() == ["sync-started", "sync-pause", "sync-unpause"]


async def test_request_that_left_no_trace_stays_unknown(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.backend.inject("lost-request")
        with pytest.raises(ConnectionLost) as raised:
            await run(place)
        assert raised.value.executed == "unknown"
        assert place.effects() == []


async def test_trigger_that_blocks_for_the_whole_run_is_followed(tmp_path: Path) -> None:
    async def blocks(app: Any, scope: Any, receive: Any, send: Any) -> None:
        async def swallow(message: Any) -> None:
            return None

        await app(scope, receive, swallow)
        await silent(app, scope, receive, send)

    async with stage(tmp_path, request_timeout_s=1.0) as place:
        place.between.inject("POST", "/admin/sync-sales", blocks)
        assert (await run(place)).outcome == "verified"
        place.between.inject("POST", "/admin/sync-sales", silent)
        with pytest.raises(UpstreamTimeout):
            await run(place, call_id="call-2")
        assert place.effects() == ["sync-started"]


async def test_lost_process_begins_again_only_under_a_key(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        plan = await place.scheduler.plan_run("sales", "full")
        assert not plan.repeatable
        keyed = await place.scheduler.plan_run("knowledge", "")
        assert keyed.repeatable
        assert await place.scheduler.find(keyed, "call-1") is None
        await place.scheduler.begin(keyed, reason="r", call_id="call-1")
        found = await place.scheduler.find(keyed, "call-1")
        assert found is not None
        assert found.id == "knowledge-1"
        assert place.backend.log.read()[0]["key"] == "call-1"


@pytest.mark.parametrize(
    ("name", "killed_after", "outcome"),
    [
        ("sales", True, "verified"),
        ("sales", False, ""),
        ("knowledge", True, "verified"),
        ("knowledge", False, "verified"),
    ],
)
async def test_killed_server_is_followed_by_one_that_starts_no_second_run(
    tmp_path: Path, name: str, killed_after: bool, outcome: str
) -> None:
    async with stage(tmp_path) as place:
        plan = await place.scheduler.plan_run(name, "")
        if killed_after:
            await place.scheduler.begin(plan, reason="r", call_id="call-1")
        frame = goes_on(place.write(call_id="call-1"), plan)
        if outcome:
            done: Any = await run_job.function(place.scheduler, frame, name, "", 60)
            assert done.outcome == outcome
        else:
            with pytest.raises(ConnectionLost):
                await run_job.function(place.scheduler, frame, name, "", 60)
        assert place.effects() == (["sync-started"] if outcome else [])


async def test_service_with_a_key_starts_one_run_for_two_requests(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        plan = await place.scheduler.plan_run("knowledge", "")

        def as_before(answer: Any) -> None:
            answer.update(status="never_run", run_id=None, started_at=None)

        await place.scheduler.begin(plan, reason="r", call_id="call-1")
        place.between.inject("GET", "/admin/sync-knowledge/status", changed(as_before))
        again = await place.scheduler.begin(plan, reason="r", call_id="call-1")
        assert again.id == "knowledge-1"
        assert place.effects() == ["sync-started"]


async def test_run_of_somebody_else_between_look_and_request_is_a_conflict(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        plan = await place.scheduler.plan_run("sales", "full")
        await run(place, call_id="other", wait_s=0)
        for _ in range(2):  # while it runs, and after it
            with pytest.raises(Conflict):
                await place.scheduler.begin(plan, reason="r", call_id="call-1")
            place.wired.clock.advance(TAKES_S)
        assert place.effects() == ["sync-started"]


async def test_lock_of_the_service_is_a_conflict(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        await run(place, wait_s=0)

        def unseen(answer: Any) -> None:
            answer.update(status="never_run", run_id=None, started_at=None)

        place.between.inject("GET", STATUS, changed(unseen), changed(unseen))
        with pytest.raises(Conflict) as raised:
            await run(place, call_id="call-2")
        assert "lock is held" in raised.value.said
        assert place.effects() == ["sync-started"]


async def test_another_run_that_follows_is_not_taken_for_ours(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        plan = await place.scheduler.plan_run("sales", "full")
        begun = await place.scheduler.begin(plan, reason="r", call_id="call-1")
        place.wired.clock.advance(TAKES_S)
        await run(place, call_id="call-2", wait_s=0)
        seen = await place.scheduler.follow(plan, begun)
        assert seen.state == "superseded"
        ending = await place.scheduler.plan_job_stop("knowledge")
        assert ending.nothing


async def test_status_that_is_of_before_is_no_success(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        await run(place)

        before = await place.scheduler.plan_run("sales", "full")
        begun = await place.scheduler.begin(before, reason="r", call_id="call-2")
        started = before.values["marks"][1]

        def old(answer: Any) -> None:
            answer.update(status="completed", run_id="sales-1", started_at=started)

        place.between.inject("GET", STATUS, changed(old))
        seen = await place.scheduler.follow(before, begun)
        assert (seen.state, seen.why) == ("pending", "its status does not show the run yet")


@pytest.mark.parametrize(
    ("fault", "kind", "executed"),
    [
        (answering(429, {}, {"Retry-After": "30"}), UpstreamRateLimited, "no"),
        (answering(503, {}), UpstreamUnavailable, "no"),
        (answering(500, {}), UpstreamBroken, "unknown"),
        (answering(302, b"", {"Location": "https://evil.example/"}), BadAnswer, "unknown"),
        (answering(200, b"<html>"), BadAnswer, "unknown"),
        (answering(200, {"status": 3}), Rejected, "no"),
        (answering(200, {}), BadAnswer, "unknown"),
        (answering(401, {}), Unauthenticated, "no"),
        (broken, ConnectionLost, "unknown"),
    ],
)
async def test_answers_to_a_trigger_are_told_honestly(
    tmp_path: Path, fault: Any, kind: type[Failed], executed: str
) -> None:
    async with stage(tmp_path) as place:
        place.between.inject("POST", "/admin/sync-sales", fault)
        with pytest.raises(kind) as raised:
            await run(place)
        assert raised.value.executed == executed
        assert place.effects() == []
        assert place.between.seen.count(("POST", "/admin/sync-sales")) == 1


async def test_trouble_while_waiting_does_not_undo_the_start(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        untouched = changed(lambda answer: None)
        bad = [answering(503, {}), broken, answering(200, b"\xff"), answering(429, {})]
        place.between.inject("GET", STATUS, untouched, untouched, *bad)
        assert (await run(place)).outcome == "verified"
        place.between.inject("GET", STATUS, untouched, untouched, answering(404, {}))
        done = await run(place, call_id="call-2")
        assert done.problem == "The change was accepted; the platform refuses to say how it went."


async def test_status_that_does_not_say_stops_the_start(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.between.inject("GET", STATUS, *[answering(200, {"state": "x"})] * 2)
        found = (await told(place))["sales"]
        assert found.state == "unknown"
        assert "expressions" in found.problem
        with pytest.raises(Conflict):
            await run(place)
        assert place.effects() == []


async def test_one_job_that_cannot_be_asked_leaves_the_others(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.between.inject("GET", STATUS, answering(500, {}))
        found = await told(place)
        assert (found["sales"].state, found["knowledge"].state) == ("unknown", "idle")
        place.backend.inject("unavailable")
        with pytest.raises(UpstreamUnavailable):
            await told(place)
    async with stage(tmp_path, key="another-key-0123456789") as place:
        with pytest.raises(Unauthenticated):
            await told(place)


async def test_lost_cancel_is_settled_and_a_new_run_is_never_ended(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        await run(place, "knowledge", wait_s=0)
        plan = await place.scheduler.plan_job_stop("knowledge")
        assert not plan.repeatable
        place.between.inject("POST", "/admin/sync-knowledge/cancel", lost)
        done = await act(place, stop_job, 10)
        assert done.outcome == "verified"
        await run(place, "knowledge", wait_s=0, call_id="call-2")
        with pytest.raises(Conflict):
            await place.scheduler.begin(plan, reason="r", call_id="call-3")
        assert place.effects() == ["sync-started", "sync-cancel", "sync-started"]


async def test_secret_of_the_header_is_masked_in_what_the_service_says(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        echo = answering(400, b"bad key admin-key-0123456789")
        place.between.inject("POST", "/admin/sync-sales", echo)
        with pytest.raises(Rejected) as raised:
            await run(place)
        assert "admin-key" not in raised.value.said
