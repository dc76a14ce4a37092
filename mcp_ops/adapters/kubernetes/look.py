"""Looking at one workload: the object, its pods, their replica sets and events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mcp_ops.adapters.kubernetes.api import Api
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import (
    Obj,
    controller_of,
    mapping,
    objects,
    text,
    uid_of,
)
from mcp_ops.adapters.kubernetes.workloads import DEPLOYMENT, Kind
from mcp_ops.wire.together import together

PODS: Final = 500
_GET: Final = "get"
_LIST: Final = "list"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A workload with what it owns; of replica sets the metadata only. `cut` means that it has more
    pods than were read."""

    kind: Kind
    workload: Obj
    replica_sets: list[Obj]
    pods: list[Obj]
    cut: bool


async def get_workload(api: Api, kind: Kind, name: str) -> Obj:
    """The workload; raises `NotFound`."""
    ask = Ask(verb=_GET, resource=kind.resource)
    return await api.get(api.path("apps", kind.plural, name), ask)


async def get_family(api: Api, kind: Kind, name: str) -> Family:
    """The workload, its replica sets and at most 500 of its pods."""
    workload = await get_workload(api, kind, name)
    selector = selector_of(workload)
    sets: list[Obj] = []
    pods: list[Obj] = []
    more = ""

    async def read_sets() -> None:
        ask = Ask(verb=_LIST, resource="replicasets.apps")
        path = api.path("apps", "replicasets")
        found, _ = await api.list_metadata(path, ask, labelSelector=selector, limit=PODS)
        sets.extend(one for one in found if controller_of(one) == uid_of(workload))

    async def read_pods() -> None:
        nonlocal more
        ask = Ask(verb=_LIST, resource="pods")
        found, more = await api.list_page(
            api.path("", "pods"), ask, labelSelector=selector, limit=PODS
        )
        pods.extend(found)

    # An empty selector would select every pod of the namespace; the API forbids it for workloads.
    if selector:
        await together([read_sets, read_pods] if kind is DEPLOYMENT else [read_pods])
    owners = {uid_of(one) for one in sets} if kind is DEPLOYMENT else {uid_of(workload)}
    owned = [pod for pod in pods if controller_of(pod) in owners]
    return Family(kind=kind, workload=workload, replica_sets=sets, pods=owned, cut=bool(more))


def selector_of(workload: Obj) -> str:
    """The workload's label selector as a query carries it."""
    selector = mapping(workload, "spec", "selector")
    labels = mapping(selector, "matchLabels")
    parts = [f"{key}={value}" for key, value in labels.items() if isinstance(value, str)]
    return ",".join(parts + [_expression(one) for one in objects(selector, "matchExpressions")])


def _expression(one: Obj) -> str:
    key, operator = text(one, "key"), text(one, "operator")
    values = one.get("values")
    joined = ",".join(map(str, values)) if isinstance(values, list) else ""
    return {
        "In": f"{key} in ({joined})",
        "NotIn": f"{key} notin ({joined})",
        "DoesNotExist": f"!{key}",
    }.get(operator, key)
