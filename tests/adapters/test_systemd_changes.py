"""Restart, stop and start of units: one effect each, and an honest end whatever is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.errors import (
    Conflict,
    ConnectionLost,
    Forbidden,
    NotFound,
    Rejected,
    Unreachable,
    UpstreamBroken,
    UpstreamTimeout,
)
from mcp_ops.tools.deployments import restart_deployment
from mcp_ops.tools.rollouts import start_deployment, stop_deployment
from tests.adapters.systemd_stage import REDIS, Stage, stage, write
from tests.cancelling import once_sent
from tests.second_run import goes_on


async def restart(place: Stage, name: str = REDIS, wait_s: int = 10, **frame: Any) -> Any:
    return await restart_deployment.function(place.platform, write(**frame), name, wait_s)


async def stop(place: Stage, name: str = REDIS, wait_s: int = 10, **frame: Any) -> Any:
    return await stop_deployment.function(place.platform, write(**frame), name, wait_s)


async def start(place: Stage, name: str = REDIS, wait_s: int = 10, **frame: Any) -> Any:
    return await start_deployment.function(place.platform, write(**frame), name, wait_s)


async def test_restart_is_verified_by_another_run_that_is_active(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        before = place.box.unit(REDIS)["InvocationID"]
        done = await restart(place)
        assert (done.outcome, done.ready, done.problem) == ("verified", "1/1", None)
        assert done.evidence["invocation_before"] == before
        assert done.evidence["invocation"] == place.box.unit(REDIS)["InvocationID"] != before
        assert done.evidence["state"] == "active (running)"
        assert done.id == "job 11"
        assert place.effects() == [("restart", REDIS)]


async def test_restart_waits_for_a_service_that_reports_when_it_is_ready(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.set(REDIS, slow=True)
        done = await restart(place, wait_s=2)
        assert done.outcome == "unconfirmed"
        assert done.problem == "Not ready in time: systemd is at work on it: activating (start)."
        done = await restart(place, call_id="call-2", between=lambda: place.box.settle(REDIS))
        assert done.outcome == "verified"
        assert len(place.effects()) == 2


async def test_service_that_dies_soon_after_its_start_is_no_success(tmp_path: Path) -> None:
    async with stage(tmp_path, settle_s=60.0) as place:
        done = await restart(place, wait_s=1)
        assert done.outcome == "unconfirmed"
        assert done.problem == "Not ready in time: it is active, but not for 60 seconds yet."
        done = await restart(place, call_id="call-2", between=lambda: place.box.crash(REDIS))
        assert done.outcome == "failed"
        assert "its process ended with an error code (exit code 3)" in done.problem


async def test_unit_that_fails_to_start_is_failed_with_its_result(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.set(REDIS, fails=203)
        done = await restart(place)
        assert done.outcome == "failed"
        assert done.evidence["result"] == "exit-code"
        assert done.next_steps[1].arguments == {"name": REDIS, "previous": True}


async def test_unit_that_systemd_does_not_start_is_failed(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        name = "networkmanager.service"
        plan = await place.platform.plan_start(name)
        begun = await place.platform.begin(plan, reason="r", call_id="c")
        place.box.crash("NetworkManager.service", active="inactive", result="success", code=0)
        unmet = {"ConditionResult": "no", "ConditionTimestampMonotonic": 7}
        place.box.set("NetworkManager.service", InvocationID="", **unmet)
        told = await place.platform.follow(plan, begun)
        assert told.state == "failed"
        assert told.why.endswith("The conditions in its file are not met.")


async def test_failed_unit_is_reset_and_started(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.crash(REDIS, result="start-limit-hit")
        planned = await start(place, dry_run=True)
        assert planned.outcome == "planned"
        assert "reset first" in planned.plan[1]
        done = await start(place)
        assert done.outcome == "verified"
        assert done.undo.tool == "stop_deployment"
        assert place.effects() == [("start", REDIS)]


async def test_oneshot_that_ended_well_did_what_it_is_for(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        plan = await place.platform.plan_start("networkmanager.service")
        begun = await place.platform.begin(plan, reason="r", call_id="c")
        how = {"result": "success", "code": 1, "status": 0}
        place.box.crash("NetworkManager.service", active="inactive", **how)
        assert (await place.platform.follow(plan, begun)).state == "verified"
        place.box.crash("NetworkManager.service", active="inactive", result="success", code=0)
        assert (await place.platform.follow(plan, begun)).state == "superseded"


@pytest.mark.parametrize("act", [restart, start])
async def test_unit_that_somebody_stops_after_its_start_is_not_verified(
    tmp_path: Path, act: Any
) -> None:
    name = REDIS if act is restart else "networkmanager.service"
    unit = REDIS if act is restart else "NetworkManager.service"
    how = {"result": "success", "code": 2, "status": 15}  # systemctl stop: SIGTERM

    def stopped() -> None:
        place.box.crash(unit, active="inactive", **how)

    async with stage(tmp_path, settle_s=60.0) as place:
        done = await act(place, name, between=stopped)
        assert (done.outcome, done.problem) == (
            "unconfirmed",
            "The unit was stopped after it was started.",
        )


async def test_oneshot_that_systemd_forgot_is_unconfirmed(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        name = "NetworkManager.service"
        place.box.set(name, unloads=True)
        how = {"result": "success", "code": 1, "status": 0}

        def ended() -> None:
            place.box.crash(name, active="inactive", **how)

        place.box.set(name, slow=True)
        done = await start(place, name.lower(), between=ended)
        assert done.outcome == "unconfirmed"
        assert done.problem.endswith("its log tells whether it ran.")


async def test_stopped_unit_that_systemd_unloads_can_be_started(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.crash(REDIS, active="inactive", result="success", code=1, status=0)
        plan = await place.platform.plan_start(REDIS)
        place.box.set(REDIS, InvocationID="", ConditionTimestampMonotonic=0)
        await place.platform.begin(plan, reason="r", call_id="c")
        assert place.effects() == [("start", REDIS)]


async def test_stop_and_start_take_each_other_back(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        done = await stop(place)
        assert (done.outcome, done.evidence["state"]) == ("verified", "inactive (dead)")
        assert done.undo.model_dump() == {"tool": "start_deployment", "arguments": {"name": REDIS}}
        again = await stop(place, call_id="call-2")
        assert again.plan == ["Nothing to do: it is inactive already."]
        with pytest.raises(Conflict):
            await restart(place)
        assert (await start(place, call_id="call-3")).outcome == "verified"
        assert (await start(place, call_id="call-4")).plan == [
            "Nothing to do: it is active already."
        ]
        assert place.effects() == [("stop", REDIS), ("start", REDIS)]


async def test_unit_that_comes_back_after_its_stop_is_told(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.set(REDIS, TriggeredBy="redis.socket")
        assert any("redis.socket" in line for line in (await stop(place, dry_run=True)).plan)
        plan = await place.platform.plan_stop(REDIS)
        begun = await place.platform.begin(plan, reason="r", call_id="c")
        place.box.start(REDIS)
        assert (await place.platform.follow(plan, begun)).state == "superseded"


async def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        planned = await restart(place, dry_run=True)
        assert planned.plan == [
            "Restart redis.service: it is away for a moment.",
            "Now: It is active (running).",
        ]
        assert place.effects() == []


@pytest.mark.parametrize("act", [restart, stop])
async def test_lost_answer_after_the_effect_is_resolved_by_a_look(tmp_path: Path, act: Any) -> None:
    async with stage(tmp_path) as place:
        place.box.inject(act.__name__, "lost")
        done = await act(place)
        assert done.outcome == "verified"
        assert done.evidence["found_by"].startswith("this server's own mark")
        assert place.effects() == [(act.__name__, REDIS)]


async def test_lost_request_without_an_effect_stays_unknown(tmp_path: Path) -> None:
    async with stage(tmp_path, timeout_s=2.0) as place:
        place.box.inject("restart", "silent", "reset")
        with pytest.raises(UpstreamTimeout) as raised:
            await restart(place)
        assert raised.value.executed == "unknown"
        with pytest.raises(ConnectionLost) as lost:
            await restart(place, call_id="call-2")
        assert lost.value.executed == "unknown"
        assert place.effects() == []


async def test_lost_process_finds_its_restart_or_does_it_once(tmp_path: Path) -> None:
    """What another process does with the plan of a killed one: look, then act at most once."""
    async with stage(tmp_path) as place:
        plan = await place.platform.plan_restart(REDIS)
        assert plan.repeatable
        assert await place.platform.find(plan, "call-1") is None
        begun = await place.platform.begin(plan, reason="r", call_id="call-1")
        found = await place.platform.find(plan, "call-1")
        assert found is not None
        assert (await place.platform.follow(plan, begun)).state == "verified"
        again = await place.platform.begin(plan, reason="r", call_id="call-1")
        assert again.at == found.at
        assert place.effects() == [("restart", REDIS)]


@pytest.mark.parametrize("killed_after", [True, False])
async def test_killed_server_is_followed_by_one_that_restarts_once(
    tmp_path: Path, killed_after: bool
) -> None:
    async with stage(tmp_path) as place:
        plan = await place.platform.plan_restart(REDIS)
        if killed_after:
            await place.platform.begin(plan, reason="r", call_id="call-1")
        frame = goes_on(write(call_id="call-1"), plan)
        done: Any = await restart_deployment.function(place.platform, frame, REDIS, 10)
        assert done.outcome == "verified"
        assert place.effects() == [("restart", REDIS)]


async def test_systemctl_that_a_lost_process_left_is_ended_before_another_one_asks(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as place, anyio.create_task_group() as tasks:
        plan = await place.platform.plan_restart(REDIS)
        place.box.inject("restart", "late")
        ended = anyio.Event()

        async def left_behind() -> None:
            with pytest.raises(UpstreamBroken, match="ended with code -9"):
                await place.platform.begin(plan, reason="r", call_id="call-1")
            ended.set()

        tasks.start_soon(left_behind)
        while place.box.coming():
            await anyio.sleep(0.01)
        await place.platform.begin(plan, reason="r", call_id="call-1")
        await ended.wait()
        assert place.effects() == [("restart", REDIS)]


async def test_restart_of_somebody_else_is_not_taken_for_ours(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        plan = await place.platform.plan_restart(REDIS)
        place.box.start(REDIS)
        assert await place.platform.find(plan, "call-1") is None
        with pytest.raises(Conflict):
            await place.platform.begin(plan, reason="r", call_id="call-1")
        stopping = await place.platform.plan_stop(REDIS)
        place.box.crash(REDIS, active="inactive")
        with pytest.raises(Conflict):
            await place.platform.begin(stopping, reason="r", call_id="call-1")
        starting = await place.platform.plan_start(REDIS)
        place.box.start(REDIS)
        with pytest.raises(Conflict):
            await place.platform.begin(starting, reason="r", call_id="call-1")
        assert place.effects() == []


async def test_automatic_restarts_do_not_stand_in_the_way(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.start(REDIS, automatic=True)
        plan = await place.platform.plan_restart(REDIS)
        place.box.start(REDIS, automatic=True)
        await place.platform.begin(plan, reason="r", call_id="call-1")
        assert place.effects() == [("restart", REDIS)]
        assert place.box.unit(REDIS)["NRestarts"] == 0


@pytest.mark.parametrize("fault", ["forbid", "polkit"])
async def test_denial_by_polkit_names_what_is_missing(tmp_path: Path, fault: str) -> None:
    async with stage(tmp_path) as place:
        place.box.inject("restart", fault)
        with pytest.raises(Forbidden) as raised:
            await restart(place)
        assert "org.freedesktop.systemd1.manage-units" in raised.value.hint
        plan = await place.platform.plan_restart(REDIS)
        assert await place.platform.find(plan, "call-1") is None
        assert place.effects() == []


async def test_reset_that_is_lost_did_not_touch_the_unit(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.crash(REDIS)
        place.box.inject("reset-failed", "reset")
        with pytest.raises(ConnectionLost) as raised:
            await start(place)
        assert raised.value.executed == "no"
        assert place.effects() == []


async def test_units_that_nobody_may_start_by_hand_are_refused(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.box.set(REDIS, RefuseManualStop="yes")
        with pytest.raises(Rejected):
            await stop(place)
        place.box.set(REDIS, RefuseManualStop="no", LoadState="masked")
        with pytest.raises(Rejected):
            await restart(place)
        place.box.set(REDIS, LoadState="not-found")
        with pytest.raises(NotFound):
            await restart(place)
        assert place.effects() == []


async def test_without_a_place_for_its_mark_systemd_is_not_asked(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        place.state.write_text("a file where the folder should be", encoding="utf-8")
        with pytest.raises(Unreachable):
            await restart(place)
        assert place.effects() == []


async def test_cancelled_wait_and_cancelled_task_leave_one_effect(tmp_path: Path) -> None:
    async with stage(tmp_path, settle_s=60.0) as place:
        done = await restart(place, cancelled=once_sent())
        assert done.problem == "The wait was cancelled; the change goes on at the platform."
        place.box.inject("restart", "stuck")
        async with anyio.create_task_group() as tasks:

            async def quietly() -> None:
                await restart(place, call_id="call-2")

            tasks.start_soon(quietly)
            while len(place.effects()) < 2:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        plan = await place.platform.plan_restart(REDIS)
        old = plan.model_copy(update={"lock": "0/0"})
        assert await place.platform.find(old, "call-2") is not None
        assert len(place.effects()) == 2
