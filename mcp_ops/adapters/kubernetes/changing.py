"""Changes of a workload by one patch, locked to the generation that was looked at.

A patch carries the id of its call, so that a lost answer is resolved by a look: in the pod
template where it makes new instances (its history keeps it), on the workload itself else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_ops.adapters.kubernetes.api import Api
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import (
    Obj,
    controller_of,
    mapping,
    moment_of,
    number,
    text,
    uid_of,
)
from mcp_ops.adapters.kubernetes.look import get_family, get_workload, selector_of
from mcp_ops.adapters.kubernetes.pods import Pod, read_pod
from mcp_ops.adapters.kubernetes.rollout import RolloutState, judge
from mcp_ops.adapters.kubernetes.workloads import DEPLOYMENT, Kind, parse_name
from mcp_ops.capabilities.changes import Begun, Plan
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import Conflict
from mcp_ops.redact import Redactor, tame

CALL_ID: Final = "mcp-ops.io/call-id"
CHANGED_AT: Final = "mcp-ops.io/changed-at"
REASON: Final = "mcp-ops.io/reason"
FIELD_MANAGER: Final = "mcp-ops"
_REASON_CHARS: Final = 200
_LOCK_TRIES: Final = 4
_HISTORY: Final = 50
_NAMES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One kind of change: the patch of a plan, whether it replaces instances, and what forbids it
    (a sentence's end, or empty) on a workload that was read anew."""

    patch: Callable[[Plan, str], Obj]
    replaces: bool
    forbidden: Callable[[Kind, Obj], str] = lambda _kind, _workload: ""


async def look(api: Api, name: str, *, clock: Clock) -> tuple[Kind, Obj, RolloutState]:
    """The workload with its rollout and pods, terminating ones included."""
    kind, plain = parse_name(name)
    family = await get_family(api, kind, plain)
    pods = [read_pod(pod, now=clock.now()) for pod in family.pods]
    return kind, family.workload, judge(kind, family.workload, pods)


def plan_of(action: str, name: str, now: RolloutState, *, lines: list[str], **more: Any) -> Plan:
    """The plan of a change: what every plan tells of the workload as it is."""
    evidence: dict[str, Any] = {
        "generation_before": now.generation,
        "instances_before": names_of(now.pods),
        "ready_before": f"{now.ready}/{now.desired}",
        **more.pop("evidence", {}),
    }
    if not now.done:
        evidence["another_rollout_was_under_way"] = now.why
        lines = [*lines, f"Another rollout is under way: {now.why}."]
    state = {"generation": now.generation, "desired": now.desired, **more.pop("state", {})}
    values = {"uids": [pod.uid for pod in now.pods], **more.pop("values", {})}
    return Plan(
        action=action,
        name=name,
        lines=lines,
        state=state,
        lock=str(now.generation),
        values=values,
        evidence=evidence,
        repeatable=True,
        **more,
    )


async def begin(
    api: Api,
    plan: Plan,
    action: Action,
    *,
    reason: str,
    call_id: str,
    clock: Clock,
    redactor: Redactor,
) -> Begun:
    """Patch the generation that was planned for; see `Changeable.begin`."""
    kind, plain = parse_name(plan.name)
    note = tame(redactor.text(reason), _REASON_CHARS)
    for tries_left in reversed(range(_LOCK_TRIES)):
        workload = await get_workload(api, kind, plain)
        if _call_of(workload, action) == call_id:
            return _begun(kind, plain, workload, action)
        _allow(kind, workload, plan, action)
        at = rfc3339(clock.now())
        patch = _patch(workload, plan, action, at=at, call_id=call_id, note=note)
        try:
            patched = await _send(api, kind, plain, patch, dry=False)
        except Conflict:
            # A status that moved changes the version too: only a new generation is a conflict.
            if not tries_left:
                raise
        else:
            return _begun(kind, plain, patched, action)
    raise AssertionError("the last try returns or raises")


