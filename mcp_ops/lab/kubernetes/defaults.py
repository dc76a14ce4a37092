"""The values the API server fills in where an object says nothing."""

from __future__ import annotations

from typing import Any

from mcp_ops.lab.kubernetes.kinds import (
    AUTOSCALER,
    CONTROLLER_REVISION,
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
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
        obj.setdefault("status", {"phase": "Pending", "qosClass": _quality(obj["spec"])})
    elif kind is JOB:
        _job(_inner(obj, "spec"))
        _own_pods(obj)
    elif kind is CRON_JOB:
        _cron_job(_inner(obj, "spec"))
    elif kind is CONTROLLER_REVISION:
        obj.setdefault("revision", 0)
    elif kind is AUTOSCALER:
        _autoscaler(_inner(obj, "spec"))
    elif kind.plural in _WORKLOADS:
        _workload(kind, _inner(obj, "spec"))


def _fill(spec: Obj, values: dict[str, Any]) -> None:
    for field, value in values.items():
        if spec.get(field) is None:
            spec[field] = value


def _job(spec: Obj) -> None:
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    _fill(
        spec,
        {
            "parallelism": 1,
            "backoffLimit": 6,
            "completionMode": "NonIndexed",
            "manualSelector": False,
            "podReplacementPolicy": "TerminatingOrFailed",
            "suspend": False,
        },
    )
    template = _inner(spec, "template")
    _inner(template, "metadata")
    _pod_spec(_inner(template, "spec"))


def _own_pods(job: Obj) -> None:
    """The selector and the labels by which a job knows its pods: made from its uid."""
    uid, spec = job["metadata"].get("uid"), job["spec"]
    if not uid or spec["manualSelector"] or spec.get("selector"):
        return
    name = job["metadata"]["name"]
    labels = _inner(spec["template"]["metadata"], "labels")
    named = {"controller-uid": uid, "job-name": name}
    labels.update(named, **{f"batch.kubernetes.io/{key}": value for key, value in named.items()})
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    if not job["metadata"].get("labels"):
        job["metadata"]["labels"] = dict(labels)


def _cron_job(spec: Obj) -> None:
    _fill(
        spec,
        {
            "concurrencyPolicy": "Allow",
            "failedJobsHistoryLimit": 1,
            "successfulJobsHistoryLimit": 3,
            "suspend": False,
        },
    )
    template = _inner(spec, "jobTemplate")
    _inner(template, "metadata")
    inner = _inner(_inner(template, "spec"), "template")
    _inner(inner, "metadata")
    _pod_spec(_inner(inner, "spec"))


def _autoscaler(spec: Obj) -> None:
    if spec.get("minReplicas") is None:
        spec["minReplicas"] = 1
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]


def _workload(kind: Kind, spec: Obj) -> None:
    _fill(spec, _WORKLOADS[kind.plural])
    template = _inner(spec, "template")
    _inner(template, "metadata")
    _pod_spec(_inner(template, "spec"))
    strategy = _inner(spec, "strategy") if kind is DEPLOYMENT else _inner(spec, "updateStrategy")
    if kind is REPLICA_SET:
        del spec["updateStrategy"]
        return
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(_inner(strategy, "rollingUpdate"), _ROLLING[kind.plural])


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
_PROBE: dict[str, Any] = {
    "failureThreshold": 3,
    "periodSeconds": 10,
    "successThreshold": 1,
    "timeoutSeconds": 1,
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
    for field in ("initContainers", "containers"):
        containers = spec.get(field)
        for container in containers if isinstance(containers, list) else []:
            if isinstance(container, dict):
                _container(container)


def _quality(spec: Obj) -> str:
    """The class of service that requests and limits give a pod."""
    containers = spec.get("containers")
    found = [
        one.get("resources")
        for one in (containers if isinstance(containers, list) else [])
        if isinstance(one, dict)
    ]
    if not any(found):
        return "BestEffort"
    sure = all(_is_sure(one) for one in found)
    return "Guaranteed" if sure else "Burstable"


def _is_sure(resources: Any) -> bool:
    """Whether a container may have exactly what it asks for."""
    limits = resources.get("limits") if isinstance(resources, dict) else None
    if not isinstance(limits, dict) or not {"cpu", "memory"} <= set(limits):
        return False
    return bool(resources.get("requests", limits) == limits)


def _container(container: Obj) -> None:
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition(":")[2]
    latest = tag in ("", "latest") and "@" not in image
    resources = container.setdefault("resources", {})
    if isinstance(resources, dict) and isinstance(resources.get("limits"), dict):
        requests = _inner(resources, "requests")
        for name, amount in resources["limits"].items():
            requests.setdefault(name, amount)
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(container.get(probe), dict):
            _fill(container[probe], _PROBE)
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
