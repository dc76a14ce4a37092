"""F7: the shared hot store, a Redis: restart, outage, latency, FLUSHALL, out of memory, replica."""

from __future__ import annotations

from mcp_ops.call import Caller
from mcp_ops.clock import SystemClock
from mcp_ops.ports import Mode
from tests.faults.agents import http_agent
from tests.faults.away import Away, Played
from tests.faults.later import SCOPES, local
from tests.faults.row import Run, Size
from tests.faults.stage import OTHER_KEY, Stage, stage

_SLOW_S = 2.0


async def fault_07(run: Run, size: Size) -> None:
    """Writes fail closed, reads go on; what people had set is in force afterwards."""
    if size == "short":
        away, flushed = FAULTS[1], FAULTS[3]
        await _once(run, (away, flushed), lasts_s=0)
    else:
        for _ in run.rounds(short=1, most=15):
            await _once(run, FAULTS, lasts_s=5)


async def _once(run: Run, chosen: tuple[Away, ...], *, lasts_s: float) -> None:
    place = run.place()
    history = run.history(place)
    faults = list(chosen)
    run.random.shuffle(faults)
    async with stage(place, "cluster", "hot") as up:
        await up.workloads("other")
        async with local(up, history, clock=SystemClock(), name="person") as person:
            ann = Caller(principal="operator:ann", scopes=SCOPES | {"ops:admin"}, channel="cli")
            await person.app.control(ann).set_mode(
                "principal:key:other", Mode.READ_ONLY, minutes=0, reason="it ran away"
            )
        async with (
            run.served(up, history) as (server, agent),
            http_agent(server, history, key=OTHER_KEY) as other,
        ):
            played = Played(run=run, history=history, up=up, agent=agent)
            for fault in faults:
                await played.fault(fault, lasts_s=lasts_s)
                refused = await other.restart("other", wait_s=0)
                code = "" if refused is None else refused.code
                run.expect(code == "read_only", f"after {fault.name} the mode was {code}")
            for name in played.names:
                again = await agent.restart(name, wait_s=0)
                run.expect(again is not None and not again.error, f"{name} ended as {again}")
            await run.resolve(agent, history)
        await run.judge(
            history,
            place,
            effects=up.effects(),
            least_calls=5 * len(faults),
            least_effects=len(played.names) - 1,
        )


async def _nothing(_up: Stage) -> None:
    return None


async def _down(up: Stage) -> None:
    assert up.queue is not None
    await up.queue.crash()


async def _up_again(up: Stage) -> None:
    assert up.queue is not None
    await up.queue.start()


async def _restarted(up: Stage) -> None:
    await _down(up)
    await _up_again(up)


async def _slow(up: Stage) -> None:
    up.proxies["queue"].latency_s = _SLOW_S


async def _fast(up: Stage) -> None:
    up.proxies["queue"].latency_s = 0.0


async def _flushed(up: Stage) -> None:
    assert up.queue is not None
    async with up.queue.client() as client:
        await client.flushall()


async def _memory(up: Stage, most: int) -> None:
    assert up.queue is not None
    async with up.queue.client() as client:
        await client.config_set("maxmemory", most)


async def _full(up: Stage) -> None:
    await _memory(up, 1)


async def _roomy(up: Stage) -> None:
    await _memory(up, 0)


async def _replica(up: Stage) -> None:
    """Of a server that is not there: it keeps its data, and takes nothing."""
    assert up.queue is not None
    async with up.queue.client() as client:
        await client.replicaof("127.0.0.1", 1)


async def _primary(up: Stage) -> None:
    assert up.queue is not None
    async with up.queue.client() as client:
        await client.replicaof("NO", "ONE")


FAULTS = (
    Away(name="restart", begin=_restarted, mend=_nothing, closed=False),
    Away(name="away", begin=_down, mend=_up_again),
    Away(name="slow", begin=_slow, mend=_fast),
    Away(name="flushall", begin=_flushed, mend=_nothing, closed=False),
    Away(name="out-of-memory", begin=_full, mend=_roomy),
    Away(name="replica", begin=_replica, mend=_primary),
)
