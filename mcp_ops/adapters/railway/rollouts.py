"""Restart, stop and start of the running deployment, and the way back to an earlier one."""

from __future__ import annotations

from typing import Any, Final

from mcp_ops.adapters.railway.access import Scope
from mcp_ops.adapters.railway.changing import (
    Action,
    Driver,
    Made,
    confirmed,
    deployment_of,
    newer,
    plan_of,
    seen,
    settled,
)
from mcp_ops.adapters.railway.following import follow_new, progress, running, trace_new
from mcp_ops.adapters.railway.logs import last_start
from mcp_ops.adapters.railway.operations import Mutation
from mcp_ops.adapters.railway.state import (
    GONE,
    UNDER_WAY,
    Deployment,
    Service,
    id_of,
    mapping,
    wanted,
)
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.clock import rfc3339
from mcp_ops.errors import Conflict, NotFound

RESTART: Final = "restart"
STOP: Final = "stop"
START: Final = "start"
ROLLBACK: Final = "rollback"
REDEPLOY: Final = "redeploy"
_SLEEPS: Final = "it sleeps, and Railway refuses this of a sleeping deployment: a request wakes it"


async def plan_restart(driver: Driver, name: str, service: Service) -> Plan:
    """Restart the containers of the running deployment; nothing is built."""
    current = _current(service)
    if why := _not_restartable(current):
        raise Conflict(f"A restart would do nothing: {why}.", hint=_hint(name, current))
    started = await last_start(driver.api, current.id)
    what = f"the {len(current.instances)} instances of {name} (deployment {current.id})"
    lines = [
        f"Restart {what}: the same image ({current.shown}) and variables, nothing is built.",
        "Railway may restart all of them at the same moment.",
    ]
    if service.latest is not None and service.latest.status in UNDER_WAY:
        lines.append(f"Another deployment is under way: {service.latest.id}.")
    values = {
        "started": started,
        "status": current.status,
        "status_at": current.status_at or 0.0,
        "instances": [key for key, _ in current.instances],
        "restarting": any(at == "RESTARTING" for _, at in current.instances),
    }
    evidence = {"last_start_before": rfc3339(started)} if started else {}
    return plan_of(
        RESTART, name, service, acted=current, lines=lines, values=values, evidence=evidence
    )


def plan_stop(name: str, service: Service) -> Plan:
    """Stop the running deployment; its image and settings stay."""
    current = _current(service)
    if current.status == "SLEEPING":
        raise Conflict(f"It can't be stopped: {_SLEEPS}.", hint=_hint(name, current))
    settled(service, "it would serve although this one is stopped")
    lines = [
        f"Stop deployment {current.id} of {name}: it serves nobody until start_deployment.",
        "Whatever is deployed next (a push, a changed variable) runs again.",
    ]
    undo = Undo(tool="start_deployment", arguments={"name": name})
    nothing = "" if current.serves else "nothing of it runs"
    return plan_of(STOP, name, service, acted=current, lines=lines, undo=undo, nothing=nothing)


def plan_start(name: str, service: Service) -> Plan:
    """Start the stopped deployment again; one that was removed is deployed anew."""
    current = _current(service)
    undo = Undo(tool="stop_deployment", arguments={"name": name})
    if current.serves:
        why = "it sleeps; a request wakes it" if current.status == "SLEEPING" else "it runs"
        return plan_of(START, name, service, acted=current, lines=[], nothing=why)
    if current.status == "SUCCESS":
        line = f"Start the stopped deployment {current.id} ({current.shown}) of {name}."
        return plan_of(START, name, service, acted=current, lines=[line], undo=undo)
    if current.status in GONE and current.can_redeploy:
        line = f"Deploy {current.shown} of {name} again: its deployment was removed."
        return plan_of(REDEPLOY, name, service, acted=current, lines=[line], undo=undo)
    raise Conflict(
        f"It is not stopped: its deployment is {current.status}.", hint=_hint(name, current)
    )


async def plan_rollback(driver: Driver, name: str, service: Service, to_revision: str) -> Plan:
    """Run an earlier deployment again, or the current one anew."""
    current = _current(service)
    target = await _target(driver, service, current, to_revision)
    undo = Undo(tool="rollback_deployment", arguments={"name": name, "to_revision": current.id})
    more: dict[str, Any] = {
        "evidence": {
            **seen(current, "before"),
            "to_deployment": target.id,
            "to_version": target.shown,
        },
        "values": {"gone": target.status in GONE},
        "state": {"to": target.id},
        "undo": undo,
    }
    lines = _difference(name, current, target)
    if service.latest is not None and service.latest.id != current.id:
        lines.append(f"The newest deployment, {service.latest.id}, is {service.latest.status}.")
    if target.id == current.id or not target.can_rollback:
        if not target.can_redeploy:
            raise Conflict(
                "Railway does not keep that deployment any more: it can't be run again.",
                hint="list_revisions says which are restorable.",
            )
        lines.append("It is deployed anew from the same source, with the variables of now.")
        return plan_of(REDEPLOY, name, service, acted=target, lines=lines, **more)
    lines.append("Railway restores its image and its variables of then; nothing is built.")
    return plan_of(ROLLBACK, name, service, acted=target, lines=lines, **more)


