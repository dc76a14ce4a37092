"""F24: the event loop and the threads are busy with heavy answers, and all places are taken."""

from __future__ import annotations

import time

import anyio
import httpx2

from tests.faults.agents import HttpAgent
from tests.faults.gates import Gate
from tests.faults.row import Run, Size
from tests.faults.stage import stage
from tests.kubernetes_lab import answering

_PROMPT_S = 1.0
_LINE = b"2026-11-23T03:00:00.000000000Z " + b"password=hunter2 " * 60 + b"\n"
_LEAST = 6


async def fault_24(run: Run, size: Size) -> None:
    """Health and cancellation answer within a second."""
    place = run.place()
    history = run.history(place)
    limits = {"bulkhead_wait_s": 5}
    async with stage(place, "cluster", limits=limits) as set_up:
        await set_up.workloads("w-1", "held")
        async with run.served(set_up, history) as (_, agent):
            await agent.restart("w-1", wait_s=0)
            logs = answering(200, _LINE * 4_000)
            set_up.between["cluster"].inject("GET", "/log", *[logs] * 100_000)
            history.fault("busy")
            stop = anyio.Event()
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(_heavy, agent, stop)
                slowest = 0.0
                for _ in run.rounds(short=_LEAST, most=200):
                    slowest = max(slowest, await _health(agent))
                    gate = Gate()
                    path = "/deployments/held"
                    set_up.between["cluster"].inject("GET", path, gate.before())
                    slowest = max(slowest, await _cancelled(agent, gate))
                stop.set()
            history.mended("busy")
            await agent.must("get_deployment", name="web")
            history.recovered("busy")
            run.say(f"slowest {slowest:.2f} s")
            # A short run shares the machine with the other tests: there only hangs count.
            most = _PROMPT_S if size == "long" else 10 * _PROMPT_S
            run.expect(slowest <= most, f"health or a cancellation took {slowest:.2f} s")
        await run.judge(
            history, place, effects=set_up.effects(), least_calls=2 * _LEAST, least_effects=1
        )


async def _heavy(agent: HttpAgent, stop: anyio.Event) -> None:
    while not stop.is_set():
        await agent.call("get_deployment_logs", name="web", tail=1000)


async def _health(agent: HttpAgent) -> float:
    begun = time.monotonic()
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.get(f"{agent.url}/health")
    assert answer.status_code == 200, answer.text
    return time.monotonic() - begun


async def _cancelled(agent: HttpAgent, gate: Gate) -> float:
    """A client leaves while its read stands at the target; how long until the next is served."""
    with anyio.CancelScope() as leaving:
        async with anyio.create_task_group() as tasks:

            async def leave() -> None:
                await gate.reached()
                leaving.cancel()

            tasks.start_soon(leave)
            await agent.call("get_deployment", name="held")
    begun = time.monotonic()
    gate.released.set()
    await agent.must("get_guard_status")
    return time.monotonic() - begun
