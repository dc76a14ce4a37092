"""The writes that rows play, told by the name of their object: `scale-3` is scaled, `run-1` is run.

A name without such a beginning is a workload of the cluster that is restarted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import anyio
import httpx2

from tests.faults import platform_writes
from tests.faults.writing import Writing

APPS: Final = "/apis/apps/v1/namespaces/shop"
JOBS: Final = "/apis/batch/v1/namespaces/shop"
OLD: Final = "lab/faults:1"
NEW: Final = "lab/faults:2"
_STRATEGIC: Final = {"content-type": "application/strategic-merge-patch+json"}
# What most rows play by turns; the first is a restart.
KINDS: Final = ("w", "scale", "rollback", "config", "run")


def _ran(body: dict[str, Any], name: str) -> bool:
    return any(job["name"] == name and "last_start" in job for job in body["items"])


_RESTART: Final = Writing(
    tool="restart_deployment",
    more={},
    look="get_deployment",
    found=lambda body, _: "last_restart" in body,
)
_WRITES: Final[Mapping[str, Writing]] = {
    "scale": Writing(
        tool="scale_deployment",
        more={"replicas": 2},
        look="get_deployment",
        found=lambda body, _: body["desired"] == 2,
    ),
    "rollback": Writing(
        tool="rollback_deployment",
        more={"to_revision": "1"},
        look="get_deployment",
        found=lambda body, _: body["image"] == OLD,
    ),
    "config": Writing(
        tool="set_config",
        more={"key": "REGION", "value": "eu"},
        look="list_config",
        found=lambda body, _: any(one["name"] == "REGION" for one in body["items"]),
    ),
    "run": Writing(
        tool="run_job",
        more={},
        look="list_jobs",
        found=_ran,
        method="POST",
        asks="/namespaces/shop/jobs",
        looks="/jobs/{name}-ops-",
        looked=lambda _: {},
    ),
}


def writing_of(name: str) -> Writing:
    """The write whose object has that name."""
    there = {**_WRITES, **platform_writes.WRITES}
    return there.get(name.rpartition("-")[0], _RESTART)


def names(count: int, *, first: int = 0) -> list[str]:
    """Names of as many objects, the kinds of their writes by turns."""
    return [f"{KINDS[n % len(KINDS)]}-{n:02}" for n in range(first, first + count)]


async def make(cluster: httpx2.AsyncClient, name: str, image: str) -> None:
    """Make the object of a write: a deployment of one instance, or a schedule."""
    if writing_of(name).tool == "run_job":
        await _post(cluster, f"{JOBS}/cronjobs", _schedule(name, image))
        return
    await _post(cluster, f"{APPS}/deployments", _deployment(name, image))
    if writing_of(name).tool == "rollback_deployment":
        await _release(cluster, name)


async def _release(cluster: httpx2.AsyncClient, name: str) -> None:
    """Another version, so that there is one to come back to."""
    await _versions(cluster, name, 1)
    body = {"template": {"spec": {"containers": [{"name": "app", "image": NEW}]}}}
    answer = await cluster.patch(
        f"{APPS}/deployments/{name}", json={"spec": body}, headers=_STRATEGIC
    )
    assert answer.status_code == 200, answer.text
    await _versions(cluster, name, 2)


async def _versions(cluster: httpx2.AsyncClient, name: str, count: int) -> None:
    with anyio.fail_after(30):
        while True:
            answer = await cluster.get(f"{APPS}/replicasets?labelSelector=app%3D{name}")
            if len(answer.json()["items"]) >= count:
                return
            await anyio.sleep(0.02)


async def _post(cluster: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> None:
    answer = await cluster.post(path, json=body)
    assert answer.status_code == 201, answer.text


def _deployment(name: str, image: str) -> dict[str, Any]:
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


def _schedule(name: str, image: str) -> dict[str, Any]:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": image}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name},
        "spec": {
            "schedule": "0 4 * * *",
            "jobTemplate": {"spec": {"template": {"spec": pod}}},
        },
    }
