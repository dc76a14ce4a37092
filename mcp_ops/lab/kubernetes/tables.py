"""Objects as the tables that a person's client prints, column by column as the API server has them.

Facts: the printers in `pkg/printers/internalversion` of kubernetes/kubernetes, read as reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import (
    AUTOSCALER,
    CONFIG_MAP,
    CONTROLLER_REVISION,
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    EVENT,
    JOB,
    NAMESPACE,
    POD,
    REPLICA_SET,
    STATEFUL_SET,
    Kind,
    Obj,
)
from mcp_ops.lab.kubernetes.podcolumns import pod_cells
from mcp_ops.lab.kubernetes.store import ago, duration

# A column that is shown only when more is asked for begins with this.
_WIDE: Final = "+"
_TEMPLATE: Final = ("+Containers", "+Images", "+Selector")


def table(kind: Kind, page: list[Obj], meta: Obj, now: float, *, named: bool = True) -> Obj:
    """A table of objects; a watch names the columns once only."""
    columns = _COLUMNS.get(kind.qualified, _PLAIN)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": [_column(name) for name in columns.names] if named else None,
        "rows": [{"cells": columns.cells(obj, now), "object": partial(obj)} for obj in page],
    }


def partial(obj: Obj) -> Obj:
    """An object's metadata only."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj["metadata"],
    }


def _column(name: str) -> Obj:
    plain = name.removeprefix(_WIDE)
    return {
        "name": plain,
        "type": "integer" if plain in _NUMBERS else "string",
        "format": "name" if plain == "Name" else "",
        "description": "",
        "priority": int(name.startswith(_WIDE)),
    }


