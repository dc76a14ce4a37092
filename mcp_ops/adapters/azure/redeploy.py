"""Deploying an earlier deployment again, over Kudu."""

from __future__ import annotations

from typing import Any, Final

from mcp_ops.adapters.azure.acting import Action, not_busy, planned
from mcp_ops.adapters.azure.arm import Ask
from mcp_ops.adapters.azure.fields import Obj, moment, text
from mcp_ops.adapters.azure.look import Azure, get_site
from mcp_ops.adapters.azure.names import AppName, parse_name
from mcp_ops.adapters.azure.restart import serving
from mcp_ops.adapters.azure.revisions import (
    FAILED,
    PENDING,
    SUCCESS,
    active,
    check_id,
    deployments_of,
    event_of,
    id_of,
    started,
    status_of,
    word_of,
)
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.errors import Conflict, NotFound
from mcp_ops.redact import tame
from mcp_ops.wire.http import Answer

ROLLBACK: Final = "redeploy"
_HINT: Final = "list_revisions shows them."


async def plan_rollback(azure: Azure, name: AppName, to_revision: str) -> Plan:
    """Deploy an earlier deployment again, by default the successful one before the current."""
    site = await get_site(azure, name)
    not_busy(site)
    known = await deployments_of(azure, name)
    current = next((one for one in known if active(one)), None)
    wanted = _wanted(known, current, to_revision)
    idle(known)
    if status_of(wanted) != SUCCESS:
        raise Conflict(
            "That deployment did not succeed then; it is not deployed again.", hint=_HINT
        )
    old, new = id_of(current) if current else "", id_of(wanted)
    lines = [f"Deploy {new} again at {name.shown}: {_said(wanted)}"]
    if current is not None:
        lines.append(f"It replaces {old}: {_said(current)}")
    lines.append("Settings stay as they are; the instances restart with the files.")
    undo = Undo(tool="rollback_deployment", arguments={"name": name.shown, "to_revision": old})
    return Plan(
        action=ROLLBACK,
        name=name.shown,
        lines=lines,
        state={"current": old, "wanted": new},
        lock=old,
        values=planned(azure, id=new, started=started(wanted)),
        evidence={"revision_before": old or "none"},
        undo=undo if old and current is not None and status_of(current) == SUCCESS else None,
        nothing="this deployment is the active one" if new == old else "",
    )


def _wanted(known: list[Obj], current: Obj | None, to_revision: str) -> Obj:
    if to_revision:
        revision = check_id(to_revision)
        found = next((one for one in known if id_of(one) == revision), None)
    else:
        begun = started(current) if current is not None else "9999"
        earlier = [
            one
            for one in known
            if not active(one) and status_of(one) == SUCCESS and started(one) < begun
        ]
        found = earlier[0] if earlier else None
    if found is None:
        raise NotFound("Azure lists no such deployment of this app.", hint=_HINT)
    return found


def idle(known: list[Obj]) -> None:
    """Raise `Conflict` while a deployment runs."""
    if any(status_of(one) in PENDING for one in known):
        raise Conflict(
            "Another deployment is under way at the app; nothing was done.",
            hint="Wait until it has ended: list_revisions shows it.",
        )


def _said(deployment: Obj) -> str:
    event = event_of(deployment)
    return f"{tame(event.message, 160)}, {event.at or 'time unknown'}."


async def _check(azure: Azure, plan: Plan) -> str:
    name = parse_name(plan.name)
    site = await get_site(azure, name)
    not_busy(site)
    known = await deployments_of(azure, name)
    current = next((id_of(one) for one in known if active(one)), "")
    if current != plan.lock:
        raise Conflict(
            "Something else was deployed since it was looked at; nothing was done.", hint=_HINT
        )
    idle(known)
    return azure.scm.address(name, site.raw)


async def _send(azure: Azure, plan: Plan, address: Any, call_id: str) -> Answer:
    path = f"deployments/{plan.values['id']}"
    ask = ACTIONS[ROLLBACK].ask.at(plan.name)
    return await azure.scm.put(str(address), path, ask, call_id=call_id)


async def _now(azure: Azure, plan: Plan) -> tuple[Obj | None, str]:
    known = await deployments_of(azure, parse_name(plan.name))
    ours = next((one for one in known if id_of(one) == plan.values["id"]), None)
    current = next((id_of(one) for one in known if active(one)), "")
    return ours, current


def _moved(ours: Obj, plan: Plan) -> bool:
    return started(ours) != str(plan.values["started"])


async def _shows(azure: Azure, plan: Plan) -> dict[str, Any] | None:
    ours, current = await _now(azure, plan)
    if ours is None or not (_moved(ours, plan) or current == plan.values["id"]):
        return None
    return {"active_deployment": current, "begun": moment(started(ours))}


async def _follow(azure: Azure, plan: Plan, _begun: Begun) -> Progress:
    ours, current = await _now(azure, plan)
    if ours is None:
        return Progress(state="failed", why="Azure does not list the deployment any more.")
    status = status_of(ours)
    evidence = {
        "revision": current or "none",
        "status": word_of(status),
        "begun": moment(started(ours)),
        "ended": moment(text(ours, "properties", "end_time")),
    }
    if current == plan.values["id"] and status == SUCCESS:
        name = parse_name(plan.name)
        return await serving(azure, name, await get_site(azure, name), evidence)
    if status == FAILED and _moved(ours, plan):
        said = azure.redactor.text(text(ours, "properties", "message")[:300])
        why = f"The deployment failed: {tame(said, 200)}"
        return Progress(state="failed", why=why, wanted=1, evidence=evidence)
    if current not in (plan.lock, plan.values["id"]):
        why = "Something else was deployed after this."
        return Progress(state="superseded", why=why, evidence=evidence)
    why = f"the deployment is {word_of(status).lower()}, and not the active one"
    return Progress(state="pending", why=why, wanted=1, evidence=evidence)


ACTIONS: Final[dict[str, Action]] = {
    ROLLBACK: Action(
        ask=Ask(action="Microsoft.Web/sites/publish/Action", writes=True),
        check=_check,
        send=_send,
        follow=_follow,
        shows=_shows,
    )
}
