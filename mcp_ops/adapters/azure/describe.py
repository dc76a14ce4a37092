"""Apps and slots as the tools show them: a page of them, and one in full with its findings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from mcp_ops.adapters.azure.arm import Ask
from mcp_ops.adapters.azure.fields import Obj, dig, flag, mapping, moment, objects, text
from mcp_ops.adapters.azure.look import (
    READ_CONFIG,
    Azure,
    Farm,
    Instance,
    Site,
    get_farm,
    get_site,
    if_allowed,
    list_farms,
    list_instances,
    list_sites,
    plan_id,
)
from mcp_ops.adapters.azure.names import AppName
from mcp_ops.adapters.azure.revisions import deployments_of, event_of
from mcp_ops.capabilities import deployments as shown
from mcp_ops.capabilities.deployments import Condition, Deployment, DeploymentDetail, DeploymentPage
from mcp_ops.clock import rfc3339
from mcp_ops.errors import BadAnswer, Conflict, InvalidInput, NotFound
from mcp_ops.wire.together import together

_PAGE: Final = 50
_EVENTS: Final = 10
_AFTER: Final = "after:"
_METRICS: Final = Ask(action="Microsoft.Insights/metrics/read")
_METRICS_VERSION: Final = "2018-01-01"
_HEALTH: Final = "HealthCheckStatus"
_WINDOW_S: Final = 600.0
# Tiers that know no Always On.
_ALWAYS_IDLE: Final = frozenset({"free", "shared", "dynamic", "flexconsumption"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One app with what belongs to it. `plan`, `config` and `health` are None where the role does
    not show them."""

    site: Site
    instances: list[Instance]
    plan: Farm | None
    config: Obj | None
    deployments: list[Obj]
    health: float | None

    @property
    def ready(self) -> int:
        """Instances that get requests."""
        return sum(each.ready for each in self.instances)

    @property
    def desired(self) -> int:
        """Instances wanted."""
        return wanted(self.site, self.plan, self.instances)


def wanted(site: Site, plan: Farm | None, instances: list[Instance]) -> int:
    """How many instances an app should have: those of its plan, none when it is stopped. Where
    the workers are not the plan's, what there is is what is wanted."""
    if not site.running:
        return 0
    if plan is not None and plan.elastic:
        return len(instances)
    return plan.capacity if plan is not None else max(len(instances), 1)


async def list_workloads(azure: Azure, *, limit: int, cursor: str) -> DeploymentPage:
    """One page of apps and slots by name, at most fifty."""
    after = ""
    if cursor:
        if not cursor.startswith(_AFTER):
            raise InvalidInput("cursor must be the next_cursor of an earlier page.")
        after = cursor.removeprefix(_AFTER)
    sites, more = await list_sites(azure)
    rest = [site for site in sites if site.name.shown > after]
    page = rest[: min(limit, _PAGE)]
    plans = (await if_allowed(partial(list_farms, azure)) or {}) if page else {}
    instances = await together([partial(_instances, azure, one) for one in page])
    left = len(rest) > len(page)
    group = azure.settings.resource_group
    cut = f", of which the first {len(sites)} were read" if more else ""
    return DeploymentPage(
        items=[_row(site, plans, each) for site, each in zip(page, instances, strict=True)],
        next_cursor=f"{_AFTER}{page[-1].name.shown}" if left else "",
        truncated=left or more,
        searched=f"apps and slots of resource group {group}{cut}",
    )


async def _instances(azure: Azure, site: Site) -> list[Instance]:
    try:
        return await list_instances(azure, site.name)
    except NotFound:  # deleted since it was listed
        return []


def _row(site: Site, plans: dict[str, Farm], instances: list[Instance]) -> Deployment:
    try:
        plan = plans.get(plan_id(site)[2].lower())
    except BadAnswer:
        plan = None
    ready = sum(each.ready for each in instances)
    desired = wanted(site, plan, instances)
    return Deployment(
        name=site.name.shown,
        image=site.image,
        desired=desired,
        ready=ready,
        updated=len(instances),
        problem=problem_of(site, plan, ready, desired),
    )


def problem_of(site: Site, plan: Farm | None, ready: int, desired: int) -> shown.Problem:
    """What is wrong with an app, the worst first."""
    if site.exceeded:
        return "quota_exceeded"
    if not site.running:
        return "stopped"
    if site.busy or (plan is not None and plan.state == "InProgress"):
        return "rolling_out"
    if ready < desired or site.said("availabilityState") not in ("", "Normal"):
        return "not_ready"
    return "none"


async def see(azure: Azure, name: AppName) -> Seen:
    """One app in full; at most seven requests."""
    site = await get_site(azure, name)
    path = azure.arm.web(f"{name.path}/config/web")
    config, instances, plan, deployments = await together(
        [
            partial(if_allowed, partial(azure.arm.get, path, READ_CONFIG)),
            partial(list_instances, azure, name),
            partial(if_allowed, partial(_plan, azure, site)),
            partial(if_allowed, partial(deployments_of, azure, name)),
        ]
    )
    health = None
    if text(config, "properties", "healthCheckPath"):
        health = await if_allowed(partial(_health, azure, name))
    return Seen(
        site=site,
        instances=instances,
        plan=plan,
        config=mapping(config, "properties") if config is not None else None,
        deployments=deployments or [],
        health=health,
    )


async def _plan(azure: Azure, site: Site) -> Farm | None:
    try:
        return await get_farm(azure, site)
    except Conflict:  # in another resource group
        return None


