"""F5: `kill -9` in a redrive, at random points of it."""

from __future__ import annotations

import anyio

from tests.faults import books
from tests.faults.checker import Effect
from tests.faults.f06_zombie import counted, places, reach, retry
from tests.faults.history import History
from tests.faults.items import fill, moved, moved_count
from tests.faults.row import Run, Size
from tests.faults.stage import Stage, stage

# From one step of an item to the next, at 50 a second.
_SPAN_S = 0.04


async def fault_05(run: Run, size: Size) -> None:
    """The items are conserved, none is moved twice, and the counts are exact at the end."""
    items, kills = {"short": (40, 1), "long": (1_000, 20)}[size]
    for _ in run.rounds(short=1, most=10):
        await _once(run, items=items, kills=kills)


async def _once(run: Run, *, items: int, kills: int) -> None:
    place = run.place()
    history = run.history(place)
    state = place / "state" / "state.db"
    async with stage(place, "moves") as up:
        queued = await fill(up, items)
        for kill in range(kills):
            await _killed(run, history, up, kill, items=items, left=kills - kill)
            books.lapse(state)
        async with run.served(up, history, "last") as (_, agent):
            # Recovered is who goes on; how long the rest takes is the redrive's own rate.
            await reach(up, min(items, await moved_count(up) + 1))
            history.recovered("kill -9")
            await reach(up, items, within_s=items / 10)
            await run.settle(place)
            answer = await retry(agent, items)
        counted(run, answer, items)
        await run.judge(
            history,
            place,
            effects=[Effect(intent=each) for each in await moved(up)],
            items=await places(up, queued),
            least_calls=2,
            least_effects=items,
        )


async def _killed(
    run: Run, history: History, up: Stage, kill: int, *, items: int, left: int
) -> None:
    """A server goes on with the redrive, and is killed at a random moment of it."""
    async with run.served(up, history, f"k{kill}") as (server, agent):
        done = await moved_count(up)
        if kill:
            await reach(up, done + 1)
            history.recovered("kill -9")
        async with anyio.create_task_group() as tasks:
            if not kill:
                tasks.start_soon(retry, agent, items)
            # Each has its share of what is left, so that the last one still finds something.
            await reach(up, done + run.random.randint(1, max(1, (items - done) // (2 * left))))
            await anyio.sleep(run.random.uniform(0, _SPAN_S))
            history.fault("kill -9")
            await server.kill()
    history.mended("kill -9")
