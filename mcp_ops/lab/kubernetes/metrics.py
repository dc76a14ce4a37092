"""What the pods take, as a metrics server measures it; absent where a cluster has none."""

from __future__ import annotations

from mcp_ops.lab.kubernetes.call import Call
from mcp_ops.lab.kubernetes.kinds import POD, POD_METRICS, Obj
from mcp_ops.lab.kubernetes.podstatus import is_over
from mcp_ops.lab.kubernetes.reading import selected
from mcp_ops.lab.kubernetes.status import not_found
from mcp_ops.lab.kubernetes.troubles import memory_of
from mcp_ops.lab.kubernetes.world import World


def answer_metrics(world: World, call: Call) -> Obj:
    """One pod's usage, or that of all selected pods; what has not run yet has none."""
    namespace, name = call.address.namespace, call.address.name
    if name:
        pod = world.store.get(POD, namespace, name)
        if pod is None or not is_measured(pod):
            raise not_found(POD_METRICS, f"{namespace}/{name}")
        return usage_of(world, pod)
    matches = selected(call)
    pods = [pod for pod in world.store.all(POD, namespace) if is_measured(pod) and matches(pod)]
    return {
        "kind": "PodMetricsList",
        "apiVersion": POD_METRICS.api_version,
        "metadata": {},
        "items": [_usage(world, pod) for pod in pods],
    }


def usage_of(world: World, pod: Obj) -> Obj:
    """The usage of one pod."""
    return {"kind": "PodMetrics", "apiVersion": POD_METRICS.api_version, **_usage(world, pod)}


def is_measured(pod: Obj) -> bool:
    """Whether a pod runs, so that there is something to measure."""
    return pod["status"].get("phase") == "Running" and not is_over(pod)


def _usage(world: World, pod: Obj) -> Obj:
    meta, now = pod["metadata"], world.store.timestamp()
    running = {
        one["name"]
        for one in pod["status"].get("containerStatuses") or []
        if "running" in one["state"]
    }
    return {
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "creationTimestamp": now,
            "labels": meta.get("labels") or {},
        },
        "timestamp": now,
        "window": "15.0s",
        "containers": [
            {"name": one["name"], "usage": _of(world, pod, one)}
            for one in pod["spec"]["containers"]
            if one["name"] in running
        ],
    }


def _of(world: World, pod: Obj, container: Obj) -> Obj:
    """The usage of a container: nanocores and kibibytes, as the metrics server writes them."""
    memory = int(memory_of(world.appetite, pod, container) // 1024)
    cpu = 41_900_000 + sum(map(ord, pod["metadata"]["name"])) % 1_000 * 1_000
    return {"cpu": f"{cpu}n", "memory": f"{memory}Ki"}
