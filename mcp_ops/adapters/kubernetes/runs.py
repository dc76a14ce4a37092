"""One run of a job, and one schedule with its runs: read once, judged by time and outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mcp_ops.adapters.kubernetes.cron import Schedule, parse_schedule
from mcp_ops.adapters.kubernetes.fields import (
    Obj,
    condition,
    controller_of,
    flag,
    mapping,
    name_of,
    number,
    seconds,
    text,
    uid_of,
)
from mcp_ops.adapters.kubernetes.look import selector_of
from mcp_ops.adapters.kubernetes.site import Place
from mcp_ops.capabilities.jobs import Job, JobState
from mcp_ops.clock import rfc3339
from mcp_ops.redact import tame

PREFIX: Final = "run/"
_BATCH: Final = "batch"
_UNSCHEDULED_S: Final = 3_600.0
_OTHERS: Final = "*"
# A start that is this late was missed: the controller looks every ten seconds.
_LATE_S: Final = 120.0


def schedule_place(name: str) -> Place:
    """Where a schedule is."""
    return Place(group=_BATCH, plural="cronjobs", name=name)


def run_place(name: str) -> Place:
    """Where one run is."""
    return Place(group=_BATCH, plural="jobs", name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One Job: `outcome` is `succeeded`, `failed`, `suspended` or `running`."""

    name: str
    uid: str
    owner: str
    outcome: JobState
    started: float | None
    ended: float | None
    why: str
    active: int
    succeeded: int
    failed: int
    wanted: int
    selector: str

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.outcome in ("succeeded", "failed")

    def age_s(self, now: float) -> int | None:
        """How long it has run, in whole seconds."""
        return None if self.started is None else max(0, int(now - self.started))


def read_run(job: Obj) -> Run:
    """A Job as the API has it."""
    status, spec = mapping(job, "status"), mapping(job, "spec")
    outcome, said = _outcome(job)
    ended = text(status, "completionTime") or text(said, "lastTransitionTime")
    created = text(job, "metadata", "creationTimestamp")
    return Run(
        name=name_of(job),
        uid=uid_of(job),
        owner=controller_of(job),
        outcome=outcome,
        started=seconds(text(status, "startTime") or created),
        ended=seconds(ended) if outcome in ("succeeded", "failed") else None,
        why=tame(text(said, "reason"), 60),
        active=number(status, "active"),
        succeeded=number(status, "succeeded"),
        failed=number(status, "failed"),
        wanted=number(spec, "completions", absent=1),
        selector=selector_of(job),
    )


def _outcome(job: Obj) -> tuple[JobState, Obj]:
    ends: tuple[tuple[str, JobState], ...] = (("Complete", "succeeded"), ("Failed", "failed"))
    for kind, state in ends:
        said = condition(job, kind)
        if said.get("status") == "True":
            return state, said
    return ("suspended" if flag(job, "spec", "suspend") else "running"), {}


def longest_s(
    too_long: Mapping[str, int], name: str, schedule: Schedule | None, started: float
) -> float:
    """Seconds after which a run is too long: as the operator said, else the period of its
    schedule, else an hour."""
    minutes = too_long.get(name) or too_long.get(_OTHERS)
    if minutes:
        return minutes * 60.0
    period = schedule.period_s(started) if schedule is not None else None
    return period or _UNSCHEDULED_S


def is_too_long(run: Run, limit_s: float, now: float) -> bool:
    """Whether it runs for longer than that."""
    return run.outcome == "running" and run.started is not None and now - run.started > limit_s


def listed_run(run: Run, too_long: Mapping[str, int], now: float) -> Job:
    """A run that no schedule made, as a list shows it."""
    name = f"{PREFIX}{run.name}"
    late = is_too_long(run, longest_s(too_long, name, None, run.started or now), now)
    return Job(
        name=name,
        state="running_too_long" if late else run.outcome,
        suspended=run.outcome == "suspended",
        running=0 if run.over or run.outcome == "suspended" else 1,
        last_start=_moment(run.started),
        last_success=_moment(run.ended) if run.outcome == "succeeded" else None,
        age_s=None if run.over else run.age_s(now),
        problem=_problem_of(run, late=late),
    )


