"""F20: a rollout that never gets healthy, and an object that somebody else changes meanwhile."""

from __future__ import annotations

import time

import anyio

from tests.faults.f20_platforms import at_platforms
from tests.faults.gates import Gate
from tests.faults.history import History
from tests.faults.later import LocalAgent, local
from tests.faults.row import Run, Size
from tests.faults.stage import Stage, stage

_WAIT_S = 2
_SLACK_S = 5.0
_OTHERS = ("scale-0", "rollback-0", "config-0")


async def fault_20(run: Run, size: Size) -> None:
    """The lock is optimistic, the wait is bounded, and the state is told as it is."""
    for _ in run.rounds(short=1, most=10):
        await _once(run)
        await at_platforms(run)


async def _once(run: Run) -> None:
    place = run.place()
    history = run.history(place)
    async with stage(place, "cluster") as set_up:
        await set_up.workloads("before", *_OTHERS, "during", "slow", "well")
        await set_up.workloads("sick", image="lab/faults:broken")
        async with local(set_up, history, name="s1") as agent:
            sick = await agent.restart("sick", wait_s=30)
            run.expect(sick.outcome == "failed", f"sick: {sick.body}")
            for name in ("before", *_OTHERS):
                await _changed_before(run, set_up, history, agent, name)
            await _changed_meanwhile(run, set_up, history, agent)
            await _never_ready(run, set_up, agent)
            well = await agent.restart("well", wait_s=30)
            run.expect(well.outcome == "verified", f"well: {well.body}")
        await run.judge(history, place, effects=set_up.effects(), least_calls=8, least_effects=4)


async def _changed_before(
    run: Run, set_up: Stage, history: History, agent: LocalAgent, name: str
) -> None:
    """Between look and patch: nothing of ours is done, and the caller is told so."""
    gate = Gate()
    set_up.between["cluster"].inject("PATCH", f"/deployments/{name}", gate.before())
    async with anyio.create_task_group() as tasks:

        async def change() -> None:
            await gate.reached()
            history.fault("change")
            await set_up.change(name, {"replicas": 3})
            history.mended("change")
            gate.released.set()

        tasks.start_soon(change)
        answer = await agent.restart(name, wait_s=_WAIT_S)
    run.expect(answer.error and answer.body.get("executed") == "no", f"{name}: {answer.body}")
    run.expect(answer.code == "conflict", f"{name}: {answer.body}")


async def _changed_meanwhile(run: Run, set_up: Stage, history: History, agent: LocalAgent) -> None:
    """After the patch: another generation is not taken for the success of ours."""
    gate = Gate()
    set_up.between["cluster"].inject("PATCH", "/deployments/during", gate.after())
    async with anyio.create_task_group() as tasks:

        async def change() -> None:
            await gate.reached()
            await set_up.change("during", {"template": {"spec": {"nodeName": "elsewhere"}}})
            gate.released.set()

        tasks.start_soon(change)
        answer = await agent.restart("during", wait_s=30)
    history.recovered("change")
    run.expect(answer.outcome == "unconfirmed", f"during: {answer.body}")
    run.expect("changed again" in str(answer.body.get("problem")), f"during: {answer.body}")


async def _never_ready(run: Run, set_up: Stage, agent: LocalAgent) -> None:
    """What does not come within the wait is unconfirmed, and the wait ends in time."""
    await set_up.change("slow", {"minReadySeconds": 300})
    begun = time.monotonic()
    answer = await agent.restart("slow", wait_s=_WAIT_S)
    took = time.monotonic() - begun
    run.expect(answer.outcome == "unconfirmed", f"slow: {answer.body}")
    run.expect(took < _WAIT_S + _SLACK_S, f"a wait of {_WAIT_S} s took {took:.1f} s")
