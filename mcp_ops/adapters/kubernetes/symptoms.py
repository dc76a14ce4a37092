"""What explains a workload's state beside its pods: events, failed probes, what containers use.

They explain and decide nothing: who may not read them, or whose cluster has none, is not told so
by an error, but the answer leaves them out.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio

from mcp_ops.adapters.kubernetes.api import Api
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import (
    Obj,
    mapping,
    moment_of,
    name_of,
    number,
    objects,
    seconds,
    text,
    uid_of,
)
from mcp_ops.adapters.kubernetes.look import Family, selector_of
from mcp_ops.adapters.kubernetes.pods import Pod, cores, mebibytes
from mcp_ops.adapters.kubernetes.workloads import DEPLOYMENT, counts_of
from mcp_ops.capabilities.deployments import ContainerUse, Event, ProbeFailures
from mcp_ops.errors import Forbidden, Upstream
from mcp_ops.wire.together import together

_EVENTS_READ: Final = 500
_EVENTS_SHOWN: Final = 10
_PODS_ASKED: Final = 3
_METRICS_S: Final = 5.0
_PROBE: Final = re.compile(r"(Readiness|Liveness|Startup) probe (?:failed|errored)")
_Used = dict[tuple[str, str], tuple[float | None, float | None]]


@dataclass(slots=True)
class Symptoms:
    """`events` are raw and newest first; `used` is memory (MiB) and processor (cores) by pod and
    container."""

    events: list[Obj] = field(default_factory=list)
    used: _Used = field(default_factory=dict)

    def shown(self) -> list[Event]:
        """The newest events."""
        return [_event(one) for one in self.events[:_EVENTS_SHOWN]]

    def probes(self) -> ProbeFailures | None:
        """How often probes failed; None when none did."""
        failed = {"readiness": 0, "liveness": 0, "startup": 0}
        for one in self.events:
            found = _PROBE.match(text(one, "message")) if one.get("reason") == "Unhealthy" else None
            if found:
                failed[found[1].lower()] += _count(one)
        return ProbeFailures(**failed) if any(failed.values()) else None

    def complaint(self, uid: str) -> str:
        """The newest warning about a pod; empty when there is none."""
        for one in self.events:
            if text(one, "involvedObject", "uid") == uid and one.get("type") == "Warning":
                return text(one, "message")
        return ""

    def containers(self, pods: list[Pod]) -> list[ContainerUse]:
        """The containers over all pods, by name."""
        found: dict[str, _Sum] = {}
        for pod in pods:
            for one in pod.containers:
                held = found.setdefault(one.name, _Sum())
                held.restarts += one.restarts
                held.oom_kills += one.oom_kills
                held.memory_limit = _most(held.memory_limit, one.memory_limit)
                held.cpu_limit = _most(held.cpu_limit, one.cpu_limit)
                memory, cpu = self.used.get((pod.name, one.name), (None, None))
                held.memory, held.cpu = _most(held.memory, memory), _most(held.cpu, cpu)
        return [held.told(name) for name, held in list(found.items())[:10]]


@dataclass(slots=True)
class _Sum:
    restarts: int = 0
    oom_kills: int = 0
    memory_limit: float | None = None
    cpu_limit: float | None = None
    memory: float | None = None
    cpu: float | None = None

    def told(self, name: str) -> ContainerUse:
        return ContainerUse(
            name=name,
            restarts=self.restarts,
            oom_kills=self.oom_kills,
            memory_limit_mib=self.memory_limit,
            memory_used_mib=self.memory,
            cpu_limit_millicores=_milli(self.cpu_limit),
            cpu_used_millicores=_milli(self.cpu),
        )


def _most(one: float | None, other: float | None) -> float | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _milli(cpu: float | None) -> int | None:
    return None if cpu is None else round(cpu * 1_000)


async def look_for_symptoms(api: Api, family: Family, pods: list[Pod]) -> Symptoms:
    """Events of the workload and of at most three pods, worst first, and what the pods use."""
    found = Symptoms()
    uids = [uid_of(family.workload), *_makers(family, pods), *_suspects(pods)]
    actions: list[Callable[[], Awaitable[None]]] = [
        partial(_read_events, api, uid, found.events) for uid in uids if uid
    ]
    if pods:
        actions.append(partial(_read_use, api, family, found.used))
    await together(actions)
    # Times are whole seconds: of one second, what is wrong comes first.
    found.events.sort(
        key=lambda one: (_time(one) or 0.0, text(one, "type") == "Warning"), reverse=True
    )
    return found


def _suspects(pods: Iterable[Pod]) -> list[str]:
    """The pods whose events may explain something: in trouble, not ready, restarted."""
    worst = sorted(pods, key=lambda pod: (pod.trouble == "none", pod.ready, -pod.restarts))
    chosen = [pod for pod in worst if pod.trouble != "none" or not pod.ready or pod.restarts]
    return [pod.uid for pod in chosen if not pod.ending][:_PODS_ASKED]


def _makers(family: Family, pods: list[Pod]) -> list[str]:
    """The newest replica set, when pods are missing: a quota's refusal is told to it."""
    missing = counts_of(family.kind, family.workload).desired > len(pods)
    if family.kind is not DEPLOYMENT or not missing or not family.replica_sets:
        return []
    newest = max(family.replica_sets, key=lambda one: text(one, "metadata", "creationTimestamp"))
    return [uid_of(newest)]


async def _read_events(api: Api, uid: str, found: list[Obj]) -> None:
    ask = Ask(verb="list", resource="events")
    query = {"fieldSelector": f"involvedObject.uid={uid}"}
    try:
        page, _ = await api.list_page(api.path("", "events"), ask, **query, limit=_EVENTS_READ)
    except Forbidden:
        return
    found.extend(page)


async def _read_use(api: Api, family: Family, used: _Used) -> None:
    ask = Ask(verb="list", resource="pods.metrics.k8s.io")
    path = api.path("metrics.k8s.io", "pods")
    try:
        with anyio.move_on_after(_METRICS_S):
            found, _ = await api.list_page(path, ask, labelSelector=selector_of(family.workload))
            for pod in found:
                for one in objects(pod, "containers"):
                    usage = mapping(one, "usage")
                    used[name_of(pod), text(one, "name")] = (
                        mebibytes(text(usage, "memory")),
                        cores(text(usage, "cpu")),
                    )
    except Upstream:
        return  # not served here, not allowed, or not measured now


def _moment(event: Obj) -> str:
    return (
        text(event, "series", "lastObservedTime")
        or text(event, "lastTimestamp")
        or text(event, "eventTime")
        or text(event, "metadata", "creationTimestamp")
    )


def _time(event: Obj) -> float | None:
    return seconds(_moment(event))


def _count(event: Obj) -> int:
    return number(event, "series", "count") or number(event, "count", absent=1)


def _event(event: Obj) -> Event:
    return Event(
        at=moment_of(_moment(event)),
        type=text(event, "type")[:20],
        reason=text(event, "reason"),
        message=text(event, "message"),
        count=_count(event),
    )
