"""Every change of the Kubernetes adapter under the same faults: one effect, and the truth of it.

A fault stands between adapter and server; the effects are counted in the server's own log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.adapters.kubernetes.adapter import KubernetesAdapter
from mcp_ops.capabilities.changes import Plan
from mcp_ops.errors import (
    Answered,
    BadAnswer,
    ConnectionLost,
    Failed,
    OpsError,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from tests.kubernetes_lab import STEP_S, Fault, Lab, answering, broken, lab, lost

WORKER = "/apis/apps/v1/namespaces/shop/deployments/worker"
SYNC = "/apis/batch/v1/namespaces/shop/cronjobs/nightly-sync"
Planning = Callable[[KubernetesAdapter, str], Awaitable[Plan]]


async def _nothing(_place: Lab) -> str:
    return ""


async def _another_version(place: Lab) -> str:
    body = {"containers": [{"name": "worker", "image": "lab/shop-worker:1.5.0"}]}
    await place.patch(WORKER, {"spec": {"template": {"spec": body}}})
    with anyio.fail_after(10):
        while len((await place.platform.list_revisions("worker", limit=9, cursor="")).items) < 2:
            await anyio.sleep(STEP_S)
    return "1"


async def _paused(place: Lab) -> str:
    await place.patch(WORKER, {"spec": {"paused": True}})
    return ""


async def _stopped(place: Lab) -> str:
    plan = await place.platform.plan_stop("worker")
    await place.platform.begin(plan, reason="first", call_id="stopped")
    return ""


async def _held(place: Lab) -> str:
    await place.patch(SYNC, {"spec": {"suspend": True}})
    return ""


async def _pod(place: Lab) -> str:
    found = await place.raw("/api/v1/namespaces/shop/pods?labelSelector=app%3Dworker")
    return str(found["items"][0]["metadata"]["name"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A change: how it is planned, and which request makes it."""

    planning: Planning
    method: str = "PATCH"
    part: str = "/deployments/worker"
    before: Callable[[Lab], Awaitable[str]] = field(default=_nothing)


CASES = {
    "restart": Case(planning=lambda at, _: at.plan_restart("worker")),
    "rollback": Case(
        planning=lambda at, known: at.plan_rollback("worker", known), before=_another_version
    ),
    "scale": Case(planning=lambda at, _: at.plan_scale("worker", 3)),
    "autoscale": Case(
        planning=lambda at, _: at.plan_autoscaling("api", 2, 5),
        part="/horizontalpodautoscalers/api",
    ),
    "pause": Case(planning=lambda at, _: at.plan_pause("worker")),
    "resume": Case(planning=lambda at, _: at.plan_resume("worker"), before=_paused),
    "stop": Case(planning=lambda at, _: at.plan_stop("worker")),
    "start": Case(planning=lambda at, _: at.plan_start("worker"), before=_stopped),
    "instance": Case(
        planning=lambda at, known: at.plan_instance_restart("worker", known),
        method="POST",
        part="/eviction",
        before=_pod,
    ),
    "resources": Case(
        planning=lambda at, _: at.plan_resources("worker", memory="300Mi", cpu="", tier="")
    ),
    "config": Case(
        planning=lambda at, _: at.plan_config(
            "worker", "REGION", value="eu", value_ref="", overwrite=False
        )
    ),
    "run": Case(
        planning=lambda at, _: at.plan_run("nightly-sync", ""), method="POST", part="/jobs"
    ),
    "suspend": Case(planning=lambda at, _: at.plan_suspend("nightly-sync"), part="/cronjobs/"),
    "unsuspend": Case(
        planning=lambda at, _: at.plan_unsuspend("nightly-sync"), part="/cronjobs/", before=_held
    ),
    "stop job": Case(
        planning=lambda at, _: at.plan_job_stop("run/backfill"), method="DELETE", part="/jobs/"
    ),
}
BUSY = {"kind": "Status", "status": "Failure", "message": "shutting down", "code": 503}
ELSEWHERE = {"location": "http://127.0.0.1:1/elsewhere"}
# What the server never did: the fault, the error, and whether it may have run.
REFUSED: tuple[tuple[Fault, type[OpsError], str], ...] = (
    (answering(429, b"busy", {"retry-after": "soon"}), UpstreamRateLimited, "no"),
    (answering(503, BUSY, {"retry-after": "-3"}), UpstreamUnavailable, "no"),
    (answering(307, b"", ELSEWHERE), BadAnswer, "unknown"),
    (answering(200, b"<html>sign in</html>"), BadAnswer, "unknown"),
    (answering(200, {"kind": "Status", "status": "Failure"}), BadAnswer, "unknown"),
    (answering(502, b"bad gateway"), Failed, "unknown"),
    (broken, ConnectionLost, "unknown"),
)


def effects(place: Lab) -> list[dict[str, Any]]:
    """What clients really changed, by the server's own log."""
    return [one for one in place.stand_in.log.read() if one["effect"].startswith("client.")]


@pytest.mark.parametrize("name", CASES)
async def test_a_change_is_made_once_and_told_as_it_is(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    async with lab(tmp_path) as place:
        known = await case.before(place)
        before = len(effects(place))
        with anyio.fail_after(60):
            plan = await case.planning(place.platform, known)
            await place.platform.rehearse(plan)
            for number, (fault, error, executed) in enumerate(REFUSED):
                plan = await case.planning(place.platform, known)
                await _refused(place, case, plan, f"c-{number}", fault, error, executed)
            await _cancelled(place, case, plan)
            assert len(effects(place)) == before
            await _lost(place, case, await case.planning(place.platform, known))
            assert len(effects(place)) == before + 1


async def _refused(
    place: Lab,
    case: Case,
    plan: Plan,
    call: str,
    fault: Fault,
    error: type[OpsError],
    executed: str,
) -> None:
    place.between.inject(case.method, case.part, fault)
    with pytest.raises(error) as raised:
        await place.platform.begin(plan, reason="a test", call_id=call)
    assert getattr(raised.value, "executed", "no") == executed, fault
    assert await place.platform.find(plan, call) is None


async def _cancelled(place: Lab, case: Case, plan: Plan) -> None:
    """Cancelled while the request stands at the server: the connection is given up with it."""
    arrived = anyio.Event()

    async def hold(app: Any, scope: Any, receive: Any, send: Any) -> None:
        arrived.set()
        while (await receive())["type"] != "http.disconnect":
            continue

    async def begin() -> None:
        await place.platform.begin(plan, reason="a test", call_id="c-cancelled")

    place.between.inject(case.method, case.part, hold)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(begin)
        await arrived.wait()
        tasks.cancel_scope.cancel()
    assert await place.platform.find(plan, "c-cancelled") is None


async def _lost(place: Lab, case: Case, plan: Plan) -> None:
    """The effect is there and its answer is not; then another process goes on with it."""
    at = place.platform
    place.between.inject(case.method, case.part, lost)
    with pytest.raises(ConnectionLost) as unknown:
        await at.begin(plan, reason="a test", call_id="c-lost")
    assert unknown.value.executed == "unknown"
    found = await at.find(plan, "c-lost")
    assert found is not None
    copy = Plan.model_validate_json(plan.model_dump_json())
    try:
        again = await at.begin(copy, reason="a test", call_id="c-lost")
    except Answered:
        assert case.part == "/eviction"  # the pod is gone: there is nothing to take twice
    else:
        assert again.version == found.version
    progress = await at.follow(plan, found)
    assert progress.state in ("pending", "verified")