def _current(service: Service) -> Deployment:
    if service.current is None:
        raise Conflict("It was never deployed.", hint="A person has to deploy it once.")
    return service.current


def _not_restartable(current: Deployment) -> str:
    if current.status == "SLEEPING":
        return _SLEEPS
    if current.status == "SUCCESS" and current.stopped:
        return "it is stopped"
    if current.status not in ("SUCCESS", "CRASHED"):
        return f"its deployment is {current.status}"
    return ""


def _hint(name: str, current: Deployment) -> str:
    if current.status == "SUCCESS":
        return "start_deployment starts it."
    if current.status == "CRASHED":
        return "restart_deployment restarts it, rollback_deployment runs an earlier one."
    if current.status in ("FAILED", *GONE):
        return "rollback_deployment runs a deployment of list_revisions again."
    return f"Look with get_deployment at {name}."


async def _target(
    driver: Driver, service: Service, current: Deployment, to_revision: str
) -> Deployment:
    if to_revision:
        found = await driver.deployment(service, to_revision)
        if found is None:
            raise NotFound(
                "The service has no such deployment in this environment.",
                hint="list_revisions shows the ids.",
            )
        return found
    before = [one for one in service.history if one.created < current.created and one.can_rollback]
    if not before:
        raise NotFound(
            "Railway keeps no earlier deployment that it could roll back to.",
            hint="list_revisions says which are restorable.",
        )
    return before[0]


def _difference(name: str, current: Deployment, target: Deployment) -> list[str]:
    lines = [f"Run deployment {target.id} of {name} again ({target.shown})."]
    if target.id == current.id:
        return [*lines, "That is the current one."]
    if target.version and target.version == current.version:
        return [*lines, "It has the same version as the current one: only variables may differ."]
    return [*lines, f"Instead of {current.shown} (deployment {current.id})."]


# Sending, finding and following


async def _send_restart(driver: Driver, _scope: Scope, plan: Plan, _service: Service) -> Made:
    data = await driver.api.change(Mutation.RESTART, {"deployment": plan.values["deployment"]})
    confirmed(data, "deploymentRestart")
    return Made(id=plan.values["deployment"])


async def _send_stop(driver: Driver, _scope: Scope, plan: Plan, _service: Service) -> Made:
    data = await driver.api.change(Mutation.STOP, {"deployment": plan.values["deployment"]})
    confirmed(data, "deploymentStop")
    return Made(id=plan.values["deployment"])


async def _send_rollback(driver: Driver, _scope: Scope, plan: Plan, _service: Service) -> Made:
    data = await driver.api.change(Mutation.ROLLBACK, {"deployment": plan.values["deployment"]})
    confirmed(data, "deploymentRollback")
    return Made()


async def _send_redeploy(driver: Driver, _scope: Scope, plan: Plan, _service: Service) -> Made:
    data = await driver.api.change(Mutation.REDEPLOY, {"deployment": plan.values["deployment"]})
    return Made(id=id_of(mapping(data, "deploymentRedeploy")))


async def _restarted_meanwhile(driver: Driver, plan: Plan, _scope: Scope, service: Service) -> str:
    if gone := _acts_on_another(plan, service):
        return gone
    if await last_start(driver.api, plan.values["deployment"]) > plan.values["started"]:
        return "It was started again since it was looked at"
    return ""


async def _moved_meanwhile(_driver: Driver, plan: Plan, _scope: Scope, service: Service) -> str:
    return _acts_on_another(plan, service)


def _acts_on_another(plan: Plan, service: Service) -> str:
    current = service.current
    if current is None or current.id != plan.values["deployment"]:
        return "Another deployment runs now than when it was looked at"
    stopped = current.status == "SUCCESS" and current.stopped
    if (plan.action == START) != stopped and plan.action in (START, STOP):
        return "It was started or stopped since it was looked at"
    return ""


async def _is_there(driver: Driver, plan: Plan, _scope: Scope, service: Service) -> str:
    target = await driver.deployment(service, plan.values["deployment"])
    if target is None:
        return "The deployment is gone"
    if not (target.can_rollback if plan.action == ROLLBACK else target.can_redeploy):
        return "Railway does not keep the deployment any more"
    return ""


async def _trace_restart(
    driver: Driver, plan: Plan, _scope: Scope, service: Service
) -> Made | None:
    one = deployment_of(service, plan.values["deployment"])
    # One that is restarted by itself shows new starts that are nobody's.
    if one is None or plan.values["restarting"]:
        return None
    started, _ = await _start_seen(driver, plan, one)
    if not started:
        return None
    return Made(id=one.id, evidence=seen(one))


