"""The faults: releases that cannot run, hungry or evicted pods, denied or shed requests."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mcp_ops.lab.kubernetes.ending import end_for_good
from mcp_ops.lab.kubernetes.kinds import DEPLOYMENT, POD, Obj
from mcp_ops.lab.kubernetes.podstatus import is_over
from mcp_ops.lab.kubernetes.seed import BAD_TAG, SHOP
from mcp_ops.lab.kubernetes.world import World

BAD_RELEASE: Final = "bad-release"
OOM: Final = "oom"
EVICT: Final = "evict"
NO_METRICS: Final = "no-metrics"
APPETITE: Final = 400 * 2**20
MISSING_TAG: Final = "5.1.0-missing"
_PRESSURE: Final = (
    "The node was low on resource: memory. Threshold quantity: 100Mi, available: 61532Ki. "
    "Container {name} was using 241Mi, request is 128Mi, has larger consumption of memory. "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Release:
    """A change of a deployment's first container that does it no good, by field."""

    app: str
    change: Callable[[Obj], Mapping[str, object]]


def _tagged(tag: str) -> Callable[[Obj], Mapping[str, object]]:
    return lambda container: {"image": f"{container['image'].rpartition(':')[0]}:{tag}"}


def _greedy(container: Obj) -> Mapping[str, object]:
    resources = copy.deepcopy(container.get("resources") or {})
    resources.setdefault("requests", {})["cpu"] = "64"
    return {"resources": resources}


def _probed(_: Obj) -> Mapping[str, object]:
    probe = {
        "httpGet": {"path": "/missing", "port": 8080, "scheme": "HTTP"},
        "failureThreshold": 3,
        "periodSeconds": 10,
        "successThreshold": 1,
        "timeoutSeconds": 1,
    }
    return {"livenessProbe": probe, "readinessProbe": probe}


_RELEASES: Final[Mapping[str, _Release]] = {
    BAD_RELEASE: _Release(app="api", change=_tagged(BAD_TAG)),
    "image-pull": _Release(app="web", change=_tagged(MISSING_TAG)),
    "unschedulable": _Release(app="worker", change=_greedy),
    "probe": _Release(app="web", change=_probed),
}
SUPPORTED: Final = (*_RELEASES, OOM, EVICT, NO_METRICS, "throttle", "forbid")


class Incidents:
    """Applies the faults and takes them back."""

    def __init__(self, world: World) -> None:
        self._world = world
        # What a bad release put into the container, and what was there before.
        self._edits: dict[str, tuple[Obj, Obj]] = {}
        self._evicted: set[str] = set()

    def inject(self, fault: str) -> None:
        """Put a fault in force; raises `KeyError` for one this stand-in does not have."""
        if fault not in SUPPORTED:
            raise KeyError(fault)
        if fault in self._world.faults:
            return
        self._world.faults.active.add(fault)
        if fault in _RELEASES:
            self._release(fault)
        if fault == BAD_RELEASE:
            self._wedge_workers()
        elif fault == OOM:
            self._world.appetite[SHOP, "api"] = APPETITE
            self._note("fault.injected", "api")
        elif fault == EVICT:
            self._evict_worker()

    def mend(self, fault: str) -> None:
        """Take a fault back; raises `KeyError` for one this stand-in does not have."""
        if fault not in SUPPORTED:
            raise KeyError(fault)
        if fault not in self._world.faults:
            return
        self._world.faults.active.discard(fault)
        if fault in _RELEASES:
            self._take_back(fault)
        if fault == BAD_RELEASE:
            self._world.wedged.clear()
        elif fault == OOM:
            self._world.appetite.pop((SHOP, "api"), None)
            self._note("fault.mended", "api")
        elif fault == EVICT:
            self._clear_evicted()

    def _release(self, fault: str) -> None:
        release = _RELEASES[fault]
        deployment = self._world.store.get(DEPLOYMENT, SHOP, release.app)
        if deployment is None:
            return
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        bad = dict(release.change(container))
        self._edits[fault] = bad, {key: container.get(key) for key in bad}
        self._set(deployment, bad, "fault.injected")

    def _take_back(self, fault: str) -> None:
        """Put back what the fault changed, where nobody else has changed it since."""
        bad, former = self._edits.pop(fault, ({}, {}))
        deployment = self._world.store.get(DEPLOYMENT, SHOP, _RELEASES[fault].app)
        if deployment is None:
            return
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        good = {key: former[key] for key in bad if container.get(key) == bad[key]}
        if good:
            self._set(deployment, good, "fault.mended")

    def _set(self, deployment: Obj, fields: Obj, effect: str) -> None:
        def change(edited: Obj) -> None:
            container = edited["spec"]["template"]["spec"]["containers"][0]
            for key, value in fields.items():
                container.pop(key, None)
                if value is not None:
                    container[key] = copy.deepcopy(value)
            edited["metadata"]["generation"] += 1

        changed = self._world.edit(DEPLOYMENT, deployment, change)
        self._world.effect(effect, DEPLOYMENT, changed, **fields)

    def _note(self, effect: str, app: str) -> None:
        deployment = self._world.store.get(DEPLOYMENT, SHOP, app)
        if deployment is not None:
            self._world.effect(effect, DEPLOYMENT, deployment, memory=APPETITE)

    def _workers(self) -> list[Obj]:
        pods = self._world.store.all(POD, SHOP)
        return [
            pod
            for pod in pods
            if (pod["metadata"].get("labels") or {}).get("app") == "worker" and not is_over(pod)
        ]

    def _wedge_workers(self) -> None:
        """The workers run on but do not serve; a new pod is well."""
        for pod in self._workers():
            self._world.wedged.add(pod["metadata"]["uid"])
            self._world.effect("fault.wedged", POD, pod, uid=pod["metadata"]["uid"])

    def _evict_worker(self) -> None:
        """A node that runs out of memory puts a worker out; its controller makes another."""
        for pod in self._workers()[:1]:
            message = _PRESSURE.format(name=pod["spec"]["containers"][0]["name"])
            condition = {
                "type": "DisruptionTarget",
                "status": "True",
                "lastProbeTime": None,
                "lastTransitionTime": self._world.store.timestamp(),
                "reason": "TerminationByKubelet",
                "message": message,
            }

            def tell(edited: Obj, message: str = message, condition: Obj = condition) -> None:
                edited["status"].update(reason="Evicted", message=message)
                edited["status"]["conditions"].append(condition)

            gone = end_for_good(self._world, pod, "Failed", code=137, reason="Error", tell=tell)
            host = pod["spec"].get("nodeName", "")
            source = {"component": "kubelet", "host": host, "type": "Warning"}
            self._world.event(POD, gone, "Evicted", message, **source)
            self._world.effect("fault.evicted", POD, gone, uid=pod["metadata"]["uid"])
            self._evicted.add(pod["metadata"]["uid"])

    def _clear_evicted(self) -> None:
        for pod in self._world.store.all(POD, SHOP):
            if pod["metadata"]["uid"] in self._evicted:
                self._world.store.remove(POD, pod)
                self._world.effect("fault.mended", POD, pod, uid=pod["metadata"]["uid"])
        self._evicted.clear()
