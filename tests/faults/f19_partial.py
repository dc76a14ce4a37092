"""F19: some of many fail. Each outcome is exact, a run stops at its limit, and can go on."""

from __future__ import annotations

from typing import Any

import anyio

from tests.faults.agents import WHY
from tests.faults.checker import DONE
from tests.faults.f02_cancel import ALL
from tests.faults.items import fill
from tests.faults.later import LocalAgent, local
from tests.faults.others import spoil
from tests.faults.row import Run, Size
from tests.faults.stage import stage
from tests.faults.writes import writing_of
from tests.faults.writing import LOCAL, PLATFORMS

_LIMIT = 3  # failures in a row after which a redrive stops

# What is seen to fail where what it starts does not come up.
_ROLLOUTS = ("w", "scale", "rollback", "config", "run", "start", "resources")
_PARTLY = (
    *("azure-restart", "railway-config", "railway-redeploy", "job-run", "job-keyed"),
    *("unit-restart", "unit-start", "cmd-restart", "cmd-start"),
)


async def fault_19(run: Run, size: Size) -> None:
    """Changes of workloads, a third of which can't start; a redrive whose endpoint fails."""
    for _ in run.rounds(short=1, most=20):
        await _at_cluster(run, many={"short": 3, "long": 9}[size])
        await _at_platforms(run, many={"short": 3, "long": 9}[size])
        await _redrive(run, items={"short": 8, "long": 60}[size])


def _third(kinds: tuple[str, ...], many: int) -> tuple[list[str], set[str]]:
    """So many names of each kind, and the third of them that is to fail."""
    names = [f"{kind}-{number:02}" for kind in kinds for number in range(many)]
    return names, {name for name in names if int(name[-2:]) % 3 == 2}


async def _at_cluster(run: Run, *, many: int) -> None:
    """Rollouts and runs, of which each third does not start."""
    place = run.place()
    history = run.history(place)
    names, bad = _third(_ROLLOUTS, many)
    async with stage(place, "cluster") as set_up:
        await set_up.workloads(*(name for name in names if name not in bad))
        await set_up.workloads(*bad, image="lab/faults:broken")
        async with local(set_up, history, name="s1") as agent:
            await _exactly(run, agent, names, bad)
            for name in names:  # asked again, nothing is done again
                again = await agent.restart(name, wait_s=30)
                run.expect(bool(again.body.get("replayed")), f"{name} was run again")
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=2 * len(names),
            least_effects=len(names),
        )


async def _exactly(run: Run, agent: LocalAgent, names: list[str], bad: set[str]) -> None:
    """Those that can't start fail, and the others are seen to run."""

    async def one(name: str) -> None:
        answer = await agent.restart(name, wait_s=30)
        wanted = "failed" if name in bad else "verified"
        run.expect(answer.outcome == wanted, f"{name}: {answer.body}")

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(one, name)


async def _at_platforms(run: Run, *, many: int) -> None:
    """Restarts, changed variables, runs, units and commands, of which each third can't start, fails
    to build, or ends badly."""
    place = run.place()
    history = run.history(place)
    names, bad = _third(_PARTLY, many)
    async with stage(place, *PLATFORMS, *LOCAL) as set_up:
        await set_up.workloads(*names)
        for name in bad:
            if writing_of(name).part != "jobs":
                spoil(set_up, name)
        async with local(set_up, history, name="s1") as agent:
            # Whether a run fails its endpoint decides when it begins.
            runs = [name for name in names if name in bad and writing_of(name).part == "jobs"]
            set_up.stand_ins["jobs"].inject("sync-fails")
            await _exactly(run, agent, runs, bad)
            set_up.stand_ins["jobs"].mend("sync-fails")
            await _exactly(run, agent, [each for each in names if each not in runs], bad)
            for name in names:
                again = await agent.restart(name, wait_s=30)
                run.expect(bool(again.body.get("replayed")), f"{name} was run again")
        await set_up.settled()
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=2 * len(names),
            least_effects=len(names),
        )


async def _redrive(run: Run, *, items: int) -> None:
    place = run.place()
    history = run.history(place)
    async with stage(place, "coordinator", "queue") as set_up:
        queued = await fill(set_up, items)
        arguments: dict[str, Any] = {"target": "orders", "since": ALL, "rate_per_s": 50}
        async with local(set_up, history, name="s1") as agent:
            first = await agent.call("retry_deadletters", reason=WHY, **arguments, max_items=2)
            run.expect(first.body.get("retried") == 2, f"first: {first.body}")
            set_up.stand_ins["coordinator"].inject("unavailable")
            history.fault("unavailable")
            stopped = await agent.call(
                "retry_deadletters", reason=WHY, **arguments, max_items=items
            )
            body = stopped.body
            run.expect(body.get("failed") == _LIMIT, f"stopped: {body}")
            run.expect(body.get("remaining") == items - 2 - _LIMIT, f"stopped: {body}")
            set_up.stand_ins["coordinator"].mend("unavailable")
            history.mended("unavailable")
            rest = await agent.call(
                "retry_deadletters",
                reason=WHY,
                **arguments,
                max_items=items,
                idempotency_key="the rest",
            )
            history.recovered("unavailable")
            run.expect(rest.outcome in DONE, f"rest: {rest.body}")
            run.expect(rest.body.get("retried") == items - 2, f"rest: {rest.body}")
        places = await queued.places(set_up)
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            items=places,
            least_calls=3,
            least_effects=items,
        )
