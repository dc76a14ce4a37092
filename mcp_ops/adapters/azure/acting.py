"""How every change of this adapter is made: looked at again, sent once, found by its traces.

Resource Manager has no versions of apps and no dry run. So a change is checked against what was
planned immediately before it is sent; what somebody else does in the moment between is told by the
look afterwards, not prevented.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from mcp_ops.adapters.azure.activity import check_allowed, traced
from mcp_ops.adapters.azure.arm import Ask, request_id
from mcp_ops.adapters.azure.fields import mapping, moment, seconds, text
from mcp_ops.adapters.azure.look import Azure, Site
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.clock import rfc3339
from mcp_ops.errors import Conflict, Rejected, Upstream
from mcp_ops.redact import tame
from mcp_ops.wire.http import Answer

LOOK: Final = "Look with get_deployment, then decide again."
LOOKED_AT: Final = "looked_at"


async def _no_trace(_azure: Azure, _plan: Plan) -> dict[str, Any] | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One kind of change.

    `check` reads the object again and raises `Conflict` where it is not the one that was planned
    for; `send` changes it, given what was read. `shows` is the evidence that the target is as
    planned, whoever made it so, or None.
    """

    ask: Ask
    check: Callable[[Azure, Plan], Awaitable[Any]]
    send: Callable[[Azure, Plan, Any, str], Awaitable[Answer]]
    follow: Callable[[Azure, Plan, Begun], Awaitable[Progress]]
    shows: Callable[[Azure, Plan], Awaitable[dict[str, Any] | None]] = _no_trace


async def rehearse(azure: Azure, plan: Plan, action: Action) -> None:
    """The same checks, and the role's permissions; Azure itself can't rehearse."""
    await action.check(azure, plan)
    await check_allowed(azure, action.ask.at(plan.name))


async def begin(azure: Azure, plan: Plan, action: Action, call_id: str) -> Begun:
    """Check and send; see `Changeable.begin`. What is so already is not asked for again."""
    if plan.repeatable and (evidence := await action.shows(azure, plan)) is not None:
        return _begun(plan, call_id, text(plan.values, LOOKED_AT), _by_state(evidence))
    seen = await action.check(azure, plan)
    answer = await action.send(azure, plan, seen, call_id)
    azure.remember(request_id(call_id), azure.arm.operation_of(answer))
    at = answer.date()
    return _begun(plan, call_id, rfc3339(azure.clock.now() if at is None else at), {})


async def find(azure: Azure, plan: Plan, action: Action, call_id: str) -> Begun | None:
    """The change by what it left: the activity log names the call, or the target is as planned.

    Where the log could not be asked and the target shows nothing, that error is raised: another
    look may tell.
    """
    trace, silent = None, None
    try:
        trace = await traced(azure, call_id, _looked_at(plan))
    except Upstream as error:  # of another service than the one that is asked next
        silent = error
    if trace is not None:
        at = moment(trace.first) or text(plan.values, LOOKED_AT)
        return _begun(plan, call_id, at, {"activity_log": trace.status})
    evidence = await action.shows(azure, plan)
    if evidence is None:
        if silent is not None:
            raise silent
        return None
    at = text(plan.values, LOOKED_AT)
    return _begun(plan, call_id, at, _by_state(evidence))


async def follow(azure: Azure, plan: Plan, action: Action, begun: Begun) -> Progress:
    """How far it is: by the object itself, and by the operation that Azure named."""
    now = await action.follow(azure, plan, begun)
    if now.state != "pending":
        return now
    if begun.evidence.get("activity_log") == "Failed":
        return now.model_copy(
            update={"state": "failed", "why": "Azure's activity log says that it failed."}
        )
    failure = await _operation_failed(azure, begun)
    return now.model_copy(update={"state": "failed", "why": failure}) if failure else now


async def _operation_failed(azure: Azure, begun: Begun) -> str:
    """Why the operation failed, or empty while it has not."""
    asked = str(begun.evidence.get("request_id", ""))
    url = azure.operations.get(asked, "")
    if not url:
        return ""
    try:
        answer = await azure.arm.poll(url, Ask(action="Microsoft.Web/locations/operations/read"))
    except (Rejected, Conflict) as error:  # the operation's own end, as Azure reports it
        return f"Azure's operation failed: {error.said}" if error.said else ""
    except Upstream:
        return ""
    if answer.status != 200 or not answer.body:
        return ""
    body = answer.json()
    status = text(body, "status")
    if status.lower() not in ("failed", "canceled"):
        return ""
    said = azure.redactor.text(text(body, "error", "message")[:500])
    return f"Azure's operation ended as {tame(status, 20)}: {tame(said, 200)}"


def planned(azure: Azure, **values: Any) -> dict[str, Any]:
    """The values of a plan, with the moment of the look."""
    return {LOOKED_AT: rfc3339(azure.clock.now()), **values}


def version_of(site: Site) -> str:
    """What stands for an app's version: its state, its last change and its last swap."""
    swap = mapping(site.raw, "properties", "slotSwapStatus")
    parts = (site.said("state"), site.said("lastModifiedTimeUtc"), text(swap, "timestampUtc"))
    return " ".join(part[:40] for part in parts).strip()


def same_version(site: Site, plan: Plan) -> None:
    """Raise `Conflict` for an app that is not the one that was looked at, or that is busy."""
    if version_of(site) != plan.lock:
        raise Conflict("The app was changed since it was looked at; nothing was done.", hint=LOOK)
    not_busy(site)


def not_busy(site: Site) -> None:
    """Raise `Conflict` while an operation is under way at an app."""
    if site.busy:
        raise Conflict(
            "Another operation is under way at the app; nothing was done.",
            hint="Wait until it has ended: get_deployment shows rolling_out until then.",
        )


def _by_state(evidence: dict[str, Any]) -> dict[str, Any]:
    """Who made it so is not known; that it is so is what was wanted."""
    return {"found_by": "the state of the target", **evidence}


def _looked_at(plan: Plan) -> float:
    return seconds(text(plan.values, LOOKED_AT)) or 0.0


def _begun(plan: Plan, call_id: str, at: str, evidence: dict[str, Any]) -> Begun:
    return Begun(
        name=plan.name,
        at=at,
        id=str(plan.values.get("id", "")),
        evidence={"accepted_at": at, "request_id": request_id(call_id), **evidence},
    )
