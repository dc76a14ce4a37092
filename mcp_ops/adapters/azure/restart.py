"""Restart, stop and start of an app."""

from __future__ import annotations

from typing import Any, Final

from mcp_ops.adapters.azure.acting import (
    Action,
    not_busy,
    planned,
    same_version,
    version_of,
)
from mcp_ops.adapters.azure.arm import Ask
from mcp_ops.adapters.azure.fields import mapping, seconds
from mcp_ops.adapters.azure.look import Azure, Instance, Site, get_site, list_instances
from mcp_ops.adapters.azure.names import AppName, parse_name
from mcp_ops.adapters.azure.starts import Starts, starts_since
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.errors import Conflict
from mcp_ops.wire.http import Answer

RESTART: Final = "restart"
STOP: Final = "stop"
START: Final = "start"
_NAMES: Final = 10


async def looked(azure: Azure, name: AppName) -> tuple[Site, list[Instance]]:
    """An app that is not busy, and its instances."""
    site = await get_site(azure, name)
    not_busy(site)
    return site, await list_instances(azure, name)


def seen(site: Site, instances: list[Instance]) -> dict[str, Any]:
    """What a look tells people of an app's instances."""
    return {
        "state": site.said("state")[:40],
        "instances": {each.name[:12]: each.state for each in instances[:_NAMES]},
    }


def ready_of(instances: list[Instance]) -> int:
    """How many instances get requests."""
    return sum(each.ready for each in instances)


async def plan_restart(azure: Azure, name: AppName) -> Plan:
    """Restart what runs; raises `Conflict` for an app that is stopped."""
    site, instances = await looked(azure, name)
    if not site.running:
        raise Conflict(
            f"A restart would do nothing: the app is {site.said('state')[:20]}.",
            hint="start_deployment starts it.",
        )
    soft = azure.settings.soft_restart
    before = await starts_since(azure, site, instances, 0.0)
    how = (
        "Azure applies the settings and restarts only what has to be (a soft restart)."
        if soft
        else "All at the same time: requests fail until the first is ready again."
    )
    return Plan(
        action=RESTART,
        name=name.shown,
        lines=[
            f"Restart {name.shown} on {len(instances)} instances.",
            how,
            f"Now: {ready_of(instances)} of {len(instances)} ready.",
        ],
        state={"state": site.said("state"), "version": version_of(site)},
        lock=version_of(site),
        values=planned(azure, soft=soft, started=before.at),
        evidence={"before": {**seen(site, instances), "started_at": first(before.at)}},
    )


async def _check(azure: Azure, plan: Plan) -> Site:
    site = await get_site(azure, parse_name(plan.name))
    same_version(site, plan)
    return site


async def _restart(azure: Azure, plan: Plan, _site: Any, call_id: str) -> Answer:
    path = azure.arm.web(f"{parse_name(plan.name).path}/restart")
    soft = "true" if plan.values.get("soft") else "false"
    return await azure.arm.write(
        "POST", path, ACTIONS[RESTART].ask, call_id=call_id, softRestart=soft
    )


async def _follow_restart(azure: Azure, plan: Plan, begun: Begun) -> Progress:
    name = parse_name(plan.name)
    site = await get_site(azure, name)
    instances = await list_instances(azure, name)
    if not site.running:
        return Progress(state="superseded", why="The app was stopped after this restart.")
    starts = await starts_since(azure, site, instances, seconds(begun.at) or 0.0)
    # Azure's clock in an answer has whole seconds: what was seen before is no new start.
    before = mapping(plan.values, "started")
    starts.at = {key: at for key, at in starts.at.items() if before.get(key) != at}
    return judged(starts, site, instances, soft=bool(plan.values.get("soft")))


def first(items: dict[str, str]) -> dict[str, str]:
    """The first ten by name."""
    return dict(sorted(items.items())[:_NAMES])


def judged(starts: Starts, site: Site, instances: list[Instance], *, soft: bool) -> Progress:
    """Verified when every instance is ready and was seen to start."""
    ready, wanted = ready_of(instances), len(instances)
    done = min(len(starts.at), ready, wanted)
    evidence = {**seen(site, instances), "started_at": first(starts.at)}
    if starts.failed and not starts.at:
        why = f"The app did not start: {starts.failed}"
        return Progress(state="failed", why=why, done=0, wanted=wanted, evidence=evidence)
    if wanted and done >= wanted:
        return Progress(state="verified", done=done, wanted=wanted, evidence=evidence)
    return Progress(
        state="pending",
        why=_missing(starts, ready, wanted, soft=soft),
        done=done,
        wanted=wanted,
        evidence=evidence,
    )


