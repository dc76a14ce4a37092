"""Tools on JobScheduler: what runs on a schedule, whether it hangs, and how it is held."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field

from mcp_ops.capabilities.base import Effect, NextStep, Outcome
from mcp_ops.capabilities.changes import Change
from mcp_ops.capabilities.jobs import JobControl, JobName, JobPage, JobScheduler
from mcp_ops.changes import WORK_S, After, carry_out
from mcp_ops.params import Cursor, Limit, WaitSeconds
from mcp_ops.tool import Write, tool

Mode = Annotated[str, Field(description="One of its modes.", max_length=40)]


@tool(effect=Effect.READ)
async def list_jobs(scheduler: JobScheduler, limit: Limit = 20, cursor: Cursor = "") -> JobPage:
    """List jobs and schedules: state, last start and success, and what runs too long."""
    return await scheduler.list_jobs(limit=limit, cursor=cursor)


@tool(effect=Effect.WRITE, resumable=True, timeout=WORK_S + 300)
async def run_job(
    scheduler: JobScheduler,
    write: Write,
    name: JobName,
    mode: Mode = "",
    wait_s: WaitSeconds = 45,
) -> Change:
    """Run a job now, and wait until it ends. Not while it runs already: list_jobs tells."""
    planning = partial(scheduler.plan_run, name, mode)
    return await carry_out(scheduler, write, planning, wait_s=wait_s, after=_after())


@tool(effect=Effect.WRITE, resumable=True)
async def suspend_job(scheduler: JobControl, write: Write, name: JobName) -> Change:
    """Hold a schedule: it starts nothing until resume_job. What runs goes on."""
    planning = partial(scheduler.plan_suspend, name)
    return await carry_out(scheduler, write, planning, wait_s=0, after=_after())


@tool(effect=Effect.WRITE, resumable=True)
async def resume_job(scheduler: JobControl, write: Write, name: JobName) -> Change:
    """Let a schedule that was held start its job again."""
    planning = partial(scheduler.plan_unsuspend, name)
    return await carry_out(scheduler, write, planning, wait_s=0, after=_after())


@tool(effect=Effect.DESTROY, resumable=True, timeout=WORK_S + 300)
async def stop_job(
    scheduler: JobControl, write: Write, name: JobName, wait_s: WaitSeconds = 45
) -> Change:
    """End what runs of a job now; its work is lost. For one that hangs."""
    planning = partial(scheduler.plan_job_stop, name)
    return await carry_out(scheduler, write, planning, wait_s=wait_s, after=_after())


def _after() -> After:
    def steps(outcome: Outcome) -> list[NextStep]:
        look = NextStep(tool="list_jobs", arguments={}, why="How far it is, and how it ended.")
        return [] if outcome == "verified" else [look]

    return steps
