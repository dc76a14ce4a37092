"""Single instances and their size, changed by the tools against the lab's Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.errors import Conflict, ConnectionLost, InvalidInput, UpstreamRateLimited
from mcp_ops.tools.rollouts import restart_instance, set_resources
from tests.kubernetes_lab import Lab, answering, broken, lab, lost, write

APPS = "/apis/apps/v1/namespaces/shop"
WORKER = f"{APPS}/deployments/worker"
PODS = "/api/v1/namespaces/shop/pods"
BUDGET = {
    "kind": "Status",
    "status": "Failure",
    "reason": "TooManyRequests",
    "code": 429,
    "message": "Cannot evict pod as it would violate the pod's disruption budget.",
    "details": {"causes": [{"reason": "DisruptionBudget", "message": "needs 2 healthy pods"}]},
}


async def call(tool: Any, place: Lab, *arguments: Any, **frame: Any) -> Any:
    with anyio.fail_after(20):
        return await tool.function(place.platform, write(**frame), *arguments)


async def pod_of(place: Lab, app: str) -> str:
    found = await place.raw(f"{PODS}?labelSelector=app%3D{app}")
    return str(found["items"][0]["metadata"]["name"])


def evictions(place: Lab) -> int:
    """Pods that a client ended, by the stand-in's own log."""
    return sum(line["effect"] == "client.delete" for line in place.stand_in.log.read())


@pytest.mark.parametrize("name", ["worker", "statefulset/postgres", "daemonset/agent"])
async def test_instance_is_replaced_and_another_one_is_ready(tmp_path: Path, name: str) -> None:
    async with lab(tmp_path) as place:
        pod = await pod_of(place, name.rpartition("/")[2])
        before = (await place.raw(f"{PODS}/{pod}"))["metadata"]["uid"]
        done = await call(restart_instance, place, name, pod, 45)
        assert (done.outcome, done.problem, done.undo) == ("verified", None, None)
        assert done.evidence["instance"] == pod
        assert done.evidence["new_instances"] or done.evidence["instances"]
        uids = {one["metadata"]["uid"] for one in (await place.raw(PODS))["items"]}
        assert before not in uids
        assert evictions(place) == 1


