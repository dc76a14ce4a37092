"""F3: the client gives up waiting and calls again with a new request id, as hosts do after 100,
230 or 300 s; here it gives up at once, so that every moment of a write is met."""

from __future__ import annotations

import anyio

from mcp_ops.clock import SystemClock
from tests.faults.agents import HttpAgent
from tests.faults.checker import DONE
from tests.faults.gates import hold_restart
from tests.faults.later import LocalAgent, local
from tests.faults.platform_writes import each
from tests.faults.row import Run, Size
from tests.faults.stage import stage
from tests.faults.writes import KINDS, names
from tests.faults.writing import LOCAL, PLATFORMS

_AT_ONCE = 8


async def fault_03(run: Run, size: Size) -> None:
    """However often and through whichever process the call is sent again: one effect."""
    for _ in run.rounds(short=1, most=10):
        # Of each platform one at least, whichever it is.
        some = [run.random.choice(each(1, part)) for part in (*PLATFORMS, *LOCAL)]
        here = each(2, *PLATFORMS, *LOCAL) if size == "long" else some
        await _once(run, [*names({"short": 1, "long": 3}[size] * len(KINDS)), *here])


async def _once(run: Run, asked: list[str]) -> None:
    place = run.place()
    history = run.history(place)
    async with stage(place, "cluster", *PLATFORMS, *LOCAL) as set_up:
        await set_up.workloads(*asked)
        async with (
            run.served(set_up, history) as (_, one),
            local(set_up, history, clock=SystemClock(), name="s2") as other,
        ):
            for name in asked:
                gate = hold_restart(set_up, name, after=run.random.random() < 0.5)
                await _impatient(run, [one, other], name)
                gate.released.set()
                # While it runs in a sibling the answer is a handle; its end is asked for.
                with anyio.fail_after(30):
                    while (
                        last := await one.restart(name, wait_s=0)
                    ) and last.outcome == "in_progress":
                        await anyio.sleep(0.05)
                run.expect(last is not None and last.outcome in DONE, f"{name} not done")
        await set_up.settled()
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=len(asked) * 2,
            least_effects=len(asked),
        )


async def _impatient(run: Run, agents: list[HttpAgent | LocalAgent], name: str) -> None:
    """Send a call over both processes, each time with a little more patience."""

    async def impatient(agent: HttpAgent | LocalAgent, patience_s: float) -> None:
        with anyio.move_on_after(patience_s):
            await agent.restart(name, wait_s=0)

    async with anyio.create_task_group() as tasks:
        for _ in range(_AT_ONCE):
            patience = run.random.choice((0.01, 0.05, 0.1, 0.3))
            tasks.start_soon(impatient, run.random.choice(agents), patience)
