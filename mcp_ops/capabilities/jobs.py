"""JobScheduler: what runs on a schedule or once, whether it runs too long, and how it is held."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, Field

from mcp_ops.capabilities.base import Model, Moment, Page, UntrustedLine
from mcp_ops.capabilities.changes import Changeable, Plan
from mcp_ops.params import ObjectName

JobState = Literal[
    "idle", "running", "running_too_long", "succeeded", "failed", "suspended", "stale", "unknown"
]


class Job(Model):
    """A job or a schedule. `name` is `nightly-sync` for a schedule, `run/nightly-sync-1` for one
    run. `modes` are what run_job may be asked for; empty means that it takes none."""

    name: str
    state: JobState
    schedule: UntrustedLine = ""
    suspended: bool = False
    running: int = 0
    last_start: Moment | None = None
    last_success: Moment | None = None
    age_s: int | None = None
    modes: list[str] = []
    problem: UntrustedLine = ""


class JobPage(Page[Job]):
    """Answer of list_jobs."""


class JobScheduler(Changeable, Protocol):
    """A system that runs jobs: on a schedule, or when it is asked."""

    async def list_jobs(self, *, limit: int, cursor: str) -> JobPage:
        """One page of schedules, and the runs that no schedule made, by name."""
        ...

    async def plan_run(self, name: str, mode: str) -> Plan:
        """Run it now. Raises `InvalidInput` for a mode that it does not know, `Conflict` while it
        runs and may not run twice."""
        ...


class JobControl(Changeable, Protocol):
    """A system whose jobs can be held and stopped."""

    async def plan_suspend(self, name: str) -> Plan:
        """Start it no more on its schedule; what runs goes on."""
        ...

    async def plan_unsuspend(self, name: str) -> Plan:
        """Let its schedule start it again."""
        ...

    async def plan_job_stop(self, name: str) -> Plan:
        """End what runs of it now."""
        ...


_NAME = re.compile(r"(run/)?[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?")
_NAME_CHARS = 253


def _job_name(name: str) -> str:
    if len(name) > _NAME_CHARS or not _NAME.fullmatch(name):
        raise ValueError("must be the name of a schedule, or run/NAME of one run")
    return name


JobName = Annotated[
    str, Field(description="Name as listed."), AfterValidator(_job_name), ObjectName()
]