async def _health(azure: Azure, name: AppName) -> float | None:
    """The share of health checks that passed in the last minutes, per cent, as Azure measures."""
    now = azure.clock.now()
    path = azure.arm.web(f"{name.path}/providers/microsoft.insights/metrics")
    found = await azure.arm.get(
        path,
        _METRICS,
        api_version=_METRICS_VERSION,
        metricnames=_HEALTH,
        aggregation="Average",
        timespan=f"{rfc3339(now - _WINDOW_S)}/{rfc3339(now)}",
        interval="PT5M",
    )
    latest: float | None = None
    for metric in objects(found, "value"):
        for series in objects(metric, "timeseries"):
            for point in objects(series, "data"):
                value: Any = dig(point, "average")
                if isinstance(value, int | float) and not isinstance(value, bool):
                    latest = float(value)
    return latest


def detail(seen: Seen) -> DeploymentDetail:
    """What get_deployment answers."""
    site, plan = seen.site, seen.plan
    problem = problem_of(site, plan, seen.ready, seen.desired)
    active = next((one for one in seen.deployments if flag(one, "properties", "active")), {})
    return DeploymentDetail(
        name=site.name.shown,
        image=text(seen.config, "linuxFxVersion") or site.image,
        revision=text(active, "properties", "id")[:100] or text(active, "name")[:100] or None,
        desired=seen.desired,
        ready=seen.ready,
        updated=len(seen.instances),
        available=seen.ready,
        last_deploy=moment(text(active, "properties", "end_time")),
        conditions=[*_facts(seen), *findings(seen)],
        events=[event_of(one) for one in seen.deployments[:_EVENTS]],
        instances=[
            shown.Instance(name=each.name, ready=each.ready, phase=each.state)
            for each in seen.instances
        ],
        problem=problem,
        explanation=_explained(seen, problem),
    )


def _facts(seen: Seen) -> list[Condition]:
    site = seen.site
    swap = mapping(site.raw, "properties", "slotSwapStatus")
    facts = [
        _condition("State", site.running, site.said("state"), "Whether it is meant to serve."),
        _condition(
            "Available", site.said("availabilityState") in ("", "Normal"), "", "As Azure sees it."
        ),
    ]
    if seen.plan is not None:
        facts.append(
            Condition(
                type="Plan",
                status="True",
                reason=seen.plan.tier,
                message=f"Runs on {seen.plan.shown}, provisioning: {seen.plan.state}.",
            )
        )
    if text(swap, "timestampUtc"):
        facts.append(
            Condition(
                type="LastSwap",
                status="True",
                reason="Swapped",
                message=f"{text(swap, 'sourceSlotName')} into {text(swap, 'destinationSlotName')}",
                since=moment(text(swap, "timestampUtc")),
            )
        )
    return facts


def findings(seen: Seen) -> list[Condition]:
    """What the runbooks look at: settings that make an app fail, or hide that it does."""
    site, config = seen.site, seen.config
    found = [
        _condition(
            "WithinQuota", not site.exceeded, site.said("usageState"), "A used-up quota stops it."
        ),
        _condition(
            "HttpsOnly",
            flag(site.raw, "properties", "httpsOnly"),
            "",
            "Without it the app also answers over plain HTTP.",
        ),
        _condition(
            "NoClientAffinity",
            not flag(site.raw, "properties", "clientAffinityEnabled"),
            "",
            "With client affinity, clients stay on an instance, also on a bad one.",
        ),
    ]
    if config is None:
        return found
    tier = seen.plan.tier.lower() if seen.plan is not None else ""
    if tier not in _ALWAYS_IDLE:
        found.append(
            _condition(
                "AlwaysOn",
                flag(config, "alwaysOn"),
                "",
                "Without Always On an idle app is unloaded; the next request meets a cold start.",
            )
        )
    found.append(
        _condition(
            "Http20", flag(config, "http20Enabled"), "", "Without HTTP/2, many requests cost more."
        )
    )
    return [*found, _health_check(seen, config)]


def _health_check(seen: Seen, config: Obj) -> Condition:
    path = text(config, "healthCheckPath")
    if not path:
        message = "There is no health check path: a broken instance goes on getting requests."
        return Condition(type="HealthCheck", status="False", reason="NoPath", message=message)
    if seen.health is None:
        message = f"Path {path}; Azure shows no result for the last ten minutes."
        return Condition(type="HealthCheck", status="Unknown", reason="NoResult", message=message)
    passed = seen.health >= 99.5
    return Condition(
        type="HealthCheck",
        status="True" if passed else "False",
        reason="Passing" if passed else "Failing",
        message=f"Path {path}: {seen.health:.0f} % of the checks passed lately.",
    )


def _condition(kind: str, good: bool, reason: str, message: str) -> Condition:
    return Condition(
        type=kind,
        status="True" if good else "False",
        reason=reason or ("Fine" if good else "Finding"),
        message=message,
    )


def _explained(seen: Seen, problem: shown.Problem) -> str:
    site = seen.site
    states: dict[str, str] = {
        "quota_exceeded": "A quota is used up: Azure serves nobody until it is renewed or the plan "
        "is made larger.",
        "stopped": f"It is stopped (state {site.said('state')[:20]}): it serves nobody until "
        "start_deployment.",
        "rolling_out": "An operation is under way at it or at its plan.",
        "not_ready": f"{seen.ready} of {seen.desired} instances are ready.",
        "none": f"All {seen.desired} instances are ready.",
    }
    wrong = [each.type for each in findings(seen) if each.status == "False"]
    more = f" Findings: {', '.join(wrong)}." if wrong else ""
    return states[problem] + more
