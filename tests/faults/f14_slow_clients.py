"""F14: slow and idle clients, a thousand streams, bodies of 5 MiB that never end."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio

from tests.faults.agents import HttpAgent
from tests.faults.row import Run, Size
from tests.faults.servers import Server
from tests.faults.stage import AGENT_KEY, ROOT, stage

_CALLS = {"short": 40, "long": 400}
_STREAMS = {"short": 60, "long": 1_000}
# Loopback calls take some milliseconds: below this, twice as much is noise of the machine.
_NOISE_S = 0.05


async def fault_14(run: Run, size: Size) -> None:
    """Healthy calls go on: p99 under twice its baseline; descriptors are given back."""
    place = run.place()
    history = run.history(place)
    async with stage(place, "cluster") as set_up:
        await set_up.workloads("w-1", "w-2")
        async with run.served(set_up, history) as (server, agent):
            await agent.restart("w-1", wait_s=0)
            calls, streams = _CALLS[size], _STREAMS[size]
            await _p99(agent, calls // 4)
            baseline = await _p99(agent, calls)
            open_before = _descriptors(server)
            history.fault("slow clients")
            async with _besieging(server, streams):
                await _connected(server, open_before, streams)
                besieged = await _p99(agent, calls)
                await agent.restart("w-2", wait_s=0)
                most = _descriptors(server)
            history.mended("slow clients")
            await agent.must("get_guard_status")
            history.recovered("slow clients")
            run.say(f"p99 {baseline * 1000:.1f} ms, besieged {besieged * 1000:.1f} ms")
            if size == "long":
                slow = besieged >= max(2 * baseline, _NOISE_S)
                run.expect(not slow, f"p99 went from {baseline:.3f} s to {besieged:.3f} s")
            run.expect(most <= open_before + streams + 64, f"{most} descriptors")
            await _given_back(run, server, open_before)
        await run.judge(
            history, place, effects=set_up.effects(), least_calls=2 * calls, least_effects=2
        )


async def _p99(agent: HttpAgent, calls: int) -> float:
    took: list[float] = []
    for _ in range(calls):
        begun = time.monotonic()
        answer = await agent.must("get_guard_status", deadline_s=10)
        assert answer.code == "ok", answer.body
        took.append(time.monotonic() - begun)
    return sorted(took)[int(len(took) * 0.99)]


def _descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


async def _connected(server: Server, before: int, streams: int) -> None:
    """Wait until the server holds most of the connections: some it may have closed already."""
    with anyio.move_on_after(10):
        while _descriptors(server) < before + streams * 0.9:
            await anyio.sleep(0.02)


async def _given_back(run: Run, server: Server, before: int) -> None:
    with anyio.move_on_after(10):
        while _descriptors(server) > before + 16:
            await anyio.sleep(0.02)
    left = _descriptors(server)
    run.expect(left <= before + 16, f"{left} descriptors are open, {before} were before")


@asynccontextmanager
async def _besieging(server: Server, streams: int) -> AsyncIterator[None]:
    """The slow clients, in a process of their own: they must not slow the healthy ones here."""
    port = str(urlsplit(server.url).port)
    command = [sys.executable, "-m", "tests.faults.slow_peer", port, str(streams), AGENT_KEY]
    async with await anyio.open_process(command, cwd=ROOT, stderr=None) as peer:
        try:
            yield
        finally:
            peer.kill()
