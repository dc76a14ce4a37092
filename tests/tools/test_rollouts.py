"""Versions and numbers of instances, changed by the tools against the lab's Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.errors import Conflict, Forbidden, InvalidInput, NotFound
from mcp_ops.tools.rollouts import (
    list_revisions,
    pause_rollout,
    resume_rollout,
    rollback_deployment,
    scale_deployment,
    set_autoscaling,
    start_deployment,
    stop_deployment,
)
from tests.kubernetes_lab import STEP_S, Lab, answering, changed, lab, lost, write

APPS = "/apis/apps/v1/namespaces/shop"
WORKER = f"{APPS}/deployments/worker"
POSTGRES = f"{APPS}/statefulsets/postgres"
AGENT = f"{APPS}/daemonsets/agent"
HPA = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/api"
CAUSE = "kubernetes.io/change-cause"
EARLIER = "mcp-ops.io/earlier-calls"
REMEMBERED = "mcp-ops.io/replicas-before-stop"


async def call(tool: Any, place: Lab, *arguments: Any, **frame: Any) -> Any:
    with anyio.fail_after(20):
        return await tool.function(place.platform, write(**frame), *arguments)


async def release(place: Lab, path: str, image: str, cause: str = "") -> None:
    """Deploy another image as a pipeline does, and wait until it is out."""
    name = path.rpartition("/")[2]
    found = await place.raw(path)
    container = found["spec"]["template"]["spec"]["containers"][0]["name"]
    body: dict[str, Any] = {
        "spec": {"template": {"spec": {"containers": [{"name": container, "image": image}]}}}
    }
    if cause:
        body["metadata"] = {"annotations": {CAUSE: cause}}
    await place.patch(path, body)
    called = {"statefulsets": "statefulset/", "daemonsets": "daemonset/"}
    prefix = called.get(path.split("/")[-2], "")
    await place.until(f"{prefix}{name}", lambda now: now.image.startswith(image))


async def image_of(place: Lab, path: str) -> str:
    found = await place.raw(path)
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


async def until_versions(place: Lab, name: str, count: int) -> Any:
    with anyio.fail_after(10):
        while True:
            page: Any = await list_revisions.function(place.platform, name, 20, "")
            if len(page.items) == count and any(item.current for item in page.items):
                return page
            await anyio.sleep(STEP_S)


async def test_versions_are_listed_newest_first_with_image_and_cause(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await release(place, WORKER, "lab/shop-worker:1.5.0", "ticket 7")
        page = await until_versions(place, "worker", 2)
        assert [(item.id, item.image, item.current) for item in page.items] == [
            ("2", "lab/shop-worker:1.5.0", True),
            ("1", "lab/shop-worker:1.4.0", False),
        ]
        assert [item.cause for item in page.items] == ["ticket 7", ""]
        assert [item.restorable for item in page.items] == [False, True]
        first: Any = await list_revisions.function(place.platform, "worker", 1, "")
        assert (first.truncated, first.next_cursor) == (True, "2")
        rest: Any = await list_revisions.function(place.platform, "worker", 1, "2")
        assert [item.id for item in rest.items] == ["1"]
        assert not rest.truncated
        with pytest.raises(InvalidInput):
            await list_revisions.function(place.platform, "worker", 1, "../x")


@pytest.mark.parametrize(
    ("name", "path"),
    [("worker", WORKER), ("statefulset/postgres", POSTGRES), ("daemonset/agent", AGENT)],
)
async def test_rollback_brings_the_version_before_back(
    tmp_path: Path, name: str, path: str
) -> None:
    async with lab(tmp_path) as place:
        before = (await place.raw(path))["spec"]["template"]
        image = before["spec"]["containers"][0]["image"]
        await release(place, path, "lab/another:9.9.9")
        await until_versions(place, name, 2)
        patches = len(place.patches())
        done = await call(rollback_deployment, place, name, "", 45)
        assert (done.outcome, done.problem) == ("verified", None)
        assert (await place.raw(path))["spec"]["template"] == before
        assert len(place.patches()) == patches + 1
        assert done.evidence["to_image"].startswith(image)
        assert (done.evidence["from_revision"], done.evidence["to_revision"]) == ("2", "1")
        assert done.undo is not None
        assert done.undo.arguments == {"name": name, "to_revision": "2"}
        again = await call(rollback_deployment, place, name, "2", 45, call_id="undo")
        assert again.outcome == "verified"
        assert await image_of(place, path) == "lab/another:9.9.9"


async def test_rollback_heals_a_release_that_cannot_start(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("bad-release")
        await place.until("api", lambda found: found.problem == "crash_loop")
        planned = await call(rollback_deployment, place, "api", "", 45, dry_run=True)
        assert planned.outcome == "planned"
        assert "lab/shop-api:2.7.1" in planned.plan[1]
        done = await call(rollback_deployment, place, "api", "", 45)
        assert done.outcome == "verified"
        assert "another_rollout_was_under_way" in done.evidence
        assert (await place.platform.describe("api")).problem == "none"


async def test_plan_of_a_rollback_says_what_differs_and_shows_no_value(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        container = {
            "name": "worker",
            "command": ["run", "--password=hunter2hunter2"],
            "env": [
                {"name": "LOG_LEVEL", "value": "debug-of-nobody"},
                {"name": "DB_PASSWORD", "value": "s3cr3t-of-the-shop"},
            ],
            "resources": {"limits": {"memory": "64Mi"}},
        }
        spec = {"template": {"spec": {"containers": [container], "nodeSelector": {"disk": "ssd"}}}}
        await place.patch(WORKER, {"spec": spec})
        await until_versions(place, "worker", 2)
        planned = await call(rollback_deployment, place, "worker", "1", 45, dry_run=True)
        told = "\n".join(planned.plan)
        assert "Run version 1 of worker again instead of version 2." in told
        assert "settings that go: DB_PASSWORD." in told
        assert "settings that change: LOG_LEVEL." in told
        assert "limits memory 64Mi → 256Mi." in told
        assert "Of the pods: nodeSelector would differ." in told
        assert "command" in told
        dumped = planned.model_dump_json()
        for secret in ("debug-of-nobody", "s3cr3t-of-the-shop", "hunter2"):
            assert secret not in dumped
        assert len(place.patches()) == 1


async def test_rollback_to_the_current_version_is_nothing_to_do(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        done = await call(rollback_deployment, place, "worker", "1", 45)
        assert done.outcome == "verified"
        assert done.plan == ["Nothing to do: version 1 is the current one."]
        assert place.patches() == []
        for to_revision in ("7", ""):
            with pytest.raises(NotFound):
                await call(rollback_deployment, place, "worker", to_revision, 45)


async def test_rollback_of_a_paused_workload_is_refused(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await release(place, WORKER, "lab/shop-worker:1.5.0")
        await until_versions(place, "worker", 2)
        await place.patch(WORKER, {"spec": {"paused": True}})
        with pytest.raises(Conflict, match="paused"):
            await call(rollback_deployment, place, "worker", "1", 45)


async def test_rollback_restores_the_cause_of_its_version(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await release(place, WORKER, "lab/shop-worker:1.5.0", "a bad day")
        await until_versions(place, "worker", 2)
        assert (await call(rollback_deployment, place, "worker", "", 45)).outcome == "verified"
        assert CAUSE not in (await place.raw(WORKER))["metadata"]["annotations"]


async def test_scaling_is_verified_when_the_number_fits_and_is_undone(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        up = await call(scale_deployment, place, "worker", 4, 45, call_id="up")
        assert (up.outcome, up.ready, up.generation) == ("verified", "4/4", 2)
        assert len(up.evidence["instances"]) == 4
        assert set(up.evidence["ages_s"]) == set(up.evidence["instances"])
        assert up.undo.arguments == {"name": "worker", "replicas": 2}
        down = await call(scale_deployment, place, "worker", 2, 45, call_id="down")
        assert (down.outcome, down.ready) == ("verified", "2/2")
        assert len(down.evidence["instances"]) == 2
        same = await call(scale_deployment, place, "worker", 2, 45, call_id="same")
        assert same.plan == ["Nothing to do: 2 instances are wanted already."]
        assert len(place.patches()) == 2
        annotations = (await place.raw(WORKER))["metadata"]["annotations"]
        assert annotations[EARLIER].startswith("up@")


async def test_scaling_within_bounds_and_never_against_an_autoscaler(tmp_path: Path) -> None:
    async with lab(tmp_path, max_replicas=3) as place:
        with pytest.raises(InvalidInput, match="bound of 3"):
            await call(scale_deployment, place, "worker", 4, 45)
        with pytest.raises(InvalidInput, match="daemon set"):
            await call(scale_deployment, place, "daemonset/agent", 1, 45)
        with pytest.raises(Conflict, match="1 to 10 instances") as raised:
            await call(scale_deployment, place, "api", 2, 45)
        assert "set_autoscaling" in raised.value.hint
        said = {"kind": "Status", "status": "Failure", "message": "no"}
        place.between.inject("GET", "/horizontalpodautoscalers", answering(403, said))
        with pytest.raises(Forbidden):
            await call(scale_deployment, place, "worker", 3, 45)
        assert place.patches() == []


async def test_scaling_that_somebody_else_overtakes_is_told(tmp_path: Path) -> None:
    def scaled(answer: Any) -> None:
        answer["metadata"]["generation"] += 1
        answer["spec"]["replicas"] = 7

    async with lab(tmp_path) as place:
        untouched = changed(lambda answer: None)
        place.between.inject("GET", "/deployments/worker", untouched, untouched, changed(scaled))
        done = await call(scale_deployment, place, "worker", 3, 45)
        assert done.outcome == "unconfirmed"
        assert done.problem == "The workload was changed again after this change."


async def test_lost_answer_of_a_scaling_is_found_behind_another_change(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("PATCH", "/deployments/worker", lost)
        assert (await call(scale_deployment, place, "worker", 3, 45, call_id="one")).outcome == (
            "verified"
        )
        plan = await place.platform.plan_scale("worker", 4)
        await place.platform.begin(plan, reason="more", call_id="two")
        old = await place.platform.find(plan, "one")
        assert old is not None
        assert old.version == "3"
        assert await place.platform.find(plan, "three") is None
        again = await place.platform.begin(plan, reason="more", call_id="one")
        assert again.at == old.at
        assert len(place.patches()) == 2


async def test_bounds_of_an_autoscaler_are_changed_and_undone(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        done = await call(set_autoscaling, place, "api", 2, 6)
        assert done.outcome == "verified"
        assert (done.evidence["bounds_before"], done.evidence["bounds"]) == ("1 to 10", "2 to 6")
        spec = (await place.raw(HPA))["spec"]
        assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 6)
        assert done.undo.arguments == {"name": "api", "min": 1, "max": 10}
        same = await call(set_autoscaling, place, "api", 2, 6, call_id="same")
        assert same.plan == ["Nothing to do: these are its bounds already."]
        assert len(place.patches()) == 1


async def test_autoscaler_that_was_changed_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    async with lab(tmp_path, max_replicas=20) as place:
        plan = await place.platform.plan_autoscaling("api", 2, 6)
        await place.patch(HPA, {"spec": {"maxReplicas": 12}})
        with pytest.raises(Conflict, match="changed since it was looked at"):
            await place.platform.begin(plan, reason="now", call_id="c")
        for low, high in ((6, 2), (1, 21)):
            with pytest.raises(InvalidInput):
                await call(set_autoscaling, place, "api", low, high)
        with pytest.raises(NotFound):
            await call(set_autoscaling, place, "worker", 1, 2)


async def test_pause_holds_a_rollout_and_resume_follows_it(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        held = await call(pause_rollout, place, "worker", call_id="hold")
        assert held.outcome == "verified"
        assert held.undo.tool == "resume_rollout"
        again = await call(pause_rollout, place, "worker", call_id="hold-2")
        assert again.plan == ["Nothing to do: its rollouts are paused already."]
        container = {"name": "worker", "image": "lab/shop-worker:1.6.0"}
        await place.patch(WORKER, {"spec": {"template": {"spec": {"containers": [container]}}}})
        on = await call(resume_rollout, place, "worker", 45, call_id="on")
        assert (on.outcome, on.ready) == ("verified", "2/2")
        assert on.evidence["new_instances"] == 2
        assert on.undo.tool == "pause_rollout"
        with pytest.raises(InvalidInput, match="Deployments"):
            await call(pause_rollout, place, "statefulset/postgres")


async def test_stop_remembers_the_number_and_start_brings_it_back(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        off = await call(stop_deployment, place, "worker", 45, call_id="off")
        assert off.outcome == "verified"
        assert off.evidence["instances"] == []
        assert (await place.raw(WORKER))["metadata"]["annotations"][REMEMBERED] == "2"
        assert off.undo.tool == "start_deployment"
        twice = await call(stop_deployment, place, "worker", 45, call_id="off-2")
        assert twice.plan == ["Nothing to do: no instance is wanted already."]
        on = await call(start_deployment, place, "worker", 45, call_id="on")
        assert (on.outcome, on.ready) == ("verified", "2/2")
        assert REMEMBERED not in (await place.raw(WORKER))["metadata"]["annotations"]
        await place.patch(WORKER, {"spec": {"replicas": 0}})
        with pytest.raises(Conflict, match="not known") as raised:
            await call(start_deployment, place, "worker", 45)
        assert "scale_deployment" in raised.value.hint


async def test_yes_is_bound_to_the_number_and_the_version_that_were_shown(tmp_path: Path) -> None:
    """Both are kept where a change of them is no new generation of the workload."""
    async with lab(tmp_path) as place:
        await release(place, WORKER, "lab/shop-worker:1.5.0")
        await until_versions(place, "worker", 2)
        sets = (await place.raw(f"{APPS}/replicasets"))["items"]
        (old,) = [each for each in sets if "1.4.0" in str(each["spec"]["template"])]
        shown = await place.platform.plan_rollback("worker", "1")
        container = {"name": "worker", "image": "lab/somebody-elses:1"}
        await place.patch(
            f"{APPS}/replicasets/{old['metadata']['name']}",
            {"spec": {"template": {"spec": {"containers": [container]}}}},
        )
        assert (await place.platform.plan_rollback("worker", "1")).state != shown.state
        with pytest.raises(Conflict, match="another one than was looked at"):
            await place.platform.begin(shown, reason="now", call_id="c")
        await call(stop_deployment, place, "worker", 45)
        shown = await place.platform.plan_start("worker")
        await place.patch(WORKER, {"metadata": {"annotations": {REMEMBERED: "40"}}})
        assert (await place.platform.plan_start("worker")).state != shown.state


async def test_stop_of_an_autoscaled_workload_says_that_it_stays_stopped(tmp_path: Path) -> None:
    def from_zero(answer: Any) -> None:
        answer["items"][0]["spec"]["minReplicas"] = 0

    async with lab(tmp_path) as place:
        place.between.inject("GET", "/horizontalpodautoscalers", changed(from_zero))
        with pytest.raises(Conflict, match="start it again"):
            await call(stop_deployment, place, "api", 45)
        planned = await call(stop_deployment, place, "api", 45, dry_run=True)
        assert "Its autoscaler does nothing while it is stopped." in planned.plan
        done = await call(stop_deployment, place, "api", 45)
        assert done.outcome == "verified"
        assert (await call(start_deployment, place, "api", 45, call_id="on")).ready == "3/3"
