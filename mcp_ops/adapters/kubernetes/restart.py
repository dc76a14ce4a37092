"""The rolling restart: one patch of the pod template, locked to what was looked at."""

from __future__ import annotations

from typing import Final

from mcp_ops.adapters.kubernetes.api import Api
from mcp_ops.adapters.kubernetes.describe import RESTARTED_AT
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
from mcp_ops.adapters.kubernetes.look import get_workload, selector_of
from mcp_ops.adapters.kubernetes.rollout import blocked
from mcp_ops.adapters.kubernetes.workloads import DEPLOYMENT, Kind, counts_of, parse_name
from mcp_ops.capabilities.deployments import RestartStarted
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import Conflict
from mcp_ops.redact import Redactor, tame

CALL_ID: Final = "mcp-ops.io/call-id"
REASON: Final = "mcp-ops.io/restart-reason"
FIELD_MANAGER: Final = "mcp-ops"
_REASON_CHARS: Final = 200
_LOCK_TRIES: Final = 4
_HISTORY: Final = 50


async def restart_workload(
    api: Api,
    name: str,
    *,
    reason: str,
    call_id: str,
    generation: int,
    clock: Clock,
    redactor: Redactor,
) -> RestartStarted:
    """Patch the pod template of this generation; see `DeploymentPlatform.restart`."""
    kind, plain = parse_name(name)
    note = tame(redactor.text(reason), _REASON_CHARS)
    for tries_left in reversed(range(_LOCK_TRIES)):
        workload = await get_workload(api, kind, plain)
        if _call_of(workload) == call_id:
            return _started(kind, plain, workload)
        _allow(kind, workload, generation)
        try:
            patch = _patch(workload, at=rfc3339(clock.now()), call_id=call_id, note=note)
            patched = await _send(api, kind, plain, patch, dry=False)
        except Conflict:
            # A status that moved changes the version too: only a new generation is a conflict.
            if not tries_left:
                raise
        else:
            return _started(kind, plain, patched)
    raise AssertionError("the last try returns or raises")


async def rehearse(api: Api, name: str, *, clock: Clock) -> None:
    """The same patch with `dryRun=All`: permission and admission are asked, nothing changes."""
    kind, plain = parse_name(name)
    workload = await get_workload(api, kind, plain)
    _allow(kind, workload, number(workload, "metadata", "generation", absent=1))
    patch = _patch(workload, at=rfc3339(clock.now()), call_id="dry-run", note="dry run")
    patch["metadata"].pop("resourceVersion", None)
    await _send(api, kind, plain, patch, dry=True)


async def find_restart(api: Api, name: str, call_id: str) -> RestartStarted | None:
    """The restart that carries this call's id: on the workload, or in its history when another
    change followed at once."""
    kind, plain = parse_name(name)
    workload = await get_workload(api, kind, plain)
    if _call_of(workload) == call_id:
        return _started(kind, plain, workload)
    if kind is not DEPLOYMENT or not selector_of(workload):
        return None
    ask = Ask(verb="list", resource="replicasets.apps")
    sets, _ = await api.list_page(
        api.path("apps", "replicasets"), ask, labelSelector=selector_of(workload), limit=_HISTORY
    )
    for one in sets:
        if controller_of(one) == uid_of(workload) and _call_of(one) == call_id:
            return _started(kind, plain, workload, template=one)
    return None


def _allow(kind: Kind, workload: Obj, generation: int) -> None:
    if number(workload, "metadata", "generation", absent=1) != generation:
        raise Conflict(
            "The workload was changed since it was looked at; nothing was restarted.",
            hint="Look with get_deployment, then decide again.",
        )
    if why := blocked(kind, workload, counts_of(kind, workload)):
        raise Conflict(
            f"A restart would replace nothing: {why}.",
            hint="Look with get_deployment; a person has to change that first.",
        )


async def _send(api: Api, kind: Kind, name: str, patch: Obj, *, dry: bool) -> Obj:
    ask = Ask(verb="patch", resource=kind.resource, dry=dry)
    query: dict[str, str | int] = {"fieldManager": FIELD_MANAGER}
    if dry:
        query["dryRun"] = "All"
    return await api.patch(api.path("apps", kind.plural, name), ask, patch, **query)


def _patch(workload: Obj, *, at: str, call_id: str, note: str) -> Obj:
    """The annotations on the template are what makes new instances; they also stay in the
    replica sets, so that a later change does not hide this restart. The reason stands outside
    the template, where the application can't read it, and starts nothing by itself."""
    return {
        "metadata": {
            "resourceVersion": text(workload, "metadata", "resourceVersion"),
            "uid": uid_of(workload),
            "annotations": {REASON: note},
        },
        "spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: at, CALL_ID: call_id}}}},
    }


def _annotations(obj: Obj) -> Obj:
    return mapping(obj, "spec", "template", "metadata", "annotations")


def _call_of(obj: Obj) -> str:
    return text(_annotations(obj), CALL_ID)


def _started(
    kind: Kind, plain: str, workload: Obj, *, template: Obj | None = None
) -> RestartStarted:
    asked = text(_annotations(template or workload), RESTARTED_AT)
    return RestartStarted(
        name=kind.called(plain),
        generation=number(workload, "metadata", "generation", absent=1),
        at=moment_of(asked) or "",
    )
