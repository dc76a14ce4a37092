"""The plan of an app: how many workers it has, and how large they are.

All apps of a plan share its workers. Resource Manager changes a plan by putting the whole of it
(its patch takes no size), so what is put is what was read a moment before, with the one change.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Final

from mcp_ops.adapters.azure.acting import LOOK, Action, planned
from mcp_ops.adapters.azure.arm import Ask
from mcp_ops.adapters.azure.fields import Obj, flag, mapping, number, text
from mcp_ops.adapters.azure.look import (
    Azure,
    Farm,
    get_farm,
    get_site,
    if_allowed,
    list_instances,
    sites_of_farm,
)
from mcp_ops.adapters.azure.names import AppName, parse_name
from mcp_ops.adapters.azure.restart import ready_of, seen
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.errors import Conflict, Forbidden, InvalidInput
from mcp_ops.redact import tame
from mcp_ops.wire.http import Answer

SCALE: Final = "scale"
SIZE: Final = "size"
_WRITE: Final = Ask(action="Microsoft.Web/serverfarms/Write", writes=True)
_AUTOSCALE: Final = Ask(action="Microsoft.Insights/AutoscaleSettings/Read")
_AUTOSCALE_VERSION: Final = "2022-10-01"
_FIXED: Final = frozenset({"free", "shared", "dynamic", "flexconsumption", "elasticpremium"})
# What of a plan can be written; the rest Azure only tells.
_WRITABLE: Final = frozenset(
    {
        "workerTierName",
        "hostingEnvironmentProfile",
        "perSiteScaling",
        "elasticScaleEnabled",
        "maximumElasticWorkerCount",
        "isSpot",
        "spotExpirationTime",
        "freeOfferExpirationTime",
        "reserved",
        "isXenon",
        "hyperV",
        "targetWorkerCount",
        "targetWorkerSizeId",
        "kubeEnvironmentProfile",
        "zoneRedundant",
        "asyncScalingEnabled",
        "planDefaultIdentity",
        "isCustomMode",
        "registryAdapters",
        "installScripts",
        "network",
        "storageMounts",
        "rdpEnabled",
    }
)
_TIERS: Final = (
    (re.compile(r"F1"), "Free"),
    (re.compile(r"D1"), "Shared"),
    (re.compile(r"B\d"), "Basic"),
    (re.compile(r"S\d"), "Standard"),
    (re.compile(r"P\dM?V(\d)"), "PremiumV"),
    (re.compile(r"P\d"), "Premium"),
    (re.compile(r"I\dM?V(\d)"), "IsolatedV"),
    (re.compile(r"I\d"), "Isolated"),
)


async def plan_scale(azure: Azure, name: AppName, replicas: int) -> Plan:
    """Give the app's plan that many workers."""
    settings = azure.settings
    if not settings.min_instances <= replicas <= settings.max_instances:
        more = " App Service has no zero: stop_deployment stops an app." if not replicas else ""
        raise InvalidInput(
            f"replicas must be {settings.min_instances} to {settings.max_instances} here.{more}",
            hint="An operator sets min_instances and max_instances of the target.",
        )
    farm, ready = await _scalable(azure, name)
    most = number(farm.raw, "properties", "maximumNumberOfWorkers", absent=settings.max_instances)
    if most and replicas > most:
        raise InvalidInput(f"The plan's tier {farm.tier} takes at most {most} workers.")
    return await _planned(
        azure,
        name,
        farm,
        action=SCALE,
        line=f"Run {replicas} workers of plan {farm.shown}.",
        wanted={"capacity": replicas},
        nothing=f"it has {replicas} workers" if farm.capacity == replicas else "",
        undo=Undo(
            tool="scale_deployment", arguments={"name": name.shown, "replicas": farm.capacity}
        ),
        ready=ready,
    )


async def plan_resources(azure: Azure, name: AppName, *, memory: str, cpu: str, tier: str) -> Plan:
    """Change the size of the plan's workers, to one that the operator allows."""
    allowed = {each.lower(): each for each in azure.settings.tiers}
    if memory or cpu or not tier:
        raise InvalidInput(
            "App Service has no memory or cpu of its own: pass tier, the size of the plan.",
            hint=_allowed_hint(allowed),
        )
    if tier.lower() not in allowed:
        raise InvalidInput("tier is not one that is allowed here.", hint=_allowed_hint(allowed))
    farm, ready = await _scalable(azure, name)
    sku = allowed[tier.lower()]
    undo = Undo(tool="set_resources", arguments={"name": name.shown, "tier": farm.sku})
    return await _planned(
        azure,
        name,
        farm,
        action=SIZE,
        line=f"Run plan {farm.shown} as {sku}: its apps move to other workers and restart.",
        wanted={"name": sku},
        nothing=f"it is {sku}" if farm.sku.lower() == sku.lower() else "",
        undo=undo if farm.sku.lower() in allowed else None,
        ready=ready,
    )


