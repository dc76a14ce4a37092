"""Faults around every change at Railway: one effect at most, and an answer that is true.

Rows F1 to F4, F10, F11, F19 and F20 of the fault matrix, at the adapter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.adapters.railway.adapter import RailwayAdapter
from mcp_ops.capabilities.changes import Change, Plan
from mcp_ops.changes import after, carry_out
from mcp_ops.errors import (
    BadAnswer,
    Conflict,
    ConnectionLost,
    Failed,
    Rejected,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mcp_ops.tool import OneRun
from tests.kubernetes_lab import Fault, answering, broken, lost, silent, wiring, write
from tests.railway_lab import BACKEND, Lab, lab, settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A change: how it is planned, which operation sends it, and what it is in the effect log."""

    plan: Callable[[Any], Any]
    sends: str
    effect: str
    before: Callable[[Lab], None] = lambda _place: None


def _stop(place: Lab) -> None:
    place.world.by_name(BACKEND).deployments[-1].stopped_at = place.world.now() - 60


CASES = {
    "restart": Case(
        plan=lambda it: it.plan_restart(BACKEND), sends="Restart", effect="deploymentRestart"
    ),
    "rollback": Case(
        plan=lambda it: it.plan_rollback(BACKEND, ""), sends="Rollback", effect="deploymentRollback"
    ),
    "scale": Case(
        plan=lambda it: it.plan_scale(BACKEND, 3), sends="Deploy", effect="serviceInstanceDeployV2"
    ),
    "config": Case(
        plan=lambda it: it.plan_config(
            BACKEND, "DB_POOL_SIZE", value="50", value_ref="", overwrite=True
        ),
        sends="SetVariable",
        effect="variableUpsert",
    ),
    "stop": Case(plan=lambda it: it.plan_stop(BACKEND), sends="Stop", effect="deploymentStop"),
    "start": Case(
        plan=lambda it: it.plan_start(BACKEND),
        sends="Restart",
        effect="deploymentRestart",
        before=_stop,
    ),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
# A scale is two requests: of the first a lost answer can't be told from a lost request.
ONE_STEP = pytest.mark.parametrize(
    "case", [case for name, case in CASES.items() if name != "scale"], ids=lambda case: case.sends
)


async def change(place: Lab, case: Case, *, wait_s: int = 45, **frame: Any) -> Change:
    with anyio.fail_after(30):
        return await carry_out(
            place.platform,
            write(**frame),
            lambda: case.plan(place.platform),
            wait_s=wait_s,
            after=after(BACKEND),
        )


def count(place: Lab, case: Case) -> int:
    return place.effects().count(case.effect)


@asynccontextmanager
async def another(place: Lab) -> AsyncIterator[RailwayAdapter]:
    """The target as another process has it: it remembers nothing."""
    wired = wiring(place.directory, place.redactor)  # its key is the installation's
    async with RailwayAdapter.open(settings(place.url), wired) as adapter:
        yield adapter


async def shown(place: Lab, plan: Plan) -> None:
    """Wait until Railway shows what was done: a stop takes a moment."""
    async with another(place) as adapter:
        with anyio.fail_after(30):
            while await adapter.find(plan, "nobody's") is None:
                await anyio.sleep(place.world.step)


@dataclass(slots=True)
class Kept(OneRun):
    """The steps of an operation whose process was lost after it had pinned its plan."""

    plan: Plan
    before: str = "sent"

    async def pin(self, text: str) -> str:
        assert text == ""
        return self.plan.model_dump_json()


async def gone_on(place: Lab, plan: Plan) -> Change:
    async def planning() -> Plan:
        raise AssertionError("it was planned already")

    frame = replace(write(), steps=Kept(plan))
    async with another(place) as adapter:
        with anyio.fail_after(30):
            return await carry_out(adapter, frame, planning, wait_s=45, after=after(BACKEND))


def done_then(fault: Fault) -> Fault:
    """Let Railway do it, and answer as something in between would."""

    async def both(app: Any, scope: Any, receive: Any, send: Any) -> None:
        async def swallow(message: Any) -> None:
            return None

        await app(scope, receive, swallow)
        await fault(app, scope, receive, send)

    return both


@EACH
@pytest.mark.parametrize(
    "fault",
    [
        lost,
        done_then(answering(503, b"upstream connect error")),
        done_then(answering(200, b"<html>")),
        done_then(answering(200, {"data": {}, "errors": [{"message": "Problem processing"}]})),
    ],
    ids=["cut", "proxy", "page", "problem"],
)
async def test_done_and_the_answer_lost_is_found_and_done_once(
    tmp_path: Path, case: Case, fault: Fault
) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        place.between.inject(case.sends, fault)
        done = await change(place, case)
        assert (done.outcome, done.problem) == ("verified", None)
        assert count(place, case) == 1
        if case.sends != "Deploy":
            assert "keeps no mark" in done.evidence["found_by"]


@ONE_STEP
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (broken, ConnectionLost),
        (answering(502, b"bad gateway"), UpstreamBroken),
        (answering(503, b"maintenance"), UpstreamUnavailable),
        (answering(302, b"", {"location": "http://127.0.0.1:1/"}), BadAnswer),
        (
            answering(200, {"errors": [{"message": "Problem processing request"}]}),
            UpstreamBroken,
        ),
    ],
    ids=["cut", "502", "503", "redirect", "problem"],
)
async def test_a_request_that_left_no_trace_stays_unknown_and_is_not_sent_again(
    tmp_path: Path, case: Case, fault: Fault, kind: type[Failed]
) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        place.between.inject(case.sends, fault)
        with pytest.raises(kind) as raised:
            await change(place, case)
        assert raised.value.executed == "unknown"
        assert place.between.seen.count(case.sends) == 1
        assert count(place, case) == 0


