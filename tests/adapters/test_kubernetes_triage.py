"""What get_deployment says of workloads in trouble, on the lab's Kubernetes and on odd answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.capabilities.deployments import DeploymentDetail, Instance
from tests.kubernetes_lab import answering, changed, lab, silent

METRICS = "/apis/metrics.k8s.io/"


def worst(found: DeploymentDetail) -> Instance:
    return found.instances[0]


async def test_memory_kill_is_told_with_limit_and_use(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await place.patch(
            "/apis/apps/v1/namespaces/shop/deployments/api", resources("256Mi", "1500m")
        )
        await place.until("api", lambda found: found.ready == 3 and found.updated == 3)
        place.stand_in.inject("oom")
        found = await place.until("api", lambda found: (found.oom_kills or 0) > 0)
        assert found.problem == "oom_killed"
        assert "too much memory: its limit is 256 MiB." in found.explanation
        (api,) = found.containers
        assert (api.name, api.memory_limit_mib, api.cpu_limit_millicores) == ("api", 256.0, 1500)
        assert api.oom_kills == found.oom_kills
        assert worst(found).last_exit == "OOMKilled (exit code 137)"


def resources(memory: str, cpu: str) -> Any:
    limits = {"limits": {"memory": memory, "cpu": cpu}}
    container = {"name": "api", "resources": limits}
    return {"spec": {"template": {"spec": {"containers": [container]}}}}


async def test_use_is_the_most_of_any_instance(tmp_path: Path) -> None:
    def grow(answer: Any) -> None:
        answer["items"][1]["containers"][0]["usage"] = {"memory": "734003200", "cpu": "1234567890n"}

    async with lab(tmp_path) as place:
        place.between.inject("GET", METRICS, changed(grow))
        (api,) = (await place.platform.describe("api")).containers
        assert (api.memory_used_mib, api.cpu_used_millicores) == (700.0, 1235)


@pytest.mark.parametrize("name", ["api", "statefulset/postgres", "daemonset/agent"])
async def test_use_is_told_for_all_kinds_of_workload(tmp_path: Path, name: str) -> None:
    async with lab(tmp_path) as place:
        found = await place.platform.describe(name)
        assert found.ready == found.desired
        assert [one.memory_used_mib for one in found.containers if not one.memory_used_mib] == []


@pytest.mark.parametrize("status", [403, 404, 429, 503])
async def test_use_that_is_not_served_is_left_out(tmp_path: Path, status: int) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("GET", METRICS, answering(status, b"nothing here"))
        found = await place.platform.describe("api")
        assert [one.memory_used_mib for one in found.containers] == [None]
        assert "memory_used_mib" not in found.model_dump_json(exclude_none=True)


async def test_metrics_that_do_not_answer_do_not_fail_the_rest(tmp_path: Path) -> None:
    async with lab(tmp_path, request_timeout_s=0.3) as place:
        place.between.inject("GET", METRICS, silent)
        assert (await place.platform.describe("api")).ready == 3


async def test_evicted_instance_is_counted_and_its_reason_shown(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("evict")
        found = await place.until(
            "worker", lambda found: found.ready == 2 and bool(found.evictions)
        )
        assert found.evictions == 1
        assert "1 instance had to leave a node that ran short (evicted)." in found.explanation
        (gone,) = [one for one in found.instances if one.message]
        assert (gone.ready, gone.phase) == (False, "Failed")
        assert "low on resource: memory" in (gone.message or "")
        assert found.problem == "none"


async def test_image_that_cannot_be_pulled_is_told_in_the_registry_s_words(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("image-pull")
        found = await place.until("web", lambda found: found.problem == "image_pull")
        assert worst(found).waiting in ("ErrImagePull", "ImagePullBackOff")
        assert "image" in (worst(found).message or "")
        assert "1 instance can't get the container image." in found.explanation


async def test_pod_without_a_node_is_told_in_the_scheduler_s_words(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("unschedulable")
        found = await place.until("worker", lambda found: found.problem == "unschedulable")
        assert worst(found).phase == "Pending"
        assert "Insufficient cpu" in (worst(found).message or "")
        assert "Insufficient" not in found.explanation


@pytest.mark.parametrize(
    ("fault", "name", "probe"),
    [("probe", "web", "liveness"), ("bad-release", "worker", "readiness")],
)
async def test_failed_probes_are_counted_by_kind(
    tmp_path: Path, fault: str, name: str, probe: str
) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject(fault)
        found = await place.until(name, lambda found: found.probe_failures is not None)
        assert found.probe_failures is not None
        counts = found.probe_failures.model_dump()
        times = counts.pop(probe)
        assert times > 0
        assert set(counts.values()) == {0}
        assert f"Probes failed lately: {probe} {times} times." in found.explanation


async def test_pod_that_says_nothing_shows_its_newest_warning(tmp_path: Path) -> None:
    def creating(answer: Any) -> None:
        pod = answer["items"][0]
        pod["status"] = {
            "phase": "Pending",
            "containerStatuses": [
                {"name": "web", "state": {"waiting": {"reason": "ContainerCreating"}}}
            ],
        }
        pod["metadata"]["uid"] = "stuck"

    event = {
        "type": "Warning",
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "keys": secret "keys" not found',
        "involvedObject": {"uid": "stuck"},
    }
    async with lab(tmp_path) as place:
        place.between.inject("GET", "/pods", changed(creating))
        listed = answering(200, {"kind": "EventList", "items": [event]})
        place.between.inject("GET", "/events", listed, listed)
        found = await place.platform.describe("web")
        assert "MountVolume" in (worst(found).message or "")
        assert "1 instance can't be created: the oldest waits for" in found.explanation


async def test_quota_that_lets_no_pod_come_shows_the_event_of_the_replica_set(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:

        def nobody(answer: Any) -> None:
            answer["items"] = []

        place.between.inject("GET", "/pods", changed(nobody))
        await place.platform.describe("api")
        asked = [query for query in place.between.queries if "involvedObject" in query]
        sets = (await place.raw("/apis/apps/v1/namespaces/shop/replicasets?labelSelector=app=api"))[
            "items"
        ]
        assert any(sets[0]["metadata"]["uid"] in query for query in asked)


async def test_answer_about_many_broken_instances_stays_small(tmp_path: Path) -> None:
    def many(answer: Any) -> None:
        pod = answer["items"][0]
        pod["status"]["containerStatuses"][0]["state"] = {
            "waiting": {"reason": "CrashLoopBackOff", "message": "x" * 4_000}
        }
        pod["spec"]["containers"] = [{"name": f"c{n}", "resources": "?"} for n in range(30)]
        answer["items"] = [json.loads(json.dumps(pod)) for _ in range(500)]

    async with lab(tmp_path) as place:
        place.between.inject("GET", "/pods", changed(many))
        found = await place.platform.describe("api")
        assert found.restarts is not None
        assert len(found.model_dump_json(exclude_none=True)) < 14_000
