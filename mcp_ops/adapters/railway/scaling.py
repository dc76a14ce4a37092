"""The number of instances: a setting in each region, which a new deployment takes up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp_ops.adapters.railway.access import Scope
from mcp_ops.adapters.railway.changing import (
    Action,
    Driver,
    Made,
    confirmed,
    plan_of,
    settled,
)
from mcp_ops.adapters.railway.following import follow_new, trace_new
from mcp_ops.adapters.railway.operations import Mutation
from mcp_ops.adapters.railway.state import Deployment, Service, plain, wanted
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.errors import Conflict, InvalidInput, Upstream

SCALE: Final = "scale"


def plan_scale(name: str, service: Service, replicas: int, *, most: int) -> Plan:
    """Run that many instances, spread over the regions as they are now."""
    if replicas == 0:
        raise InvalidInput(
            "Railway runs at least one instance.", hint="stop_deployment stops the service."
        )
    if replicas > most:
        raise InvalidInput(
            f"The operator allows at most {most} instances.",
            hint="max_replicas of the target sets the bound.",
        )
    current = service.current
    if current is None:
        raise Conflict("It was never deployed.", hint="A person has to deploy it once.")
    settled(service, "scaling would deploy the version that runs over it")
    before = dict(service.regions)
    after = spread(before, replicas)
    shown = _shown(before) or f"{service.wanted}"
    lines = [
        f"Run {replicas} instances of {name} instead of {service.wanted}.",
        f"Regions now: {shown}; then: {_shown(after) or replicas}.",
        f"The same version ({current.shown}) is deployed anew for it.",
    ]
    if not current.version:
        lines.append("Railway names neither its commit nor its image: it chooses the source.")
    undo = Undo(tool="scale_deployment", arguments={"name": name, "replicas": service.wanted})
    same = service.wanted == replicas and before == after
    return plan_of(
        SCALE,
        name,
        service,
        acted=current,
        lines=lines,
        undo=undo,
        nothing=f"it runs {replicas} instances" if same else "",
        state={"regions": before},
        evidence={"regions_before": before, "regions": after},
        values={
            "regions": after,
            "regions_before": before,
            "replicas": replicas,
            "commit": current.commit,
            "wanted": replicas,
            "wanted_before": service.wanted,
        },
    )


def spread(before: Mapping[str, int], replicas: int) -> dict[str, int]:
    """The instances over the regions in the proportion of now, at least one in each.

    Raises `InvalidInput` for fewer instances than regions: which region goes is not ours to say.
    """
    if not before:
        return {}
    if replicas < len(before):
        raise InvalidInput(
            f"It runs in {len(before)} regions: {_shown(before)}.",
            hint=f"At least {len(before)} instances; a person has to give up a region.",
        )
    total, left = sum(before.values()), replicas - len(before)
    exact = {name: left * count / total for name, count in before.items()}
    found = {name: 1 + int(share) for name, share in exact.items()}
    rest = sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))
    for name in rest[: replicas - sum(found.values())]:
        found[name] += 1
    return found


def _shown(regions: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(regions.items()))


async def _changed(_driver: Driver, plan: Plan, _scope: Scope, service: Service) -> str:
    if dict(service.regions) != plan.values["regions_before"] or (
        service.wanted != plan.values["wanted_before"]
    ):
        return "Its number of instances was changed since it was looked at"
    return ""


async def _send(driver: Driver, scope: Scope, plan: Plan, _service: Service) -> Made:
    """Save the setting, then deploy the version that runs with it. Where the second is refused,
    the first is done all the same: the change goes on as one that nothing shows of yet."""
    place = {"environment": scope.environment, "service": plan.values["service"]}
    if plan.values["regions"]:
        regions = {name: {"numReplicas": n} for name, n in plan.values["regions"].items()}
        data = await driver.api.change(Mutation.SET_REGIONS, {**place, "regions": regions})
    else:
        replicas = plan.values["replicas"]
        data = await driver.api.change(Mutation.SET_REPLICAS, {**place, "replicas": replicas})
    confirmed(data, "serviceInstanceUpdate")
    commit = plan.values["commit"] or None
    evidence: dict[str, Any] = {"setting_saved": True}
    try:
        data = await driver.api.change(Mutation.DEPLOY, {**place, "commit": commit})
    except Upstream as error:
        accepted = "no" if error.executed == "no" else "unknown"
        return Made(evidence={**evidence, "deployment_accepted": accepted, "said": error.code})
    found = data.get("serviceInstanceDeployV2")
    return Made(id=plain(found) if isinstance(found, str) else "", evidence=evidence)


def _matches(plan: Plan, one: Deployment) -> bool:
    return (wanted(one), one.version) == (plan.values["replicas"], plan.values["version"])


async def _trace(_driver: Driver, plan: Plan, _scope: Scope, service: Service) -> Made | None:
    return trace_new(plan, service, _matches)


async def _follow(
    driver: Driver, plan: Plan, begun: Begun, _scope: Scope, service: Service
) -> Progress:
    found = follow_new(driver, plan, begun, service, _matches)
    if found.state == "verified" and found.wanted != plan.values["replicas"]:
        why = f"The deployment that runs now wants {found.wanted} instances."
        return found.model_copy(update={"state": "superseded", "why": why})
    if found.state == "pending" and begun.evidence.get("deployment_accepted") == "no":
        why = "the number is saved, but Railway did not accept the deployment that takes it up"
        return found.model_copy(update={"why": why})
    return found


ACTION: Final = Action(send=_send, trace=_trace, judge=_follow, changed=_changed)