async def _trace_stop(_driver: Driver, plan: Plan, _scope: Scope, service: Service) -> Made | None:
    one = deployment_of(service, plan.values["deployment"])
    return Made(id=one.id, evidence=seen(one)) if one is not None and _ended(one) else None


async def _trace_start(_driver: Driver, plan: Plan, _scope: Scope, service: Service) -> Made | None:
    one = deployment_of(service, plan.values["deployment"])
    return Made(id=one.id, evidence=seen(one)) if one is not None and one.serves else None


async def _trace_new(_driver: Driver, plan: Plan, _scope: Scope, service: Service) -> Made | None:
    made = trace_new(plan, service, _same_version)
    if made is None and (one := _revived(plan, service)) is not None:
        return Made(id=one.id, evidence=seen(one))
    return made


def _same_version(plan: Plan, one: Deployment) -> bool:
    return bool(one.version) and one.version == plan.values["version"]


async def _start_seen(driver: Driver, plan: Plan, one: Deployment) -> tuple[bool, float]:
    """Whether its containers were started since the look, and when Railway's log says so last."""
    before = plan.values
    at = await last_start(driver.api, one.id)
    fresh = {key for key, _ in one.instances}.isdisjoint(before["instances"])
    moved = (one.status_at or 0.0) > float(before["status_at"])
    return at > float(before["started"]) or moved or (fresh and bool(one.instances)), at


def _ended(one: Deployment) -> bool:
    return (one.status == "SUCCESS" and one.stopped) or one.status in GONE


async def _follow_restart(
    driver: Driver, plan: Plan, _begun: Begun, _scope: Scope, service: Service
) -> Progress:
    one = deployment_of(service, plan.values["deployment"])
    if one is None or one.status in GONE:
        why = "The service was deployed again after this change."
        return Progress(state="superseded", why=why)
    of = plan.values["wanted"]
    started, at = await _start_seen(driver, plan, one)
    if not started:
        return progress("pending", "Railway does not show the start yet", one, of=of)
    if one.status == "CRASHED" and (one.status_at or 0.0) == float(plan.values["status_at"]):
        return progress("pending", "Railway still shows the crash of before", one, of=of)
    state, why = running(driver, one, of=of, mark=f"@{plan.values['started']}")
    found = progress(state, why, one, of=of)
    logged = {"last_start": rfc3339(at)} if at else {}
    return found.model_copy(update={"evidence": {**found.evidence, **logged}})


async def _follow_stop(
    _driver: Driver, plan: Plan, _begun: Begun, _scope: Scope, service: Service
) -> Progress:
    one = deployment_of(service, plan.values["deployment"])
    if newer(plan, service):
        why = "The service was deployed again after this change: that one runs."
        return Progress(state="superseded", why=why)
    if one is None or _ended(one):
        found = seen(one) if one is not None else {}
        return Progress(state="verified", evidence=found)
    why = "Railway does not show it as stopped (of some images it never does)"
    return Progress(state="pending", why=why, evidence=seen(one))


async def _follow_start(
    driver: Driver, plan: Plan, begun: Begun, _scope: Scope, service: Service
) -> Progress:
    one = deployment_of(service, plan.values["deployment"])
    if one is None or one.status in GONE:
        why = "The service was deployed again after this change."
        return Progress(state="superseded", why=why)
    of = plan.values["wanted"]
    state, why = running(driver, one, of=of, mark=f"@{begun.at}")
    return progress(state, why, one, of=of)


async def _follow_new(
    driver: Driver, plan: Plan, begun: Begun, _scope: Scope, service: Service
) -> Progress:
    if not newer(plan, service) and (one := _revived(plan, service)) is not None:
        of = wanted(one) or plan.values["wanted"]
        state, why = running(driver, one, of=of, mark="@revived")
        return progress(state, why, one, of=of)
    return follow_new(driver, plan, begun, service, _same_version)


def _revived(plan: Plan, service: Service) -> Deployment | None:
    """The earlier deployment itself, should Railway have taken that into service again."""
    one = deployment_of(service, plan.values["deployment"])
    was_gone = plan.action == ROLLBACK and plan.values["gone"]
    return one if was_gone and one is not None and one.status not in GONE else None


ACTIONS: Final = {
    RESTART: Action(
        send=_send_restart,
        trace=_trace_restart,
        judge=_follow_restart,
        changed=_restarted_meanwhile,
    ),
    STOP: Action(send=_send_stop, trace=_trace_stop, judge=_follow_stop, changed=_moved_meanwhile),
    START: Action(
        send=_send_restart, trace=_trace_start, judge=_follow_start, changed=_moved_meanwhile
    ),
    ROLLBACK: Action(send=_send_rollback, trace=_trace_new, judge=_follow_new, changed=_is_there),
    REDEPLOY: Action(send=_send_redeploy, trace=_trace_new, judge=_follow_new, changed=_is_there),
}
