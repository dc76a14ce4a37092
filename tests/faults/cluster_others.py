"""What somebody else does at Kubernetes: to the object of a write before it, and after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import anyio
import httpx2

from tests.faults import cluster_objects
from tests.faults.cluster_objects import APPS, JOBS, SCALERS, patch
from tests.faults.cluster_writes import OLD
from tests.faults.writes import KINDS

# A run is not locked to its schedule. A run that has ended was not ended by somebody else's doing.
CHANGED_BEFORE: Final = tuple(kind for kind in KINDS if kind not in ("run", "endrun"))
# What is gone shows nothing of what came after it; a run can be ended before it has shown its end.
CHANGED_AFTER: Final = (*(kind for kind in CHANGED_BEFORE if kind != "evict"), "run")
_SCALED: Final = {"replicas": 3}
_MOVED: Final = {"template": {"spec": {"nodeName": "elsewhere"}}}
_BEFORE: Final[Mapping[str, Mapping[str, Any]]] = {
    "autoscale": {"maxReplicas": 7},
    "hold": {"schedule": "0 5 * * *"},
    "letgo": {"schedule": "0 5 * * *"},
}
_AFTER: Final[Mapping[str, Mapping[str, Any]]] = {
    "autoscale": {"maxReplicas": 7},
    "hold": {"suspend": False},
    "letgo": {"suspend": True},
    "pause": {"paused": None},
}
_PLACES: Final[Mapping[str, str]] = {
    "autoscale": SCALERS,
    "hold": f"{JOBS}/cronjobs",
    "letgo": f"{JOBS}/cronjobs",
}
_POLL_S: Final = 0.02


async def change(cluster: httpx2.AsyncClient, name: str) -> None:
    """Make the object another one than was looked at."""
    kind = name.rpartition("-")[0]
    if kind == "evict":
        await _replace_pod(cluster, name)
    else:
        await _patch(cluster, name, _BEFORE.get(kind, _SCALED))


async def change_again(cluster: httpx2.AsyncClient, name: str) -> None:
    """Change what was made of it, or end the run of it."""
    if name.startswith("run-"):
        found = (await cluster.get(f"{JOBS}/jobs")).json()["items"]
        runs = [one["metadata"]["name"] for one in found]
        for run in (run for run in runs if run.startswith(f"{name}-ops-")):
            await _delete(cluster, run)
        return
    await _patch(cluster, name, _AFTER.get(name.rpartition("-")[0], _MOVED))


async def _patch(cluster: httpx2.AsyncClient, name: str, spec: Mapping[str, Any]) -> None:
    where = _PLACES.get(name.rpartition("-")[0], f"{APPS}/deployments")
    await patch(cluster, f"{where}/{name}", {"spec": spec})


async def _replace_pod(cluster: httpx2.AsyncClient, name: str) -> None:
    """Scaled to nothing and back, a set has another pod of the same name."""
    pod = f"/api/v1/namespaces/shop/pods/{name}-0"
    for replicas, status in ((0, 404), (1, 200)):
        await patch(cluster, f"{APPS}/statefulsets/{name}", {"spec": {"replicas": replicas}})
        with anyio.fail_after(30):
            while (await cluster.get(pod)).status_code != status:
                await anyio.sleep(_POLL_S)


async def begin_another_run(cluster: httpx2.AsyncClient, name: str) -> None:
    """End a run, and begin another one that has its name."""
    await _delete(cluster, name)
    await cluster_objects.make(cluster, "stop_job", name, OLD)


async def _delete(cluster: httpx2.AsyncClient, run: str) -> None:
    answer = await cluster.delete(f"{JOBS}/jobs/{run}?propagationPolicy=Background")
    assert answer.status_code == 200, answer.text


async def still_runs(cluster: httpx2.AsyncClient, name: str) -> bool:
    """Whether a run of that name is there."""
    return (await cluster.get(f"{JOBS}/jobs/{name}")).status_code == 200
