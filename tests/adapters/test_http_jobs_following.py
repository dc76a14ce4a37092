"""What the status of a job means for a change that was made."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_ops.adapters.http_jobs.following import CANCEL, RESUME, RUN, SUSPEND, follow, took
from mcp_ops.adapters.http_jobs.looking import judge, shown
from mcp_ops.adapters.http_jobs.settings import JobSettings
from mcp_ops.capabilities.changes import Begun, Plan
from tests.adapters.http_jobs_stage import jobs

NOW = 1_800_000_000.0
JOB = JobSettings.model_validate(jobs()["knowledge"])
BEFORE = ["knowledge-1", "2027-01-15T07:00:00Z", "2027-01-15T07:10:00Z"]
ENDED = {
    "status": "completed",
    "run_id": "knowledge-2",
    "started_at": "2027-01-15T07:59:00Z",
    "last_sync_at": "2027-01-15T07:59:30Z",
    "paused": False,
}


MARKS = ("run_id", "started_at", "last_sync_at")


def seen(action: str, answer: dict[str, Any], begun_id: str = "knowledge-2") -> tuple[str, str]:
    plan = Plan(
        action=action,
        name="knowledge",
        lines=[],
        values={"marks": BEFORE, "running": action == CANCEL, "mode": ""},
    )
    begun = Begun(name="knowledge", at="2027-01-15T07:59:00Z", id=begun_id)
    told = follow(plan, begun, judge(JOB, answer, now=NOW))
    return told.state, told.why


@pytest.mark.parametrize(
    ("action", "change", "state", "why"),
    [
        (RUN, {}, "verified", ""),
        (RUN, {"status": "running"}, "pending", "it runs, since 60 seconds"),
        (RUN, {"status": "running", "started_at": None}, "pending", "it runs"),
        (RUN, {"status": None}, "pending", "its status does not show the run yet"),
        (RUN, {"status": "failed"}, "failed", "The run failed."),
        (RUN, {"status": "failed", "error": "no rows"}, "failed", "The run failed: no rows"),
        (
            RUN,
            {"status": "gone", "last_sync_at": BEFORE[2]},
            "superseded",
            "The run ended; its status does not say how.",
        ),
        (
            RUN,
            {"run_id": "knowledge-3"},
            "superseded",
            "Another run began after this one; how this one ended is not shown.",
        ),
        (CANCEL, {}, "verified", ""),
        (CANCEL, {"status": "running", "run_id": BEFORE[0]}, "superseded", ""),
        (CANCEL, {"status": "running"}, "superseded", ""),
        (SUSPEND, {"paused": True}, "verified", ""),
        (SUSPEND, {}, "pending", "its schedule is not held"),
        (RESUME, {"paused": True}, "pending", "its schedule is held"),
        (
            RESUME,
            {"paused": "x"},
            "pending",
            "its status does not say whether its schedule is held",
        ),
    ],
)
def test_status_after_a_change_is_judged(
    action: str, change: dict[str, Any], state: str, why: str
) -> None:
    answer = {**ENDED, **change}
    if change == {"status": None}:
        answer = dict(zip(MARKS, BEFORE, strict=True))
        answer["status"] = "idle"
    found = seen(action, answer)
    assert found[0] == state
    if why:
        assert found[1] == why


def test_run_that_still_goes_on_is_not_ended() -> None:
    same = {
        "status": "running",
        **dict(zip(MARKS, BEFORE, strict=True)),
    }
    assert seen(CANCEL, same) == ("pending", "it still runs")
    assert seen(CANCEL, {}) == ("pending", "its status does not say whether it runs")
    assert seen(RUN, {}) == ("pending", "its status does not say whether it runs")


def test_what_a_status_says_in_other_types_names_no_run() -> None:
    odd = {"status": "completed", "run_id": {"a": 1}, "started_at": [1], "last_sync_at": True}
    look = judge(JOB, odd, now=NOW)
    assert look.marks == ("", "", "")
    assert (look.started, look.last_success, look.said) == (None, None, "")
    number = judge(JOB, {**ENDED, "run_id": 17, "started_at": 1_799_999_990}, now=NOW)
    assert (number.run_id, number.age_s()) == ("17", 10)
    plan = Plan(
        action=RUN, name="k", lines=[], values={"marks": BEFORE, "running": False, "mode": ""}
    )
    assert not took(plan, look)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (ENDED, "succeeded"),
        ({**ENDED, "paused": True}, "suspended"),
        ({**ENDED, "status": "failed", "paused": True}, "failed"),
        ({**ENDED, "last_sync_at": "2027-01-01T00:00:00Z"}, "stale"),
        ({**ENDED, "status": "running"}, "running"),
        ({**ENDED, "status": "running", "started_at": "2027-01-15T01:00:00Z"}, "running_too_long"),
        ({"status": "idle"}, "idle"),
        ({}, "unknown"),
        ([], "unknown"),
    ],
)
def test_states_of_a_job(answer: Any, state: str) -> None:
    assert shown("knowledge", JOB, judge(JOB, answer, now=NOW)).state == state