def _allowed_hint(allowed: dict[str, str]) -> str:
    if not allowed:
        return "None is allowed: an operator sets tiers of the target."
    return f"Allowed: {', '.join(allowed.values())}."


async def _scalable(azure: Azure, name: AppName) -> tuple[Farm, dict[str, Any]]:
    """The plan of an app. Raises `Conflict` where its workers are not ours to choose."""
    site = await get_site(azure, name)
    farm = await get_farm(azure, site)
    instances = await list_instances(azure, name)
    _ours_to_choose(farm)
    scaler = await _autoscaler(azure, farm)
    if scaler:
        raise Conflict(
            f"The autoscale setting {scaler} decides on this plan, and would take it back.",
            hint="A person has to change or switch off the autoscale setting first.",
        )
    return farm, seen(site, instances)


def _ours_to_choose(farm: Farm) -> None:
    why = ""
    if farm.tier.lower() in _FIXED:
        why = f"its tier {farm.tier} has no workers to choose"
    elif farm.has("elasticScaleEnabled"):
        why = "Azure scales it automatically"
    elif farm.has("perSiteScaling"):
        why = "its apps are scaled one by one (per-app scaling)"
    elif farm.state == "InProgress":
        why = "another change of it is under way"
    if why:
        raise Conflict(f"The plan {farm.name} can't be changed here: {why}.", hint=LOOK)


async def _autoscaler(azure: Azure, farm: Farm) -> str:
    """The name of an autoscale setting that is on for a plan, or empty. A role that does not show
    them is no reason to scale against one: raises `Forbidden`."""
    path = f"{azure.arm.scope}/providers/Microsoft.Insights/autoscalesettings"
    try:
        found, _ = await azure.arm.pages(path, _AUTOSCALE, most=200, api_version=_AUTOSCALE_VERSION)
    except Forbidden as error:
        raise Forbidden(
            "Whether an autoscale setting decides on the plan can't be seen; nothing was done.",
            said=error.said,
            hint=error.hint,
        ) from error
    own = azure.arm.web(f"serverfarms/{farm.name}").lower()
    for one in found:
        target = text(one, "properties", "targetResourceUri").lower()
        if flag(one, "properties", "enabled") and target == own:
            return tame(text(one, "name"), 60) or "without a name"
    return ""


async def _planned(
    azure: Azure,
    name: AppName,
    farm: Farm,
    *,
    action: str,
    line: str,
    wanted: dict[str, Any],
    nothing: str,
    undo: Undo | None,
    ready: dict[str, Any],
) -> Plan:
    sharing = await if_allowed(partial(sites_of_farm, azure, farm))
    others = sharing.others(name.shown) if sharing is not None else []
    lines = [line, *_sharing(others, farm, known=sharing is not None)]
    return Plan(
        action=action,
        name=name.shown,
        lines=lines,
        state={"plan": farm.name, "size": farm.sku, "workers": farm.capacity, "shared_by": others},
        lock=_version(farm),
        values=planned(azure, farm=farm.name, wanted=wanted),
        evidence={"plan": farm.name, "size_before": farm.sku, "workers_before": farm.capacity}
        | {"before": ready},
        undo=undo,
        nothing=nothing,
        repeatable=True,
        reaches=sharing.reached(name.shown) if sharing is not None else None,
    )


def _sharing(others: list[str], farm: Farm, *, known: bool) -> list[str]:
    count = max(number(farm.raw, "properties", "numberOfSites") - 1, len(others))
    if not known:
        return [f"{count} other apps may run on the same workers; their names can't be read."]
    if not count:
        return ["No other app runs on this plan."]
    shown = ", ".join(others[:20])
    more = f" and {count - 20} more" if count > 20 else ""
    return [f"The same workers run {count} other apps or slots: {shown}{more}."]


def _version(farm: Farm) -> str:
    return f"{farm.sku} {farm.capacity}"


