"""Restart of one instance: its process is ended, or its worker rebooted.

Ending the process (Windows) touches this app alone: App Service starts it again. Where there is no
process to end, the worker can be rebooted, with all apps on it, if the operator allows that.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Final

from mcp_ops.adapters.azure.acting import LOOK, Action, planned, same_version, version_of
from mcp_ops.adapters.azure.arm import Ask
from mcp_ops.adapters.azure.fields import seconds
from mcp_ops.adapters.azure.look import (
    Azure,
    Instance,
    get_farm,
    get_site,
    if_allowed,
    list_instances,
    sites_of_farm,
)
from mcp_ops.adapters.azure.names import AppName, parse_name
from mcp_ops.adapters.azure.restart import looked, seen
from mcp_ops.adapters.azure.starts import process_of, starts_since
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.errors import Conflict, InvalidInput, NotFound
from mcp_ops.wire.http import Answer

PROCESS: Final = "end_process"
WORKER: Final = "reboot_worker"
_INSTANCE: Final = re.compile(r"[A-Za-z0-9]{1,128}")
_MACHINE: Final = re.compile(r"[A-Za-z0-9]{2,60}")


async def plan_instance_restart(azure: Azure, name: AppName, instance: str) -> Plan:
    """Restart one instance; raises `Conflict` where App Service offers no way to."""
    if not _INSTANCE.fullmatch(instance):
        raise InvalidInput("instance must be the name of one.", hint="get_deployment shows them.")
    site, instances = await looked(azure, name)
    chosen = _chosen(instances, instance)
    others = sum(each.ready for each in instances if each is not chosen)
    serving = f"{others} other instances are ready meanwhile."
    where = f"instance {chosen.name[:12]}"
    process = None if site.linux else await process_of(azure, site, chosen.name)
    common: dict[str, Any] = {
        "name": name.shown,
        "state": {"version": version_of(site), "instance": chosen.name},
        "lock": version_of(site),
        "evidence": {"before": seen(site, instances)},
    }
    if process is not None:
        return Plan(
            action=PROCESS,
            lines=[f"End the process of {name.shown} on {where}; Azure starts it again.", serving],
            values=planned(azure, instance=chosen.name, pid=process.pid, started=process.started),
            **common,
        )
    if not azure.settings.restart_workers or not _MACHINE.fullmatch(chosen.machine):
        raise Conflict(
            "App Service shows no process of this instance that could be ended, and workers may "
            "not be rebooted here.",
            hint="restart_deployment restarts all; an operator can allow restart_workers.",
        )
    farm = await get_farm(azure, site)
    sharing = await if_allowed(partial(sites_of_farm, azure, farm))
    apps = ", ".join(sharing.names[:20]) if sharing is not None else "names can't be read"
    return Plan(
        action=WORKER,
        lines=[
            f"Reboot worker {chosen.machine} of plan {farm.shown}, which takes minutes.",
            f"All that runs on it goes down: {apps}.",
            serving,
        ],
        values=planned(azure, instance=chosen.name, machine=chosen.machine, farm=farm.name),
        reaches=sharing.reached(name.shown) if sharing is not None else None,
        **common,
    )


def _chosen(instances: list[Instance], instance: str) -> Instance:
    found = next((each for each in instances if each.name.lower() == instance.lower()), None)
    if found is None:
        raise NotFound("The app has no such instance.", hint="get_deployment shows them.")
    return found


async def _check(azure: Azure, plan: Plan) -> None:
    name = parse_name(plan.name)
    site = await get_site(azure, name)
    same_version(site, plan)
    chosen = _chosen(await list_instances(azure, name), str(plan.values["instance"]))
    if plan.action == PROCESS:
        process = await process_of(azure, site, chosen.name)
        if process is None or process.started != plan.values["started"]:
            raise Conflict("That process has ended since it was looked at.", hint=LOOK)


async def _end(azure: Azure, plan: Plan, _seen: Any, call_id: str) -> Answer:
    where = f"{parse_name(plan.name).path}/instances/{plan.values['instance']}"
    path = azure.arm.web(f"{where}/processes/{plan.values['pid']}")
    return await azure.arm.write("DELETE", path, ACTIONS[PROCESS].ask, call_id=call_id)


async def _reboot(azure: Azure, plan: Plan, _seen: Any, call_id: str) -> Answer:
    path = azure.arm.web(
        f"serverfarms/{plan.values['farm']}/workers/{plan.values['machine']}/reboot"
    )
    return await azure.arm.write("POST", path, ACTIONS[WORKER].ask, call_id=call_id)


async def _process_shows(azure: Azure, plan: Plan) -> dict[str, Any] | None:
    site = await get_site(azure, parse_name(plan.name))
    process = await process_of(azure, site, str(plan.values["instance"]))
    if process is not None and process.started == plan.values["started"]:
        return None
    return {"process_after": process.started if process is not None else "ended"}


async def _follow(azure: Azure, plan: Plan, begun: Begun) -> Progress:
    name = parse_name(plan.name)
    site = await get_site(azure, name)
    instances = await list_instances(azure, name)
    wanted = str(plan.values["instance"])
    now = next((each for each in instances if each.name == wanted), None)
    evidence = seen(site, instances)
    if now is None:
        # Its place may be taken by another worker.
        why = "the instance is not listed"
        return Progress(state="pending", why=why, wanted=1, evidence=evidence)
    starts = await starts_since(azure, site, [now], seconds(begun.at) or 0.0)
    machine = str(plan.values.get("machine", ""))
    at = starts.at.get(wanted[:12]) or starts.at.get(machine)
    if now.ready and at:
        evidence |= {"started_at": at}
        return Progress(state="verified", done=1, wanted=1, evidence=evidence)
    why = (
        "it is ready, but was not seen to start"
        if now.ready
        else f"the instance is {now.state.lower()}"
    )
    return Progress(state="pending", why=why, wanted=1, evidence=evidence)


ACTIONS: Final[dict[str, Action]] = {
    PROCESS: Action(
        ask=Ask(action="Microsoft.Web/sites/instances/processes/delete", writes=True),
        check=_check,
        send=_end,
        follow=_follow,
        shows=_process_shows,
    ),
    WORKER: Action(
        ask=Ask(action="Microsoft.Web/serverfarms/workers/reboot/Action", writes=True),
        check=_check,
        send=_reboot,
        follow=_follow,
    ),
}
