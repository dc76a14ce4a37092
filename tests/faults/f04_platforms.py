"""F4 at all platforms but Kubernetes: `kill -9` around the request of each write.

They keep no versions. What another process can't find there it begins again only where the target
would take it once; else it says that it does not know, and a look has to tell.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from tests.faults.agents import HttpAgent
from tests.faults.checker import DONE
from tests.faults.gates import Gate, hold
from tests.faults.history import History
from tests.faults.platform_writes import each, kinds
from tests.faults.row import Run
from tests.faults.salvo import close_the_books, salvo_of
from tests.faults.servers import Server
from tests.faults.stage import Stage, stage
from tests.faults.writes import writing_of
from tests.kubernetes_lab import Fault

_SALVO = 2
# What a platform has done shows there by then.
_SHOWS_S = 0.3
_LEAST = (1, 1 / 2)


async def at_boundaries(run: Run, parts: tuple[str, ...]) -> None:
    """One kill hits a write of each kind before its request comes to the target, another one after
    the target has done it, before its answer; and one while the request is on its way, where it
    stays until another process has gone on."""
    place = run.place()
    history = run.history(place)
    lost, done, late = (each(1, *parts, first=n) for n in range(3))
    async with stage(place, *parts) as set_up:
        await set_up.workloads(*lost, *done, *late)
        async with run.served(set_up, history) as (server, agent):
            await _held(set_up, history, server, agent, lost, Gate.lost)
        async with run.served(set_up, history, "s2") as (server, agent):
            await _sent_again(history, agent, lost)
            on_the_way = await _held(set_up, history, server, agent, late, Gate.late)
        async with run.served(set_up, history, "s3") as (server, agent):
            await _sent_again(history, agent, late)
            await _held(set_up, history, server, agent, done, Gate.after)
        asked = [*lost, *done, *late]
        ended = await close_the_books(
            run, history, set_up, asked, on_the_way, each=_LEAST, shows_s=_SHOWS_S
        )
    for name in (*lost, *late):  # nothing of it was there
        wanted = DONE if writing_of(name).repeats else {"unknown"}
        run.expect(ended[name] in wanted, f"{name}, which did not come, ended as {ended[name]}")
    for name in done:
        run.expect(ended[name] in DONE, f"{name}, which was done, ended as {ended[name]}")


async def _sent_again(history: History, agent: HttpAgent, names: list[str]) -> None:
    for number, name in enumerate(names):
        await agent.restart(name, wait_s=0)
        if not number:
            history.recovered("kill -9")


async def _held(
    set_up: Stage,
    history: History,
    server: Server,
    agent: HttpAgent,
    names: list[str],
    how: Callable[[Gate], Fault],
) -> list[Gate]:
    """The server is killed while a write of each name stands at its target."""
    gates = [hold(set_up, name, how) for name in names]
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(agent.restart, name)
        for gate in gates:
            await gate.reached()
        history.fault("kill -9")
        await server.kill()
    history.mended("kill -9")
    if how is not Gate.late:
        for gate in gates:
            gate.released.set()
    return gates


async def at_random(run: Run, kills: int, parts: tuple[str, ...]) -> None:
    """Kills at random moments of salvos."""
    place = run.place()
    history = run.history(place)
    names = each(_SALVO * kills, *parts)
    many = _SALVO * len(kinds(*parts))
    async with stage(place, *parts) as set_up:
        await set_up.workloads(*names)
        for kill in range(kills):
            async with run.served(set_up, history, f"r{kill}") as (server, agent):
                if kill:
                    writing = writing_of(names[0])
                    await agent.must(writing.look, **writing.look_arguments(names[0]))
                    history.recovered("kill -9")
                await salvo_of(run, history, server, agent, names[kill * many : (kill + 1) * many])
            history.mended("kill -9")
        await close_the_books(run, history, set_up, names, each=_LEAST, shows_s=_SHOWS_S)