_NUMBERS: Final = frozenset(
    {
        "Up-to-date",
        "Available",
        "Desired",
        "Current",
        "Data",
        "MinPods",
        "MaxPods",
        "Replicas",
        "Active",
        "Revision",
        "Count",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    names: tuple[str, ...]
    cells: Callable[[Obj, float], list[Any]]


def _name(obj: Obj) -> str:
    return str(obj["metadata"]["name"])


def _age(obj: Obj, now: float) -> str:
    return ago(obj["metadata"].get("creationTimestamp"), now)


def _status(obj: Obj, *fields: str) -> list[int]:
    status = obj.get("status") or {}
    return [status.get(field, 0) for field in fields]


def _template(obj: Obj) -> list[Any]:
    containers = obj["spec"]["template"]["spec"]["containers"]
    labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
    return [
        ",".join(one["name"] for one in containers),
        ",".join(one["image"] for one in containers),
        ",".join(f"{key}={labels[key]}" for key in sorted(labels)) or "<none>",
    ]


def _plain(obj: Obj, now: float) -> list[Any]:
    return [_name(obj), obj["metadata"].get("creationTimestamp")]


def _deployment(obj: Obj, now: float) -> list[Any]:
    ready, updated, available = _status(
        obj, "readyReplicas", "updatedReplicas", "availableReplicas"
    )
    wanted = obj["spec"]["replicas"]
    return [_name(obj), f"{ready}/{wanted}", updated, available, _age(obj, now), *_template(obj)]


def _replica_set(obj: Obj, now: float) -> list[Any]:
    counts = _status(obj, "replicas", "readyReplicas")
    return [_name(obj), obj["spec"]["replicas"], *counts, _age(obj, now), *_template(obj)]


def _stateful_set(obj: Obj, now: float) -> list[Any]:
    (ready,) = _status(obj, "readyReplicas")
    shown = f"{ready}/{obj['spec']['replicas']}"
    return [_name(obj), shown, _age(obj, now), *_template(obj)[:2]]


def _daemon_set(obj: Obj, now: float) -> list[Any]:
    counts = _status(
        obj,
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    nodes = obj["spec"]["template"]["spec"].get("nodeSelector") or {}
    chosen = ",".join(f"{key}={nodes[key]}" for key in sorted(nodes)) or "<none>"
    return [_name(obj), *counts, chosen, _age(obj, now), *_template(obj)]


def _job(obj: Obj, now: float) -> list[Any]:
    spec, status = obj["spec"], obj.get("status") or {}
    holding = [one["type"] for one in status.get("conditions") or [] if one["status"] == "True"]
    known = ("Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet")
    state = next((kind for kind in known if kind in holding), "Running")
    if obj["metadata"].get("deletionTimestamp"):
        state = "Terminating"
    done = f"{status.get('succeeded', 0)}/{spec.get('completions', 1)}"
    lasted = duration(status.get("startTime"), status.get("completionTime"), now)
    return [_name(obj), state, done, lasted, _age(obj, now), *_template(obj)]


def _cron_job(obj: Obj, now: float) -> list[Any]:
    spec, status = obj["spec"], obj.get("status") or {}
    last = status.get("lastScheduleTime")
    return [
        _name(obj),
        spec["schedule"],
        spec.get("timeZone", "<none>"),
        "True" if spec.get("suspend") else "False",
        len(status.get("active") or []),
        ago(last, now) if last else "<none>",
        _age(obj, now),
        *_template(spec["jobTemplate"]),
    ]


def _autoscaler(obj: Obj, now: float) -> list[Any]:
    spec, status = obj["spec"], obj.get("status") or {}
    target = spec["scaleTargetRef"]
    return [
        _name(obj),
        f"{target['kind']}/{target['name']}",
        _targets(spec, status),
        str(spec.get("minReplicas", "<unset>")),
        spec["maxReplicas"],
        status.get("currentReplicas", 0),
        _age(obj, now),
    ]


def _targets(spec: Obj, status: Obj) -> str:
    """How much of the processor is used, and how much shall be."""
    used = {
        one["resource"]["name"]: one["resource"]["current"].get("averageUtilization")
        for one in status.get("currentMetrics") or []
        if "resource" in one
    }
    shown = []
    for metric in spec.get("metrics") or []:
        asked = metric.get("resource") or {}
        wanted = (asked.get("target") or {}).get("averageUtilization")
        if wanted is None:
            continue
        now = used.get(asked["name"])
        shown.append(f"{asked['name']}: {'<unknown>' if now is None else f'{now}%'}/{wanted}%")
    return ", ".join(shown) or "<none>"


def _event(obj: Obj, now: float) -> list[Any]:
    about = obj["involvedObject"]
    first, last = obj.get("firstTimestamp"), obj.get("lastTimestamp")
    component = (obj.get("source") or {}).get("component", "")
    return [
        ago(last or first, now),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{about['kind'].lower()}/{about['name']}",
        about.get("fieldPath", ""),
        component,
        obj.get("message", "").strip(),
        ago(first, now),
        obj.get("count", 1),
        _name(obj),
    ]


def _namespace(obj: Obj, now: float) -> list[Any]:
    return [_name(obj), (obj.get("status") or {}).get("phase", ""), _age(obj, now)]


def _config_map(obj: Obj, now: float) -> list[Any]:
    held = len(obj.get("data") or {}) + len(obj.get("binaryData") or {})
    return [_name(obj), held, _age(obj, now)]


def _controller_revision(obj: Obj, now: float) -> list[Any]:
    owners = [one for one in obj["metadata"].get("ownerReferences") or [] if one.get("controller")]
    owner = next((f"{_group_kind(one)}/{one['name']}" for one in owners), "<none>")
    return [_name(obj), owner, obj.get("revision", 0), _age(obj, now)]


def _group_kind(owner: Obj) -> str:
    group = owner["apiVersion"].rpartition("/")[0]
    return f"{owner['kind'].lower()}.{group}" if group else str(owner["kind"].lower())


_PLAIN: Final = _Columns(names=("Name", "Created At"), cells=_plain)
_PODS: Final = ("+IP", "+Node", "+Nominated Node", "+Readiness Gates")
_SHOWN: Final[tuple[tuple[Kind, tuple[str, ...], Callable[[Obj, float], list[Any]]], ...]] = (
    (POD, ("Name", "Ready", "Status", "Restarts", "Age", *_PODS), pod_cells),
    (DEPLOYMENT, ("Name", "Ready", "Up-to-date", "Available", "Age", *_TEMPLATE), _deployment),
    (REPLICA_SET, ("Name", "Desired", "Current", "Ready", "Age", *_TEMPLATE), _replica_set),
    (STATEFUL_SET, ("Name", "Ready", "Age", *_TEMPLATE[:2]), _stateful_set),
    (
        DAEMON_SET,
        (
            *("Name", "Desired", "Current", "Ready", "Up-to-date", "Available", "Node Selector"),
            *("Age", *_TEMPLATE),
        ),
        _daemon_set,
    ),
    (JOB, ("Name", "Status", "Completions", "Duration", "Age", *_TEMPLATE), _job),
    (
        CRON_JOB,
        (
            *("Name", "Schedule", "Timezone", "Suspend", "Active", "Last Schedule"),
            *("Age", *_TEMPLATE),
        ),
        _cron_job,
    ),
    (
        AUTOSCALER,
        ("Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"),
        _autoscaler,
    ),
    (
        EVENT,
        (
            *("Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message"),
            *("+First Seen", "+Count", "+Name"),
        ),
        _event,
    ),
    (NAMESPACE, ("Name", "Status", "Age"), _namespace),
    (CONFIG_MAP, ("Name", "Data", "Age"), _config_map),
    (CONTROLLER_REVISION, ("Name", "Controller", "Revision", "Age"), _controller_revision),
)
_COLUMNS: Final = {
    kind.qualified: _Columns(names=names, cells=cells) for kind, names, cells in _SHOWN
}
