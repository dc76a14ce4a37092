"""What an object must fulfil before it is stored, with the causes a caller gets to read."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from mcp_ops.lab.kubernetes.causes import cause, container_causes, kind_causes, required
from mcp_ops.lab.kubernetes.kinds import (
    AUTOSCALER,
    CRON_JOB,
    DAEMON_SET,
    JOB,
    POD,
    WORKLOADS,
    Kind,
    Obj,
)
from mcp_ops.lab.kubernetes.selectors import matches_labels
from mcp_ops.lab.kubernetes.status import Cause, bad_request, invalid

_SUBDOMAIN: Final = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_NAME_RULE: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LARGEST: Final = 2**31 - 1
_STRATEGIES: Final = ("Recreate", "RollingUpdate")


_TYPES: Final[tuple[tuple[str, type], ...]] = (
    ("metadata", dict),
    ("metadata.labels", dict),
    ("metadata.annotations", dict),
    ("metadata.finalizers", list),
    ("metadata.ownerReferences", list),
    ("spec", dict),
    ("spec.replicas", int),
    ("spec.paused", bool),
    ("spec.progressDeadlineSeconds", int),
    ("spec.revisionHistoryLimit", int),
    ("spec.minReadySeconds", int),
    ("spec.selector", dict),
    ("spec.selector.matchLabels", dict),
    ("spec.strategy", dict),
    ("spec.strategy.rollingUpdate", dict),
    ("spec.updateStrategy", dict),
    ("spec.updateStrategy.rollingUpdate", dict),
    ("spec.updateStrategy.rollingUpdate.partition", int),
    ("spec.template", dict),
    ("spec.template.metadata", dict),
    ("spec.template.metadata.labels", dict),
    ("spec.template.metadata.annotations", dict),
    ("spec.template.spec", dict),
    ("spec.template.spec.containers", list),
    ("spec.containers", list),
    ("status", dict),
    ("status.replicas", int),
    ("status.updatedReplicas", int),
    ("status.readyReplicas", int),
    ("status.availableReplicas", int),
    ("status.observedGeneration", int),
    ("count", int),
    ("spec.initContainers", list),
    ("spec.template.spec.initContainers", list),
    ("spec.suspend", bool),
    ("spec.parallelism", int),
    ("spec.completions", int),
    ("spec.backoffLimit", int),
    ("spec.activeDeadlineSeconds", int),
    ("spec.ttlSecondsAfterFinished", int),
    ("spec.schedule", str),
    ("spec.successfulJobsHistoryLimit", int),
    ("spec.failedJobsHistoryLimit", int),
    ("spec.jobTemplate", dict),
    ("spec.jobTemplate.metadata", dict),
    ("spec.jobTemplate.spec", dict),
    ("spec.jobTemplate.spec.template", dict),
    ("spec.jobTemplate.spec.template.metadata", dict),
    ("spec.jobTemplate.spec.template.spec", dict),
    ("spec.jobTemplate.spec.template.spec.containers", list),
    ("spec.scaleTargetRef", dict),
    ("spec.minReplicas", int),
    ("spec.maxReplicas", int),
    ("spec.metrics", list),
    ("revision", int),
)


def check_shape(kind: Kind, obj: Any) -> None:
    """Refuse a body whose types cannot be decoded at all."""
    if not isinstance(obj, dict):
        raise bad_request(_unreadable(kind))
    for path, expected in _TYPES:
        _check_type(kind, obj, path, expected)
    for owner in _at(obj, "metadata.ownerReferences") or []:
        if not isinstance(owner, dict) or not isinstance(owner.get("uid"), str):
            raise _undecodable(kind, "an owner into Go struct field ObjectMeta.ownerReferences")
    for field in ("labels", "annotations"):
        _check_texts(kind, _at(obj, f"metadata.{field}"), field)
        _check_texts(kind, _at(obj, f"spec.template.metadata.{field}"), field)


def _at(obj: Any, path: str) -> Any:
    for part in path.split("."):
        obj = obj.get(part) if isinstance(obj, dict) else None
    return obj


def _undecodable(kind: Kind, why: str) -> Exception:
    return bad_request(f"{_unreadable(kind)}: json: cannot unmarshal {why}")


def _unreadable(kind: Kind) -> str:
    return f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}'


def _check_type(kind: Kind, obj: Obj, path: str, expected: type) -> None:
    value = _at(obj, path)
    too_large = isinstance(value, int) and abs(value) > LARGEST
    if value is None or (type(value) is expected and not too_large):
        return
    raise _undecodable(kind, f"{type(value).__name__} into Go struct field {kind.name}.{path}")


def _check_texts(kind: Kind, values: Any, field: str) -> None:
    for value in (values or {}).values():
        if not isinstance(value, str):
            raise _undecodable(
                kind, f"{type(value).__name__} into Go struct field ObjectMeta.metadata.{field}"
            )


def validate(kind: Kind, obj: Obj, old: Obj | None = None) -> None:
    """Raise a 422 with every cause found, or accept the object."""
    causes = _name_causes(obj)
    if kind in WORKLOADS:
        causes += _workload_causes(kind, obj["spec"])
        if old is not None and obj["spec"].get("selector") != old["spec"].get("selector"):
            shown = json.dumps(obj["spec"].get("selector"), separators=(",", ":"))
            causes.append(cause("spec.selector", f"Invalid value: {shown}: field is immutable"))
    elif kind is POD:
        causes += container_causes(obj["spec"], "spec")
    elif kind in (JOB, CRON_JOB, AUTOSCALER):
        causes += kind_causes(kind, obj, old)
    if causes:
        raise invalid(kind, obj["metadata"]["name"], causes)


def _name_causes(obj: Obj) -> list[Cause]:
    name = obj["metadata"]["name"]
    if len(name) <= 253 and _SUBDOMAIN.match(name):
        return []
    return [cause("metadata.name", f'Invalid value: "{name}": {_NAME_RULE}')]


def _workload_causes(kind: Kind, spec: Obj) -> list[Cause]:
    causes = []
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit"):
        value = spec.get(field)
        if value is not None and value < 0:
            why = f"Invalid value: {value}: must be greater than or equal to 0"
            causes.append(cause(f"spec.{field}", why))
    causes += _selector_causes(spec)
    causes += _strategy_causes(kind, spec)
    return causes + container_causes(spec["template"]["spec"], "spec.template.spec")


def _selector_causes(spec: Obj) -> list[Cause]:
    labels = spec["template"]["metadata"].get("labels") or {}
    selector = spec.get("selector")
    if not selector:
        return [required("spec.selector")]
    if matches_labels(selector, labels):
        return []
    shown = json.dumps(labels, separators=(",", ":"))
    why = f"Invalid value: {shown}: `selector` does not match template `labels`"
    return [cause("spec.template.metadata.labels", why)]


def _strategy_causes(kind: Kind, spec: Obj) -> list[Cause]:
    causes = []
    strategy = spec.get("strategy", {})
    if "strategy" in spec and strategy.get("type") not in _STRATEGIES:
        shown = ", ".join(f'"{name}"' for name in _STRATEGIES)
        why = f'Unsupported value: "{strategy.get("type")}": supported values: {shown}'
        causes.append(cause("spec.strategy.type", why, "FieldValueNotSupported"))
    if strategy.get("type") == "Recreate" and strategy.get("rollingUpdate"):
        why = "Forbidden: may not be specified when strategy `type` is 'Recreate'"
        causes.append(cause("spec.strategy.rollingUpdate", why, "FieldValueForbidden"))
    for field in ("maxSurge", "maxUnavailable"):
        value = strategy.get("rollingUpdate", {}).get(field)
        if value is not None and not _is_count(value):
            why = f"Invalid value: {json.dumps(value)}: a valid percent string must be a numeric "
            why += "string followed by an ending '%'"
            causes.append(cause(f"spec.strategy.rollingUpdate.{field}", why))
    deadline = spec.get("progressDeadlineSeconds")
    if (
        kind is not DAEMON_SET
        and deadline is not None
        and deadline <= spec.get("minReadySeconds", 0)
    ):
        why = f"Invalid value: {deadline}: must be greater than minReadySeconds"
        causes.append(cause("spec.progressDeadlineSeconds", why))
    return causes


def _is_count(value: Any) -> bool:
    if type(value) is int:
        return 0 <= value <= LARGEST
    return isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}%", value) is not None
