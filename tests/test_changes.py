"""A change whose process was lost: another one finds it, begins it again, or says it can't know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.capabilities.base import Effect, Outcome
from mcp_ops.capabilities.changes import Change, Changeable, Plan
from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.changes import after, carry_out
from mcp_ops.errors import Conflict, ConnectionLost, RefusalCode, Refused
from mcp_ops.tool import Interrupted, OneRun
from tests.kubernetes_lab import Lab, lab, write
from tests.second_run import goes_on

WORKER = "/apis/apps/v1/namespaces/shop/deployments/worker"


async def go_on(place: Lab, plan: Plan, *, call_id: str, frame: Any = None, **kept: Any) -> Change:
    frame = replace(goes_on(write(call_id=call_id), plan, **kept), **(frame or {}))

    async def planning() -> Plan:
        raise AssertionError("it was planned already")

    with anyio.fail_after(10):
        return await carry_out(place.platform, frame, planning, wait_s=45, after=after(plan.name))


def test_every_change_of_a_platform_goes_on_in_another_process() -> None:
    writes = [one for one in ALL_TOOLS.values() if one.effect is not Effect.READ]
    changes = [one for one in writes if Changeable in one.capability.__mro__]
    assert {"set_autoscaling", "pause_rollout", "suspend_job"} <= {one.name for one in changes}
    assert [one.name for one in changes if not one.resumable] == []


async def test_what_was_begun_is_found_and_followed(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_restart("worker")
        await place.platform.begin(plan, reason="it hangs", call_id="call-1")
        done = await go_on(place, plan, call_id="call-1")
        assert (done.outcome, done.ready) == ("verified", "2/2")
        assert done.evidence["generation_before"] == 1
        assert len(place.patches()) == 1


async def test_what_never_reached_the_target_is_begun(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_restart("worker")
        assert (await go_on(place, plan, call_id="call-1")).outcome == "verified"
        assert len(place.patches()) == 1


async def test_what_somebody_changed_meanwhile_is_not_begun(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_restart("worker")
        await place.patch(WORKER, {"spec": {"replicas": 3}})
        with pytest.raises(Conflict):
            await go_on(place, plan, call_id="call-1")
        assert len(place.patches()) == 1


async def test_what_could_run_twice_is_not_begun_again(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_restart("worker")
        once = plan.model_copy(update={"repeatable": False})
        with pytest.raises(ConnectionLost) as raised:
            await go_on(place, once, call_id="call-1")
        assert raised.value.executed == "unknown"
        assert place.patches() == []


@pytest.mark.parametrize("before", ["planned", "sent"])
async def test_what_reaches_something_protected_is_not_begun_by_another_process(
    tmp_path: Path, before: str
) -> None:
    def protected(others: Any) -> None:
        raise Refused(RefusalCode.PROTECTED, f"{others} is protected.", hint="")

    async with lab(tmp_path) as place:
        plan = await place.platform.plan_restart("worker")
        with pytest.raises(Refused):
            await go_on(place, plan, call_id="call-1", before=before, frame={"reaches": protected})
        assert place.patches() == []


@pytest.mark.parametrize(("before", "error"), [("planned", Conflict), ("sent", ConnectionLost)])
async def test_what_is_late_is_found_but_never_begun(
    tmp_path: Path, before: str, error: type[Exception]
) -> None:
    late = {"before": before, "age_s": 3_600.0}
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_restart("worker")
        with pytest.raises(error):
            await go_on(place, plan, call_id="call-1", **late)
        assert place.patches() == []
        await place.platform.begin(plan, reason="it hangs", call_id="call-1")
        if before == "sent":
            done = await go_on(place, plan, call_id="call-1", **late)
            assert done.outcome == "verified"


async def test_plan_is_pinned_before_the_target_is_asked(tmp_path: Path) -> None:
    pinned: list[Plan] = []

    class Full(OneRun):
        async def pin(self, text: str) -> str:
            pinned.append(Plan.model_validate_json(text))
            return text

        async def at(self, where: str) -> None:
            assert pinned, "a step is said before its plan is kept"
            raise Interrupted

    async with lab(tmp_path) as place:
        frame = replace(write(), steps=Full())
        with pytest.raises(Interrupted):
            await carry_out(
                place.platform,
                frame,
                lambda: place.platform.plan_restart("worker"),
                wait_s=45,
                after=after("worker"),
            )
        assert [plan.name for plan in pinned] == ["worker"]
        assert place.patches() == []


async def test_process_that_drains_leaves_the_wait_to_another(tmp_path: Path) -> None:
    class Drains(OneRun):
        looked = 0

        async def at(self, where: str) -> None:
            self.looked += 1
            if self.looked > 1:
                raise Interrupted

    async with lab(tmp_path) as place:
        frame = replace(write(), steps=Drains())
        with pytest.raises(Interrupted), anyio.fail_after(10):
            await carry_out(
                place.platform,
                frame,
                lambda: place.platform.plan_restart("worker"),
                wait_s=45,
                after=after("worker"),
            )
        assert len(place.patches()) == 1


@pytest.mark.parametrize(
    ("outcome", "tools"),
    [
        ("verified", []),
        ("unconfirmed", ["get_deployment"]),
        ("failed", ["get_deployment", "get_deployment_logs"]),
    ],
)
def test_what_comes_next_depends_on_how_it_ended(outcome: Outcome, tools: list[str]) -> None:
    assert [step.tool for step in after("api")(outcome)] == tools


async def test_what_nobody_was_asked_about_is_not_done(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        frame = replace(write(), pinned=())  # the look had found nothing to do
        with pytest.raises(Conflict, match="nothing was done"):
            await carry_out(
                place.platform,
                frame,
                lambda: place.platform.plan_restart("worker"),
                wait_s=0,
                after=after("worker"),
            )
        assert place.patches() == []


async def test_nothing_to_do_asks_nobody_and_touches_nothing(tmp_path: Path) -> None:
    seen: list[object] = []
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_restart("worker")
        settled = plan.model_copy(update={"nothing": "it is so already"})

        async def planning() -> Plan:
            return settled

        for dry_run, outcome in ((True, "planned"), (False, "verified")):
            frame = write(dry_run=dry_run)
            if dry_run:
                frame = replace(frame, saw=lambda _state, items: seen.append(items))
            done = await carry_out(place.platform, frame, planning, wait_s=0, after=after("worker"))
            assert (done.outcome, done.plan) == (outcome, ["Nothing to do: it is so already."])
        assert seen == [()]
        assert place.patches() == []


async def test_what_a_person_approved_and_is_planned_otherwise_now_is_not_done(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        approved = (await place.platform.plan_restart("worker")).state
        await place.patch(WORKER, {"spec": {"replicas": 3}})
        frame = replace(write(), approved=lambda state: state == approved)
        with pytest.raises(Conflict, match="nothing was done"):
            await carry_out(
                place.platform,
                frame,
                lambda: place.platform.plan_restart("worker"),
                wait_s=0,
                after=after("worker"),
            )
        assert len(place.patches()) == 1
