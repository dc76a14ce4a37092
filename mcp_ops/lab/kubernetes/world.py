"""What the API and the controllers share: the objects, the faults, the log and the pods' output."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import EVENT, Kind, Obj
from mcp_ops.lab.kubernetes.output import PodOutput
from mcp_ops.lab.kubernetes.store import Store, new_uid
from mcp_ops.lab.standin import EffectLog, Faults

KEPT_EVENTS: Final = 1_000


@dataclass(slots=True, kw_only=True)
class World:
    """The one state of a stand-in; all of it is used from one event loop."""

    store: Store
    log: EffectLog
    faults: Faults
    output: PodOutput
    wedged: set[str] = field(default_factory=set)
    # What the containers of an app really take of the memory, in bytes, by namespace and label.
    appetite: dict[tuple[str, str], int] = field(default_factory=dict)
    metrics: bool = True
    silent: bool = False

    @property
    def measured(self) -> bool:
        """Whether somebody measures the pods, as a metrics server does."""
        return self.metrics and "no-metrics" not in self.faults

    def effect(self, effect: str, kind: Kind, obj: Obj, **fields: Any) -> None:
        """Write one change to the effect log, unless the world is being set up."""
        if self.silent:
            return
        meta = obj["metadata"]
        self.log.append(
            effect,
            kind=kind.name,
            namespace=meta.get("namespace", ""),
            name=meta["name"],
            resourceVersion=meta.get("resourceVersion", ""),
            **fields,
        )

    def edit(self, kind: Kind, obj: Obj, change: Callable[[Obj], None]) -> Obj:
        """Change a copy of a stored object and put it, if that made a difference."""
        edited = copy.deepcopy(obj)
        change(edited)
        return obj if edited == obj else self.store.put(kind, edited)

    def event(self, kind: Kind, obj: Obj, reason: str, message: str, **source: str) -> None:
        """Record what happened to an object; the same again only counts up."""
        meta = obj["metadata"]
        key = f"{meta['name']}.{abs(hash((meta['uid'], reason, message))):016x}"
        now = self.store.timestamp()
        namespace = meta.get("namespace") or "default"
        earlier = self.store.get(EVENT, namespace, key)
        if earlier is not None:
            count = earlier["count"] + 1
            self.store.put(EVENT, {**copy.deepcopy(earlier), "count": count, "lastTimestamp": now})
            return
        component = source.get("component", "deployment-controller")
        involved = {
            "kind": kind.name,
            "namespace": meta.get("namespace", ""),
            "name": meta["name"],
            "uid": meta["uid"],
            "apiVersion": kind.api_version,
            "resourceVersion": meta.get("resourceVersion", ""),
        }
        if "container" in source:
            involved["fieldPath"] = f"spec.containers{{{source['container']}}}"
        self.store.put(
            EVENT,
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": key,
                    "namespace": namespace,
                    "uid": new_uid(),
                    "creationTimestamp": now,
                },
                "involvedObject": involved,
                "reason": reason,
                "message": message,
                "source": {"component": component, **_host(source)},
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
                "type": source.get("type", "Normal"),
                "eventTime": None,
                "reportingComponent": component,
                "reportingInstance": source.get("host", ""),
            },
        )
        oldest = self.store.oldest_over(EVENT, KEPT_EVENTS)
        if oldest is not None:
            self.store.remove(EVENT, oldest)


def _host(source: dict[str, str]) -> dict[str, str]:
    return {"host": source["host"]} if "host" in source else {}


def controller_uid(obj: Obj) -> str:
    """The uid of the controller that owns an object, or nothing."""
    for owner in obj["metadata"].get("ownerReferences") or []:
        if owner.get("controller"):
            return str(owner["uid"])
    return ""


def owner_reference(kind: Kind, owner: Obj) -> Obj:
    """The reference by which an object belongs to its controller."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
