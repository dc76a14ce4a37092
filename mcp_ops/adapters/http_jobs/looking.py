"""What a job's status says: its state, and which run is the newest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp_ops.adapters.http_jobs.expressions import seconds_of
from mcp_ops.adapters.http_jobs.settings import JobSettings, expression, pointer
from mcp_ops.capabilities.jobs import Job, JobState
from mcp_ops.clock import rfc3339
from mcp_ops.redact import tame

_LATEST = 253_402_300_799.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One answer of the status endpoint, judged; None is what it does not tell.

    `marks` name the newest run: its id, its start and the last success, as text.
    """

    at: float
    running: bool | None
    succeeded: bool | None
    failed: bool | None
    suspended: bool | None
    stale: bool | None
    marks: tuple[str, str, str]
    started: float | None
    last_success: float | None
    said: str

    @property
    def run_id(self) -> str:
        """What names the newest run, or empty."""
        return self.marks[0]

    def age_s(self) -> int | None:
        """How long ago the newest run began, seconds."""
        return None if self.started is None else max(0, int(self.at - self.started))

    def state(self, too_long_s: float) -> JobState:
        """The state in the words of all schedulers."""
        if self.running is None:
            return "unknown"
        if self.running:
            age = self.age_s()
            return "running_too_long" if age is not None and age > too_long_s else "running"
        ends: tuple[tuple[bool | None, JobState], ...] = (
            (self.failed, "failed"),
            (self.stale, "stale"),
            (self.suspended, "suspended"),
            (self.succeeded, "succeeded"),
        )
        for holds, state in ends:
            if holds:
                return state
        return "unknown" if self.failed is None and self.succeeded is None else "idle"


def judge(job: JobSettings, answer: Any, *, now: float) -> Look:
    """Judge an answer; `now` is the service's clock where it told it."""
    status = job.status

    def holds(text: str, *, absent: bool | None) -> bool | None:
        """An expression's value; `absent` is that of one that is not configured."""
        read = expression(text)
        return absent if read is None else read.holds(answer, now)

    def value(text: str) -> Any:
        read = pointer(text)
        return None if read is None else read.value(answer)

    start, success = value(status.last_start), value(status.last_success)
    said = value(status.problem)
    return Look(
        at=now,
        running=holds(status.running, absent=None),
        succeeded=holds(status.succeeded, absent=False),
        failed=holds(status.failed, absent=False),
        suspended=holds(status.suspended, absent=None),
        stale=holds(status.stale, absent=False),
        marks=(_mark(value(status.run_id)), _mark(start), _mark(success)),
        started=_moment(start),
        last_success=_moment(success),
        said=tame(said, 300) if isinstance(said, str) else "",
    )


def shown(name: str, job: JobSettings, look: Look) -> Job:
    """A job as list_jobs shows it."""
    state = look.state(job.too_long_s)
    return Job(
        name=name,
        state=state,
        schedule=job.schedule,
        suspended=bool(look.suspended),
        running=int(bool(look.running)),
        last_start=_told(look.started),
        last_success=_told(look.last_success),
        age_s=look.age_s(),
        modes=list(job.trigger.modes) if job.trigger else [],
        problem=_problem(state, job, look),
    )


def _problem(state: JobState, job: JobSettings, look: Look) -> str:
    if state == "running_too_long":
        return f"It runs longer than {job.too_long_s:g} seconds. {look.said}".strip()
    if state == "unknown":
        return "Its status does not have what the configuration's expressions compare."
    return look.said if state in ("failed", "stale") else ""


def _mark(value: Any) -> str:
    """A scalar as text, for comparing; anything else names no run."""
    if isinstance(value, str):
        return tame(value, 200)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 10**18:
        return str(value)
    return ""


def _moment(value: Any) -> float | None:
    at = seconds_of(value)
    return at if at is not None and 0 < at < _LATEST else None


def _told(at: float | None) -> str | None:
    return None if at is None else rfc3339(at)
