"""The values the API server fills in where an object says nothing."""

from __future__ import annotations

from typing import Any

from mcp_ops.lab.kubernetes.kinds import (
    DAEMON_SET,
    DEPLOYMENT,
    NAMESPACE,
    POD,
    REPLICA_SET,
    STATEFUL_SET,
    Kind,
    Obj,
)


def apply_defaults(kind: Kind, obj: Obj) -> None:
    """Fill in, in place, what the object leaves open."""
    if kind is NAMESPACE:
        obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        obj.setdefault("status", {"phase": "Active"})
        name = obj["metadata"]["name"]
        _inner(obj["metadata"], "labels")["kubernetes.io/metadata.name"] = name
    elif kind is POD:
        _pod_spec(_inner(obj, "spec"))
        obj.setdefault("status", {"phase": "Pending", "qosClass": "BestEffort"})
    elif kind.plural in _WORKLOADS:
        _workload(kind, _inner(obj, "spec"))


def _workload(kind: Kind, spec: Obj) -> None:
    for field, value in _WORKLOADS[kind.plural].items():
        if spec.get(field) is None:
            spec[field] = value
    template = _inner(spec, "template")
    _inner(template, "metadata")
    _pod_spec(_inner(template, "spec"))
    strategy = _inner(spec, "strategy") if kind is DEPLOYMENT else _inner(spec, "updateStrategy")
    if kind is REPLICA_SET:
        del spec["updateStrategy"]
        return
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = _inner(strategy, "rollingUpdate")
        for field, value in _ROLLING[kind.plural].items():
            if rolling.get(field) is None:
                rolling[field] = value


_WORKLOADS: dict[str, dict[str, Any]] = {
    DEPLOYMENT.plural: {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
    },
    REPLICA_SET.plural: {"replicas": 1},
    STATEFUL_SET.plural: {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "podManagementPolicy": "OrderedReady",
        "serviceName": "",
    },
    DAEMON_SET.plural: {"revisionHistoryLimit": 10},
}
_ROLLING: dict[str, dict[str, Any]] = {
    DEPLOYMENT.plural: {"maxSurge": "25%", "maxUnavailable": "25%"},
    STATEFUL_SET.plural: {"partition": 0},
    DAEMON_SET.plural: {"maxSurge": 0, "maxUnavailable": 1},
}


def _inner(obj: Obj, field: str) -> Obj:
    """The object in a field; made where it is absent, left alone where it is no object."""
    if obj.get(field) is None:
        obj[field] = {}
    value = obj[field]
    return value if isinstance(value, dict) else {}


def _pod_spec(spec: Obj) -> None:
    for field, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"),
    ):
        spec.setdefault(field, value)
    spec.setdefault("securityContext", {})
    containers = spec.get("containers")
    for container in containers if isinstance(containers, list) else []:
        if isinstance(container, dict):
            _container(container)


def _container(container: Obj) -> None:
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition(":")[2]
    latest = tag in ("", "latest") and "@" not in image
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
