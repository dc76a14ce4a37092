"""Changes of a service at Railway, through the tools, against the lab's effect log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.errors import Conflict, InvalidInput, NotFound
from mcp_ops.tool import Tool
from mcp_ops.tools import deployment_config, deployments, rollouts
from tests.kubernetes_lab import write
from tests.railway_lab import BACKEND, Lab, lab

SETTING = "DB_POOL_SIZE"


async def do(
    place: Lab, tool: Tool, name: str = BACKEND, *given: Any, wait_s: int = 45, **frame: Any
) -> Any:
    with anyio.fail_after(30):
        return await tool.function(place.platform, write(**frame), name, *given, wait_s=wait_s)


async def restart(place: Lab, name: str = BACKEND, **frame: Any) -> Any:
    return await do(place, deployments.restart_deployment, name, **frame)


async def rollback(place: Lab, revision: str = "", **frame: Any) -> Any:
    return await do(place, rollouts.rollback_deployment, BACKEND, revision, **frame)


async def scale(place: Lab, name: str, replicas: int, **frame: Any) -> Any:
    return await do(place, rollouts.scale_deployment, name, replicas, **frame)


async def configure(
    place: Lab, key: str, value: str = "", ref: str = "", over: bool = False, **frame: Any
) -> Any:
    given = (key, value, ref, over)
    return await do(place, deployment_config.set_config, BACKEND, *given, **frame)


async def test_restart_is_verified_by_the_start_that_railways_log_shows(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        done = await restart(place)
        assert (done.outcome, done.ready, done.problem) == ("verified", "2/2", None)
        assert place.effects() == ["deploymentRestart"]
        # The deployment and its instances are the same ones: only the log tells.
        assert done.evidence["deployment"] == done.evidence["deployment_before"] == done.id
        assert done.evidence["instances"] == done.evidence["instances_before"]
        assert done.evidence["last_start"] > done.evidence["last_start_before"]


async def test_restart_of_a_crashed_release_says_that_it_crashed_again(tmp_path: Path) -> None:
    async with lab(tmp_path, steady_s=0.3) as place:
        place.stand_in.inject("bad-release")
        await place.until(BACKEND, problem="crash_loop")
        done = await restart(place)
        assert done.outcome == "failed"
        assert done.problem == "The deployment crashed after it started; its log says why."
        assert [step.tool for step in done.next_steps] == ["get_deployment", "get_deployment_logs"]


async def test_rollback_returns_to_the_deployment_before_and_its_variables(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await configure(place, SETTING, "50", over=True, call_id="set")
        place.stand_in.inject("bad-release")
        await place.until(BACKEND, problem="crash_loop")
        planned = await rollback(place, dry_run=True)
        assert any("Instead of" in line for line in planned.plan), planned.plan
        done = await rollback(place, call_id="back")
        assert done.outcome == "verified"
        assert done.evidence["version"] == "acme/ecommerce-backend@c3c3c3c3c3c3"
        assert done.undo.arguments["to_revision"] == done.evidence["deployment_before"]
        assert place.effects() == ["variableUpsert", "deploymentRollback"]
        assert (await place.platform.describe(BACKEND)).problem == "none"


async def test_rollback_to_the_current_revision_deploys_it_anew(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        current = (await place.platform.describe(BACKEND)).revision
        assert current is not None
        done = await rollback(place, current)
        assert (done.outcome, place.effects()) == ("verified", ["deploymentRedeploy"])
        assert done.id == done.evidence["deployment"] != current


async def test_rollback_of_what_railway_does_not_keep_is_refused_before_it_is_sent(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        for _ in range(6):
            place.world.again(place.world.by_name(BACKEND).deployments[-1], reason="redeploy")
        await place.until(BACKEND, problem="none")
        oldest = place.world.by_name(BACKEND).deployments[0].id
        plan = await place.platform.plan_rollback(BACKEND, oldest)
        assert plan.action == "redeploy"  # from its source, as Railway offers that still
        for unknown in ("nothing", place.world.by_name("Redis").deployments[0].id):
            with pytest.raises(NotFound):
                await rollback(place, unknown)
        with pytest.raises(NotFound):
            await do(place, rollouts.rollback_deployment, "redis", "")
        assert place.effects() == []


async def test_scaling_keeps_the_regions_and_the_version_that_runs(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        # The repository is ahead of what runs: that must not be released along.
        place.world.by_name("Store Front").head = "9" * 40
        planned = await scale(place, "store-front", 6, dry_run=True)
        assert "then: europe-west4-drams3a 2, us-east4-eqdc4a 4" in planned.plan[1]
        done = await scale(place, "store-front", 6)
        assert (done.outcome, done.ready) == ("verified", "6/6")
        assert done.evidence["version"] == "acme/store@d4d4d4d4d4d4"
        assert done.evidence["regions"] == {"us-east4-eqdc4a": 4, "europe-west4-drams3a": 2}
        assert place.effects() == ["serviceInstanceUpdate", "serviceInstanceDeployV2"]
        assert done.undo.arguments == {"name": "store-front", "replicas": 3}
        same = await scale(place, "store-front", 6, call_id="again")
        assert same.plan == ["Nothing to do: it runs 6 instances."]
        assert len(place.effects()) == 2


async def test_scaling_is_bounded_by_the_operator_and_by_railway(tmp_path: Path) -> None:
    async with lab(tmp_path, max_replicas=4) as place:
        for replicas, why in ((5, "at most 4"), (0, "at least one"), (1, "2 regions")):
            with pytest.raises(InvalidInput, match=why):
                await scale(place, "store-front", replicas)
        assert place.effects() == []


async def test_setting_a_variable_is_followed_until_its_deployment_runs(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        with pytest.raises(Conflict, match="is there"):
            await configure(place, SETTING, "50")
        done = await configure(place, SETTING, "50", over=True)
        assert (done.outcome, done.undo) == ("verified", None)
        assert done.evidence["deployment"] != done.evidence["deployment_before"]
        assert place.effects() == ["variableUpsert"]
        page = await place.platform.list_config(BACKEND, limit=50, cursor="")
        shown = {each.name: each.shown for each in page.items}
        assert shown[SETTING] == "50"
        again = await configure(place, SETTING, "50", over=True, call_id="again")
        assert again.plan == ["Nothing to do: DB_POOL_SIZE has this value."]


async def test_a_secret_is_set_by_reference_only(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        for key, value in (
            ("ADMIN_KEY", "hunter2hunter2"),
            ("DATABASE_PASSWORD", "x"),
            ("STORE_URL", "postgres://shop:s3cr3t-pass@db/shop"),
            ("OTHER", "${{shared.ADMIN_KEY}}"),
            ("RAILWAY_RUN_UID", "0"),
            ("A.B", "1"),
        ):
            with pytest.raises(InvalidInput):
                await configure(place, key, value)
        for ref in ("shared.ADMIN_KEY", "x${{shared.A}}", "${{Nobody.URL}}", "${{NOT_THERE}}"):
            with pytest.raises(InvalidInput):
                await configure(place, "ADMIN_KEY", ref=ref)
        assert place.effects() == []
        done = await configure(place, "ADMIN_KEY", ref="${{shared.ADMIN_KEY}}")
        assert done.outcome == "verified"
        back = await configure(
            place, "DATABASE_URL", ref="${{shared.DATABASE_URL}}", over=True, call_id="two"
        )
        assert back.undo.arguments["value_ref"] == "${{Postgres.DATABASE_URL}}"


async def test_no_value_that_is_overwritten_is_told_or_kept(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_config(
            BACKEND,
            "ANTHROPIC_API_KEY",
            value="",
            value_ref="${{shared.ANTHROPIC_API_KEY}}",
            overwrite=True,
        )
        assert "lab-anthropic" not in plan.model_dump_json()
        assert plan.undo is None
        assert "It overwrites the value that is there (fingerprint " in plan.lines[1]


async def test_stop_and_start_take_each_other_back(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        stopped = await do(place, rollouts.stop_deployment)
        assert (stopped.outcome, stopped.evidence["status"]) == ("verified", "STOPPED")
        assert stopped.undo.tool == "start_deployment"
        assert (await place.platform.describe(BACKEND)).problem == "scaled_to_zero"
        with pytest.raises(Conflict, match="it is stopped"):
            await restart(place)
        again = await do(place, rollouts.stop_deployment, call_id="again")
        assert again.plan == ["Nothing to do: nothing of it runs."]
        started = await do(place, rollouts.start_deployment, call_id="start")
        assert (started.outcome, started.ready) == ("verified", "2/2")
        assert place.effects() == ["deploymentStop", "deploymentRestart"]
        same = await do(place, rollouts.start_deployment, call_id="start-2")
        assert same.plan == ["Nothing to do: it runs."]


async def test_a_service_whose_deployment_was_removed_is_deployed_anew_to_start_it(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        place.world.by_name("Redis").deployments[-1].settled = "REMOVED"
        with pytest.raises(Conflict):
            await restart(place, "redis")
        done = await do(place, rollouts.start_deployment, "redis")
        assert (done.outcome, place.effects()) == ("verified", ["deploymentRedeploy"])


async def test_a_sleeping_service_is_left_asleep(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.world.by_name("Redis").deployments[-1].settled = "SLEEPING"
        assert (await place.platform.describe("redis")).problem == "none"
        for tool in (deployments.restart_deployment, rollouts.stop_deployment):
            with pytest.raises(Conflict, match="it sleeps"):
                await do(place, tool, "redis")
        same = await do(place, rollouts.start_deployment, "redis")
        assert same.plan == ["Nothing to do: it sleeps; a request wakes it."]
        assert place.effects() == []


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        (deployments.restart_deployment, ()),
        (rollouts.rollback_deployment, ("",)),
        (rollouts.scale_deployment, (3,)),
        (rollouts.stop_deployment, ()),
        (deployment_config.set_config, (SETTING, "50", "", True)),
    ],
)
async def test_a_dry_run_plans_and_changes_nothing(
    tmp_path: Path, tool: Tool, given: tuple[Any, ...]
) -> None:
    async with lab(tmp_path) as place:
        planned = await do(place, tool, BACKEND, *given, dry_run=True)
        assert planned.outcome == "planned"
        assert planned.plan
        assert place.effects() == []
        assert not {"Restart", "Rollback", "Deploy", "Stop", "SetVariable"} & set(
            place.between.seen
        )


async def test_a_release_has_to_run_steadily_before_it_counts(tmp_path: Path) -> None:
    """Railway says SUCCESS as soon as a container has started: this one ends a step later."""
    async with lab(tmp_path, steady_s=0.3) as place:
        place.world.next_outcome = "crashes"
        done = await configure(place, SETTING, "50", over=True)
        assert done.outcome == "failed"
        assert done.problem == "The deployment crashed after it started; its log says why."


async def test_a_stop_that_railway_does_not_show_is_not_called_done(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("quiet-stop")
        done = await do(place, rollouts.stop_deployment, wait_s=5)
        assert done.outcome == "unconfirmed"
        assert "of some images it never does" in done.problem
        assert place.effects() == ["deploymentStop"]


async def test_nothing_is_deployed_or_stopped_under_a_release_that_is_under_way(
    tmp_path: Path,
) -> None:
    """Scaling deploys the version that runs: that would take the release back."""
    async with lab(tmp_path) as place:
        place.stand_in.inject("never-ready")
        service = place.world.by_name(BACKEND)
        place.world.deploy(service, reason="deploy", commit="9" * 40, builds=True)
        for tool, given in ((rollouts.scale_deployment, (3,)), (rollouts.stop_deployment, ())):
            with pytest.raises(Conflict, match="is under way"):
                await do(place, tool, BACKEND, *given)
        assert place.effects() == []
        # What runs can be restarted all the same: a release may wait in a queue for hours.
        assert (await restart(place)).outcome == "verified"
