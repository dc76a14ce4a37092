"""The rolling restart: new instances of the same version."""

from __future__ import annotations

from typing import Final

from mcp_ops.adapters.kubernetes.changing import Action, plan_of
from mcp_ops.adapters.kubernetes.describe import RESTARTED_AT
from mcp_ops.adapters.kubernetes.fields import Obj
from mcp_ops.adapters.kubernetes.rollout import RolloutState, blocked
from mcp_ops.adapters.kubernetes.workloads import Kind, counts_of
from mcp_ops.capabilities.changes import Plan
from mcp_ops.errors import Conflict

RESTART: Final = "restart"


def plan_restart(name: str, now: RolloutState) -> Plan:
    """Replace all instances; raises `Conflict` when that would replace nothing."""
    if now.blocked:
        raise Conflict(
            f"A restart would replace nothing: {now.blocked}.",
            hint="Look with get_deployment; a person has to change that first.",
        )
    lines = [
        f"Replace {now.desired - now.kept} instances of {name} one after the other.",
        f"Now: {now.ready} of {now.desired} ready, generation {now.generation}.",
    ]
    return plan_of(RESTART, name, now, lines=lines)


def _forbidden(kind: Kind, workload: Obj) -> str:
    return blocked(kind, workload, counts_of(kind, workload))


def _patch(_plan: Plan, at: str) -> Obj:
    return {"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: at}}}}}


ACTION: Final = Action(patch=_patch, replaces=True, forbidden=_forbidden)
