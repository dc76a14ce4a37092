"""F2: a redrive is asked to stop at a random moment, a change before and after it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import anyio

from mcp_ops.clock import SystemClock
from mcp_ops.stores.sqlite.embedded import open_stores
from tests.faults import books
from tests.faults.agents import WHY, Answer
from tests.faults.gates import Gate
from tests.faults.items import Queued, fill
from tests.faults.platform_writes import kinds
from tests.faults.row import Run, Size
from tests.faults.stage import Stage, stage
from tests.faults.writes import KINDS, writing_of
from tests.faults.writing import LOCAL, PLATFORMS

# The look by which a change is planned, by what the name of its object begins with.
_LOOKS: Final[Mapping[str, tuple[str, str]]] = {
    "azure": ("GET", "/sites/{name}"),
    "railway": ("POST", "/Service/{name}"),
    "job": ("GET", "/admin/sync-{name}/status"),
    "unit": ("GET", "/{name}/show"),
    "cmd": ("GET", "/{name}/state"),
    "run": ("GET", "/cronjobs/{name}"),
    "evict": ("GET", "/statefulsets/{name}"),
    "autoscale": ("GET", "/deployments/{name}"),
}
# What never comes to its end, and why.
_ROLLOUTS: Final = ("w", "rollback", "config", "resources")
_STUCK: Final = {
    "azure-swap": "stuck-operation",
    "railway-config": "never-ready",
    "job-run": "hung",
}
_ON_THE_WAY: Final = ("unit-restart", "unit-start", "cmd-restart", "cmd-start")
ALL = "2000-01-01T00:00:00Z"


async def fault_02(run: Run, size: Size) -> None:
    """It stops between items, its counts are exact, and what is left can be driven on."""
    for _ in run.rounds(short=1, most=30):
        await _once(run, items={"short": 300, "long": 500}[size])
        await _changes(run)


async def _once(run: Run, *, items: int) -> None:
    place = run.place()
    history = run.history(place)
    async with stage(place, "coordinator", "queue") as set_up:
        queued = await fill(set_up, items)
        async with run.served(set_up, history) as (_, agent):
            answers: list[Answer | None] = []

            async def redrive() -> None:
                arguments: dict[str, Any] = {
                    "since": ALL,
                    "max_items": items,
                    "rate_per_s": 50,
                    "reason": WHY,
                }
                answers.append(await agent.call("retry_deadletters", target="orders", **arguments))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(redrive)
                await _begun(set_up)
                await anyio.sleep(run.random.uniform(0, 1))
                history.fault("cancelled")
                await _cancel(set_up)
            await _counted(run, set_up, queued, answers[0])
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            items=await queued.places(set_up),
            least_calls=1,
            least_effects=5,
        )


async def _changes(run: Run) -> None:
    """Of a change that was not sent yet, nothing is done; one that was goes on at its platform, and
    nobody waits for it any more."""
    place = run.place()
    history = run.history(place)
    early = [f"{kind}-00" for kind in (*KINDS, *kinds(*PLATFORMS, *LOCAL))]
    waiting = [f"{kind}-01" for kind in (*_ROLLOUTS, *_STUCK, *_ON_THE_WAY)]
    async with stage(place, "cluster", *PLATFORMS, *LOCAL) as set_up:
        await set_up.workloads(*early, *waiting)
        await _never(set_up)
        async with run.served(set_up, history) as (_, agent):
            answers: dict[str, Answer | None] = {}
            gates = [_planning(set_up, name) for name in early]

            async def one(name: str) -> None:
                answers[name] = await agent.restart(name, wait_s=45)

            async with anyio.create_task_group() as tasks:
                for name in waiting:
                    tasks.start_soon(one, name)
                await _begun(set_up, len(waiting))
                for name in early:
                    tasks.start_soon(one, name)
                for gate in gates:
                    await gate.reached()
                await anyio.sleep(run.random.uniform(0, 1))
                history.fault("cancelled")
                await _cancel(set_up)
                for gate in gates:
                    gate.released.set()
        for name, answer in answers.items():
            said = "" if answer is None else answer.outcome or answer.code
            run.expect(said == ("conflict" if name in early else "unconfirmed"), f"{name}: {said}")
            run.expect("was cancelled" in str(answer), f"{name}: {answer}")
        await set_up.settled()
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=len(answers),
            least_effects=len(waiting),
        )


async def _never(set_up: Stage) -> None:
    """What is begun from now on never comes to its end."""
    for kind in _ROLLOUTS:
        await set_up.change(f"{kind}-01", {"minReadySeconds": 300})
    for kind, fault in _STUCK.items():
        set_up.stand_ins[writing_of(f"{kind}-01").part].inject(fault)
    for kind in _ON_THE_WAY:
        set_up.local[writing_of(f"{kind}-01").part].never(f"{kind}-01")


def _planning(set_up: Stage, name: str) -> Gate:
    """The look stands still by which the change is planned."""
    gate = Gate()
    writing = writing_of(name)
    method, part = _LOOKS.get(name.partition("-")[0], ("GET", writing.looks))
    set_up.between[writing.part].inject(method, part.format(name=name), gate.before())
    return gate


async def _begun(set_up: Stage, effects: int = 5) -> None:
    with anyio.fail_after(60):
        while len(set_up.effects()) < effects:
            await anyio.sleep(0.02)


async def _cancel(set_up: Stage) -> None:
    """Ask every running operation to stop, as another process of the server does."""
    path = set_up.directory / "state" / "state.db"
    async with open_stores(path, SystemClock()) as stores:
        for operation, state in books.operations(path).items():
            if state == "running":
                await stores.ledger.cancel(operation, by="operator:ann")


async def _counted(run: Run, set_up: Stage, queued: Queued, answer: Answer | None) -> None:
    assert answer is not None
    body: dict[str, Any] = answer.body
    done = len(set_up.effects())
    run.expect(body.get("problem") == "cancelled", f"it said {body.get('problem')}")
    run.expect(body.get("retried") == done, f"{body.get('retried')} counted, {done} done")
    run.expect(0 < body.get("remaining", 0) < len(queued.ids), "it did not stop in the middle")
    total = sum(body.get(part, 0) for part in ("retried", "failed", "skipped", "remaining"))
    run.expect(total == len(queued.ids), f"{total} of {len(queued.ids)} items are accounted for")
