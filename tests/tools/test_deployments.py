"""The deployment tools against the lab's Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from mcp_ops.capabilities.base import Effect, effect_of
from mcp_ops.capabilities.changes import Change, Changeable
from mcp_ops.capabilities.deployments import DeploymentPlatform
from mcp_ops.errors import (
    Conflict,
    ConnectionLost,
    Forbidden,
    NotFound,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mcp_ops.tool import Tool
from mcp_ops.tools import deployments
from mcp_ops.tools.deployments import (
    get_deployment,
    get_deployment_logs,
    list_deployments,
    restart_deployment,
)
from mcp_ops.tools.rollouts import swap_slots
from tests.cancelling import once_sent
from tests.kubernetes_lab import Lab, answering, broken, changed, lab, lost, silent, write

WORKER = "/apis/apps/v1/namespaces/shop/deployments/worker"
PODS = "/api/v1/namespaces/shop/pods"
CALL_ID = "mcp-ops.io/call-id"
REASON = "mcp-ops.io/reason"


async def restart(place: Lab, name: str = "worker", wait_s: int = 45, **frame: Any) -> Any:
    with anyio.fail_after(10):
        return await restart_deployment.function(place.platform, write(**frame), name, wait_s)


async def uids(place: Lab, app: str) -> set[str]:
    found = await place.raw(f"{PODS}?labelSelector=app%3D{app}")
    return {pod["metadata"]["uid"] for pod in found["items"]}


async def test_restart_is_verified_when_every_instance_is_another_one(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        before = await uids(place, "worker")
        done = await restart(place)
        assert done.outcome == "verified"
        assert (done.ready, done.generation, done.problem) == ("2/2", 2, None)
        assert done.evidence["generation_before"] == 1
        assert done.evidence["observed_generation"] == 2
        assert done.evidence["old_instances_left"] == 0
        assert not before & await uids(place, "worker")
        assert len(place.patches()) == 1
        assert done.next_steps == []


async def test_restart_heals_wedged_workers(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("bad-release")
        await place.until("worker", lambda found: found.problem == "not_ready")
        assert (await restart(place)).outcome == "verified"
        assert (await place.platform.describe("worker")).problem == "none"


async def test_stateful_set_is_verified_although_its_pods_keep_their_names(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        before = await uids(place, "postgres")
        done = await restart(place, "statefulset/postgres")
        assert done.outcome == "verified"
        assert done.name == "statefulset/postgres"
        assert done.evidence["instances_before"] == done.evidence["instances"] == ["postgres-0"]
        assert not before & await uids(place, "postgres")


async def test_restart_of_a_release_that_cannot_start_says_failed(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("bad-release")
        await place.until("api", lambda found: found.problem == "crash_loop")
        done = await restart(place, "api")
        assert done.outcome == "failed"
        assert done.problem == "1 new instances don't start: crash_loop."
        assert "another_rollout_was_under_way" in done.evidence
        assert [step.tool for step in done.next_steps] == ["get_deployment", "get_deployment_logs"]
        assert done.next_steps[1].arguments == {"name": "api", "previous": True}


async def test_restart_that_is_not_ready_in_time_is_unconfirmed(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        done = await restart(place, wait_s=0)
        assert done.outcome == "unconfirmed"
        assert done.problem is not None
        assert done.problem.startswith("Not ready in time: ")
        assert [step.tool for step in done.next_steps] == ["get_deployment"]
        await place.until("worker", lambda found: found.ready == 2 and found.problem == "none")


async def test_people_are_shown_the_generation_that_would_be_replaced(tmp_path: Path) -> None:
    seen: list[tuple[Mapping[str, Any], tuple[str, ...] | None]] = []
    async with lab(tmp_path) as place:
        frame = replace(write(dry_run=True), saw=lambda state, items: seen.append((state, items)))
        for _ in range(2):
            await deployments.restart_deployment.function(place.platform, frame, "worker")
        assert seen[0] == seen[1]
        await restart(place)
        await deployments.restart_deployment.function(place.platform, frame, "worker")
    assert [items for _, items in seen] == [None] * 3
    states = [state for state, _ in seen]
    assert [set(state) for state in states] == [{"action", "generation", "desired"}] * 3
    assert states[2]["generation"] == states[0]["generation"] + 1


async def test_dry_run_plans_asks_the_server_and_changes_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        before = await uids(place, "worker")
        planned = await restart(place, dry_run=True)
        assert planned.outcome == "planned"
        assert planned.plan[0] == "Replace 2 instances of worker one after the other."
        assert any("dryRun=All" in query for query in place.between.queries)
        assert await uids(place, "worker") == before
        assert place.patches() == []
        place.stand_in.inject("forbid")
        with pytest.raises(Forbidden):
            await restart(place, dry_run=True)


async def test_lost_answer_is_resolved_by_a_look_and_the_restart_runs_once(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("PATCH", "/deployments/worker", lost)
        done = await restart(place, call_id="call-lost")
        assert done.outcome == "verified"
        assert len(place.patches()) == 1
        template = (await place.raw(WORKER))["spec"]["template"]
        assert template["metadata"]["annotations"][CALL_ID] == "call-lost"


async def test_lost_request_that_left_no_trace_stays_unknown(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("PATCH", "/deployments/worker", broken)
        with pytest.raises(ConnectionLost) as raised:
            await restart(place)
        assert raised.value.executed == "unknown"
        assert place.patches() == []


async def test_lost_answer_and_no_way_to_look_stays_unknown(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        untouched = changed(lambda answer: None)
        place.between.inject("PATCH", "/deployments/worker", lost)
        place.between.inject("GET", "/deployments/worker", untouched, untouched, broken)
        with pytest.raises(ConnectionLost) as raised:
            await restart(place)
        assert raised.value.executed == "unknown"
        assert len(place.patches()) == 1


async def test_silent_server_after_the_patch_is_a_timeout_that_may_have_run(tmp_path: Path) -> None:
    async with lab(tmp_path, request_timeout_s=0.2) as place:
        place.between.inject("PATCH", "/deployments/worker", silent)
        with pytest.raises(UpstreamTimeout) as raised:
            await restart(place)
        assert raised.value.executed == "unknown"


async def test_server_that_says_it_did_not_take_the_patch_executed_nothing(tmp_path: Path) -> None:
    said = {"kind": "Status", "status": "Failure", "message": "shutting down", "code": 503}
    async with lab(tmp_path) as place:
        place.between.inject("PATCH", "/deployments/worker", answering(503, said))
        with pytest.raises(UpstreamUnavailable) as raised:
            await restart(place)
        assert raised.value.executed == "no"
        assert raised.value.said == "shutting down"


async def test_unavailable_by_a_proxy_may_have_run_and_is_looked_up(tmp_path: Path) -> None:
    async def proxy(app: Any, scope: Any, receive: Any, send: Any) -> None:
        async def swallow(message: Any) -> None:
            return None

        await app(scope, receive, swallow)
        await answering(503, b"upstream connect error")(app, scope, receive, send)

    async with lab(tmp_path) as place:
        place.between.inject("PATCH", "/deployments/worker", proxy)
        assert (await restart(place)).outcome == "verified"
        assert len(place.patches()) == 1


async def test_trouble_while_waiting_does_not_undo_what_was_accepted(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        untouched = changed(lambda answer: None)
        place.between.inject("GET", "/deployments/worker", untouched, untouched, broken, broken)
        assert (await restart(place)).outcome == "verified"


async def test_platform_that_refuses_to_say_ends_the_wait_unconfirmed(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        untouched = changed(lambda answer: None)
        gone = answering(404, {"kind": "Status", "message": "gone"})
        place.between.inject("GET", "/deployments/worker", untouched, untouched, gone)
        done = await restart(place)
        assert done.outcome == "unconfirmed"
        assert done.problem == "The change was accepted; the platform refuses to say how it went."


async def test_cancelled_wait_says_that_the_restart_goes_on(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        done = await restart(place, cancelled=once_sent())
        assert done.outcome == "unconfirmed"
        assert done.problem == "The wait was cancelled; the change goes on at the platform."


async def test_same_call_again_finds_its_restart_and_does_not_repeat_it(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        first = await restart(place, call_id="call-7")
        plan = await place.platform.plan_restart("worker")
        again = await place.platform.begin(plan, reason="again", call_id="call-7")
        assert again.version == str(first.generation)
        assert len(place.patches()) == 1


async def test_restart_is_found_in_the_history_when_another_change_followed(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await restart(place, call_id="call-8")
        await restart(place, call_id="call-9")
        plan = await place.platform.plan_restart("worker")
        found = await place.platform.find(plan, "call-8")
        newer = await place.platform.find(plan, "call-9")
        assert found is not None
        assert newer is not None
        assert found.at < newer.at
        assert await place.platform.find(plan, "call-10") is None
        stateful = await place.platform.plan_restart("statefulset/postgres")
        assert await place.platform.find(stateful, "call-8") is None


async def test_workload_that_changed_since_the_look_is_a_conflict(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_restart("worker")
        await place.patch(WORKER, {"spec": {"replicas": 3}})
        patches = len(place.patches())
        with pytest.raises(Conflict):
            await place.platform.begin(plan, reason="now", call_id="c")
        assert len(place.patches()) == patches


async def test_change_between_look_and_patch_is_caught_by_the_version(tmp_path: Path) -> None:
    def scaled(answer: Any) -> None:
        answer["metadata"]["resourceVersion"] = "1"

    async with lab(tmp_path) as place:
        place.between.inject("GET", "/deployments/worker", *[changed(scaled)] * 9)
        with pytest.raises(Conflict):
            await restart(place)
        assert place.patches() == []


async def test_status_that_moved_between_look_and_patch_is_no_conflict(tmp_path: Path) -> None:
    def older(answer: Any) -> None:
        answer["metadata"]["resourceVersion"] = "1"

    async with lab(tmp_path) as place:
        untouched = changed(lambda answer: None)
        place.between.inject("GET", "/deployments/worker", untouched, changed(older))
        assert (await restart(place)).outcome == "verified"
        assert len(place.patches()) == 1


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"paused": True}, "its rollouts are paused"),
        ({"replicas": 0}, "it has no instances: zero are wanted"),
    ],
)
async def test_restart_that_would_replace_nothing_is_refused(
    tmp_path: Path, spec: dict[str, Any], why: str
) -> None:
    async with lab(tmp_path) as place:
        await place.patch(WORKER, {"spec": spec})
        patches = len(place.patches())
        for dry_run in (False, True):
            with pytest.raises(Conflict, match=why):
                await restart(place, dry_run=dry_run)
        assert len(place.patches()) == patches


async def test_missing_and_forbidden_workloads_are_told_before_anything_is_done(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        with pytest.raises(NotFound):
            await restart(place, "nope")
        place.stand_in.inject("forbid")
        with pytest.raises(Forbidden) as raised:
            await restart(place)
        assert "patch on deployments.apps" in raised.value.hint
        assert place.patches() == []


async def test_reason_and_call_are_left_at_the_workload_without_secrets(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_restart("worker")
        await place.platform.begin(plan, reason="password=hunter2hunter2\x1b[31m", call_id="c-1")
        found = await place.raw(WORKER)
        note = found["metadata"]["annotations"][REASON]
        assert "hunter2" not in note
        assert "\x1b" not in note
        assert REASON not in found["spec"]["template"]["metadata"]["annotations"]
        managers = {one["manager"] for one in found["metadata"]["managedFields"]}
        assert "mcp-ops" in managers


async def test_reading_tools_answer_through_the_capability(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        page: Any = await list_deployments.function(place.platform, 20, "")
        assert [item.name for item in page.items] == [
            "api",
            "web",
            "worker",
            "statefulset/postgres",
            "daemonset/agent",
        ]
        place.stand_in.inject("bad-release")
        await place.until("api", lambda found: found.problem == "crash_loop")
        found = await get_deployment.function(place.platform, "api")
        assert found.next_steps[0].arguments == {"name": "api", "previous": True}
        logs: Any = await get_deployment_logs.function(
            place.platform, "api", 60, 20, "PAYMENTS_URL", "error", True
        )
        assert logs.matched == 2


def test_names_of_one_workload_are_one_object_to_the_budgets() -> None:
    model = restart_deployment.arguments
    given = model.model_validate({"name": "deployment/api", "reason": "it is stuck"})
    assert restart_deployment.object_of(given) == "api"
    for name in ("cronjob/x", "Api", "a/b/c", "../etc", "", "a" * 254):
        with pytest.raises(ValidationError):
            model.model_validate({"name": name, "reason": "it is stuck"})


def test_only_the_restart_is_a_write() -> None:
    tools = [one for one in vars(deployments).values() if isinstance(one, Tool)]
    assert {one.name: one.effect for one in tools} == {
        "list_deployments": Effect.READ,
        "get_deployment": Effect.READ,
        "get_deployment_logs": Effect.READ,
        "restart_deployment": Effect.WRITE,
    }
    assert effect_of(DeploymentPlatform, "begin") is Effect.WRITE
    assert effect_of(DeploymentPlatform, "rehearse") is Effect.READ
    assert effect_of(Changeable, "find") is Effect.READ
    assert restart_deployment.result is Change


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("deployment/api", "api"),
        ("api/slots/production", "api"),
        ("api/slots/staging", "api/slots/staging"),
    ],
)
def test_one_object_has_one_name_whichever_way_it_is_written(written: str, name: str) -> None:
    """Budgets, replay and protection compare it."""
    arguments = restart_deployment.arguments.model_validate({"name": written, "reason": "wedged"})
    assert restart_deployment.object_of(arguments) == name


def test_swap_of_a_slot_is_the_same_call_however_the_slot_is_written() -> None:
    """A second swap would be a swap back."""
    asked = {"name": "api", "reason": "release"}
    read = swap_slots.arguments.model_validate
    assert read({**asked, "slot": "Staging"}) == read({**asked, "slot": "staging"})
