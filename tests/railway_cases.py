"""The changes of a service at Railway, one by one, for tests that break something around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from mcp_ops.adapters.railway.adapter import RailwayAdapter
from mcp_ops.capabilities.changes import Change, Plan
from mcp_ops.changes import after, carry_out
from tests.kubernetes_lab import wiring, write
from tests.railway_lab import BACKEND, Lab, settings
from tests.second_run import goes_on


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


async def gone_on(place: Lab, plan: Plan) -> Change:
    async def planning() -> Plan:
        raise AssertionError("it was planned already")

    frame = goes_on(write(), plan)
    async with another(place) as adapter:
        with anyio.fail_after(30):
            return await carry_out(adapter, frame, planning, wait_s=45, after=after(BACKEND))
