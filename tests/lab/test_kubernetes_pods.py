"""What ails pods in the lab's Kubernetes, what they tell of it, and what heals them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio

from tests.lab.kubernetes_serving import (
    APPS,
    CORE,
    MERGE,
    Lab,
    condition,
    served,
    told,
    until,
)

USAGE = "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods"


def containers(pod: Any) -> list[Any]:
    found: list[Any] = pod["status"].get("containerStatuses") or []
    return found


async def rolled(lab: Lab, name: str) -> bool:
    found = await lab.get(f"{APPS}/deployments/{name}")
    status, wanted = found["status"], found["spec"]["replicas"]
    observed = status["observedGeneration"] == found["metadata"]["generation"]
    names = ("replicas", "updatedReplicas", "readyReplicas")
    return observed and all(status.get(field, 0) == wanted for field in names)


async def healed(lab: Lab, name: str) -> None:
    async def holds() -> bool:
        return await rolled(lab, name)

    await until(holds)


async def find(lab: Lab, app: str, reason: str) -> Any:
    """A pod of an app that waits for that reason."""
    found: list[Any] = []

    async def holds() -> bool:
        found[:] = [
            pod
            for pod in await lab.pods(f"app={app}")
            if any(
                one["state"].get("waiting", {}).get("reason") == reason for one in containers(pod)
            )
        ]
        return bool(found)

    await until(holds)
    return found[0]


async def test_hungry_containers_are_killed_until_their_limit_is_raised(tmp_path: Path) -> None:
    path = f"{APPS}/deployments/api"
    async with served(tmp_path) as lab:
        lab.stand_in.inject("oom")
        pod = await find(lab, "api", "CrashLoopBackOff")
        ended = containers(pod)[0]["lastState"]["terminated"]
        assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
        assert containers(pod)[0]["restartCount"] >= 1
        assert pod["spec"]["containers"][0]["resources"]["limits"] == {"memory": "256Mi"}
        name = pod["metadata"]["name"]
        previous = await lab.http.get(f"{CORE}/pods/{name}/log", params={"previous": "true"})
        assert "listening" in previous.text
        assert "BackOff" in await lab.events(name)
        larger = [{"name": "api", "resources": {"limits": {"memory": "512Mi"}}}]
        await lab.patch(path, {"spec": {"template": {"spec": {"containers": larger}}}})
        await healed(lab, "api")
        assert all(
            one["restartCount"] == 0 for p in await lab.pods("app=api") for one in containers(p)
        )


async def test_killed_containers_run_again_when_the_fault_is_mended(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        lab.stand_in.inject("oom")
        pod = await find(lab, "api", "CrashLoopBackOff")
        lab.stand_in.mend("oom")
        await healed(lab, "api")
        again = await lab.get(f"{CORE}/pods/{pod['metadata']['name']}")
        assert again["metadata"]["uid"] == pod["metadata"]["uid"]
        assert containers(again)[0]["restartCount"] >= 1
        assert containers(again)[0]["lastState"]["terminated"]["reason"] == "OOMKilled"


async def test_an_evicted_pod_stays_to_be_seen_and_is_replaced(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        before = {pod["metadata"]["uid"] for pod in await lab.pods("app=worker")}
        lab.stand_in.inject("evict")

        async def replaced() -> bool:
            return await rolled(lab, "worker") and len(await lab.pods("app=worker")) == 3

        await until(replaced)
        failed = await lab.get(
            f"{CORE}/pods", fieldSelector="status.phase=Failed", labelSelector="app=worker"
        )
        gone = failed["items"][0]
        assert (gone["status"]["reason"], gone["metadata"]["uid"] in before) == ("Evicted", True)
        assert gone["status"]["message"].startswith("The node was low on resource: memory.")
        assert condition(gone, "DisruptionTarget") == ("True", "TerminationByKubelet")
        assert "Evicted" in await lab.events(gone["metadata"]["name"])
        lab.stand_in.mend("evict")
        assert len(await lab.pods("app=worker")) == 2
        assert lab.effects()[0] == "fault.evicted"


async def test_a_missing_image_is_told_and_healed_by_the_former_one(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        lab.stand_in.inject("image-pull")
        pod = await find(lab, "web", "ImagePullBackOff")
        waiting = containers(pod)[0]["state"]["waiting"]
        assert waiting["message"].startswith('Back-off pulling image "lab/shop-web:5.1.0-missing"')
        assert (pod["status"]["phase"], containers(pod)[0]["restartCount"]) == ("Pending", 0)
        assert {"Scheduled", "Pulling", "Failed", "BackOff"} <= await lab.events(
            pod["metadata"]["name"]
        )
        log = await lab.http.get(f"{CORE}/pods/{pod['metadata']['name']}/log")
        assert told(log) == (400, "BadRequest")
        assert log.json()["message"].endswith(
            "is waiting to start: trying and failing to pull image"
        )
        image = [{"name": "web", "image": "lab/shop-web:5.0.2"}]
        await lab.patch(
            f"{APPS}/deployments/web", {"spec": {"template": {"spec": {"containers": image}}}}
        )
        await healed(lab, "web")


async def test_pods_that_no_node_takes_say_why(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        lab.stand_in.inject("unschedulable")
        found: list[Any] = []

        async def pending() -> bool:
            found[:] = [
                pod
                for pod in await lab.pods("app=worker")
                if condition(pod, "PodScheduled") == ("False", "Unschedulable")
            ]
            return bool(found)

        await until(pending)
        pod = found[0]
        assert pod["status"]["phase"] == "Pending"
        assert "nodeName" not in pod["spec"]
        why = pod["status"]["conditions"][0]["message"]
        assert why.startswith("0/2 nodes are available: 2 Insufficient cpu.")
        assert await lab.events(pod["metadata"]["name"]) == {"FailedScheduling"}
        log = await lab.http.get(f"{CORE}/pods/{pod['metadata']['name']}/log")
        assert log.json()["message"].endswith("does not have a host assigned")
        lab.stand_in.mend("unschedulable")
        await healed(lab, "worker")


async def test_failing_probes_restart_containers_and_leave_events(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        lab.stand_in.inject("probe")
        pod = await find(lab, "web", "CrashLoopBackOff")
        ended = containers(pod)[0]["lastState"]["terminated"]
        assert (ended["reason"], ended["exitCode"]) == ("Error", 137)
        assert {"Unhealthy", "Killing"} <= await lab.events(pod["metadata"]["name"])
        lab.stand_in.mend("probe")
        await healed(lab, "web")
        found = await lab.get(f"{APPS}/deployments/web")
        assert "livenessProbe" not in found["spec"]["template"]["spec"]["containers"][0]


async def test_mending_leaves_what_somebody_repaired_alone(tmp_path: Path) -> None:
    path = f"{APPS}/deployments/web"
    async with served(tmp_path) as lab:
        lab.stand_in.inject("image-pull")
        image = [{"name": "web", "image": "lab/shop-web:5.0.3"}]
        await lab.patch(path, {"spec": {"template": {"spec": {"containers": image}}}})
        lab.stand_in.mend("image-pull")
        found = (await lab.get(path))["spec"]["template"]["spec"]["containers"][0]
        assert found["image"] == "lab/shop-web:5.0.3"
        assert "fault.mended" not in lab.effects()


async def test_an_init_container_that_fails_keeps_the_others_waiting(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        patch = [{"name": "setup", "image": "lab/agent-setup:1-broken"}]
        await lab.patch(
            f"{APPS}/daemonsets/agent", {"spec": {"template": {"spec": {"initContainers": patch}}}}
        )
        pod = await find(lab, "agent", "PodInitializing")
        init = pod["status"]["initContainerStatuses"][0]
        assert init["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert condition(pod, "Initialized") == ("False", "ContainersNotInitialized")
        assert pod["status"]["phase"] == "Pending"


async def test_usage_is_measured_where_there_is_a_metrics_server(tmp_path: Path) -> None:
    async with served(tmp_path / "a") as lab:
        found = await lab.get(USAGE, labelSelector="app=agent")
        assert (found["kind"], len(found["items"])) == ("PodMetricsList", 2)
        usage = found["items"][0]["containers"]
        assert [one["name"] for one in usage] == ["agent", "shipper"]
        assert usage[0]["usage"]["memory"] == f"{64 * 1024}Ki"
        assert usage[0]["usage"]["cpu"].endswith("n")
        name = found["items"][0]["metadata"]["name"]
        assert (await lab.get(f"{USAGE}/{name}"))["kind"] == "PodMetrics"
        assert told(await lab.http.get(f"{USAGE}/none")) == (404, "NotFound")
        assert told(await lab.http.delete(f"{USAGE}/{name}")) == (405, "MethodNotAllowed")
        lab.stand_in.inject("no-metrics")
        assert (await lab.http.get(USAGE)).status_code == 404
    async with served(tmp_path / "b", metrics=False) as lab:
        assert (await lab.http.get(USAGE)).text == "404 page not found\n"
        groups = [one["name"] for one in (await lab.get("/apis"))["groups"]]
        assert "metrics.k8s.io" not in groups


async def test_logs_of_several_containers_are_asked_for_by_name(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        name = (await lab.pods("app=agent"))[0]["metadata"]["name"]
        path = f"{CORE}/pods/{name}/log"
        refused = await lab.http.get(path)
        assert refused.json()["message"] == (
            f"a container name must be specified for pod {name}, choose one of: "
            "[agent shipper] or one of the init containers: [setup]"
        )
        for container in ("agent", "shipper", "setup"):
            answer = await lab.http.get(path, params={"container": container})
            assert "listening" in answer.text or "served" in answer.text


async def test_a_followed_log_goes_on_until_the_pod_is_gone(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        name = (await lab.pods("app=web"))[0]["metadata"]["name"]
        path = f"{CORE}/pods/{name}/log"
        params = {"follow": "true", "tailLines": "2", "timestamps": "true"}
        lines: list[str] = []
        with anyio.fail_after(20):
            async with lab.http.stream("GET", path, params=params) as answer:
                async for line in answer.aiter_lines():
                    lines.append(line)
                    if len(lines) == 4:
                        await lab.http.delete(f"{CORE}/pods/{name}")
        assert len(lines) >= 4
        assert all(line[4] == "-" and "Z " in line for line in lines)
        some = {"follow": "true", "tailLines": "1", "limitBytes": "30", "container": "shipper"}
        other = (await lab.pods("app=agent"))[0]["metadata"]["name"]
        with anyio.fail_after(20):
            cut = await lab.http.get(f"{CORE}/pods/{other}/log", params=some)
        assert len(cut.content) == 30


async def test_hostile_resources_and_probes_do_not_stop_the_controllers(tmp_path: Path) -> None:
    hostile: list[dict[str, Any]] = [
        {"resources": {"limits": 7}},
        {"resources": []},
        {"resources": {"requests": {"cpu": [1], "memory": "x" * 99}}},
        {"livenessProbe": 1, "readinessProbe": {"httpGet": [1]}},
        {"env": "x"},
    ]
    async with served(tmp_path) as lab:
        for bad in hostile:
            containers = [{"name": "web", "image": "lab/shop-web:6", **bad}]
            patch = {"spec": {"template": {"spec": {"containers": containers}}}}
            answer = await lab.patch(f"{APPS}/deployments/web", patch, MERGE)
            assert answer.status_code in (200, 400, 422)
        good = [{"name": "web", "image": "lab/shop-web:7"}]
        patch = {"spec": {"template": {"spec": {"containers": good}}}}
        assert (await lab.patch(f"{APPS}/deployments/web", patch, MERGE)).status_code == 200
        await healed(lab, "web")