@EACH
async def test_silence_after_the_request_is_a_timeout_that_may_have_run(
    tmp_path: Path, case: Case
) -> None:
    first = "SetRegions" if case.sends == "Deploy" else case.sends
    async with lab(tmp_path, request_timeout_s=0.5) as place:
        case.before(place)
        place.between.inject(first, silent)
        with pytest.raises(UpstreamTimeout) as raised:
            await change(place, case)
        assert raised.value.executed == "unknown"
        assert place.effects() == []


@ONE_STEP
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (
            answering(429, {"errors": [{"message": "slow"}]}, {"retry-after": "7"}),
            UpstreamRateLimited,
        ),
        (
            answering(200, {"errors": [{"message": "You are being ratelimited."}]}),
            UpstreamRateLimited,
        ),
        (
            answering(
                200,
                {"errors": [{"message": "Wrong", "extensions": {"code": "BAD_USER_INPUT"}}]},
            ),
            Rejected,
        ),
    ],
    ids=["429", "ratelimited", "refused"],
)
async def test_a_refusal_says_that_nothing_was_done(
    tmp_path: Path, case: Case, fault: Fault, kind: type[Exception]
) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        place.between.inject(case.sends, fault)
        with pytest.raises(kind) as raised:
            await change(place, case)
        assert getattr(raised.value, "executed", "") == "no"
        assert place.effects() == []


@pytest.mark.parametrize(
    ("header", "wait"), [("7", 7), ("-1", None), ("99999999", 3600), ("soon", None), (None, None)]
)
async def test_any_wait_that_railway_asks_for_is_capped(
    tmp_path: Path, header: str | None, wait: float | None
) -> None:
    headers = {"retry-after": header} if header is not None else {}
    async with lab(tmp_path) as place:
        place.between.inject("Restart", answering(429, b"", headers))
        with pytest.raises(UpstreamRateLimited) as raised:
            await change(place, CASES["restart"])
        assert raised.value.retry_after_s == wait


@EACH
async def test_trouble_before_the_request_is_no_doubt_about_it(tmp_path: Path, case: Case) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        plan = await case.plan(place.platform)
        for look in ("Whose", "Service"):
            place.between.inject(look, broken)
            with pytest.raises(ConnectionLost) as raised:
                await place.platform.begin(plan, reason="now", call_id="c")
            assert raised.value.executed == "no"
        assert place.effects() == []


@EACH
async def test_one_call_that_is_begun_many_times_at_once_has_one_effect(
    tmp_path: Path, case: Case
) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        plan = await case.plan(place.platform)
        found: list[str] = []

        async def begin() -> None:
            begun = await place.platform.begin(plan, reason="now", call_id="c")
            found.append(begun.at)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(begin)
        assert len(set(found)) == 1
        assert count(place, case) == 1


@EACH
async def test_what_somebody_changed_since_the_look_is_not_changed_again(
    tmp_path: Path, case: Case
) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        plan = await case.plan(place.platform)
        service = place.world.by_name(BACKEND)
        place.world.deploy(service, reason="deploy", commit="7" * 40)
        with pytest.raises(Conflict):
            await place.platform.begin(plan, reason="now", call_id="c")
        with pytest.raises(Conflict):
            await place.platform.rehearse(plan)
        assert place.effects() == []


