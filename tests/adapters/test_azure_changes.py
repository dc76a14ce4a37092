"""What each change of the App Service adapter refuses, shows and believes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.capabilities.changes import Begun, Plan
from mcp_ops.errors import Conflict, Forbidden, InvalidInput, NotFound
from mcp_ops.tools import deployments, rollouts
from tests.adapters.azure_writes import ROWS, instance_of
from tests.azure_lab import Lab, lab
from tests.kubernetes_lab import answering, changed, write

BY_NAME = {row.name: row for row in ROWS}


async def restart(place: Lab, name: str = "shop-api", wait_s: int = 45, **frame: Any) -> Any:
    with anyio.fail_after(30):
        return await deployments.restart_deployment.function(
            place.platform, write(**frame), name, wait_s
        )


def due(place: Lab) -> None:
    """Let operations end, and what starts be ready, at once."""
    place.stand_in.world.settle_s = 0.0
    for operation in place.stand_in.world.operations.values():
        operation.until = 0.0


async def end_of(place: Lab, plan: Plan, begun: Begun) -> Any:
    with anyio.fail_after(20):
        while (now := await place.platform.follow(plan, begun)).state == "pending":
            await anyio.sleep(0.02)
        return now


async def test_restart_shows_when_each_instance_started_before_and_after(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        for name in ("shop-api", "shop-admin"):
            done = await restart(place, name)
            assert done.outcome == "verified"
            assert done.ready == "2/2"
            before, after = done.evidence["before"]["started_at"], done.evidence["started_at"]
            assert set(before) == set(after)
            assert all(before[each] < done.evidence["accepted_at"] for each in before)
            assert all(after[each] > before[each] for each in after)


async def test_restart_of_a_release_that_cannot_start_says_failed(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("bad-deployment")
        await place.until("shop-api", lambda found: found.problem == "not_ready")
        done = await restart(place)
        assert done.outcome == "failed"
        assert "didn't respond to HTTP pings" in done.problem
        assert done.next_steps[1].tool == "get_deployment_logs"
        back = await BY_NAME["rollback"].call(place, write(call_id="call-2"))
        assert back.outcome == "verified", back
        assert (await place.platform.describe("shop-api")).problem == "none"


async def test_restart_that_no_platform_log_shows_stays_unconfirmed(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.between.inject("GET", "/logs/docker", *[answering(403, b"no")] * 99)
        done = await restart(place)
        assert done.outcome == "unconfirmed"
        assert done.problem == (
            "Not ready in time: all instances are ready, but App Service did not show when the "
            "instances started."
        )


async def test_soft_restart_is_only_verified_when_something_started(tmp_path: Path) -> None:
    async with lab(tmp_path, soft_restart=True) as place:
        done = await restart(place, wait_s=10)
        assert done.outcome == "unconfirmed"
        assert "a soft restart may have had nothing to do" in done.problem
        assert place.effects()[0]["soft"] is True


async def test_stopped_app_is_not_restarted_and_starts_again(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        await BY_NAME["stop"].run(place)
        with pytest.raises(Conflict, match="the app is Stopped"):
            await restart(place, "shop-web")
        again = await BY_NAME["stop"].run(place, call_id="call-2")
        assert (again.outcome, again.plan) == (
            "verified",
            ["Nothing to do: it is stopped already."],
        )
        done: Any = await rollouts.start_deployment.function(
            place.platform, write(call_id="call-3"), "shop-web", 45
        )
        assert (done.outcome, done.ready) == ("verified", "2/2")
        assert done.undo is not None
        assert done.undo.tool == "stop_deployment"
        assert [line["effect"] for line in place.effects()] == ["client.stop", "client.start"]


@pytest.mark.parametrize("name", ["restart", "swap", "setting", "rollback", "scale"])
async def test_what_somebody_else_changed_meanwhile_is_a_conflict(
    tmp_path: Path, name: str
) -> None:
    async with lab(tmp_path) as place:
        plan = await BY_NAME[name].plan(place)
        world = place.stand_in.world
        app = world.apps["shop-api"]
        if name == "scale":
            app.farm.capacity = 4
        elif name == "rollback":
            app.deployments[0]["active"], app.deployments[3]["active"] = False, True
        else:
            app.settings["ADDED"] = "by somebody"
            app.modified = world.now()
        with pytest.raises(Conflict) as raised:
            await place.platform.begin(plan, reason="now", call_id="call-1")
        assert "looked at; nothing was" in raised.value.message
        with pytest.raises(Conflict):
            await place.platform.rehearse(plan)
        assert place.effects() == []


@pytest.mark.parametrize("name", ["swap", "setting", "scale", "rollback", "restart", "stop"])
async def test_change_after_ours_is_told_and_not_taken_for_success(
    tmp_path: Path, name: str
) -> None:
    async with lab(tmp_path, settle_s=60.0) as place:
        row = BY_NAME[name]
        plan = await row.plan(place)
        begun = await place.platform.begin(plan, reason="now", call_id="call-1")
        world = place.stand_in.world
        app = world.apps["shop-api"]
        if name == "swap":
            app.swap = {
                "timestampUtc": "2031-01-01T00:00:00Z",
                "sourceSlotName": "other",
                "destinationSlotName": "Production",
            }
        elif name == "setting":
            app.settings["API_TIMEOUT"] = "5"
        elif name == "scale":
            app.farm.capacity = 5
        elif name == "rollback":
            for each in app.deployments:
                each["active"] = each["id"] == "rel-39"
        elif name == "restart":
            app.state = "Stopped"
        if name == "stop":
            world.apps["shop-web"].state = "Running"
            assert (await place.platform.follow(plan, begun)).state == "pending"
        else:
            now = await place.platform.follow(plan, begun)
            assert now.state == "superseded", now


async def test_swap_names_what_differs_without_values_and_takes_itself_back(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        app = place.stand_in.world.apps["shop-api"]
        app.settings["PAYMENTS_KEY"] = "sk-live-do-not-show-1234567890"
        planned = await BY_NAME["swap"].run(place, dry_run=True)
        assert planned.plan[1] == (
            "AppSetting PAYMENTS_KEY differs (Information, SettingsWillBeModifiedInDestination)."
        )
        assert "sk-live" not in planned.model_dump_json()
        for n in (1, 2):
            done = await BY_NAME["swap"].run(place, call_id=f"call-{n}")
            assert done.outcome == "verified", done
            assert done.undo is not None
            assert done.undo.arguments == {"name": "shop-api", "slot": "staging"}
        assert app.settings["PAYMENTS_KEY"] == "sk-live-do-not-show-1234567890"
        assert app.settings["SLOT_ROLE"] == "shop-api"
        assert (await place.platform.describe("shop-api")).revision == "rel-42"


async def test_swap_is_never_made_twice_by_a_late_sender(tmp_path: Path) -> None:
    async with lab(tmp_path, settle_s=60.0) as place:
        plan = await BY_NAME["swap"].plan(place)
        begun = await place.platform.begin(plan, reason="now", call_id="call-1")
        with pytest.raises(Conflict):  # it is under way
            await place.platform.begin(plan, reason="late", call_id="call-1")
        found = await place.platform.find(plan, "call-1")
        assert found is not None
        assert "operation_under_way" in found.evidence
        due(place)
        assert (await end_of(place, plan, begun)).state == "verified"
        with pytest.raises(Conflict):  # it is done
            await place.platform.begin(plan, reason="late", call_id="call-1")
        assert len(place.effects()) == 1


async def test_operation_that_fails_is_told_with_azures_words(tmp_path: Path) -> None:
    async with lab(tmp_path, settle_s=60.0) as place:
        plan = await BY_NAME["swap"].plan(place)
        begun = await place.platform.begin(plan, reason="now", call_id="call-1")
        due(place)
        for operation in place.stand_in.world.operations.values():
            operation.fails = "Cannot swap: the slot did not warm up."
            operation.done = lambda: None
        now = await end_of(place, plan, begun)
        assert now.state == "failed"
        assert "the slot did not warm up" in now.why


async def test_operation_at_another_address_is_not_asked(tmp_path: Path) -> None:
    elsewhere = {"location": "http://127.0.0.1:1/subscriptions/x"}
    async with lab(tmp_path) as place:
        plan = await BY_NAME["swap"].plan(place)
        place.between.inject("POST", "/slotsswap", answering(202, b"", elsewhere))
        begun = await place.platform.begin(plan, reason="now", call_id="call-1")
        now = await place.platform.follow(plan, begun)
        assert (now.state, now.why) == ("pending", "Azure does not show the swap yet")


async def test_swap_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        platform = place.platform
        with pytest.raises(InvalidInput):
            await platform.plan_swap("shop-api/slots/staging", "staging")
        for slot in ("production", "../x", "a b"):
            with pytest.raises(InvalidInput):
                await platform.plan_swap("shop-api", slot)
        with pytest.raises(NotFound):
            await platform.plan_swap("shop-api", "other")
        await place.act("POST", "sites/shop-api/slots/staging/stop")
        with pytest.raises(Conflict, match="take production down"):
            await platform.plan_swap("shop-api", "staging")
    async with lab(tmp_path) as place:
        place.stand_in.world.actions = ["*/read"]
        plan = await place.platform.plan_swap("shop-api", "staging")
        assert plan.lines[1] == "What differs between them could not be read."


async def test_rollback_chooses_the_successful_one_before(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        platform = place.platform
        plan = await platform.plan_rollback("shop-api", "")
        assert plan.values["id"] == "rel-41"
        assert plan.undo is not None
        assert plan.undo.arguments["to_revision"] == "rel-42"
        assert any("It replaces rel-42" in line for line in plan.lines)
        with pytest.raises(Conflict, match="did not succeed"):
            await platform.plan_rollback("shop-api", "rel-40")
        for name, revision in (("shop-api", "rel-1"), ("shop-web", "")):
            with pytest.raises(NotFound):
                await platform.plan_rollback(name, revision)
        with pytest.raises(InvalidInput):
            await platform.plan_rollback("shop-api", "../x")
        assert (await platform.plan_rollback("shop-api", "rel-42")).nothing
        place.stand_in.world.apps["shop-api"].deployments[1]["status"] = 1
        with pytest.raises(Conflict, match="under way"):
            await platform.plan_rollback("shop-api", "rel-39")


async def test_deployment_that_fails_is_told(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await BY_NAME["rollback"].plan(place)
        begun = await place.platform.begin(plan, reason="now", call_id="call-1")
        app = place.stand_in.world.apps["shop-api"]
        app.deployments[1].update(status=3, message="build broke, password=hunter2hunter2")
        place.stand_in.world.operations.clear()
        now = await place.platform.follow(plan, begun)
        assert now.state == "failed"
        assert "build broke" in now.why
        assert "hunter2" not in now.why
        app.deployments.pop(1)
        gone = await place.platform.follow(plan, begun)
        assert (gone.state, gone.why) == ("failed", "Azure does not list the deployment any more.")


async def test_scaling_names_who_shares_the_plan_and_keeps_the_rest_of_it(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        sent: list[Any] = []

        def note(answer: Any) -> None:
            sent.append(answer)

        place.between.inject("PUT", "/serverfarms/", changed(note))
        planned = await BY_NAME["scale"].run(place, dry_run=True)
        assert planned.plan == [
            "Run 3 workers of plan shop-plan (P1v3, 2 workers).",
            "The same workers run 2 other apps or slots: shop-api/slots/staging, shop-web.",
        ]
        done = await BY_NAME["scale"].run(place)
        assert (done.outcome, done.ready) == ("verified", "3/3")
        assert done.undo is not None
        assert done.undo.arguments == {"name": "shop-api", "replicas": 2}
        assert sent[0]["tags"] == {"owner": "platform"}
        smaller: Any = await rollouts.scale_deployment.function(
            place.platform, write(call_id="call-2"), "shop-api", 1, 45
        )
        assert (smaller.outcome, smaller.ready) == ("verified", "1/1")


@pytest.mark.parametrize("replicas", [0, 6, 1_000])
async def test_bounds_of_the_operator_hold(tmp_path: Path, replicas: int) -> None:
    async with lab(tmp_path) as place:
        with pytest.raises(InvalidInput, match="1 to 5 here"):
            await place.platform.plan_scale("shop-api", replicas)
        assert place.between.seen == []


async def test_plan_whose_workers_are_not_ours_to_choose_is_refused(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        world = place.stand_in.world
        farm = world.farms["shop-plan"]
        for extra, why in (
            ({"perSiteScaling": True}, "per-app scaling"),
            ({"elasticScaleEnabled": True}, "scales it automatically"),
        ):
            farm.extra = dict(extra)
            with pytest.raises(Conflict, match=why):
                await place.platform.plan_scale("shop-api", 3)
        farm.extra = {"maximumNumberOfWorkers": 3}
        with pytest.raises(InvalidInput, match="at most 3 workers"):
            await place.platform.plan_scale("shop-api", 4)
        farm.tier = "Free"
        with pytest.raises(Conflict, match="no workers to choose"):
            await place.platform.plan_scale("shop-api", 3)
        farm.tier, farm.extra = "PremiumV3", {}
        target = f"{world.subscription}/RESOURCEGROUPS/{world.group}/providers/Microsoft.Web"
        setting = {
            "enabled": True,
            "targetResourceUri": f"/subscriptions/{target}/serverfarms/Shop-Plan",
        }
        world.autoscale.append({"name": "by-cpu", "properties": setting})
        with pytest.raises(Conflict, match="autoscale setting by-cpu"):
            await place.platform.plan_scale("shop-api", 3)
        place.between.inject("GET", "/autoscalesettings", answering(403, {"error": {}}))
        with pytest.raises(Forbidden, match="can't be seen"):
            await place.platform.plan_scale("shop-api", 3)
        elsewhere = f"/subscriptions/{world.subscription}/resourceGroups/x/providers/Microsoft.Web"
        world.apps["shop-api"].properties["serverFarmId"] = f"{elsewhere}/serverfarms/shop-plan"
        with pytest.raises(Conflict, match="another resource group"):
            await place.platform.plan_scale("shop-api", 3)
        assert (await place.platform.describe("shop-api")).problem == "none"


async def test_only_allowed_sizes_are_given(tmp_path: Path) -> None:
    async with lab(tmp_path, tiers=("P1v3",)) as place:
        platform = place.platform
        for sized in ({"memory": "1Gi"}, {"tier": "P3v3"}, {}):
            asked = {"memory": "", "cpu": "", "tier": "", **sized}
            with pytest.raises(InvalidInput, match="tier") as raised:
                await platform.plan_resources("shop-admin", **asked)
            assert raised.value.hint == "Allowed: P1v3."
        plan = await platform.plan_resources("shop-admin", memory="", cpu="", tier="p1V3")
        assert plan.undo is None  # back to S1 is not allowed
        assert "restart" in plan.lines[0]
        same = await platform.plan_resources("shop-api", memory="", cpu="", tier="P1v3")
        assert same.nothing == "it is P1v3"
    async with lab(tmp_path, tiers=()) as place:
        with pytest.raises(InvalidInput) as nothing:
            await place.platform.plan_resources("shop-admin", memory="", cpu="", tier="S1")
        assert "None is allowed" in nothing.value.hint


async def test_plan_that_azure_could_not_change_is_failed(tmp_path: Path) -> None:
    async with lab(tmp_path, settle_s=60.0) as place:
        plan = await BY_NAME["scale"].plan(place)
        begun = await place.platform.begin(plan, reason="now", call_id="call-1")
        place.stand_in.world.farms["shop-plan"].state = "Failed"
        now = await place.platform.follow(plan, begun)
        assert (now.state, now.why) == ("failed", "Azure says that the change of the plan failed.")


async def test_one_instance_is_restarted_by_its_process_or_its_worker_or_not_at_all(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        done = await BY_NAME["instance"].run(place)
        assert done.outcome == "verified"
        assert (
            "1 other instances are ready meanwhile."
            in (await BY_NAME["instance"].run(place, dry_run=True)).plan
        )
        linux = await instance_of(place, "shop-api")
        with pytest.raises(Conflict, match="no process"):
            await place.platform.plan_instance_restart("shop-api", linux)
        with pytest.raises(NotFound):
            await place.platform.plan_instance_restart("shop-api", "0" * 64)
        with pytest.raises(InvalidInput):
            await place.platform.plan_instance_restart("shop-api", "../x")
        windows = await instance_of(place, "shop-admin")
        plan = await place.platform.plan_instance_restart("shop-admin", windows)
        place.stand_in.world.apps["shop-admin"].started[windows] += 1
        with pytest.raises(Conflict, match="has ended"):
            await place.platform.begin(plan, reason="now", call_id="call-2")
        assert len(place.effects()) == 1
    async with lab(tmp_path, restart_workers=True) as place:
        plan = await BY_NAME["worker"].plan(place)
        assert plan.lines[1] == (
            "All that runs on it goes down: shop-api, shop-api/slots/staging, shop-web."
        )
