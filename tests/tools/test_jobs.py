"""Jobs and schedules, listed and changed by the tools against the lab's Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.errors import (
    Conflict,
    ConnectionLost,
    Forbidden,
    InvalidInput,
    NotFound,
    UpstreamRateLimited,
)
from mcp_ops.tools.jobs import list_jobs, resume_job, run_job, stop_job, suspend_job
from tests.kubernetes_lab import Lab, answering, broken, changed, lab, lost, write

BATCH = "/apis/batch/v1/namespaces/shop"
SYNC = f"{BATCH}/cronjobs/nightly-sync"
PODS = "/api/v1/namespaces/shop/pods"
CALL_ID = "mcp-ops.io/call-id"


async def call(tool: Any, place: Lab, *arguments: Any, **frame: Any) -> Any:
    with anyio.fail_after(20):
        return await tool.function(place.platform, write(**frame), *arguments)


async def listed(place: Lab, limit: int = 20, cursor: str = "") -> Any:
    return await list_jobs.function(place.platform, limit, cursor)


def made(place: Lab) -> list[Any]:
    """The runs that a client created, by the stand-in's own log."""
    lines = place.stand_in.log.read()
    return [one for one in lines if one["effect"] == "client.create" and one["kind"] == "Job"]


def ended(place: Lab) -> list[str]:
    """The runs that a client deleted, by the stand-in's own log."""
    lines = place.stand_in.log.read()
    return [
        one["name"] for one in lines if one["effect"] == "client.delete" and one["kind"] == "Job"
    ]


async def test_schedules_and_single_runs_are_listed_with_what_is_wrong(tmp_path: Path) -> None:
    async with lab(tmp_path, job_too_long_minutes={"reindex": 60}) as place:
        page = await listed(place)
        jobs = {job.name: job for job in page.items}
        assert list(jobs) == ["nightly-sync", "reindex", "report", "run/backfill"]
        sync, reindex = jobs["nightly-sync"], jobs["reindex"]
        assert (sync.schedule, sync.running, sync.last_success is None) == ("0 2 * * *", 0, False)
        assert (reindex.state, reindex.running) == ("running_too_long", 1)
        assert "runs for 300 minutes" in reindex.problem
        assert (jobs["report"].state, jobs["report"].suspended) == ("suspended", True)
        assert jobs["run/backfill"].state == "running_too_long"
        assert jobs["run/backfill"].age_s > 3600
        assert not page.truncated


async def test_a_run_within_the_period_of_its_schedule_is_not_too_long(tmp_path: Path) -> None:
    async with lab(tmp_path, job_too_long_minutes={"*": 600}) as place:
        states = {job.name: job.state for job in (await listed(place)).items}
        assert states["reindex"] == "running"
        assert states["run/backfill"] == "running"
    async with lab(tmp_path / "b") as place:
        states = {job.name: job.state for job in (await listed(place)).items}
        assert states["reindex"] == "running"


