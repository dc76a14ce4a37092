"""F17: the disk of the ledger is full, takes nothing at all, or tore the last write."""

from __future__ import annotations

import resource

import anyio

from tests.faults.agents import HttpAgent
from tests.faults.history import History
from tests.faults.row import Run, Size
from tests.faults.servers import Server
from tests.faults.stage import Stage, stage

_WRITES = 3


async def fault_17(run: Run, size: Size) -> None:
    """Writes fail closed; the chain verifies after the repair."""
    for _ in run.rounds(short=1, most=20):
        await _once(run)


async def _once(run: Run) -> None:
    place = run.place()
    history = run.history(place)
    names = [f"{kind}-{n}" for kind in ("full", "read-only", "torn") for n in range(_WRITES)]
    async with stage(place, "cluster") as set_up:
        await set_up.workloads("before", "between", *names)
        async with run.served(set_up, history) as (server, agent):
            await agent.restart("before", wait_s=0)
            for kind, room in (("full", 2 * 4096), ("read-only", 0)):
                await _no_room(run, history, set_up, server, agent, kind, room)
            await agent.restart("between", wait_s=0)
            await server.kill()
        _tear(run, set_up)
        history.mended("torn")
        async with run.served(set_up, history, "s2") as (_, agent):
            for number in range(_WRITES):
                again = await agent.restart(f"torn-{number}", wait_s=0)
                run.expect(again is not None and again.code == "ok", "no write after a torn one")
                history.recovered("torn")
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=3 * _WRITES,
            least_effects=_WRITES + 2,
        )


async def _no_room(
    run: Run,
    history: History,
    set_up: Stage,
    server: Server,
    agent: HttpAgent,
    kind: str,
    room: int,
) -> None:
    """The kernel takes no more than `room` further bytes of any file of the server."""
    log = set_up.directory / "state" / "state.db-wal"
    most = log.stat().st_size + room if room else 0
    history.fault(kind)
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, hard))
    refused = 0
    for number in range(_WRITES):
        answer = await agent.restart(f"{kind}-{number}", wait_s=0)
        refused += answer is not None and answer.code == "store_unavailable"
        if answer is not None and answer.code == "store_unavailable":
            run.expect(answer.body["executed"] == "no", f"{kind}: {answer.body}")
    run.expect(refused >= 1, f"{kind}: no write was refused")
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    history.mended(kind)
    with anyio.fail_after(10):
        while (again := await agent.restart(f"{kind}-0", wait_s=0)) and again.code != "ok":
            await anyio.sleep(0.05)
    history.recovered(kind)


def _tear(run: Run, set_up: Stage) -> None:
    """Half of a further commit lies behind the last one, as after a power cut."""
    log = set_up.directory / "state" / "state.db-wal"
    with log.open("ab") as file:
        file.write(run.random.randbytes(run.random.randint(1, 3 * 4096)))
