"""The autoscaler of a workload, and the bounds between which it may choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp_ops.adapters.kubernetes.changing import Patch
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import (
    Obj,
    condition,
    mapping,
    name_of,
    number,
    text,
    uid_of,
)
from mcp_ops.adapters.kubernetes.look import get_workload
from mcp_ops.adapters.kubernetes.site import Handler, Place, Site
from mcp_ops.adapters.kubernetes.workloads import Kind, parse_name
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.errors import Conflict, InvalidInput, NotFound
from mcp_ops.redact import tame

AUTOSCALE: Final = "autoscale"
_GROUP: Final = "autoscaling"
_PLURAL: Final = "horizontalpodautoscalers"
_READ: Final = 500
_PAGES: Final = 4


async def autoscalers_of(site: Site, kind: Kind, plain: str) -> list[Obj]:
    """The autoscalers that decide on a workload; there should be one at most.

    Raises `Forbidden` for a caller who may not list them: whether one decides is then not known.
    """
    ask = Ask(verb="list", resource=f"{_PLURAL}.{_GROUP}")
    found: list[Obj] = []
    query: dict[str, str | int] = {"limit": _READ}
    for _ in range(_PAGES):
        try:
            path = site.api.path(_GROUP, _PLURAL)
            page, token = await site.api.list_page(path, ask, **query)
        except NotFound:  # a cluster that has no autoscaling in this version
            return []
        found.extend(one for one in page if _decides_on(one, kind, plain))
        if not token:
            return found
        query["continue"] = token
    raise Conflict("The namespace has more autoscalers than were looked at; nothing was done.")


def bounds_of(autoscaler: Obj) -> tuple[int, int]:
    """Fewest and most instances; fewest is one where nothing is said."""
    spec = mapping(autoscaler, "spec")
    return number(spec, "minReplicas", absent=1), number(spec, "maxReplicas", absent=1)


async def plan_autoscaling(site: Site, name: str, minimum: int, maximum: int) -> Plan:
    """Other bounds for the autoscaler; see `AutoscaledPlatform`."""
    if minimum > maximum:
        raise InvalidInput("min must not be greater than max.")
    if maximum > site.bounds.replicas:
        raise InvalidInput(
            f"max is over the operator's bound of {site.bounds.replicas} instances.",
            hint="An operator can raise max_replicas of the target.",
        )
    kind, plain = parse_name(name)
    workload = await get_workload(site.api, kind, plain)
    found = await autoscalers_of(site, kind, plain)
    if not found:
        raise NotFound("No autoscaler decides on this workload.", hint="Use scale_deployment.")
    if len(found) > 1:
        raise Conflict(
            f"{len(found)} autoscalers decide on this workload; nothing was done.",
            hint="A person has to remove all but one.",
        )
    return _plan(kind.called(plain), workload, found[0], (minimum, maximum))


def _plan(name: str, workload: Obj, autoscaler: Obj, wanted: tuple[int, int]) -> Plan:
    before, running = bounds_of(autoscaler), number(workload, "spec", "replicas", absent=1)
    told = {**_told(autoscaler), "bounds_before": _written(before)}
    lines = [f"Autoscaler of {name}: {_written(before)} instances → {_written(wanted)}."]
    if not wanted[0] <= running <= wanted[1]:
        to = min(max(running, wanted[0]), wanted[1])
        lines.append(f"It would go from {running} instances to {to}.")
    if running == 0:
        lines.append("The workload is stopped: the autoscaler does nothing until it is started.")
    undo = Undo(
        tool="set_autoscaling", arguments={"name": name, "min": before[0], "max": before[1]}
    )
    return Plan(
        action=AUTOSCALE,
        name=name,
        lines=lines,
        state={"min": before[0], "max": before[1], "autoscaler": uid_of(autoscaler)},
        lock=_version(autoscaler),
        values={
            "uid": uid_of(autoscaler),
            "autoscaler": name_of(autoscaler),
            "min": wanted[0],
            "max": wanted[1],
        },
        evidence=told,
        # With nothing below one, the platform's least: the tool could not bring it back.
        undo=undo if before[0] >= 1 else None,
        nothing="these are its bounds already" if before == wanted else "",
        repeatable=True,
    )


def _written(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]} to {bounds[1]}"


def _told(autoscaler: Obj) -> dict[str, Any]:
    """What the autoscaler says of itself."""
    limited = condition(autoscaler, "ScalingLimited")
    found: dict[str, Any] = {
        "autoscaler": name_of(autoscaler),
        "current_replicas": number(autoscaler, "status", "currentReplicas"),
        "desired_replicas": number(autoscaler, "status", "desiredReplicas"),
    }
    if limited.get("status") == "True":
        found["limited_by"] = tame(text(limited, "reason"), 60)
    active = condition(autoscaler, "ScalingActive")
    if active.get("status") == "False":
        found["inactive"] = tame(text(active, "reason"), 60)
    return found


def _version(autoscaler: Obj) -> str:
    """An autoscaler counts no generations: its bounds are what is locked."""
    return "{}-{}".format(*bounds_of(autoscaler))


def _decides_on(autoscaler: Obj, kind: Kind, plain: str) -> bool:
    target = mapping(autoscaler, "spec", "scaleTargetRef")
    group = text(target, "apiVersion").partition("/")[0]
    return (group, text(target, "kind"), text(target, "name")) == ("apps", kind.name, plain)


def _place(plan: Plan) -> Place:
    return Place(group=_GROUP, plural=_PLURAL, name=str(plan.values["autoscaler"]))


async def _body(_site: Site, plan: Plan, _autoscaler: Obj, _at: str) -> Obj:
    return {"spec": {"minReplicas": plan.values["min"], "maxReplicas": plan.values["max"]}}


async def _follow(site: Site, plan: Plan, _begun: Begun) -> Progress:
    autoscaler = await _place(plan).get(site.api)
    bounds = bounds_of(autoscaler)
    evidence = {**_told(autoscaler), "bounds": _written(bounds)}
    if bounds != (plan.values["min"], plan.values["max"]):
        return Progress(
            state="superseded",
            why="The autoscaler was changed again after this change.",
            evidence=evidence,
        )
    return Progress(state="verified", evidence=evidence)


HANDLERS: Final[Mapping[str, Handler]] = {
    AUTOSCALE: Patch(body=_body, follow_up=_follow, place=_place, version=_version)
}