def _is_wanted(farm: Farm, plan: Plan) -> bool:
    wanted = mapping(plan.values, "wanted")
    size = text(wanted, "name") or farm.sku
    return (
        farm.sku.lower() == size.lower()
        and number(wanted, "capacity", absent=farm.capacity) == farm.capacity
    )


async def _farm(azure: Azure, plan: Plan) -> Farm:
    site = await get_site(azure, parse_name(plan.name))
    farm = await get_farm(azure, site)
    if farm.name != plan.values["farm"]:
        raise Conflict("The app runs on another plan than it was planned for.", hint=LOOK)
    return farm


async def _check(azure: Azure, plan: Plan) -> Farm:
    farm = await _farm(azure, plan)
    if not _is_wanted(farm, plan) and _version(farm) != plan.lock:
        raise Conflict("The plan was changed since it was looked at; nothing was done.", hint=LOOK)
    _ours_to_choose(farm)
    return farm


async def _send(azure: Azure, plan: Plan, farm: Any, call_id: str) -> Answer:
    path = azure.arm.web(f"serverfarms/{farm.name}")
    body = put_of(farm.raw, mapping(plan.values, "wanted"))
    return await azure.arm.write("PUT", path, _WRITE, call_id=call_id, body=body)


def put_of(raw: Obj, wanted: Obj) -> Obj:
    """The plan as it is put: as it was read, without what Azure only tells, with the change."""
    kept = {
        key: raw[key]
        for key in ("location", "kind", "tags", "identity", "extendedLocation")
        if raw.get(key) is not None
    }
    name = text(wanted, "name") or text(raw, "sku", "name")
    sku: Obj = {
        "name": name,
        "tier": tier_of(name) or text(raw, "sku", "tier"),
        "capacity": number(wanted, "capacity", absent=number(raw, "sku", "capacity", absent=1)),
    }
    if not text(wanted, "name"):
        sku = {**mapping(raw, "sku"), **sku, "tier": text(raw, "sku", "tier")}
    properties = {
        key: value
        for key, value in mapping(raw, "properties").items()
        if key in _WRITABLE and value is not None
    }
    return {**kept, "sku": sku, "properties": properties}


def tier_of(sku: str) -> str:
    """The tier that a size belongs to, or empty for one that is not known."""
    for pattern, tier in _TIERS:
        if found := pattern.fullmatch(sku.upper()):
            return tier + (found[1] if found.groups() else "")
    return ""


async def _shows(azure: Azure, plan: Plan) -> dict[str, Any] | None:
    farm = await _farm(azure, plan)
    return {"size": farm.sku, "workers": farm.capacity} if _is_wanted(farm, plan) else None


async def _follow(azure: Azure, plan: Plan, _begun: Begun) -> Progress:
    name = parse_name(plan.name)
    farm = await _farm(azure, plan)
    site = await get_site(azure, name)
    instances = await list_instances(azure, name)
    ready, wanted = ready_of(instances), farm.capacity if site.running else 0
    evidence = {"size": farm.sku, "workers": farm.capacity, "provisioning": farm.state}
    evidence |= seen(site, instances)
    if farm.state in ("Failed", "Canceled"):
        why = "Azure says that the change of the plan failed."
        return Progress(state="failed", why=why, done=ready, wanted=wanted, evidence=evidence)
    if not _is_wanted(farm, plan) and _version(farm) != plan.lock:
        why = "The plan was changed again after this change."
        return Progress(state="superseded", why=why, evidence=evidence)
    if not _is_wanted(farm, plan) or farm.state != "Succeeded":
        why = f"the plan is {farm.sku} with {farm.capacity} workers, {farm.state.lower()}"
        return Progress(state="pending", why=why, done=ready, wanted=wanted, evidence=evidence)
    # Fewer workers: those that go are not waited for, they get no requests any more.
    if ready >= wanted and (len(instances) <= wanted or plan.action == SIZE):
        return Progress(state="verified", done=ready, wanted=wanted, evidence=evidence)
    why = f"{ready} of {wanted} instances are ready"
    return Progress(state="pending", why=why, done=ready, wanted=wanted, evidence=evidence)


_ACTION: Final = Action(ask=_WRITE, check=_check, send=_send, follow=_follow, shows=_shows)
ACTIONS: Final[dict[str, Action]] = {SCALE: _ACTION, SIZE: _ACTION}
