"""The rolling restart: new instances of the same version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mcp_ops.adapters.kubernetes.changing import Patch, look, plan_of
from mcp_ops.adapters.kubernetes.describe import RESTARTED_AT
from mcp_ops.adapters.kubernetes.fields import Obj
from mcp_ops.adapters.kubernetes.following import follow_replacement
from mcp_ops.adapters.kubernetes.rollout import blocked
from mcp_ops.adapters.kubernetes.site import Handler, Site
from mcp_ops.adapters.kubernetes.workloads import counts_of, parse_name
from mcp_ops.capabilities.changes import Plan
from mcp_ops.errors import Conflict

RESTART: Final = "restart"


async def plan_restart(site: Site, name: str) -> Plan:
    """Replace all instances; raises `Conflict` when that would replace nothing."""
    seen = await look(site, name)
    now = seen.now
    if now.blocked:
        raise Conflict(
            f"A restart would replace nothing: {now.blocked}.",
            hint="Look with get_deployment; a person has to change that first.",
        )
    lines = [
        f"Replace {now.desired - now.kept} instances of {name} one after the other.",
        f"Now: {now.ready} of {now.desired} ready, generation {now.generation}.",
    ]
    return plan_of(RESTART, seen, lines=lines)


def blocked_now(plan: Plan, workload: Obj) -> str:
    """Why new instances would not be made."""
    kind, _ = parse_name(plan.name)
    return blocked(kind, workload, counts_of(kind, workload))


async def _body(_site: Site, _plan: Plan, _workload: Obj, at: str) -> Obj:
    return {"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: at}}}}}


HANDLERS: Final[Mapping[str, Handler]] = {
    RESTART: Patch(
        body=_body,
        follow_up=follow_replacement,
        forbidden=blocked_now,
        marks_template=True,
    )
}
