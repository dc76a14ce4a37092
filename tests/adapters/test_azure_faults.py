"""The App Service adapter's writes when answers are lost, systems throttle and others change
things: exactly one effect, and an honest outcome."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.errors import (
    BadAnswer,
    Conflict,
    ConnectionLost,
    Forbidden,
    Rejected,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from tests.adapters.azure_writes import NAMES, ROWS, Row
from tests.azure_lab import Lab, lab
from tests.cancelling import once_sent
from tests.kubernetes_lab import answering, broken, lost, silent, write
from tests.second_run import SecondRun

EVERY = pytest.mark.parametrize("row", ROWS, ids=NAMES)


async def resume(place: Lab, row: Row, plan: str, call_id: str) -> Any:
    frame = replace(write(call_id=call_id), steps=SecondRun(plan))
    with anyio.fail_after(30):
        return await row.call(place, frame)


def one_effect(place: Lab, row: Row) -> None:
    assert [line["effect"] for line in place.effects()] == [row.effect]


@EVERY
async def test_plan_changes_nothing_and_the_write_is_made_once_and_seen(
    tmp_path: Path, row: Row
) -> None:
    async with lab(tmp_path, restart_workers=True) as place:
        planned = await row.run(place, dry_run=True)
        assert planned.outcome == "planned"
        assert planned.plan
        assert place.effects("") == []
        assert [one for one in place.between.seen if one[0] in ("PUT", "DELETE")] == []
        done = await row.run(place)
        assert done.outcome == "verified", done
        assert done.evidence["request_id"]
        one_effect(place, row)


@EVERY
async def test_lost_answer_is_settled_by_what_the_target_shows(tmp_path: Path, row: Row) -> None:
    async with lab(tmp_path, restart_workers=True) as place:
        place.between.inject(row.method, row.path, lost)
        if row.shows:
            place.between.inject("GET", "/eventtypes/", answering(500, b"the log is away"))
            done = await row.run(place)
            assert done.outcome == "verified", done
            assert done.evidence["found_by"] == "the state of the target"
        else:
            with pytest.raises(ConnectionLost) as raised:
                await row.run(place)
            assert raised.value.executed == "unknown"
        one_effect(place, row)


@EVERY
async def test_lost_answer_is_settled_by_the_activity_log(tmp_path: Path, row: Row) -> None:
    async with lab(tmp_path, restart_workers=True, activity_lag_s=0.0) as place:
        place.between.inject(row.method, row.path, lost)
        done = await row.run(place)
        assert done.outcome == "verified", done
        assert ("activity_log" in done.evidence) is row.logged  # it knows nothing of Kudu
        one_effect(place, row)


@EVERY
async def test_another_process_goes_on_with_what_a_lost_one_began(tmp_path: Path, row: Row) -> None:
    async with lab(tmp_path, restart_workers=True, activity_lag_s=0.0) as place:
        plan = await row.plan(place)
        await place.platform.begin(plan, reason="it was lost", call_id="call-7")
        done = await resume(place, row, plan.model_dump_json(), "call-7")
        assert done.outcome == "verified", done
        one_effect(place, row)


@EVERY
async def test_another_process_begins_only_what_the_target_takes_once(
    tmp_path: Path, row: Row
) -> None:
    async with lab(tmp_path, restart_workers=True) as place:
        plan = await row.plan(place)
        if plan.repeatable:
            done = await resume(place, row, plan.model_dump_json(), "call-8")
            assert done.outcome == "verified", done
            one_effect(place, row)
            # Whoever was not lost after all, and sends it late, changes nothing more.
            await place.platform.begin(plan, reason="late", call_id="call-8")
            one_effect(place, row)
        else:
            with pytest.raises(ConnectionLost) as raised:
                await resume(place, row, plan.model_dump_json(), "call-8")
            assert raised.value.executed == "unknown"
            assert place.effects() == []


ANSWERS = (
    (429, UpstreamRateLimited, "no"),
    (503, UpstreamUnavailable, "unknown"),
    (500, UpstreamBroken, "unknown"),
    (307, BadAnswer, "unknown"),
    (409, Conflict, "no"),
    (400, Rejected, "no"),
)


@EVERY
async def test_what_was_not_done_is_told_as_refused_or_as_unknown(tmp_path: Path, row: Row) -> None:
    said = {"error": {"code": "Trouble", "message": "try later"}}
    headers = {"retry-after": "-5", "location": "http://127.0.0.1:1/elsewhere"}
    async with lab(tmp_path, restart_workers=True) as place:
        for status, kind, executed in ANSWERS:
            place.between.inject(row.method, row.path, answering(status, said, headers))
            with pytest.raises(kind) as raised:
                await row.run(place)
            assert raised.value.executed == executed
            assert "try later" in raised.value.said
            assert raised.value.retry_after_s is None
        place.between.inject(row.method, row.path, broken)
        with pytest.raises(ConnectionLost) as left_no_trace:
            await row.run(place)
        assert left_no_trace.value.executed == "unknown"
        assert place.effects() == []


@EVERY
async def test_what_azure_forbids_is_told_before_anything_is_done(tmp_path: Path, row: Row) -> None:
    async with lab(tmp_path, restart_workers=True) as place:
        place.stand_in.inject("arm-forbidden")
        with pytest.raises(Forbidden) as raised:
            await row.run(place)
        assert "It needs the action Microsoft.Web/" in raised.value.hint
        place.stand_in.mend("arm-forbidden")
        place.stand_in.world.actions = ["*/read", "Microsoft.Web/sites/*/list/Action"]
        place.stand_in.world.actions += ["Microsoft.Web/sites/slotsdiffs/Action"]
        with pytest.raises(Forbidden):
            await row.run(place, dry_run=True)
        place.stand_in.world.actions = ["*"]
        if row.name not in ("rollback", "worker"):  # locks of Kudu, and none
            place.stand_in.inject("arm-busy")
            with pytest.raises(Conflict, match="409") as busy:
                await row.run(place)
            assert "another operation is in progress" in busy.value.said
        assert place.effects() == []


async def test_log_that_cannot_be_asked_is_asked_again_by_who_goes_on(tmp_path: Path) -> None:
    row = ROWS[0]
    async with lab(tmp_path, activity_lag_s=0.0) as place:
        plan = await row.plan(place)
        await place.platform.begin(plan, reason="it was lost", call_id="call-7")
        away = answering(500, b"the log is away")
        place.between.inject("GET", "/eventtypes/", away, away)
        with pytest.raises(UpstreamBroken):
            await place.platform.find(plan, "call-7")
        done = await resume(place, row, plan.model_dump_json(), "call-7")
        assert done.outcome == "verified", done
        one_effect(place, row)


SLOW = [row for row in ROWS if row.name in ("restart", "swap", "scale")]


async def test_silent_azure_is_a_timeout_that_may_have_run(tmp_path: Path) -> None:
    async with lab(tmp_path, request_timeout_s=3.0) as place:
        row = ROWS[0]
        place.between.inject(row.method, row.path, silent)
        with pytest.raises(UpstreamTimeout) as raised:
            await row.run(place)
        assert raised.value.executed == "unknown"
        assert place.effects() == []


@pytest.mark.parametrize("row", SLOW, ids=[row.name for row in SLOW])
async def test_cancelled_wait_says_that_the_change_goes_on(tmp_path: Path, row: Row) -> None:
    async with lab(tmp_path, settle_s=30.0) as place:
        done = await row.run(place, cancelled=once_sent())
        assert done.outcome == "unconfirmed"
        assert done.problem == "The wait was cancelled; the change goes on at the platform."
        one_effect(place, row)


@pytest.mark.parametrize("row", SLOW, ids=[row.name for row in SLOW])
async def test_trouble_while_waiting_does_not_undo_what_was_accepted(
    tmp_path: Path, row: Row
) -> None:
    async with lab(tmp_path) as place:
        plan = await row.plan(place)
        begun = await place.platform.begin(plan, reason="now", call_id="call-9")
        place.stand_in.inject("arm-throttled")
        with pytest.raises(UpstreamRateLimited) as raised:
            await place.platform.follow(plan, begun)
        assert raised.value.retry_after_s == 7
        place.stand_in.mend("arm-throttled")
        with anyio.fail_after(20):
            while (now := await place.platform.follow(plan, begun)).state == "pending":
                await anyio.sleep(0.02)
        assert now.state == "verified", now
        one_effect(place, row)


async def test_roles_name_slots_apart(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await place.platform.plan_restart("shop-api/slots/staging")
        place.stand_in.world.actions = ["*/read", "Microsoft.Web/sites/slots/restart/Action"]
        await place.platform.rehearse(plan)
        place.stand_in.world.actions = ["*/read", "Microsoft.Web/sites/restart/Action"]
        with pytest.raises(Forbidden) as raised:
            await place.platform.rehearse(plan)
        assert "Microsoft.Web/sites/slots/restart/Action" in raised.value.hint