@pytest.mark.parametrize("name", ["restart", "config", "stop", "start"])
async def test_the_same_change_by_two_calls_is_made_by_one(tmp_path: Path, name: str) -> None:
    """Two agents looked at the same moment: what the first did, the second one sees."""
    case = CASES[name]
    async with lab(tmp_path) as place:
        case.before(place)
        one, other = await case.plan(place.platform), await case.plan(place.platform)
        await place.platform.begin(one, reason="now", call_id="one")
        await shown(place, one)
        with pytest.raises(Conflict):
            await place.platform.begin(other, reason="now", call_id="other")
        assert count(place, case) == 1


@EACH
async def test_a_killed_process_after_the_effect_is_gone_on_with(
    tmp_path: Path, case: Case
) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        plan = await case.plan(place.platform)
        async with another(place) as killed:
            await killed.begin(plan, reason="now", call_id="call-1")
        await shown(place, plan)
        done = await gone_on(place, plan)
        assert done.outcome == "verified"
        assert count(place, case) == 1


@EACH
async def test_a_killed_process_before_the_effect_leaves_a_doubt_and_no_second_try(
    tmp_path: Path, case: Case
) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        plan = await case.plan(place.platform)
        with pytest.raises(ConnectionLost) as raised:
            await gone_on(place, plan)
        assert raised.value.executed == "unknown"
        assert place.effects() == []


async def test_a_number_that_was_saved_but_not_deployed_is_told(tmp_path: Path) -> None:
    refused = {
        "errors": [{"message": "Deployments are paused", "extensions": {"code": "BAD_USER_INPUT"}}]
    }
    async with lab(tmp_path) as place:
        place.between.inject("Deploy", answering(200, refused))
        done = await change(place, CASES["scale"], wait_s=3)
        assert done.outcome == "unconfirmed"
        assert done.problem is not None
        assert "the number is saved" in done.problem
        assert done.evidence["deployment_accepted"] == "no"
        assert place.effects() == ["serviceInstanceUpdate"]


async def test_a_cancelled_wait_says_that_the_change_goes_on(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("never-ready")
        done = await change(place, CASES["rollback"], cancelled=lambda: True)
        assert done.outcome == "unconfirmed"
        assert done.problem == "The wait was cancelled; the change goes on at the platform."
        assert place.effects() == ["deploymentRollback"]


async def test_a_deployment_that_never_gets_ready_is_not_waited_for_for_good(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as place:
        place.stand_in.inject("never-ready")
        done = await change(place, CASES["config"], wait_s=10)
        assert done.outcome == "unconfirmed"
        assert done.problem is not None
        assert done.problem.startswith("Not ready in time: the deployment is DEPLOYING")


async def test_a_deployment_that_fails_is_a_failure_of_the_change(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        place.world.next_outcome = "build-fails"
        done = await change(place, CASES["config"])
        assert done.outcome == "failed"
        assert done.problem == "The deployment failed to build or to start; its build log says why."


@pytest.mark.parametrize("name", ["rollback", "config", "scale", "restart", "stop"])
async def test_a_push_right_after_the_change_is_not_taken_for_its_success(
    tmp_path: Path, name: str
) -> None:
    async def pushed(app: Any, scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        service = place.world.by_name(BACKEND)
        place.world.deploy(service, reason="deploy", commit="8" * 40, builds=False)

    async with lab(tmp_path, steady_s=0.3) as place:
        place.between.inject(CASES[name].sends, pushed)
        done = await change(place, CASES[name])
        assert done.outcome == "unconfirmed"
        assert done.problem is not None
        assert "deployed again after this change" in done.problem
        assert count(place, CASES[name]) == 1


async def test_trouble_while_waiting_does_not_undo_what_was_accepted(tmp_path: Path) -> None:
    async with lab(tmp_path) as place:
        plan = await CASES["rollback"].plan(place.platform)
        begun = await place.platform.begin(plan, reason="now", call_id="c")
        place.between.inject("Service", broken, answering(429, b""), answering(500, b""))
        for kind in (ConnectionLost, UpstreamRateLimited, UpstreamBroken):
            with pytest.raises(kind):
                await place.platform.follow(plan, begun)
        assert (await place.platform.follow(plan, begun)).state in ("pending", "verified")
        assert place.effects() == ["deploymentRollback"]
