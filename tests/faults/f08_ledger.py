"""F8: the shared ledger, a PostgreSQL: restart, outage, no connections, disk full, read-only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mcp_ops.clock import SystemClock
from tests.faults import books
from tests.faults.agents import http_agent
from tests.faults.away import Away, Played
from tests.faults.checker import DONE
from tests.faults.history import History
from tests.faults.later import local
from tests.faults.row import Run, Size
from tests.faults.stage import OTHER_KEY, Stage, stage

_POLICY = """
[[policy]]
principal = "key:other"
effect = "write"
require = "approve"
[[policy]]
require = "none"
"""


async def fault_08(run: Run, size: Size) -> None:
    """Writes fail closed, reads go on; an approval is neither forgotten nor used twice."""
    if size == "short":
        await _once(run, FAULTS[1:2], lasts_s=0)
    else:
        for _ in run.rounds(short=1, most=12):
            await _once(run, FAULTS, lasts_s=5)


async def _once(run: Run, chosen: tuple[Away, ...], *, lasts_s: float) -> None:
    place = run.place()
    history = run.history(place)
    faults = list(chosen)
    run.random.shuffle(faults)
    async with stage(place, "cluster", "ledger", policy=_POLICY) as up:
        await up.workloads("approved")
        async with (
            run.served(up, history) as (server, agent),
            http_agent(server, history, key=OTHER_KEY) as other,
        ):
            asked = await other.restart("approved", wait_s=0)
            assert asked is not None
            assert asked.code == "approval_required", asked.body
            async with local(up, history, clock=SystemClock(), name="person", state="ann") as ann:
                await ann.decide(asked.body["details"]["approval_id"])
            played = Played(run=run, history=history, up=up, agent=agent)
            for fault in faults:
                await played.fault(fault, lasts_s=lasts_s)
            used = await other.restart("approved", wait_s=0)
            run.expect(used is not None and used.outcome in DONE, f"an approval was lost: {used}")
            again = await other.restart("approved", wait_s=0, idempotency_key="again")
            code = "" if again is None else again.code
            run.expect(code == "approval_required", f"an approval was used twice: {code}")
        await _close_the_books(run, history, up, played.names)


async def _close_the_books(run: Run, history: History, up: Stage, names: list[str]) -> None:
    """When all leases are over: every call is sent again, and unknown ones are looked at."""
    assert up.postgres is not None
    await books.lapse_shared(up.postgres)
    async with local(up, history, clock=SystemClock()) as agent:
        for name in names:
            again = await agent.end_of(name)
            run.expect(not again.error, f"{name} ended as {again}")
            run.expect(again.outcome != "in_progress", f"{name} is in progress for good")
        await run.resolve(agent, history)
    await run.judge(
        history,
        up.directory,
        effects=up.effects(),
        states=(),
        least_calls=2 * len(names),
        least_effects=len(names) // 2,
        shared=up.postgres,
    )


def _do(*steps: str) -> Callable[[Stage], Awaitable[None]]:
    """Do something with the server: `crash`, `start`, or a fault of the lab's."""

    async def act(up: Stage) -> None:
        for step in steps:
            method, _, fault = step.partition(" ")
            await getattr(up.postgres, method)(*filter(None, [fault]))

    return act


def _of_the_lab(fault: str) -> Away:
    return Away(name=fault, begin=_do(f"inject {fault}"), mend=_do(f"mend {fault}"))


FAULTS = (
    Away(name="restart", begin=_do("crash", "start"), mend=_do(), closed=False),
    Away(name="away", begin=_do("crash"), mend=_do("start")),
    _of_the_lab("no-connections"),
    _of_the_lab("read-only"),
    _of_the_lab("disk-full"),
)
