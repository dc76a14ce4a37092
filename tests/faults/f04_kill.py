"""F4: `kill -9` at every boundary of a write, and at random moments between them."""

from __future__ import annotations

import anyio

from tests.faults.checker import DONE
from tests.faults.f04_platforms import at_boundaries, at_random
from tests.faults.gates import Gate, hold, hold_look
from tests.faults.row import Run, Size
from tests.faults.salvo import close_the_books, salvo_of
from tests.faults.stage import stage
from tests.faults.writes import KINDS, writing_of
from tests.faults.writes import names as names_of
from tests.faults.writing import LOCAL, PLATFORMS

IN_FLIGHT = 8
_SALVOS = 5


async def fault_04(run: Run, size: Size) -> None:
    """After a restart every operation reaches a terminal state, and nothing ran twice."""
    await _at_boundaries(run)
    for parts in (PLATFORMS, LOCAL):
        await at_boundaries(run, parts)
    if size == "long":
        for _ in run.rounds(short=1, most=40):
            await _at_random(run, _SALVOS)
            for parts in (PLATFORMS, LOCAL):
                await at_boundaries(run, parts)
                await at_random(run, _SALVOS, parts)


async def _at_boundaries(run: Run) -> None:
    """One kill hits writes of all kinds, at all boundaries; a second one comes at random."""
    place = run.place()
    history = run.history(place)
    names = ("before-intent", "after-intent", "after-reply")
    lost, done, late = ([f"{kind}-{when}" for kind in KINDS] for when in ("lost", "done", "late"))
    salvo = names_of(IN_FLIGHT, first=run.random.randrange(len(KINDS)))
    held = [*names[1:2], *lost, *done, *late]
    async with stage(place, "cluster") as set_up:
        await set_up.workloads(*names, *lost, *done, *late, *salvo)
        async with run.served(set_up, history) as (server, agent):
            await agent.restart("after-reply", wait_s=0)
            on_the_way = [hold(set_up, name, Gate.late) for name in late]
            gates = [
                hold_look(set_up, "after-intent"),
                *(hold(set_up, name, Gate.lost) for name in lost),
                *(hold(set_up, name, Gate.after) for name in done),
            ]
            async with anyio.create_task_group() as tasks:
                for name in held:
                    tasks.start_soon(agent.restart, name)
                for gate in (*gates, *on_the_way):
                    await gate.reached()
                history.fault("kill -9")
                await server.kill()
            for gate in gates:
                gate.released.set()
        history.mended("kill -9")
        async with run.served(set_up, history, "s2") as (server, agent):
            await agent.restart("before-intent", wait_s=0)
            history.recovered("kill -9")
            for name in ("after-reply", *held):
                await agent.restart(name, wait_s=0)
            await salvo_of(run, history, server, agent, salvo)
        asked = [*names, *held[1:], *salvo]
        ended = await close_the_books(run, history, set_up, asked, on_the_way, each=(2, 1 / 3))
    # Another process went on with each: it found the one, and began the others.
    for name in held:
        there = name in done or writing_of(name).repeats
        wanted = DONE if there else {"unknown"}
        run.expect(ended.get(name) in wanted, f"{name} ended as {ended.get(name)}")


async def _at_random(run: Run, kills: int) -> None:
    place = run.place()
    history = run.history(place)
    names = names_of(kills * IN_FLIGHT)
    async with stage(place, "cluster") as set_up:
        await set_up.workloads(*names)
        for kill in range(kills):
            mine = names[kill * IN_FLIGHT : (kill + 1) * IN_FLIGHT]
            async with run.served(set_up, history, f"r{kill}") as (server, agent):
                if kill:
                    await agent.must("get_deployment", name="web")
                    history.recovered("kill -9")
                await salvo_of(run, history, server, agent, mine)
            history.mended("kill -9")
        await close_the_books(run, history, set_up, names, each=(2, 1 / 3))
