"""What the lab's Kubernetes does over time: rollouts, incidents, logs, and what heals them."""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import uvicorn
from kubernetes.aio import client as official
from kubernetes.aio import config as official_config

from mcp_ops.lab.kubernetes.api import kubeconfig, kubernetes
from mcp_ops.lab.standin import StandIn

SHOP = "/apis/apps/v1/namespaces/shop"
PODS = "/api/v1/namespaces/shop/pods"
RESTARTED = "kubectl.kubernetes.io/restartedAt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A served stand-in and a client of it."""

    url: str
    http: httpx2.AsyncClient
    stand_in: StandIn

    async def get(self, path: str, **params: Any) -> Any:
        return (await self.http.get(path, params=params)).json()

    async def patch(self, path: str, patch: Any) -> Any:
        headers = {"content-type": "application/strategic-merge-patch+json"}
        answer = await self.http.patch(path, content=json.dumps(patch), headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def restart(self, path: str, at: str = "2026-01-01T00:00:00Z") -> Any:
        template = {"metadata": {"annotations": {RESTARTED: at}}}
        return await self.patch(path, {"spec": {"template": template}})

    async def pods(self, app: str) -> list[Any]:
        found = await self.get(PODS, labelSelector=f"app={app}")
        return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]

    async def uids(self, app: str) -> set[str]:
        return {pod["metadata"]["uid"] for pod in await self.pods(app)}

    def effects(self) -> list[str]:
        return [line["effect"] for line in self.stand_in.log.read()]


