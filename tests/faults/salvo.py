"""A salvo of writes, and a kill at a random moment of it."""

from __future__ import annotations

import anyio

from tests.faults.agents import HttpAgent
from tests.faults.history import History
from tests.faults.row import Run
from tests.faults.servers import Server

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