def _missing(starts: Starts, ready: int, wanted: int, *, soft: bool) -> str:
    if ready < wanted or not wanted:
        return f"{ready} of {wanted} instances are ready"
    if starts.unseen:
        return f"all instances are ready, but {starts.unseen}"
    if soft and not starts.at:
        return "no instance was seen to start: a soft restart may have had nothing to do"
    return f"{len(starts.at)} of {wanted} instances were seen to start"


async def plan_stop(azure: Azure, name: AppName) -> Plan:
    """Stop an app: it serves nobody."""
    return await _power(azure, name, STOP)


async def plan_start(azure: Azure, name: AppName) -> Plan:
    """Start an app that is stopped."""
    return await _power(azure, name, START)


async def _power(azure: Azure, name: AppName, action: str) -> Plan:
    site, instances = await looked(azure, name)
    there = site.running == (action == START)
    if site.exceeded:
        raise Conflict(
            "A quota of the app is used up; that decides whether it runs.",
            hint="Wait until the quota is renewed, or make the plan larger: set_resources.",
        )
    undo = "start_deployment" if action == STOP else "stop_deployment"
    lines = {
        STOP: [
            f"Stop {name.shown}: it serves nobody until it is started.",
            f"Now: {ready_of(instances)} of {len(instances)} instances ready.",
        ],
        START: [f"Start {name.shown}, which is {site.said('state')[:20]}."],
    }
    return Plan(
        action=action,
        name=name.shown,
        lines=lines[action],
        state={"state": site.said("state"), "version": version_of(site)},
        lock=version_of(site),
        values=planned(azure),
        evidence={"before": seen(site, instances)},
        undo=Undo(tool=undo, arguments={"name": name.shown}),
        nothing=f"it is {site.said('state')[:20].lower()} already" if there else "",
        repeatable=True,
    )


async def _power_check(azure: Azure, plan: Plan) -> Site:
    site = await get_site(azure, parse_name(plan.name))
    if site.running == (plan.action == START):
        return site  # somebody was faster: asking again changes nothing
    same_version(site, plan)
    return site


async def _send_power(azure: Azure, plan: Plan, _site: Any, call_id: str) -> Answer:
    path = azure.arm.web(f"{parse_name(plan.name).path}/{plan.action}")
    return await azure.arm.write("POST", path, ACTIONS[plan.action].ask, call_id=call_id)


async def _power_shows(azure: Azure, plan: Plan) -> dict[str, Any] | None:
    site = await get_site(azure, parse_name(plan.name))
    shows = site.running == (plan.action == START)
    return {"state": site.said("state")[:40]} if shows else None


async def _follow_power(azure: Azure, plan: Plan, _begun: Begun) -> Progress:
    name = parse_name(plan.name)
    site = await get_site(azure, name)
    if site.running != (plan.action == START):
        why = f"the app is still {site.said('state')[:20]}"
        return Progress(state="pending", why=why, evidence={"state": site.said("state")[:40]})
    instances = await list_instances(azure, name)
    evidence = seen(site, instances)
    if plan.action == STOP:
        return Progress(state="verified", evidence=evidence)
    ready, wanted = ready_of(instances), len(instances)
    if wanted and ready >= wanted:
        return Progress(state="verified", done=ready, wanted=wanted, evidence=evidence)
    why = f"{ready} of {wanted} instances are ready"
    return Progress(state="pending", why=why, done=ready, wanted=wanted, evidence=evidence)


async def serving(azure: Azure, name: AppName, site: Site, evidence: dict[str, Any]) -> Progress:
    """Verified when all instances of an app get requests, after a change that restarts them."""
    instances = await list_instances(azure, name)
    ready, wanted = ready_of(instances), len(instances)
    evidence = {**evidence, **seen(site, instances)}
    if not site.running:  # a change of a stopped app shows when it is started
        return Progress(state="verified", evidence=evidence)
    if wanted and ready >= wanted:
        return Progress(state="verified", done=ready, wanted=wanted, evidence=evidence)
    why = f"it is done, but {ready} of {wanted} instances are ready"
    return Progress(state="pending", why=why, done=ready, wanted=wanted, evidence=evidence)


def _action(action: str) -> Action:
    return Action(
        ask=Ask(action=f"Microsoft.Web/sites/{action}/Action", writes=True),
        check=_power_check,
        send=_send_power,
        follow=_follow_power,
        shows=_power_shows,
    )


ACTIONS: Final[dict[str, Action]] = {
    RESTART: Action(
        ask=Ask(action="Microsoft.Web/sites/restart/Action", writes=True),
        check=_check,
        send=_restart,
        follow=_follow_restart,
    ),
    STOP: _action(STOP),
    START: _action(START),
}