def listed_schedule(cron_job: Obj, runs: list[Run], too_long: Mapping[str, int], now: float) -> Job:
    """A schedule with the runs that it has, as a list shows it."""
    name, spec = name_of(cron_job), mapping(cron_job, "spec")
    written = text(spec, "schedule")[:200]
    schedule = parse_schedule(written, text(spec, "timeZone"))
    going = [run for run in runs if run.outcome == "running"]
    late = [run for run in going if _late(run, name, schedule, too_long, now)]
    ended = [run for run in runs if run.over]
    newest = max(ended, key=lambda run: run.ended or 0.0, default=None)
    succeeded = _last_success(cron_job, ended)
    started = _last_start(cron_job, runs)
    missed = _missed(cron_job, schedule, started, now)
    suspended = flag(spec, "suspend")
    oldest = max((run.age_s(now) or 0 for run in going), default=None)
    return Job(
        name=name,
        state=_state(going, late, newest, suspended=suspended, missed=missed),
        schedule=written,
        suspended=suspended,
        running=len(going),
        last_start=_moment(started),
        last_success=_moment(succeeded),
        age_s=oldest,
        problem=_problem(late, newest, schedule, missed=missed and not suspended, now=now),
    )


def _late(
    run: Run, name: str, schedule: Schedule | None, too_long: Mapping[str, int], now: float
) -> bool:
    started = run.started if run.started is not None else now
    return is_too_long(run, longest_s(too_long, name, schedule, started), now)


def _state(
    going: list[Run], late: list[Run], newest: Run | None, *, suspended: bool, missed: bool
) -> JobState:
    """The state that matters most: what hangs, what runs, what is held, what went wrong."""
    if late:
        return "running_too_long"
    if going:
        return "running"
    if suspended:
        return "suspended"
    if newest is not None and newest.outcome == "failed":
        return "failed"
    return "stale" if missed else "idle"


def _problem(
    late: list[Run],
    newest: Run | None,
    schedule: Schedule | None,
    *,
    missed: bool,
    now: float,
) -> str:
    if late:
        return f"{PREFIX}{late[0].name} runs for {(late[0].age_s(now) or 0) // 60} minutes"
    if newest is not None and newest.outcome == "failed":
        return _problem_of(newest, late=False)
    if schedule is None:
        return "its schedule can't be read here: whether it is late is not known"
    return "its last start was missed" if missed else ""


def _problem_of(run: Run, *, late: bool) -> str:
    if late:
        return "it runs for too long"
    if run.outcome != "failed":
        return ""
    return f"{PREFIX}{run.name} failed: {run.why or 'no reason given'}"


def _missed(cron_job: Obj, schedule: Schedule | None, started: float | None, now: float) -> bool:
    """Whether a start was due and did not come; a schedule that was made since then has time."""
    made = seconds(text(cron_job, "metadata", "creationTimestamp"))
    since = max(filter(None, (started, made)), default=None)
    if schedule is None or since is None:
        return False
    due = schedule.after(since)
    return due is not None and now > due + _LATE_S


def _last_start(cron_job: Obj, runs: list[Run]) -> float | None:
    scheduled = seconds(text(cron_job, "status", "lastScheduleTime"))
    starts = [scheduled, *(run.started for run in runs)]
    return max((at for at in starts if at is not None), default=None)


def _last_success(cron_job: Obj, ended: list[Run]) -> float | None:
    known = seconds(text(cron_job, "status", "lastSuccessfulTime"))
    ends = [known, *(run.ended for run in ended if run.outcome == "succeeded")]
    return max((at for at in ends if at is not None), default=None)


def _moment(at: float | None) -> str | None:
    return None if at is None else rfc3339(at)