async def rehearse(api: Api, plan: Plan, action: Action, *, clock: Clock) -> None:
    """The same patch with `dryRun=All`: permission and admission are asked, nothing changes."""
    kind, plain = parse_name(plan.name)
    workload = await get_workload(api, kind, plain)
    _allow(kind, workload, plan, action)
    at = rfc3339(clock.now())
    patch = _patch(workload, plan, action, at=at, call_id="dry-run", note="dry run")
    patch["metadata"].pop("resourceVersion", None)
    await _send(api, kind, plain, patch, dry=True)


async def find(api: Api, plan: Plan, action: Action, call_id: str) -> Begun | None:
    """The change that carries this call's id: on the workload, or in its history when another
    change followed at once."""
    kind, plain = parse_name(plan.name)
    workload = await get_workload(api, kind, plain)
    if _call_of(workload, action) == call_id:
        return _begun(kind, plain, workload, action)
    if not action.replaces or kind is not DEPLOYMENT or not selector_of(workload):
        return None
    ask = Ask(verb="list", resource="replicasets.apps")
    sets, _ = await api.list_page(
        api.path("apps", "replicasets"), ask, labelSelector=selector_of(workload), limit=_HISTORY
    )
    for one in sets:
        if controller_of(one) == uid_of(workload) and _call_of(one, action) == call_id:
            return _begun(kind, plain, workload, action, marked=one)
    return None


def names_of(pods: list[Pod]) -> list[str]:
    """The names of instances, sorted, the first ten of them."""
    names = sorted(pod.name for pod in pods)
    more = [f"and {len(names) - _NAMES} more"] if len(names) > _NAMES else []
    return names[:_NAMES] + more


def _allow(kind: Kind, workload: Obj, plan: Plan, action: Action) -> None:
    if str(number(workload, "metadata", "generation", absent=1)) != plan.lock:
        raise Conflict(
            "The workload was changed since it was looked at; nothing was done.",
            hint="Look with get_deployment, then decide again.",
        )
    if why := action.forbidden(kind, workload):
        raise Conflict(
            f"It would have no effect: {why}.",
            hint="Look with get_deployment; a person has to change that first.",
        )


async def _send(api: Api, kind: Kind, name: str, patch: Obj, *, dry: bool) -> Obj:
    ask = Ask(verb="patch", resource=kind.resource, dry=dry)
    query: dict[str, str | int] = {"fieldManager": FIELD_MANAGER}
    if dry:
        query["dryRun"] = "All"
    return await api.patch(api.path("apps", kind.plural, name), ask, patch, **query)


def _patch(
    workload: Obj, plan: Plan, action: Action, *, at: str, call_id: str, note: str
) -> dict[str, Any]:
    """The reason stands outside the template, where the application can't read it, and starts
    nothing by itself."""
    marks = {CALL_ID: call_id, CHANGED_AT: at}
    own = {
        "metadata": {
            "resourceVersion": text(workload, "metadata", "resourceVersion"),
            "uid": uid_of(workload),
            "annotations": {REASON: note} if action.replaces else {REASON: note, **marks},
        }
    }
    if action.replaces:
        own = _merged(own, {"spec": {"template": {"metadata": {"annotations": marks}}}})
    return _merged(own, action.patch(plan, at))


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(one)
    for key, value in other.items():
        known = found.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            value = _merged(known, value)
        found[key] = value
    return found


def _marks(obj: Obj, action: Action) -> Obj:
    if action.replaces:
        return mapping(obj, "spec", "template", "metadata", "annotations")
    return mapping(obj, "metadata", "annotations")


def _call_of(obj: Obj, action: Action) -> str:
    return text(_marks(obj, action), CALL_ID)


def _begun(
    kind: Kind, plain: str, workload: Obj, action: Action, *, marked: Obj | None = None
) -> Begun:
    at = moment_of(text(_marks(marked or workload, action), CHANGED_AT)) or ""
    generation = number(workload, "metadata", "generation", absent=1)
    return Begun(
        name=kind.called(plain),
        at=at,
        version=str(generation),
        evidence={"changed_at": at, "generation": generation},
    )
