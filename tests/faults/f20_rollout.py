"""F20: a rollout that never gets healthy, and an object that somebody else changes meanwhile."""

from __future__ import annotations

import time

import anyio

from tests.faults.checker import DONE
from tests.faults.cluster_others import (
    CHANGED_AFTER,
    CHANGED_BEFORE,
    begin_another_run,
    change,
    change_again,
    still_runs,
)
from tests.faults.f20_platforms import at_platforms
from tests.faults.gates import hold_restart
from tests.faults.history import History
from tests.faults.later import LocalAgent, local
from tests.faults.row import Run, Size
from tests.faults.stage import Stage, stage

_WAIT_S = 2
_SLACK_S = 5.0
_ENDED = "endrun-0"


async def fault_20(run: Run, size: Size) -> None:
    """The lock is optimistic, the wait is bounded, and the state is told as it is."""
    for _ in run.rounds(short=1, most=10):
        await _once(run)
        await at_platforms(run)


async def _once(run: Run) -> None:
    place = run.place()
    history = run.history(place)
    before = [f"{kind}-0" for kind in CHANGED_BEFORE]
    after = [f"{kind}-1" for kind in CHANGED_AFTER]
    async with stage(place, "cluster") as set_up:
        await set_up.workloads(*before, *after, _ENDED, "slow", "well")
        await set_up.workloads("sick", image="lab/faults:broken")
        async with local(set_up, history, name="s1") as agent:
            async with anyio.create_task_group() as tasks:
                for name in before:
                    tasks.start_soon(_changed_before, run, set_up, history, agent, name)
                for name in after:
                    tasks.start_soon(_changed_meanwhile, run, set_up, agent, name)
                tasks.start_soon(_ended_before, run, set_up, agent)
                tasks.start_soon(_sick, run, agent)
                tasks.start_soon(_never_ready, run, set_up, agent)
            well = await agent.restart("well", wait_s=30)
            history.recovered("change")
            run.expect(well.outcome == "verified", f"well: {well.body}")
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=len(before) + len(after),
            least_effects=len(after),
        )


async def _sick(run: Run, agent: LocalAgent) -> None:
    """What it is made of does not start."""
    sick = await agent.restart("sick", wait_s=30)
    run.expect(sick.outcome == "failed", f"sick: {sick.body}")


async def _changed_before(
    run: Run, set_up: Stage, history: History, agent: LocalAgent, name: str
) -> None:
    """Between look and request: nothing of ours is done, and the caller is told so."""
    gate = hold_restart(set_up, name)
    async with anyio.create_task_group() as tasks:

        async def another() -> None:
            await gate.reached()
            history.fault("change")
            await change(set_up.there, name)
            history.mended("change")
            gate.released.set()

        tasks.start_soon(another)
        answer = await agent.restart(name, wait_s=_WAIT_S)
    run.expect(answer.error and answer.body.get("executed") == "no", f"{name}: {answer.body}")
    run.expect(answer.code == "conflict", f"{name}: {answer.body}")


async def _changed_meanwhile(run: Run, set_up: Stage, agent: LocalAgent, name: str) -> None:
    """After the request: what another one made is not taken for the success of ours."""
    gate = hold_restart(set_up, name, after=True)
    async with anyio.create_task_group() as tasks:

        async def another() -> None:
            await gate.reached()
            await change_again(set_up.there, name)
            gate.released.set()

        tasks.start_soon(another)
        answer = await agent.restart(name, wait_s=30)
    run.expect(answer.outcome == "unconfirmed", f"{name}: {answer.body}")
    said = str(answer.body.get("problem"))
    run.expect("changed again" in said or "was deleted before" in said, f"{name}: {answer.body}")


async def _ended_before(run: Run, set_up: Stage, agent: LocalAgent) -> None:
    """A run that somebody else ended has ended, and another one of its name is left alone."""
    gate = hold_restart(set_up, _ENDED)
    async with anyio.create_task_group() as tasks:

        async def another() -> None:
            await gate.reached()
            await begin_another_run(set_up.there, _ENDED)
            gate.released.set()

        tasks.start_soon(another)
        answer = await agent.restart(_ENDED, wait_s=30)
    run.expect(answer.outcome in DONE, f"{_ENDED}: {answer.body}")
    run.expect(await still_runs(set_up.there, _ENDED), f"{_ENDED}: another run was ended, too")


async def _never_ready(run: Run, set_up: Stage, agent: LocalAgent) -> None:
    """What does not come within the wait is unconfirmed, and the wait ends in time."""
    await set_up.change("slow", {"minReadySeconds": 300})
    begun = time.monotonic()
    answer = await agent.restart("slow", wait_s=_WAIT_S)
    took = time.monotonic() - begun
    run.expect(answer.outcome == "unconfirmed", f"slow: {answer.body}")
    run.expect(took < _WAIT_S + _SLACK_S, f"a wait of {_WAIT_S} s took {took:.1f} s")
