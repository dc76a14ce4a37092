"""Faults around every change at Railway: one effect at most, and an answer that is true.

Rows F1 to F4, F10, F11, F19 and F20 of the fault matrix, at the adapter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_ops.errors import (
    BadAnswer,
    ConnectionLost,
    Failed,
    Rejected,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from tests.cancelling import once_sent
from tests.kubernetes_lab import Fault, answering, broken, lost, silent
from tests.railway_cases import CASES, EACH, ONE_STEP, Case, change, count
from tests.railway_lab import BACKEND, lab


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
        done = await change(place, CASES["rollback"], cancelled=once_sent())
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
