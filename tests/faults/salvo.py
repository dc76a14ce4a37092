"""A salvo of writes with a kill at a random moment of it, and how its books are closed."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from tests.faults.agents import HttpAgent
from tests.faults.gates import Gate
from tests.faults.history import History
from tests.faults.later import local
from tests.faults.row import Run
from tests.faults.servers import Server
from tests.faults.stage import Stage

# How long the writes of one salvo take together on a small machine.
_SPAN_S = 1.2


async def salvo_of(
    run: Run, history: History, server: Server, agent: HttpAgent, names: list[str]
) -> None:
    """Writes start over a while, and at a random moment of it the server is killed."""
    async with anyio.create_task_group() as tasks:

        async def one(name: str, after_s: float) -> None:
            await anyio.sleep(after_s)
            await agent.restart(name, wait_s=0)

        for name in names:
            tasks.start_soon(one, name, run.random.uniform(0, _SPAN_S / 2))
        await anyio.sleep(run.random.uniform(0.02, _SPAN_S))
        history.fault("kill -9")
        await server.kill()


async def close_the_books(
    run: Run,
    history: History,
    set_up: Stage,
    names: list[str],
    on_the_way: Sequence[Gate] = (),
    *,
    each: tuple[int, float],
    shows_s: float = 0.0,
) -> dict[str, str]:
    """When all leases are over: every call is sent again until another process has gone on with
    it. Then comes what was on its way, and unknown ones are looked at. Answers how each ended.

    `each` is how many calls and effects there are at least, a name; what a platform has done shows
    there after `shows_s`.
    """
    ended: dict[str, str] = {}
    async with local(set_up, history) as agent:

        async def one(name: str) -> None:
            ended[name] = (await agent.end_of(name)).outcome
            run.expect(ended[name] != "in_progress", f"{name} is in progress for good")

        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(one, name)
        for gate in on_the_way:
            gate.released.set()
            await gate.passed.wait()
        await anyio.sleep(shows_s)
        await set_up.settled()
        await run.resolve(agent, history)
    await run.judge(
        history,
        set_up.directory,
        effects=set_up.effects(),
        least_calls=each[0] * len(names),
        least_effects=int(each[1] * len(names)),
    )
    return ended
