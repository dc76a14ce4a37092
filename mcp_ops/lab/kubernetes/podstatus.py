"""The status of a pod: its conditions, and how each of its containers is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mcp_ops.lab.kubernetes.kinds import Obj

TERMINAL: Final = ("Succeeded", "Failed")
INIT: Final = "initContainers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """How a container is now: what it does, whether it serves, and how its last run ended.

    An empty state is one that runs: since before, when it did, or since now.
    """

    state: Obj | None = None
    ready: bool = False
    last: Obj | None = None
    restarted: bool = False


def write_status(pod: Obj, now: str, shown: Mapping[str, Shown]) -> None:
    """Write, in place, the conditions and the containers of a pod that is on a node."""
    status, spec = pod["status"], pod["spec"]
    earlier = {one["name"]: one for one in status.get("containerStatuses") or []}
    earlier |= {one["name"]: one for one in status.get("initContainerStatuses") or []}

    def told(field: str) -> list[Obj]:
        return [
            _container(pod, one, earlier.get(one["name"]), now, shown[one["name"]])
            for one in spec.get(field) or []
        ]

    if spec.get(INIT):
        status["initContainerStatuses"] = told(INIT)
    status["containerStatuses"] = told("containers")
    incomplete = [one["name"] for one in spec.get(INIT) or [] if not shown[one["name"]].ready]
    unready = [one["name"] for one in spec["containers"] if not shown[one["name"]].ready]
    _write_conditions(status, now, incomplete, unready)


def _write_conditions(status: Obj, now: str, incomplete: list[str], unready: list[str]) -> None:
    before = {one["type"]: one for one in status.get("conditions") or []}
    if status.get("phase") == "Succeeded":
        done = why = {"reason": "PodCompleted"}
    else:
        done = _why("ContainersNotInitialized", "incomplete", incomplete)
        why = _why("ContainersNotReady", "unready", unready)
    status["conditions"] = [
        condition(before, "PodReadyToStartContainers", True, now),
        condition(before, "Initialized", not incomplete, now, **done),
        condition(before, "Ready", not unready, now, **why),
        condition(before, "ContainersReady", not unready, now, **why),
        condition(before, "PodScheduled", True, now),
    ]


def _why(reason: str, what: str, names: list[str]) -> dict[str, str]:
    if not names:
        return {}
    return {"reason": reason, "message": f"containers with {what} status: [{' '.join(names)}]"}


def condition(before: Mapping[str, Obj], kind: str, holds: bool, now: str, **why: str) -> Obj:
    """A condition; its time moves only when its status does."""
    status = "True" if holds else "False"
    same = before.get(kind, {}).get("status") == status
    since = before[kind]["lastTransitionTime"] if same else now
    return {
        "type": kind,
        "status": status,
        "lastProbeTime": None,
        "lastTransitionTime": since,
        **why,
    }


def waiting(reason: str, message: str = "") -> Obj:
    """The state of a container that does not run."""
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def terminated(pod: Obj, code: int, reason: str, started: str, now: str) -> Obj:
    """The state of a container that ended; its exit code is 128 and the signal that killed it."""
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "startedAt": started,
            "finishedAt": now,
            "containerID": f"containerd://{pod['metadata']['uid']}",
        }
    }


def started_at(pod: Obj, name: str, now: str) -> str:
    """Since when a container runs; now when it does not."""
    for one in pod["status"].get("containerStatuses") or []:
        if one["name"] == name and "running" in one["state"]:
            return str(one["state"]["running"]["startedAt"])
    return now


def _container(pod: Obj, container: Obj, earlier: Obj | None, now: str, shown: Shown) -> Obj:
    state = shown.state
    if state is None:
        running = earlier is not None and "running" in earlier["state"]
        state = earlier["state"] if earlier and running else {"running": {"startedAt": now}}
    restarts = earlier["restartCount"] if earlier else 0
    last = shown.last if shown.last is not None else (earlier or {}).get("lastState", {})
    pulled = "waiting" not in state or bool(restarts) or shown.restarted
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        **({"containerID": f"containerd://{pod['metadata']['uid']}"} if pulled else {}),
        "ready": shown.ready,
        "started": "running" in state,
        "restartCount": restarts + shown.restarted,
        "state": state,
        "lastState": last,
    }


def is_ready(pod: Obj) -> bool:
    """Whether a pod gets traffic."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def is_over(pod: Obj) -> bool:
    """Whether a pod has ended for good: nothing starts it again."""
    return pod.get("status", {}).get("phase") in TERMINAL