async def test_instance_of_another_workload_is_refused(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        for pod in (await pod_of(place, "api"), "worker-nope"):
            with pytest.raises(InvalidInput, match="no instance of worker"):
                await call(restart_instance, place, "worker", pod, 45)
        assert evictions(place) == 0


async def test_disruption_budget_and_a_busy_server_are_told_apart(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        pod = await pod_of(place, "worker")
        place.between.inject("POST", "/eviction", answering(429, BUDGET))
        with pytest.raises(Conflict, match="disruption budget") as raised:
            await call(restart_instance, place, "worker", pod, 45)
        assert (raised.value.executed, raised.value.said) == ("no", BUDGET["message"])
        busy = answering(429, b"too many requests", {"Retry-After": "2"})
        place.between.inject("POST", "/eviction", busy)
        with pytest.raises(UpstreamRateLimited):
            await call(restart_instance, place, "worker", pod, 45)
        assert evictions(place) == 0


async def test_pod_that_took_the_name_meanwhile_is_never_evicted(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_instance_restart("statefulset/postgres", "postgres-0")
        done = await call(restart_instance, place, "statefulset/postgres", "postgres-0", 45)
        assert done.outcome == "verified"
        with pytest.raises(Conflict):
            await place.platform.begin(plan, reason="again", call_id="c-2")
        assert evictions(place) == 1
        assert await place.platform.find(plan, "c-2") is not None


async def test_lost_answer_of_an_eviction_is_resolved_by_a_look(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        pod = await pod_of(place, "worker")
        place.between.inject("POST", "/eviction", lost)
        done = await call(restart_instance, place, "worker", pod, 45)
        assert done.outcome == "verified"
        assert evictions(place) == 1
        other = await pod_of(place, "api")
        place.between.inject("POST", "/eviction", broken)
        with pytest.raises(ConnectionLost) as raised:
            await call(restart_instance, place, "api", other, 45)
        assert raised.value.executed == "unknown"
        assert evictions(place) == 1


async def test_dry_run_of_an_eviction_changes_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        pod = await pod_of(place, "postgres")
        planned = await call(restart_instance, place, "statefulset/postgres", pod, 45, dry_run=True)
        assert planned.outcome == "planned"
        assert "It is the only instance that is ready" in planned.plan[2]
        assert evictions(place) == 0
        assert any("dryRun=All" in query for query in place.between.queries)


async def test_more_memory_shows_old_and_new_and_is_undone(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        done = await call(set_resources, place, "worker", "512Mi", "", "", 45, call_id="more")
        assert (done.outcome, done.ready) == ("verified", "2/2")
        assert done.evidence["memory_limit_before"] == "256Mi"
        assert done.evidence["memory_request"] == "128Mi"
        assert done.undo.arguments == {"name": "worker", "memory": "256Mi"}
        back = await call(set_resources, place, "worker", "256Mi", "", "", 45, call_id="back")
        assert back.outcome == "verified"
        same = await call(set_resources, place, "worker", "262144Ki", "", "", 45, call_id="same")
        assert same.plan == ["Nothing to do: these are its limits already."]
        resources = (await place.raw(WORKER))["spec"]["template"]["spec"]["containers"][0][
            "resources"
        ]
        assert resources["limits"] == {"memory": "256Mi"}
        assert resources["requests"] == {"cpu": "100m", "memory": "128Mi"}


async def test_limit_where_there_was_none_is_undone_by_the_version_before(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        planned = await call(set_resources, place, "worker", "", "500m", "", 45, dry_run=True)
        assert "cpu limit none → 500m." in planned.plan
        done = await call(set_resources, place, "worker", "", "500m", "", 45)
        assert done.outcome == "verified"
        assert done.undo.tool == "rollback_deployment"
        assert done.undo.arguments == {"name": "worker", "to_revision": "1"}


async def test_request_that_equals_the_limit_goes_with_it(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        sizes = {"limits": {"memory": "256Mi"}, "requests": {"memory": "262144Ki"}}
        spec = {"containers": [{"name": "worker", "resources": sizes}]}
        await place.patch(WORKER, {"spec": {"template": {"spec": spec}}})
        done = await call(set_resources, place, "worker", "200Mi", "", "", 45)
        assert done.outcome == "verified"
        assert done.evidence["memory_request"] == "200Mi"


NONSENSE = (
    ("", "", "", "Pass memory or cpu"),
    ("", "", "B1", "no tiers"),
    ("512m", "", "", "must be a quantity"),
    ("lots", "", "", "must be a quantity"),
    ("16Gi", "", "", "operator's bound"),
    ("", "8", "", "operator's bound"),
    ("64Mi", "", "", "under what each instance asks for"),
)


async def test_sizes_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        for memory, cpu, tier, says in NONSENSE:
            with pytest.raises(InvalidInput, match=says):
                await call(set_resources, place, "worker", memory, cpu, tier, 45)
        assert place.patches() == []


async def test_main_container_of_several_must_stand_out(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        done = await call(set_resources, place, "daemonset/agent", "300Mi", "", "", 45)
        assert (done.outcome, done.evidence["container"]) == ("verified", "agent")
        more = {"containers": [{"name": "other", "image": "lab/other:1"}]}
        await place.patch(f"{APPS}/deployments/web", {"spec": {"template": {"spec": more}}})
        found = await place.platform.plan_resources("web", memory="300Mi", cpu="", tier="")
        assert found.values["container"] == "web"
        marked = {"kubectl.kubernetes.io/default-container": "other"}
        template = {"metadata": {"annotations": marked}}
        await place.patch(f"{APPS}/deployments/web", {"spec": {"template": template}})
        found = await place.platform.plan_resources("web", memory="300Mi", cpu="", tier="")
        assert found.values["container"] == "other"
