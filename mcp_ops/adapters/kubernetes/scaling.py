"""How many instances run: scaling, stopping, starting.

A stop remembers the number on the workload itself. An autoscaler does nothing while a workload has
zero instances, so a stopped one stays stopped; between bounds it would take a scaling back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mcp_ops.adapters.kubernetes.autoscaling import autoscalers_of, bounds_of
from mcp_ops.adapters.kubernetes.changing import Patch, Seen, look, plan_of
from mcp_ops.adapters.kubernetes.fields import Obj, mapping, name_of, text
from mcp_ops.adapters.kubernetes.following import follow_count, follow_rollout
from mcp_ops.adapters.kubernetes.site import Handler, Site
from mcp_ops.adapters.kubernetes.workloads import DAEMON_SET, parse_name
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Plan
from mcp_ops.errors import Conflict, InvalidInput

SCALE: Final = "scale"
STOP: Final = "stop"
START: Final = "start"
REMEMBERED: Final = "mcp-ops.io/replicas-before-stop"
_MOST: Final = 1_000
_NODES: Final = "A daemon set runs one instance on each node: there is no number to change."


async def plan_scale(site: Site, name: str, replicas: int) -> Plan:
    """Run that many instances; see `ScalablePlatform`."""
    if replicas > site.bounds.replicas:
        raise InvalidInput(
            f"replicas is over the operator's bound of {site.bounds.replicas} instances.",
            hint="An operator can raise max_replicas of the target.",
        )
    seen = await _look(site, name)
    before = seen.now.desired
    nothing = f"{replicas} instances are wanted already" if replicas == before else ""
    if not nothing:
        await _no_autoscaler(site, name)
    lines = [
        f"Run {replicas} instances of {seen.name} instead of {before}.",
        f"Now: {seen.now.ready} of {before} ready.",
    ]
    if replicas == 0:
        lines.append("Nobody is served until it is scaled up again.")
    return plan_of(
        SCALE,
        seen,
        lines=lines,
        values={"replicas": replicas},
        evidence={"replicas_before": before},
        undo=Undo(tool="scale_deployment", arguments={"name": seen.name, "replicas": before}),
        nothing=nothing,
    )


async def plan_stop(site: Site, name: str) -> Plan:
    """Run no instance, and remember how many there were."""
    seen = await _look(site, name)
    before = seen.now.desired
    lines = [f"End all {before} instances of {seen.name}: nobody is served until it is started."]
    scalers = await autoscalers_of(site, *parse_name(name)) if before else []
    if any(bounds_of(one)[0] == 0 for one in scalers):
        raise Conflict(
            "Its autoscaler may start it again from zero; nothing was done.",
            hint="A person has to take the autoscaler away first.",
        )
    if scalers:
        lines.append("Its autoscaler does nothing while it is stopped.")
    return plan_of(
        STOP,
        seen,
        lines=lines,
        values={"replicas": 0, "remember": str(before)},
        evidence={"replicas_before": before},
        undo=Undo(tool="start_deployment", arguments={"name": seen.name}),
        nothing="" if before else "no instance is wanted already",
    )


async def plan_start(site: Site, name: str) -> Plan:
    """Run as many instances as before the stop."""
    seen = await _look(site, name)
    nothing = f"{seen.now.desired} instances are wanted already" if seen.now.desired else ""
    replicas = seen.now.desired if nothing else _remembered(site, seen)
    return plan_of(
        START,
        seen,
        lines=[f"Run {replicas} instances of {seen.name}, as before it was stopped."],
        # Remembered in an annotation, which changes no generation.
        state={"replicas": replicas},
        values={"replicas": replicas},
        undo=Undo(tool="stop_deployment", arguments={"name": seen.name}),
        nothing=nothing,
    )


def _remembered(site: Site, seen: Seen) -> int:
    written = text(mapping(seen.workload, "metadata", "annotations"), REMEMBERED)
    hint = "Use scale_deployment with the number that you want."
    if not written.isascii() or not written.isdigit() or not 1 <= int(written[:9]) <= _MOST:
        raise Conflict(
            "How many instances it had is not known: stop_deployment did not stop it.", hint=hint
        )
    if int(written) > site.bounds.replicas:
        raise InvalidInput(
            f"It had {written} instances, over the operator's bound of {site.bounds.replicas}.",
            hint=hint,
        )
    return int(written)


async def _look(site: Site, name: str) -> Seen:
    kind, _ = parse_name(name)
    if kind is DAEMON_SET:
        raise InvalidInput(_NODES, hint="A person can take its nodes away by a node selector.")
    return await look(site, name)


async def _no_autoscaler(site: Site, name: str) -> None:
    found = await autoscalers_of(site, *parse_name(name))
    if found:
        low, high = bounds_of(found[0])
        raise Conflict(
            f"An autoscaler decides on this workload ({low} to {high} instances) and would take it "
            "back; nothing was done.",
            hint="Use set_autoscaling; to end all instances, stop_deployment.",
            said=f"HorizontalPodAutoscaler {name_of(found[0])}",
        )


async def _scaled(_site: Site, plan: Plan, _workload: Obj, _at: str) -> Obj:
    annotations = {REMEMBERED: plan.values.get("remember")}
    return {
        "metadata": {"annotations": annotations},
        "spec": {"replicas": plan.values["replicas"]},
    }


def _ending(_plan: Plan, workload: Obj) -> str:
    return "it is being deleted" if text(workload, "metadata", "deletionTimestamp") else ""


HANDLERS: Final[Mapping[str, Handler]] = {
    SCALE: Patch(body=_scaled, follow_up=follow_count, forbidden=_ending),
    STOP: Patch(body=_scaled, follow_up=follow_count, forbidden=_ending),
    # From one instance on, an autoscaler may choose another number at once.
    START: Patch(body=_scaled, follow_up=follow_rollout, forbidden=_ending),
}
