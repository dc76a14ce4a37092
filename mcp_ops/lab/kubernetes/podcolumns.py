"""A pod as one row: what `kubectl get pods` says of it, put together from its containers."""

from __future__ import annotations

from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import Obj
from mcp_ops.lab.kubernetes.podstatus import INIT, TERMINAL, is_ready
from mcp_ops.lab.kubernetes.store import ago

_NONE: Final = "<none>"


def pod_cells(pod: Obj, now: float) -> list[Any]:
    """Name, ready, status, restarts and age; then, for those who want more, where it runs."""
    meta, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    containers: list[Obj] = status.get("containerStatuses") or []
    ready = sum(one["ready"] and "running" in one["state"] for one in containers)
    return [
        meta["name"],
        f"{ready}/{len(spec['containers'])}",
        _reason(pod, status, containers),
        _restarts(containers, now),
        ago(meta.get("creationTimestamp"), now),
        status.get("podIP") or _NONE,
        spec.get("nodeName") or _NONE,
        status.get("nominatedNodeName") or _NONE,
        _NONE,
    ]


def _reason(pod: Obj, status: Obj, containers: list[Obj]) -> str:
    reason = str(status.get("reason") or status.get("phase", ""))
    for one in status.get("conditions") or []:
        if (one["type"], one.get("reason")) == ("PodScheduled", "SchedulingGated"):
            reason = "SchedulingGated"
    if first := _initialising(pod, status):
        reason = first
    else:
        told = [why for one in containers if (why := _told(one["state"]))]
        reason = told[0] if told else reason
        runs = any("running" in one["state"] and one["ready"] for one in containers)
        if reason == "Completed" and runs:
            reason = "Running" if is_ready(pod) else "NotReady"
    going = pod["metadata"].get("deletionTimestamp")
    return "Terminating" if going and status.get("phase") not in TERMINAL else reason


def _initialising(pod: Obj, status: Obj) -> str:
    """What the first init container that is not done does; empty when all are."""
    total = len(pod["spec"].get(INIT) or [])
    beside = {one["name"] for one in pod["spec"].get(INIT) or [] if one.get("restartPolicy")}
    for at, one in enumerate(status.get("initContainerStatuses") or []):
        state = one["state"]
        if (state.get("terminated") or {"exitCode": 1})["exitCode"] == 0:
            continue
        if one["name"] in beside and one.get("started"):
            continue
        told = _told(state)
        return f"Init:{at}/{total}" if told in ("", "PodInitializing") else f"Init:{told}"
    return ""


def _told(state: Obj) -> str:
    """Why a container waits, or how it ended."""
    ended = state.get("terminated")
    if ended is None:
        return str((state.get("waiting") or {}).get("reason", ""))
    return str(ended.get("reason") or f"ExitCode:{ended['exitCode']}")


def _restarts(containers: list[Obj], now: float) -> str:
    count = sum(one["restartCount"] for one in containers)
    ends = [
        ended["finishedAt"]
        for one in containers
        if (ended := (one.get("lastState") or {}).get("terminated"))
    ]
    return f"{count} ({ago(max(ends), now)} ago)" if count and ends else str(count)