async def test_pages_go_over_schedules_and_runs(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        names, cursor = [], ""
        while True:
            page = await listed(place, 1, cursor)
            names += [job.name for job in page.items]
            cursor = page.next_cursor
            if not cursor:
                break
        assert names == ["nightly-sync", "reindex", "report", "run/backfill"]
        for wrong in ("x", "c.../", "c.bm90LW1pbmU"):
            with pytest.raises(InvalidInput):
                await listed(place, 1, wrong)


async def test_run_now_is_followed_to_its_end_and_owned_by_its_schedule(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        done = await call(run_job, place, "nightly-sync", "", 45)
        assert (done.outcome, done.ready) == ("verified", "1/1")
        assert done.id is not None
        assert done.id.startswith("run/nightly-sync-ops-")
        (name,) = {one["name"] for one in made(place)}
        job = await place.raw(f"{BATCH}/jobs/{name}")
        annotations = job["metadata"]["annotations"]
        assert annotations["cronjob.kubernetes.io/instantiate"] == "manual"
        assert annotations[CALL_ID] == "call-1"
        (owner,) = job["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("CronJob", "nightly-sync")
        assert list(done.evidence["pods"].values()) == ["Succeeded"]
        again = await call(run_job, place, "nightly-sync", "", 45)
        assert (again.outcome, again.id) == ("verified", done.id)
        assert len(made(place)) == 1


async def test_run_that_fails_says_so(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        container = {"name": "main", "image": "lab/shop-sync:4-broken"}
        template = {"spec": {"template": {"spec": {"containers": [container]}}}}
        await place.patch(SYNC, {"spec": {"jobTemplate": template}})
        done = await call(run_job, place, "nightly-sync", "", 300)
        assert done.outcome == "failed"
        assert "BackoffLimitExceeded" in done.problem
        assert [step.tool for step in done.next_steps] == ["list_jobs"]


async def test_run_beside_another_is_refused_where_it_may_not_be(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        with pytest.raises(Conflict, match="may not run twice") as raised:
            await call(run_job, place, "reindex", "", 45)
        assert "stop_job name=run/reindex-" in raised.value.hint
        for name, mode in (("nightly-sync", "full"), ("run/backfill", "")):
            with pytest.raises(InvalidInput):
                await call(run_job, place, name, mode, 45)
        with pytest.raises(NotFound) as missing:
            await call(run_job, place, "nope", "", 45)
        assert "list_jobs" in missing.value.hint
        assert made(place) == []


async def test_dry_run_asks_the_server_and_starts_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        planned = await call(run_job, place, "nightly-sync", "", 45, dry_run=True)
        assert planned.outcome == "planned"
        assert any("dryRun=All" in query for query in place.between.queries)
        assert made(place) == []
        place.stand_in.inject("forbid")
        with pytest.raises(Forbidden) as raised:
            await call(run_job, place, "nightly-sync", "", 45, dry_run=True)
        assert "create on jobs.batch" in raised.value.hint


async def test_lost_answer_of_a_run_is_resolved_by_its_name(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("POST", "/jobs", lost)
        assert (await call(run_job, place, "nightly-sync", "", 45)).outcome == "verified"
        assert len(made(place)) == 1
        place.between.inject("POST", "/jobs", broken)
        with pytest.raises(ConnectionLost) as raised:
            await call(run_job, place, "nightly-sync", "", 45, call_id="two")
        assert raised.value.executed == "unknown"
        assert len(made(place)) == 1
        slow = answering(429, b"slow down", {"Retry-After": "-7"})
        place.between.inject("POST", "/jobs", slow)
        with pytest.raises(UpstreamRateLimited) as busy:
            await call(run_job, place, "nightly-sync", "", 45, call_id="three")
        assert (busy.value.executed, busy.value.retry_after_s) == ("no", None)


async def test_run_of_a_schedule_that_changed_since_the_look_is_a_conflict(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_run("nightly-sync", "")
        await place.patch(SYNC, {"spec": {"suspend": True}})
        with pytest.raises(Conflict, match="changed since"):
            await place.platform.begin(plan, reason="now", call_id="c")
        assert made(place) == []


async def test_run_whose_job_is_gone_before_its_end_is_unconfirmed(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_run("nightly-sync", "")
        begun = await place.platform.begin(plan, reason="now", call_id="c")
        path = f"{BATCH}/jobs/{begun.id.removeprefix('run/')}"
        await place.http.delete(path)
        progress = await place.platform.follow(plan, begun)
        assert progress.state == "superseded"
        assert await place.platform.find(plan, "c") is None


async def test_schedule_is_held_and_let_go(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        held = await call(suspend_job, place, "nightly-sync", call_id="hold")
        assert (held.outcome, held.undo.tool) == ("verified", "resume_job")
        assert (await place.raw(SYNC))["spec"]["suspend"] is True
        again = await call(suspend_job, place, "nightly-sync", call_id="hold-2")
        assert again.plan == ["Nothing to do: it is held already."]
        on = await call(resume_job, place, "nightly-sync", call_id="on")
        assert (on.outcome, on.undo.tool) == ("verified", "suspend_job")
        assert len(place.patches()) == 2
        with pytest.raises(InvalidInput, match="losing its work"):
            await call(suspend_job, place, "run/backfill")


async def test_lost_answer_of_a_hold_is_resolved_by_its_mark(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("PATCH", "/cronjobs/nightly-sync", lost)
        assert (await call(suspend_job, place, "nightly-sync")).outcome == "verified"
        assert len(place.patches()) == 1


@pytest.mark.parametrize("name", ["run/backfill", "reindex"])
async def test_stop_ends_what_runs_with_its_pods(tmp_path: Path, name: str) -> None:
    async with lab(tmp_path) as place:
        stem = name.removeprefix("run/")
        done = await call(stop_job, place, name, 45)
        assert (done.outcome, done.undo) == ("verified", None)
        (run,) = ended(place)
        assert run.startswith(stem)
        pods = [one["metadata"]["name"] for one in (await place.raw(PODS))["items"]]
        assert not [pod for pod in pods if pod.startswith(stem)]
        if stem == "reindex":
            again = await call(stop_job, place, name, 45, call_id="again")
            assert again.plan == ["Nothing to do: nothing runs of it."]
            assert (await call(run_job, place, name, "", 0, call_id="run")).outcome == "unconfirmed"


async def test_stop_tells_which_runs_it_ends_and_whose_they_are(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        runs = (await place.platform.plan_job_stop("reindex")).reaches or []
        run = runs[0]
        assert len(runs) == 1
        assert run.startswith("run/reindex-")
        assert (await place.platform.plan_job_stop(run)).reaches == ["reindex"]
        assert (await place.platform.plan_unsuspend(run)).reaches == ["reindex"]
        assert (await place.platform.plan_job_stop("run/backfill")).reaches == []


async def test_rehearsed_stop_stays_one_where_a_proxy_takes_bodies_off(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        planned = await call(stop_job, place, "run/backfill", 45, dry_run=True)
        assert planned.outcome == "planned"
        asked = zip(place.between.seen, place.between.queries, strict=True)
        assert [query for (method, _), query in asked if method == "DELETE"] == ["dryRun=All"]
        assert ended(place) == []


async def test_stop_takes_only_the_run_that_was_looked_at(tmp_path: Path) -> None:
    def another(answer: Any) -> None:
        answer["metadata"]["uid"] = "another"

    async with lab(tmp_path) as place:
        place.between.inject("GET", "/jobs/backfill", changed(another))
        plan = await place.platform.plan_job_stop("run/backfill")
        with pytest.raises(Conflict):
            await place.platform.rehearse(plan)
        begun = await place.platform.begin(plan, reason="hangs", call_id="c")
        assert begun.name == "run/backfill"
        assert ended(place) == []


async def test_run_that_came_to_its_end_meanwhile_is_not_deleted(tmp_path: Path) -> None:
    def over(answer: Any) -> None:
        answer["status"]["conditions"] = [{"type": "Complete", "status": "True"}]

    async with lab(tmp_path) as place:
        plan = await place.platform.plan_job_stop("run/backfill")
        place.between.inject("GET", "/jobs/backfill", changed(over))
        await place.platform.begin(plan, reason="hangs", call_id="c")
        assert ended(place) == []


async def test_lost_answer_of_a_stop_is_resolved_by_a_look(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("DELETE", "/jobs/backfill", broken)
        with pytest.raises(ConnectionLost) as raised:
            await call(stop_job, place, "run/backfill", 45)
        assert raised.value.executed == "unknown"
        place.between.inject("DELETE", "/jobs/backfill", lost)
        assert (await call(stop_job, place, "run/backfill", 45)).outcome == "verified"
        assert ended(place) == ["backfill"]


async def test_stop_that_ends_one_run_and_not_the_other_leaves_a_doubt(tmp_path: Path) -> None:
    """A refusal of the second is none of the whole: the work of the first is lost."""
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_job_stop("run/backfill")
        other = await place.platform.plan_job_stop("reindex")
        both = {"runs": [*plan.values["runs"], *other.values["runs"]]}
        plan = plan.model_copy(update={"values": {**plan.values, **both}})
        busy = answering(429, b"slow down")
        place.between.inject("DELETE", "/jobs/reindex", busy)
        with pytest.raises(UpstreamRateLimited) as raised:
            await place.platform.begin(plan, reason="they hang", call_id="c")
        assert raised.value.executed == "unknown"
        assert ended(place) == ["backfill"]
