"""Tools that change what runs of a workload: which version, how many, how large, and whether."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field

from mcp_ops.capabilities.base import Effect
from mcp_ops.capabilities.changes import Change
from mcp_ops.capabilities.deployments import (
    AutoscaledPlatform,
    InstancePlatform,
    PausablePlatform,
    RevisionedPlatform,
    RevisionPage,
    ScalablePlatform,
    SizedPlatform,
    SlottedPlatform,
    StoppablePlatform,
    WorkloadName,
)
from mcp_ops.changes import WORK_S, after, carry_out
from mcp_ops.params import Cursor, Limit, WaitSeconds
from mcp_ops.tool import Write, tool

RevisionId = Annotated[str, Field(description="Id of list_revisions.", max_length=253)]
Replicas = Annotated[int, Field(description="Instances.", ge=0, le=1_000)]
Bound = Annotated[int, Field(description="Instances.", ge=1, le=1_000)]
InstanceName = Annotated[str, Field(description="As shown.", min_length=1, max_length=253)]
# A swap made twice is a swap back: the same call is to be the same, however the slot is written.
SlotName = Annotated[
    str, Field(description="Slot.", min_length=1, max_length=59), AfterValidator(str.lower)
]
Amount = Annotated[str, Field(description="As 512Mi or 500m.", max_length=20)]
Tier = Annotated[str, Field(description="Plan size.", max_length=40)]

_TIMEOUT_S = WORK_S + 300


@tool(effect=Effect.READ)
async def list_revisions(
    platform: RevisionedPlatform, name: WorkloadName, limit: Limit = 20, cursor: Cursor = ""
) -> RevisionPage:
    """List the versions of a workload that rollback_deployment can return to, newest first."""
    return await platform.list_revisions(name, limit=limit, cursor=cursor)


@tool(effect=Effect.WRITE, resumable=True, timeout=_TIMEOUT_S)
async def rollback_deployment(
    platform: RevisionedPlatform,
    write: Write,
    name: WorkloadName,
    to_revision: RevisionId = "",
    wait_s: WaitSeconds = 45,
) -> Change:
    """Run an earlier version of a workload again, by default the one before, and wait until it is
    ready. With dry_run it shows what differs.

    For a release that broke something; list_revisions tells the versions.
    """
    planning = partial(platform.plan_rollback, name, to_revision)
    return await carry_out(platform, write, planning, wait_s=wait_s, after=after(name))


@tool(effect=Effect.WRITE, resumable=True, timeout=_TIMEOUT_S, destroys_when={"replicas": 0})
async def scale_deployment(
    platform: ScalablePlatform,
    write: Write,
    name: WorkloadName,
    replicas: Replicas,
    wait_s: WaitSeconds = 45,
) -> Change:
    """Run that many instances of a workload and wait until they are ready. 0 stops it, and
    counts as destroying.

    Refused where an autoscaler decides: use set_autoscaling.
    """
    planning = partial(platform.plan_scale, name, replicas)
    return await carry_out(platform, write, planning, wait_s=wait_s, after=after(name))


@tool(effect=Effect.WRITE, resumable=True)
async def set_autoscaling(
    platform: AutoscaledPlatform,
    write: Write,
    name: WorkloadName,
    min: Bound,  # noqa: A002 - the public name
    max: Bound,  # noqa: A002 - the public name
) -> Change:
    """Change between how many instances an autoscaler of a workload may choose."""
    planning = partial(platform.plan_autoscaling, name, min, max)
    return await carry_out(platform, write, planning, wait_s=0, after=after(name))


@tool(effect=Effect.WRITE, resumable=True)
async def pause_rollout(platform: PausablePlatform, write: Write, name: WorkloadName) -> Change:
    """Hold the rollout of a workload: no more instances are replaced until resume_rollout."""
    return await carry_out(
        platform, write, partial(platform.plan_pause, name), wait_s=0, after=after(name)
    )


@tool(effect=Effect.WRITE, resumable=True, timeout=_TIMEOUT_S)
async def resume_rollout(
    platform: PausablePlatform, write: Write, name: WorkloadName, wait_s: WaitSeconds = 45
) -> Change:
    """Let the rollout of a workload go on, and wait until it is complete."""
    planning = partial(platform.plan_resume, name)
    return await carry_out(platform, write, planning, wait_s=wait_s, after=after(name))


@tool(effect=Effect.DESTROY, resumable=True, timeout=_TIMEOUT_S)
async def stop_deployment(
    platform: StoppablePlatform, write: Write, name: WorkloadName, wait_s: WaitSeconds = 45
) -> Change:
    """Stop a workload: it serves nobody until start_deployment."""
    planning = partial(platform.plan_stop, name)
    return await carry_out(platform, write, planning, wait_s=wait_s, after=after(name))


@tool(effect=Effect.WRITE, resumable=True, timeout=_TIMEOUT_S)
async def start_deployment(
    platform: StoppablePlatform, write: Write, name: WorkloadName, wait_s: WaitSeconds = 45
) -> Change:
    """Start a workload that was stopped, and wait until it serves."""
    planning = partial(platform.plan_start, name)
    return await carry_out(platform, write, planning, wait_s=wait_s, after=after(name))


@tool(effect=Effect.WRITE, resumable=True, timeout=_TIMEOUT_S)
async def swap_slots(
    platform: SlottedPlatform,
    write: Write,
    name: WorkloadName,
    slot: SlotName,
    wait_s: WaitSeconds = 45,
) -> Change:
    """Swap a slot with production. The same swap again takes it back."""
    planning = partial(platform.plan_swap, name, slot)
    return await carry_out(platform, write, planning, wait_s=wait_s, after=after(name))


@tool(effect=Effect.WRITE, resumable=True, timeout=_TIMEOUT_S)
async def restart_instance(
    platform: InstancePlatform,
    write: Write,
    name: WorkloadName,
    instance: InstanceName,
    wait_s: WaitSeconds = 45,
) -> Change:
    """Replace one instance of a workload, and wait until another one is ready."""
    planning = partial(platform.plan_instance_restart, name, instance)
    return await carry_out(platform, write, planning, wait_s=wait_s, after=after(name))


@tool(effect=Effect.WRITE, resumable=True, timeout=_TIMEOUT_S)
async def set_resources(
    platform: SizedPlatform,
    write: Write,
    name: WorkloadName,
    memory: Amount = "",
    cpu: Amount = "",
    tier: Tier = "",
    wait_s: WaitSeconds = 45,
) -> Change:
    """Change how much memory and processor each instance may use, or the tier they run on.

    The instances are replaced one after the other.
    """
    planning = partial(platform.plan_resources, name, memory=memory, cpu=cpu, tier=tier)
    return await carry_out(platform, write, planning, wait_s=wait_s, after=after(name))
