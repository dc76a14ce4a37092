"""How a change ends when what is around it fails: what may have run is never called undone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest

from mcp_ops.capabilities.base import writes
from mcp_ops.capabilities.changes import Begun, Change, Changeable, Plan, Progress
from mcp_ops.changes import after, carry_out
from mcp_ops.errors import (
    ConfigurationError,
    Conflict,
    ConnectionLost,
    Forbidden,
    OpsError,
    StoreUnavailable,
    Unreachable,
    UpstreamRateLimited,
)
from mcp_ops.tool import Interrupted, OneRun
from tests.kubernetes_lab import write

AT = "2026-11-29T10:00:00.000Z"


@dataclass(slots=True)
class Platform(Changeable):
    """A system that makes a change once for each request, and keeps no mark of who asked."""

    lost: bool = False
    finding: list[OpsError] = field(default_factory=list)
    looking: list[OpsError] = field(default_factory=list)
    takes_s: float = 0.0
    ready: bool = True
    made: int = 0
    looked: int = 0

    async def plan(self) -> Plan:
        return Plan(action="change", name="api", lines=["Change it."], repeatable=False)

    async def rehearse(self, plan: Plan) -> None:
        return None

    @writes
    async def begin(self, plan: Plan, *, reason: str, call_id: str) -> Begun:
        self.made += 1
        if self.lost:
            raise ConnectionLost("The answer was lost.")
        return Begun(name=plan.name, at=AT)

    async def find(self, plan: Plan, call_id: str) -> Begun | None:
        if self.finding:
            raise self.finding.pop(0)
        return Begun(name=plan.name, at=AT) if self.made else None

    async def follow(self, plan: Plan, begun: Begun) -> Progress:
        self.looked += 1
        await anyio.sleep(self.takes_s)
        if self.looking:
            raise self.looking.pop(0)
        return Progress(state="verified" if self.ready else "pending")


@dataclass(slots=True)
class Kept(OneRun):
    """The steps of an operation over its processes; one that is told to stops at a step."""

    before: str = ""
    plan: str = ""
    stops: bool = False
    last: str = ""

    async def pin(self, text: str) -> str:
        self.plan = self.plan or text
        return self.plan

    async def at(self, where: str) -> None:
        self.last = where
        if self.stops:
            raise Interrupted


async def carry(platform: Platform, *, wait_s: int = 30, **frame: Any) -> Change:
    with anyio.fail_after(10):
        return await carry_out(
            platform,
            replace(write(), **frame),
            platform.plan,
            wait_s=wait_s,
            after=after("api"),
        )


OURS = [ConfigurationError("The credential plugin is gone."), StoreUnavailable("No secret store.")]


@pytest.mark.parametrize("error", OURS, ids=lambda each: each.code)
async def test_lost_answer_stays_a_doubt_whatever_keeps_us_from_looking(error: OpsError) -> None:
    platform = Platform(lost=True, finding=[error] * 9)
    with pytest.raises(OpsError) as raised:
        await carry(platform)
    assert raised.value.executed == "unknown"
    assert platform.made == 1


@pytest.mark.parametrize("error", OURS, ids=lambda each: each.code)
async def test_what_was_accepted_is_not_called_undone_when_a_look_fails(error: OpsError) -> None:
    platform = Platform(looking=[error] * 100)
    done = await carry(platform)
    assert done.outcome == "unconfirmed"
    assert platform.made == 1


async def test_server_that_drains_before_the_request_leaves_no_doubt() -> None:
    """Nothing was sent, so the next process may send it, also where it could not be told twice."""
    platform = Platform()
    steps = Kept(stops=True)
    with pytest.raises(Interrupted):
        await carry(platform, steps=steps)
    assert platform.made == 0
    done = await carry(platform, steps=Kept(before=steps.last, plan=steps.plan))
    assert done.outcome == "verified"
    assert platform.made == 1


async def test_time_that_looks_take_counts_towards_the_wait() -> None:
    """Else an hour of a slow platform passes the deadline of the call, and its end is a doubt."""
    platform = Platform(takes_s=0.6, ready=False)
    done = await carry(platform, wait_s=2)
    assert done.outcome == "unconfirmed"
    assert platform.looked <= 2


async def gone_on(platform: Platform) -> Change:
    plan = await platform.plan()
    return await carry(platform, steps=Kept(before="sent", plan=plan.model_dump_json()))


async def test_platform_that_is_away_when_a_process_goes_on_is_asked_again() -> None:
    away = [
        Unreachable("No connection."),
        UpstreamRateLimited("Slow down."),
        ConnectionLost("Cut."),
    ]
    platform = Platform(made=1, finding=[*away])
    assert (await gone_on(platform)).outcome == "verified"
    assert platform.made == 1


@pytest.mark.parametrize(
    "errors", [[Unreachable("No connection.")] * 100, [Forbidden("No more.")], OURS[:1]]
)
async def test_process_that_goes_on_and_can_not_look_leaves_a_doubt(errors: list[OpsError]) -> None:
    platform = Platform(made=1, finding=[*errors])
    with pytest.raises(OpsError) as raised:
        await gone_on(platform)
    assert raised.value.executed == "unknown"
    assert platform.made == 1


@pytest.mark.parametrize("before", ["", "planned", "sent"])
async def test_what_somebody_cancelled_before_it_was_sent_is_not_sent(before: str) -> None:
    """Also where the process that began it is lost, and another one would send it."""
    platform = Platform()
    plan = (await platform.plan()).model_copy(update={"repeatable": True})
    steps = Kept(before=before, plan=plan.model_dump_json())
    with pytest.raises(Conflict, match="cancelled before it was sent"):
        await carry(platform, steps=steps, cancelled=lambda: True)
    assert platform.made == 0


async def test_yes_to_one_way_is_none_to_another() -> None:
    """A platform chooses the way by what it sees, and the state may be the same for both."""
    seen: list[dict[str, Any]] = []
    platform = Platform()
    looking = replace(write(dry_run=True), saw=lambda state, _items: seen.append(dict(state)))
    await carry_out(platform, looking, platform.plan, wait_s=0, after=after("api"))

    async def harsher() -> Plan:
        return (await platform.plan()).model_copy(update={"action": "reboot"})

    for planning, made in ((harsher, 0), (platform.plan, 1)):
        frame = replace(write(), approved=lambda state: dict(state) == seen[0])
        if made:
            await carry_out(platform, frame, planning, wait_s=0, after=after("api"))
        else:
            with pytest.raises(Conflict, match="nothing was done"):
                await carry_out(platform, frame, planning, wait_s=0, after=after("api"))
        assert platform.made == made
