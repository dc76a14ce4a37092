"""F20 at all platforms but Kubernetes: what others change around a write, and what never comes.

They take no version with a change. Ours is looked at again right before it is sent, and what others
do after it is told from ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import anyio

from tests.faults import others
from tests.faults.gates import Gate, hold_restart
from tests.faults.history import History
from tests.faults.later import LocalAgent, local
from tests.faults.platform_writes import RUNS, kinds
from tests.faults.row import Run
from tests.faults.stage import Stage, stage
from tests.faults.writes import writing_of
from tests.faults.writing import LOCAL, PLATFORMS
from tests.kubernetes_lab import passed

_WAIT_S = 1
_SLACK_S = 5.0
# Holding a schedule is locked to nothing: what others have held is held.
_LOCKED = (*kinds("azure", "railway", *LOCAL), *RUNS, "job-cancel")
# What is there after ours shows that another one came.
_OVERTAKEN = (
    *("azure-restart-01", "azure-scale-01", "azure-config-01", "azure-rollback-01"),
    *(f"{kind}-01" for kind in (*kinds("railway", *LOCAL), *RUNS, "job-hold", "job-letgo")),
)
# What was undone is seen as what has not come yet.
_UNDONE = tuple(f"azure-{kind}-01" for kind in ("stop", "start", "tier", "instance", "worker"))
# Theirs has to be there still when it is looked for.
_ENDED = "job-cancel-01"
# How that is told.
_SAID = ("after this", "after it was", "another value", "its schedule is")
# By what each platform never comes to an end of it.
_NEVER = {
    "azure-swap-02": "stuck-operation",
    "railway-config-02": "never-ready",
    "job-run-02": "hung",
    "unit-restart-02": "",
    "cmd-restart-02": "",
}
# What is started of them does not stay up, or has its keeper killed right then.
_SICK = {
    **dict.fromkeys(("unit-restart-03", "cmd-restart-03", "cmd-start-03"), others.spoil),
    **dict.fromkeys(("cmd-restart-04", "cmd-start-04"), others.bereave),
}


async def at_platforms(run: Run) -> None:
    """The lock is optimistic, the wait is bounded, and the state is told as it is."""
    place = run.place()
    history = run.history(place)
    asked = [*(f"{kind}-00" for kind in _LOCKED), *_OVERTAKEN, *_UNDONE, _ENDED, *_NEVER, *_SICK]
    async with stage(place, *PLATFORMS, *LOCAL) as set_up:
        await set_up.workloads(*asked)
        async with local(set_up, history, name="s1") as agent, anyio.create_task_group() as tasks:
            for part in (*PLATFORMS, *LOCAL):
                tasks.start_soon(_at, run, set_up, history, agent, part)
        await set_up.settled()
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=len(asked),
            least_effects=len(_OVERTAKEN),
        )


async def _at(run: Run, set_up: Stage, history: History, agent: LocalAgent, part: str) -> None:
    def here(names: Iterable[str]) -> list[str]:
        return [name for name in names if writing_of(name).part == part]

    async with anyio.create_task_group() as tasks:
        for name in here(f"{kind}-00" for kind in _LOCKED):
            tasks.start_soon(_changed_before, run, set_up, history, agent, name)
    async with anyio.create_task_group() as tasks:
        for name in here((*_OVERTAKEN, *_UNDONE)):
            tasks.start_soon(_overtaken, run, set_up, agent, name)
    for name in here([_ENDED]):
        set_up.stand_ins[part].inject("hung")
        await _overtaken(run, set_up, agent, name)
    history.recovered(f"change at {part}")
    for name in here(_NEVER):
        await _never(run, set_up, agent, name, _NEVER[name])
    async with anyio.create_task_group() as tasks:
        for name in here(_SICK):
            tasks.start_soon(_failed, run, set_up, agent, name)


async def _changed_before(
    run: Run, set_up: Stage, history: History, agent: LocalAgent, name: str
) -> None:
    """Between look and request: nothing of ours is done, and the caller is told so."""
    writing = writing_of(name)
    gate = Gate()
    request, before = writing.looks_again(name)
    set_up.between[writing.part].inject(*request, *[passed] * before, gate.before())
    async with anyio.create_task_group() as tasks:

        async def change() -> None:
            await gate.reached()
            history.fault(f"change at {writing.part}")
            await others.change(set_up, name)
            history.mended(f"change at {writing.part}")
            gate.released.set()

        tasks.start_soon(change)
        answer = await agent.restart(name, wait_s=_WAIT_S)
    run.expect(answer.error and answer.body.get("executed") == "no", f"{name}: {answer.body}")
    run.expect(answer.code == "conflict", f"{name}: {answer.body}")


async def _overtaken(run: Run, set_up: Stage, agent: LocalAgent, name: str) -> None:
    """After it was done: what another one did is not taken for ours."""
    async with anyio.create_task_group() as tasks:
        # A keeper that is started has no gate: its command does not say that it is up.
        unready = name.startswith("cmd-start")
        gate = Gate() if unready else hold_restart(set_up, name, after=True)
        if unready:
            set_up.local["commands"].never(name)

        async def change() -> None:
            if unready:
                await _shown(set_up, name)
            else:
                await gate.reached()
            await others.overtake(set_up, name)
            gate.released.set()

        tasks.start_soon(change)
        answer = await agent.restart(name, wait_s=_WAIT_S if name in _UNDONE else 30)
    run.expect(answer.outcome == "unconfirmed", f"{name}: {answer.body}")
    said = str(answer.body.get("problem"))
    wanted = ("Not ready in time",) if name in _UNDONE else _SAID
    run.expect(any(words in said for words in wanted), f"{name}: {answer.body}")


async def _shown(set_up: Stage, name: str) -> None:
    with anyio.fail_after(60):
        while name not in (effect.intent for effect in set_up.effects()):
            await anyio.sleep(0.02)


async def _failed(run: Run, set_up: Stage, agent: LocalAgent, name: str) -> None:
    """What does not stay up has failed, and is started once."""
    _SICK[name](set_up, name)
    answer = await agent.restart(name, wait_s=30)
    run.expect(answer.outcome == "failed", f"{name}: {answer.body}")


async def _never(run: Run, set_up: Stage, agent: LocalAgent, name: str, fault: str) -> None:
    """What does not come within the wait is unconfirmed, and the wait ends in time."""
    with others.never(set_up, name, fault):
        begun = time.monotonic()
        answer = await agent.restart(name, wait_s=_WAIT_S)
        took = time.monotonic() - begun
    run.expect(answer.outcome == "unconfirmed", f"{name}: {answer.body}")
    run.expect(took < _WAIT_S + _SLACK_S, f"{name}: a wait of {_WAIT_S} s took {took:.1f} s")