@asynccontextmanager
async def served(directory: Path, **options: Any) -> AsyncIterator[Lab]:
    stand_in = kubernetes(directory=directory, **{"settle_s": 0.02, **options})
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(stand_in.app, log_level="warning", lifespan="on"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(functools.partial(server.serve, sockets=[listener]))
        with anyio.fail_after(5):
            while not server.started:
                await anyio.sleep(0.01)
        async with httpx2.AsyncClient(base_url=url) as http:
            yield Lab(url=url, http=http, stand_in=stand_in)
        server.should_exit = True


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(10):
        while not await holds():
            await anyio.sleep(0.01)


def condition(obj: Any, kind: str) -> tuple[str, str]:
    found = next(one for one in obj["status"]["conditions"] if one["type"] == kind)
    return found["status"], found["reason"]


async def rolled(lab: Lab, name: str) -> bool:
    found = await lab.get(f"{SHOP}/deployments/{name}")
    status, wanted = found["status"], found["spec"]["replicas"]
    observed = status["observedGeneration"] == found["metadata"]["generation"]
    names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    return observed and all(status.get(field, 0) == wanted for field in names)


async def test_seeded_workload_is_ready(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        for name, count in (("api", 3), ("worker", 2), ("web", 2), ("postgres", 1)):
            assert len(await lab.pods(name)) == count
        assert (await lab.pods("postgres"))[0]["metadata"]["name"] == "postgres-0"
        found = await lab.get(f"{SHOP}/deployments/api")
        assert condition(found, "Available") == ("True", "MinimumReplicasAvailable")
        assert condition(found, "Progressing") == ("True", "NewReplicaSetAvailable")
        assert "unavailableReplicas" not in found["status"]
        assert lab.stand_in.log.read() == []


async def test_rolling_restart_replaces_every_pod_and_keeps_serving(tmp_path: Path) -> None:
    path = f"{SHOP}/deployments/api"
    async with served(tmp_path) as lab:
        before = await lab.uids("api")
        await lab.restart(path)
        seen_reasons = set()

        async def done() -> bool:
            found = await lab.get(path)
            assert found["status"]["readyReplicas"] >= 3
            seen_reasons.add(condition(found, "Progressing")[1])
            return await rolled(lab, "api") and not before & await lab.uids("api")

        await until(done)
        assert "ReplicaSetUpdated" in seen_reasons
        found = await lab.get(path)
        assert condition(found, "Progressing") == ("True", "NewReplicaSetAvailable")
        assert found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
        sets = (await lab.get(f"{SHOP}/replicasets", labelSelector="app=api"))["items"]
        assert sorted(rs["spec"]["replicas"] for rs in sets) == [0, 3]
        events = await lab.get(
            "/api/v1/namespaces/shop/events",
            fieldSelector="involvedObject.name=api,involvedObject.kind=Deployment",
        )
        assert {event["reason"] for event in events["items"]} == {"ScalingReplicaSet"}
        line = lab.stand_in.log.read()[0]
        where = f"spec.template.metadata.annotations.{RESTARTED}"
        assert (line["effect"], line["kind"], line["name"]) == (
            "client.patch",
            "Deployment",
            "api",
        )
        assert line["changed"] == {where: "2026-01-01T00:00:00Z"}


async def test_bad_release_crashes_until_the_image_is_set_back(tmp_path: Path) -> None:
    path = f"{SHOP}/deployments/api"
    clock = [1_800_000_000.0]
    async with served(tmp_path, clock=lambda: clock[0]) as lab:
        lab.stand_in.inject("bad-release")

        async def crashing() -> bool:
            statuses = [
                p["status"].get("containerStatuses", [{}])[0] for p in await lab.pods("api")
            ]
            return any(int(one.get("restartCount", 0)) > 1 for one in statuses)

        await until(crashing)
        bad = next(p for p in await lab.pods("api") if "broken" in str(p["spec"]["containers"]))
        status = bad["status"]["containerStatuses"][0]
        assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert status["lastState"]["terminated"]["exitCode"] == 1
        name = bad["metadata"]["name"]
        previous = await lab.http.get(f"{PODS}/{name}/log", params={"previous": "true"})
        assert "KeyError: 'PAYMENTS_URL'" in previous.text
        events = await lab.get(
            "/api/v1/namespaces/shop/events", fieldSelector=f"involvedObject.name={name}"
        )
        assert {"Pulled", "Started", "BackOff"} <= {event["reason"] for event in events["items"]}
        clock[0] += 60

        async def timed_out() -> bool:
            return condition(await lab.get(path), "Progressing")[0] == "False"

        await until(timed_out)
        found = await lab.get(path)
        assert condition(found, "Progressing")[1] == "ProgressDeadlineExceeded"
        assert (found["status"]["readyReplicas"], found["status"]["updatedReplicas"]) == (3, 1)
        await lab.restart(path)

        async def third_revision() -> bool:
            annotations = (await lab.get(path))["metadata"]["annotations"]
            return bool(annotations["deployment.kubernetes.io/revision"] == "3")

        await until(third_revision)
        await until(crashing)
        assert not await rolled(lab, "api")
        lab.stand_in.mend("bad-release")

        async def healed() -> bool:
            return await rolled(lab, "api")

        await until(healed)
        found = await lab.get(path)
        assert found["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":2.7.1")


async def test_rollback_to_the_former_template_reuses_its_replica_set(tmp_path: Path) -> None:
    path = f"{SHOP}/deployments/api"
    async with served(tmp_path) as lab:
        before = await lab.uids("api")
        lab.stand_in.inject("bad-release")

        async def stuck() -> bool:
            return bool((await lab.get(path))["status"].get("updatedReplicas") == 1)

        await until(stuck)
        good = [{"name": "api", "image": "lab/shop-api:2.7.1"}]
        await lab.patch(path, {"spec": {"template": {"spec": {"containers": good}}}})

        async def healed() -> bool:
            return await rolled(lab, "api") and await lab.uids("api") == before

        await until(healed)
        found = await lab.get(path)
        assert found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
        sets = (await lab.get(f"{SHOP}/replicasets", labelSelector="app=api"))["items"]
        assert len(sets) == 2


async def test_wedged_workers_heal_by_a_restart_alone(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        lab.stand_in.inject("bad-release")

        async def wedged() -> bool:
            found = await lab.get(f"{SHOP}/deployments/worker")
            return "readyReplicas" not in found["status"]

        await until(wedged)
        pods = await lab.pods("worker")
        assert {pod["status"]["phase"] for pod in pods} == {"Running"}
        found = await lab.get(f"{SHOP}/deployments/worker")
        assert condition(found, "Available") == ("False", "MinimumReplicasUnavailable")
        await lab.restart(f"{SHOP}/deployments/worker")

        async def healed() -> bool:
            return await rolled(lab, "worker")

        await until(healed)
        assert not {pod["metadata"]["uid"] for pod in pods} & await lab.uids("worker")


async def test_deleted_pod_is_replaced_by_its_owner(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        for app in ("web", "postgres"):
            old = (await lab.pods(app))[0]["metadata"]
            answer = await lab.http.delete(f"{PODS}/{old['name']}")
            assert answer.json()["metadata"]["deletionTimestamp"]
            uid, count = old["uid"], 2 if app == "web" else 1

            async def replaced(app: str = app, uid: str = uid, count: int = count) -> bool:
                uids = await lab.uids(app)
                return len(uids) == count and uid not in uids

            await until(replaced)
        assert lab.effects().count("client.delete") == 2


async def test_paused_deployment_waits_and_then_rolls(tmp_path: Path) -> None:
    path = f"{SHOP}/deployments/web"
    async with served(tmp_path) as lab:
        before = await lab.uids("web")
        await lab.patch(path, {"spec": {"paused": True}})
        await lab.restart(path)

        async def paused() -> bool:
            return condition(await lab.get(path), "Progressing")[1] == "DeploymentPaused"

        await until(paused)
        assert await lab.uids("web") == before
        await lab.patch(path, {"spec": {"paused": False}})

        async def done() -> bool:
            return await rolled(lab, "web") and not before & await lab.uids("web")

        await until(done)


async def test_stateful_and_daemon_sets_restart(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        template = {
            "metadata": {"labels": {"app": "shipper"}},
            "spec": {"containers": [{"name": "c", "image": "lab/shipper:1"}]},
        }
        daemon = {
            "metadata": {"name": "shipper"},
            "spec": {"selector": {"matchLabels": {"app": "shipper"}}, "template": template},
        }
        await lab.http.post(f"{SHOP}/daemonsets", json=daemon)

        async def ready() -> bool:
            found = await lab.get(f"{SHOP}/daemonsets/shipper")
            return bool((found.get("status") or {}).get("numberReady") == 2)

        await until(ready)
        before = await lab.uids("shipper") | await lab.uids("postgres")
        await lab.restart(f"{SHOP}/daemonsets/shipper")
        await lab.restart(f"{SHOP}/statefulsets/postgres")

        async def replaced() -> bool:
            after = await lab.uids("shipper") | await lab.uids("postgres")
            return len(after) == 3 and not after & before and await ready()

        await until(replaced)


async def test_deleted_deployment_takes_its_pods_along(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        answer = await lab.http.delete(f"{SHOP}/deployments/web")
        assert answer.json()["status"] == "Success"

        async def gone() -> bool:
            sets = await lab.get(f"{SHOP}/replicasets", labelSelector="app=web")
            return not sets["items"] and not await lab.pods("web")

        await until(gone)


async def test_hostile_writes_do_not_stop_the_controllers(tmp_path: Path) -> None:
    path = f"{SHOP}/deployments/web"
    owner = {"metadata": {"ownerReferences": ["x"]}}
    huge = {"spec": {"replicas": 10**30}}
    unslotted = {"metadata": {"labels": {"apps.kubernetes.io/pod-index": "x"}}}
    async with served(tmp_path) as lab:
        headers = {"content-type": "application/merge-patch+json"}
        for target, patch, code in (
            (path, owner, 400),
            (path, huge, 400),
            (f"{PODS}/postgres-0", unslotted, 200),
            (f"{path}/status", {"status": {"conditions": [1]}}, 200),
            (f"{path}/status", {"status": {"readyReplicas": "x"}}, 400),
        ):
            answer = await lab.http.patch(target, content=json.dumps(patch), headers=headers)
            assert answer.status_code == code, answer.text
        before = await lab.uids("web")
        await lab.restart(path)

        async def done() -> bool:
            return await rolled(lab, "web") and not before & await lab.uids("web")

        await until(done)


async def test_log_requests_cut_the_log(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        path = f"{PODS}/{(await lab.pods('api'))[0]['metadata']['name']}/log"
        whole = (await lab.http.get(path)).text
        assert "\x1b[33m" in whole
        assert "Bearer lab-not-a-real-token" in whole
        assert "ignore all previous instructions" in whole
        tail = (await lab.http.get(path, params={"tailLines": 2, "timestamps": "true"})).text
        assert len(tail.splitlines()) == 2
        assert tail[4] == "-"
        assert tail.splitlines()[0].split(" ")[0].endswith("Z")
        recent = (await lab.http.get(path, params={"sinceSeconds": 130})).text
        assert 0 < len(recent.splitlines()) < len(whole.splitlines())
        assert len((await lab.http.get(path, params={"limitBytes": 10})).content) == 10
        assert (await lab.http.get(path, params={"tailLines": -1})).status_code == 422
        for params in ({"container": "nope"}, {"previous": "true"}, {"tailLines": "many"}):
            assert (await lab.http.get(path, params=params)).status_code == 400


async def test_official_client_restarts_and_rolls_back(tmp_path: Path) -> None:
    async with served(tmp_path, token="right") as lab:
        loaded = official.Configuration()
        file = tmp_path / "kubeconfig"
        file.write_text(kubeconfig(lab.url, "right"), encoding="utf-8")
        load: Any = official_config.load_kube_config
        await load(config_file=str(file), client_configuration=loaded)
        async with official.ApiClient(loaded) as connection:
            apps: Any = official.AppsV1Api(connection)
            core: Any = official.CoreV1Api(connection)
            found = await apps.list_namespaced_deployment("shop", limit=2)
            assert [one.metadata.name for one in found.items] == ["api", "web"]
            assert found.metadata.remaining_item_count == 1
            template = {"metadata": {"annotations": {RESTARTED: "now"}}}
            patched = await apps.patch_namespaced_deployment(
                "worker", "shop", {"spec": {"template": template}}, field_manager="tests"
            )

            async def done() -> bool:
                now = await apps.read_namespaced_deployment_status("worker", "shop")
                same = now.status.observed_generation == patched.metadata.generation
                return bool(same and now.status.updated_replicas == 2 == now.status.replicas)

            await until(done)
            pods = await core.list_namespaced_pod("shop", label_selector="app=worker")
            log = await core.read_namespaced_pod_log(pods.items[0].metadata.name, "shop")
            assert "listening" in log
            with pytest.raises(official.ApiException) as refused:
                await core.list_namespaced_pod("restricted")
            assert (refused.value.status, refused.value.reason) == (403, "Forbidden")
