"""Holding a deployment's rollouts, and letting them go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mcp_ops.adapters.kubernetes.changing import Patch, Seen, look, plan_of
from mcp_ops.adapters.kubernetes.fields import Obj
from mcp_ops.adapters.kubernetes.following import AGAIN, follow_rollout
from mcp_ops.adapters.kubernetes.site import Handler, Site
from mcp_ops.adapters.kubernetes.workloads import DEPLOYMENT, parse_name, paused
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.errors import InvalidInput

PAUSE: Final = "pause"
RESUME: Final = "resume"


async def plan_pause(site: Site, name: str) -> Plan:
    """Start no more instances for later changes."""
    seen = await _look(site, name)
    lines = [f"Hold the rollouts of {seen.name}: changes of it start nothing until it is resumed."]
    if not seen.now.done:
        lines.append("The rollout that is under way stops where it is, with both versions serving.")
    return plan_of(
        PAUSE,
        seen,
        lines=lines,
        undo=Undo(tool="resume_rollout", arguments={"name": seen.name}),
        nothing="its rollouts are paused already" if paused(seen.workload) else "",
    )


async def plan_resume(site: Site, name: str) -> Plan:
    """Let rollouts go on, with what was changed meanwhile."""
    seen = await _look(site, name)
    return plan_of(
        RESUME,
        seen,
        lines=[f"Let the rollouts of {seen.name} go on, with what was changed meanwhile."],
        undo=Undo(tool="pause_rollout", arguments={"name": seen.name}),
        nothing="" if paused(seen.workload) else "its rollouts are not paused",
    )


async def _look(site: Site, name: str) -> Seen:
    kind, _ = parse_name(name)
    if kind is not DEPLOYMENT:
        raise InvalidInput("Only rollouts of Deployments can be paused and resumed.")
    return await look(site, name)


async def _paused(_site: Site, _plan: Plan, _workload: Obj, _at: str) -> Obj:
    return {"spec": {"paused": True}}


async def _resumed(_site: Site, _plan: Plan, _workload: Obj, _at: str) -> Obj:
    return {"spec": {"paused": None}}


async def _follow_pause(site: Site, plan: Plan, begun: Begun) -> Progress:
    """What is stored is what the controller goes by: there is nothing to wait for."""
    seen = await look(site, plan.name)
    evidence = {
        "observed_generation": seen.now.observed_generation,
        "updated": f"{seen.now.updated}/{seen.now.desired}",
    }
    if not paused(seen.workload) or str(seen.now.generation) != begun.version:
        return Progress(state="superseded", why=AGAIN, evidence=evidence)
    return Progress(state="verified", evidence=evidence)


HANDLERS: Final[Mapping[str, Handler]] = {
    PAUSE: Patch(body=_paused, follow_up=_follow_pause),
    RESUME: Patch(body=_resumed, follow_up=follow_rollout),
}
