"""What a pod tells of itself: readiness, restarts, why a container does not run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mcp_ops.adapters.kubernetes.fields import (
    Obj,
    condition,
    flag,
    mapping,
    name_of,
    number,
    objects,
    seconds,
    text,
    uid_of,
)
from mcp_ops.adapters.kubernetes.quantities import parse_quantity
from mcp_ops.capabilities.deployments import Instance, Problem

_PULL: Final = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_CONFIG: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
_OOM: Final = "OOMKilled"
_RECENT_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of a pod; limits in MiB and cores, None where it has none."""

    name: str
    restarts: int
    oom_kills: int
    memory_limit: float | None
    cpu_limit: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod, read once. `trouble` is "none" for one that starts, runs or ends as it should.

    `message` is what the cluster says of its trouble, `over` that nothing starts it again.
    """

    name: str
    uid: str
    ready: bool
    ending: bool
    phase: str
    restarts: int
    oom_kills: int
    waiting: str
    last_exit: str
    trouble: Problem
    age_s: int
    message: str = ""
    over: bool = False
    evicted: bool = False
    containers: tuple[Container, ...] = ()

    def instance(self) -> Instance:
        """The pod as a result shows it."""
        return Instance(
            name=self.name,
            ready=self.ready,
            phase="Terminating" if self.ending else self.phase,
            restarts=self.restarts,
            age_s=self.age_s,
            waiting=self.waiting or None,
            last_exit=self.last_exit or None,
            message=self.message or None,
        )


def count_pod(pod: Obj, *, now: float) -> tuple[int, Problem]:
    """Of one of many pods only the restarts and what ails it; see `read_pod`."""
    statuses = _statuses(pod)
    restarts = sum(number(status, "restartCount") for status in statuses)
    if text(pod, "metadata", "deletionTimestamp"):
        return restarts, "none"
    ready = condition(pod, "Ready").get("status") == "True"
    return restarts, _trouble(pod, statuses, ready=ready, now=now)


def read_pod(pod: Obj, *, now: float) -> Pod:
    """One pod; `now` in Unix seconds tells recent memory kills from old ones."""
    statuses = _statuses(pod)
    ready = condition(pod, "Ready").get("status") == "True"
    ending = bool(text(pod, "metadata", "deletionTimestamp"))
    created = seconds(text(pod, "metadata", "creationTimestamp"))
    phase = text(pod, "status", "phase")[:20]
    return Pod(
        name=name_of(pod),
        uid=uid_of(pod),
        ready=ready and not ending,
        ending=ending,
        phase=phase,
        restarts=sum(number(status, "restartCount") for status in statuses),
        oom_kills=sum(1 for status in statuses if _oom(status)),
        waiting=next(filter(None, map(_waiting, statuses)), ""),
        last_exit=next(filter(None, map(_last_exit, statuses)), ""),
        trouble="none" if ending else _trouble(pod, statuses, ready=ready, now=now),
        age_s=0 if created is None else max(0, int(now - created)),
        message=_message(pod, statuses),
        over=phase in ("Failed", "Succeeded"),
        evicted=phase == "Failed" and text(pod, "status", "reason") == "Evicted",
        containers=_containers(pod, statuses),
    )


def mebibytes(written: str) -> float | None:
    """A quantity of memory in MiB, or None where it is none."""
    found = parse_quantity(written)
    return None if found is None else round(float(found) / 2**20, 1)


def cores(written: str) -> float | None:
    """A quantity of processor in cores, or None where it is none."""
    found = parse_quantity(written)
    return None if found is None else float(found)


def _containers(pod: Obj, statuses: list[Obj]) -> tuple[Container, ...]:
    """The containers, and of the init containers those that have something to tell."""
    known = {text(status, "name"): status for status in statuses}
    found = []
    init = [
        one
        for one in objects(pod, "spec", "initContainers")
        if text(one, "restartPolicy") == "Always"
        or number(known.get(text(one, "name"), {}), "restartCount")
    ]
    for one in objects(pod, "spec", "containers") + init:
        status, limits = known.get(text(one, "name"), {}), mapping(one, "resources", "limits")
        found.append(
            Container(
                name=text(one, "name")[:63],
                restarts=number(status, "restartCount"),
                oom_kills=int(_oom(status)),
                memory_limit=mebibytes(str(limits.get("memory", ""))),
                cpu_limit=cores(str(limits.get("cpu", ""))),
            )
        )
    return tuple(found)


def _message(pod: Obj, statuses: list[Obj]) -> str:
    """What the cluster says of what keeps a pod from running; empty when nothing does."""
    said = [text(pod, "status", "message")]
    for status in statuses:
        if text(status, "state", "waiting", "reason") == "CrashLoopBackOff":
            said.append(text(status, "lastState", "terminated", "message"))
        said.append(text(status, "state", "waiting", "message"))
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        said.append(text(scheduled, "message"))
    return next(filter(None, said), "")


def _statuses(pod: Obj) -> list[Obj]:
    return objects(pod, "status", "containerStatuses") + objects(
        pod, "status", "initContainerStatuses"
    )


def _waiting(status: Obj) -> str:
    return text(status, "state", "waiting", "reason")


def _terminations(status: Obj) -> list[Obj]:
    """How the container ended: this time, if it is down, and the time before."""
    both = (mapping(status, "state", "terminated"), mapping(status, "lastState", "terminated"))
    return [end for end in both if end]


def _oom(status: Obj) -> bool:
    return any(end.get("reason") == _OOM for end in _terminations(status))


def _last_exit(status: Obj) -> str:
    ends = _terminations(status)
    if not ends:
        return ""
    return f"{text(ends[0], 'reason')} (exit code {number(ends[0], 'exitCode')})"


def _trouble(pod: Obj, statuses: list[Obj], *, ready: bool, now: float) -> Problem:
    waiting = {_waiting(status) for status in statuses}
    if any(_oom_matters(status, ready=ready, now=now) for status in statuses):
        return "oom_killed"
    if waiting & _PULL:
        return "image_pull"
    if "CrashLoopBackOff" in waiting:
        return "crash_loop"
    if waiting & _CONFIG:
        return "not_ready"
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return "unschedulable"
    running = bool(statuses) and all(flag(status, "started") for status in statuses)
    return "not_ready" if running and not ready else "none"


def _oom_matters(status: Obj, *, ready: bool, now: float) -> bool:
    """A memory kill explains what is wrong now, or it was within the last hour."""
    for end in _terminations(status):
        if end.get("reason") == _OOM:
            at = seconds(text(end, "finishedAt"))
            return not ready or (at is not None and now - at < _RECENT_S)
    return False
