"""What is seen of a restart after it was accepted, against the lab's Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio

from mcp_ops.tools.deployments import restart_deployment
from tests.kubernetes_lab import STEP_S, Lab, changed, lab, write

WORKER = "/apis/apps/v1/namespaces/shop/deployments/worker"
PODS = "/api/v1/namespaces/shop/pods"


async def restart(place: Lab, wait_s: int = 45) -> Any:
    with anyio.fail_after(20):
        return await restart_deployment.function(place.platform, write(), "worker", wait_s)


async def test_old_instances_that_still_end_keep_a_restart_from_being_verified(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        ghost = (await place.raw(f"{PODS}?labelSelector=app%3Dworker"))["items"][0]
        ghost["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

        def haunt(answer: Any) -> None:
            answer["items"] = [
                pod for pod in answer["items"] if pod["metadata"]["uid"] != ghost["metadata"]["uid"]
            ] + [ghost]

        place.between.inject("GET", "/pods", *[changed(haunt)] * 60)
        # The old pod's replica set stays known, because the API keeps the history.
        done = await restart(place, wait_s=20)
        assert done.outcome == "unconfirmed"
        assert done.problem == "Not ready in time: 1 old instances have not ended."
        assert done.evidence["old_instances_left"] == 1


async def test_deadline_of_the_platform_makes_a_restart_failed(tmp_path: Path) -> None:
    def late(answer: Any) -> None:
        generation = answer["metadata"]["generation"]
        answer["status"]["observedGeneration"] = generation
        answer["status"]["conditions"] = [
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
        ]

    async with lab(tmp_path) as place:
        untouched = changed(lambda answer: None)
        place.between.inject("GET", "/deployments/worker", untouched, untouched, changed(late))
        done = await restart(place)
        assert done.outcome == "failed"
        assert done.problem == "The rollout made no progress within the platform's deadline."


async def test_change_after_the_restart_is_told_and_not_taken_for_its_success(
    tmp_path: Path,
) -> None:
    def newer(answer: Any) -> None:
        answer["metadata"]["generation"] += 1
        answer["spec"]["template"]["spec"]["nodeName"] = "elsewhere"

    async with lab(tmp_path) as place:
        untouched = changed(lambda answer: None)
        place.between.inject("GET", "/deployments/worker", untouched, untouched, changed(newer))
        done = await restart(place)
        assert done.outcome == "unconfirmed"
        assert done.problem == "The workload was changed again after this change."


async def test_another_number_of_instances_meanwhile_is_none_of_a_restart_s_business(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_restart("worker")
        begun = await place.platform.begin(plan, reason="it hangs", call_id="call-1")
        await place.patch(WORKER, {"spec": {"replicas": 3}})  # as an autoscaler does
        with anyio.fail_after(10):
            while (now := await place.platform.follow(plan, begun)).state == "pending":
                await anyio.sleep(STEP_S)
        assert (now.state, now.done, now.wanted) == ("verified", 3, 3)
