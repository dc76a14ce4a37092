"""Tools on DeploymentPlatform: what runs, what it says, and the rolling restart."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

from pydantic import Field

from mcp_ops.capabilities.base import Effect, NextStep
from mcp_ops.capabilities.changes import Change
from mcp_ops.capabilities.deployments import (
    DeploymentDetail,
    DeploymentLogs,
    DeploymentPage,
    DeploymentPlatform,
    LogLevel,
    WorkloadName,
)
from mcp_ops.changes import WORK_S, after, carry_out
from mcp_ops.params import Cursor, Limit, SinceMinutes, WaitSeconds
from mcp_ops.tool import Write, tool

Tail = Annotated[int, Field(description="Newest lines.", ge=1, le=1000)]
Grep = Annotated[str, Field(description="Literal; a|b: either.", max_length=200)]
Level = Annotated[LogLevel, Field(description="Lowest level.")]
Previous = Annotated[bool, Field(description="Run before the last crash.")]

_LOGS: Final = "get_deployment_logs"


@tool(effect=Effect.READ, bulk=True)
async def list_deployments(
    platform: DeploymentPlatform, limit: Limit = 20, cursor: Cursor = ""
) -> DeploymentPage:
    """List what runs: workloads with image, instances wanted, ready and updated, and what is
    wrong with each (`problem`).

    Start here to find names; get_deployment explains one.
    """
    return await platform.list_workloads(limit=limit, cursor=cursor)


@tool(effect=Effect.READ)
async def get_deployment(platform: DeploymentPlatform, name: WorkloadName) -> DeploymentDetail:
    """Explain the state of one workload: counts, instances, restarts, memory kills, events, last
    deploy, and in plain words what is wrong.

    Use before and after any change of it.
    """
    found = await platform.describe(name)
    return found.model_copy(update={"next_steps": _after_look(found)})


@tool(effect=Effect.READ, bulk=True)
async def get_deployment_logs(
    platform: DeploymentPlatform,
    name: WorkloadName,
    since_minutes: SinceMinutes = 60,
    tail: Tail = 100,
    grep: Grep = "",
    level: Level = "",
    previous: Previous = False,
) -> DeploymentLogs:
    """Read the newest log lines of a workload's instances, oldest first."""
    return await platform.logs(
        name, since_minutes=since_minutes, tail=tail, grep=grep, level=level, previous=previous
    )


@tool(effect=Effect.WRITE, resumable=True, timeout=WORK_S + 300)
async def restart_deployment(
    platform: DeploymentPlatform, write: Write, name: WorkloadName, wait_s: WaitSeconds = 45
) -> Change:
    """Replace a workload's instances one after the other (rolling restart) and wait until the new
    ones are ready.

    It does not cure a bad release or configuration: look with get_deployment first.
    """
    return await carry_out(
        platform, write, partial(platform.plan_restart, name), wait_s=wait_s, after=after(name)
    )


def _after_look(found: DeploymentDetail) -> list[NextStep]:
    steps: dict[str, tuple[str, dict[str, Any]]] = {
        "crash_loop": ("What the run before the crash wrote.", {"previous": True}),
        "oom_killed": ("What it did before it was killed.", {"previous": True}),
        "not_ready": ("What it writes while it is not ready.", {"level": "warn"}),
    }
    if found.problem not in steps:
        return []
    why, more = steps[found.problem]
    return [NextStep(tool=_LOGS, arguments={"name": found.name, **more}, why=why)]
