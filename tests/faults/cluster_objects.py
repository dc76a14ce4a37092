"""The objects that writes at Kubernetes change: each is the object of one intent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio
import httpx2

from tests.faults.cluster_writes import NEW

APPS: Final = "/apis/apps/v1/namespaces/shop"
JOBS: Final = "/apis/batch/v1/namespaces/shop"
SCALERS: Final = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers"
_STRATEGIC: Final = {"content-type": "application/strategic-merge-patch+json"}
_REMEMBERED: Final = "mcp-ops.io/replicas-before-stop"
_WAIT_S: Final = 60.0
_POLL_S: Final = 0.02


async def make(cluster: httpx2.AsyncClient, tool: str, name: str, image: str) -> None:
    """Make what that tool changes: a workload, a schedule or a run."""
    await _MAKERS.get(tool, _workload)(cluster, name, image)


async def patch(cluster: httpx2.AsyncClient, path: str, body: Mapping[str, Any]) -> None:
    """Change an object as somebody else would."""
    answer = await cluster.patch(path, json=body, headers=_STRATEGIC)
    assert answer.status_code == 200, answer.text


async def _workload(cluster: httpx2.AsyncClient, name: str, image: str) -> None:
    await _post(cluster, f"{APPS}/deployments", deployment(name, image))


async def _released(cluster: httpx2.AsyncClient, name: str, image: str) -> None:
    """Another version, so that there is one to come back to."""
    await _workload(cluster, name, image)
    await _versions(cluster, name, 1)
    body = {"template": {"spec": {"containers": [{"name": "app", "image": NEW}]}}}
    await patch(cluster, f"{APPS}/deployments/{name}", {"spec": body})
    await _versions(cluster, name, 2)


async def _versions(cluster: httpx2.AsyncClient, name: str, count: int) -> None:
    path = f"{APPS}/replicasets?labelSelector=app%3D{name}"
    await _until(cluster, path, lambda found: len(found["items"]) >= count)


async def _stopped(cluster: httpx2.AsyncClient, name: str, image: str) -> None:
    made = deployment(name, image)
    made["spec"]["replicas"] = 0
    made["metadata"]["annotations"] = {_REMEMBERED: "1"}
    await _post(cluster, f"{APPS}/deployments", made)


async def _paused(cluster: httpx2.AsyncClient, name: str, image: str) -> None:
    """Held while it has a change that nothing was started for."""
    await _released(cluster, name, image)
    await patch(cluster, f"{APPS}/deployments/{name}", {"spec": {"paused": True}})


async def _autoscaled(cluster: httpx2.AsyncClient, name: str, image: str) -> None:
    await _workload(cluster, name, image)
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": 1,
            "maxReplicas": 3,
        },
    }
    await _post(cluster, SCALERS, scaler)


async def _old_pod(cluster: httpx2.AsyncClient, name: str, image: str) -> None:
    """A set whose one pod is of the version before: it is replaced when it is put out."""
    made = deployment(name, image)
    made["kind"] = "StatefulSet"
    made["spec"] |= {"serviceName": name, "updateStrategy": {"type": "OnDelete"}}
    path = f"{APPS}/statefulsets"
    await _post(cluster, path, made)
    await _until(cluster, f"{path}/{name}", lambda one: _count(one, "readyReplicas") == 1)
    containers = [{"name": "app", "image": NEW}]
    await patch(
        cluster, f"{path}/{name}", {"spec": {"template": {"spec": {"containers": containers}}}}
    )
    await _until(
        cluster,
        f"{path}/{name}",
        lambda one: _count(one, "observedGeneration") == 2 and not _count(one, "updatedReplicas"),
    )


def _count(obj: Mapping[str, Any], key: str) -> int:
    return int((obj.get("status") or {}).get(key, 0))


async def _schedule(cluster: httpx2.AsyncClient, name: str, image: str) -> None:
    await _post(cluster, f"{JOBS}/cronjobs", schedule(name, image))


async def _held(cluster: httpx2.AsyncClient, name: str, image: str) -> None:
    made = schedule(name, image)
    made["spec"]["suspend"] = True
    await _post(cluster, f"{JOBS}/cronjobs", made)


async def _running(cluster: httpx2.AsyncClient, name: str, image: str) -> None:
    """A run that does not end by itself."""
    pod = _pod(image)
    pod["containers"][0]["env"] = [{"name": "LAB_RUN", "value": "forever"}]
    made = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {"spec": pod}},
    }
    await _post(cluster, f"{JOBS}/jobs", made)
    await _until(cluster, f"{JOBS}/jobs/{name}", lambda one: _count(one, "active") == 1)


async def _until(
    cluster: httpx2.AsyncClient, path: str, holds: Callable[[Mapping[str, Any]], bool]
) -> None:
    with anyio.fail_after(_WAIT_S):
        while not holds((await cluster.get(path)).json()):
            await anyio.sleep(_POLL_S)


async def _post(cluster: httpx2.AsyncClient, path: str, body: Mapping[str, Any]) -> None:
    answer = await cluster.post(path, json=body)
    assert answer.status_code == 201, answer.text


def deployment(name: str, image: str) -> dict[str, Any]:
    """A deployment of one instance."""
    container = {"name": "app", "image": image}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container]},
            },
        },
    }


def schedule(name: str, image: str) -> dict[str, Any]:
    """A schedule that is not due while a row plays."""
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name},
        "spec": {
            "schedule": "0 4 * * *",
            "jobTemplate": {"spec": {"template": {"spec": _pod(image)}}},
        },
    }


def _pod(image: str) -> dict[str, Any]:
    return {"restartPolicy": "Never", "containers": [{"name": "main", "image": image}]}


_Maker = Callable[[httpx2.AsyncClient, str, str], Awaitable[None]]
_MAKERS: Final[Mapping[str, _Maker]] = {
    "rollback_deployment": _released,
    "start_deployment": _stopped,
    "resume_rollout": _paused,
    "set_autoscaling": _autoscaled,
    "restart_instance": _old_pod,
    "run_job": _schedule,
    "suspend_job": _schedule,
    "resume_job": _held,
    "stop_job": _running,
}
