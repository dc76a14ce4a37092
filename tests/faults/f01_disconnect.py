"""F1: the client goes in the middle of a write, on every transport and in every era."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from mcp_ops.lab.proxy import Proxy, proxy
from tests.clients.official import ERAS, MODERN, speaking
from tests.faults.agents import WHY, pipe_agent
from tests.faults.checker import DONE
from tests.faults.gates import Gate, hold_restart
from tests.faults.history import History
from tests.faults.later import local
from tests.faults.platform_writes import each
from tests.faults.row import Run, Size
from tests.faults.servers import Server, server
from tests.faults.stage import AGENT_KEY, Stage, stage
from tests.faults.writes import KINDS, names, writing_of
from tests.faults.writing import LOCAL, PLATFORMS


async def fault_01(run: Run, size: Size) -> None:
    """The effect completes or never starts; the call that is sent again gets its outcome."""
    await _over_the_network(run, "http", (MODERN, ERAS[1]), _some(run, 2))
    await _over_pipes(run, names(len(KINDS)))
    await _over_pipes(run, each(1, *PLATFORMS, *LOCAL))
    if size == "long":
        for _ in run.rounds(short=1, most=15):
            await _over_the_network(run, "http", ERAS, _some(run, 3 * len(ERAS)))
            await _over_the_network(run, "http", ERAS, each(1, *PLATFORMS, *LOCAL))
            await _over_the_network(run, "sse", ERAS[1:], _some(run, 3 * len(ERAS[1:])))
            await _over_pipes(run, names(5 * len(KINDS)))
            await _over_pipes(run, each(1, *PLATFORMS, *LOCAL))


def _some(run: Run, count: int) -> list[str]:
    return names(count, first=run.random.randrange(len(KINDS)))


async def _over_the_network(
    run: Run, transport: str, eras: tuple[str, ...], asked: list[str]
) -> None:
    place = run.place()
    history = run.history(place)
    async with stage(place, *_parts(asked)) as set_up:
        await set_up.workloads(*asked)
        async with (
            run.served(set_up, history, transport=transport) as (running, agent),
            proxy(urlsplit(running.url).port or 0) as between,
        ):
            for name, era in zip(asked, itertools.cycle(eras), strict=False):
                after = run.random.random() < 0.5
                gate = hold_restart(set_up, name, after=after)
                history.fault("client gone")
                await _gone(run, history, running, between, transport, era, name, gate)
                gate.released.set()
                history.mended("client gone")
                if transport == "http":
                    again = await agent.restart(name, wait_s=0)
                    history.recovered("client gone")
                    run.expect(again is not None and again.outcome in DONE, f"{name} ended")
                    run.expect(again is not None and again.body["replayed"], f"{name} ran again")
        if transport != "http":
            await _again(run, set_up, history, asked)
        await set_up.settled()
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=2 * len(asked),
            least_effects=len(asked),
        )


async def _again(run: Run, set_up: Stage, history: History, asked: list[str]) -> None:
    async with local(set_up, history) as agent:
        for name in asked:
            again = await agent.restart(name, wait_s=0)
            run.expect(again.outcome in DONE, f"{name} ended as {again.outcome}")
            run.expect(bool(again.body.get("replayed")), f"{name} ran again")


async def _gone(
    run: Run,
    history: History,
    running: Server,
    between: Proxy,
    transport: str,
    era: str,
    name: str,
    gate: Gate,
) -> None:
    """Call for a restart, and break the connection or leave while it stands at the target."""
    reset = run.random.random() < 0.5
    url = f"http://127.0.0.1:{between.port}"
    number = history.call(
        tool=writing_of(name).tool, arguments={"name": name}, intent=name, server=running.name
    )
    between.fault = "none"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_calling, url, transport, era, name)
        await gate.reached()
        if reset:
            between.fault = "reset"
        tasks.cancel_scope.cancel()
    history.lost(number, "the client left")


async def _calling(url: str, transport: str, era: str, name: str) -> None:
    writing = writing_of(name)
    arguments = {**writing.arguments(name, wait_s=0), "reason": WHY}
    async with _streams(url, transport) as streams, speaking(streams, era, None) as talk:
        await talk.client.call_tool(writing.tool, arguments, read_timeout_seconds=60)


@asynccontextmanager
async def _streams(url: str, transport: str) -> AsyncIterator[AbstractAsyncContextManager[Any]]:
    headers = {"authorization": f"Bearer {AGENT_KEY}"}
    if transport == "sse":
        yield sse_client(f"{url}/sse", headers=headers)
        return
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        yield streamable_http_client(f"{url}/mcp", http_client=http)


def _parts(asked: list[str]) -> list[str]:
    return sorted({writing_of(name).part for name in asked})


async def _over_pipes(run: Run, asked: list[str]) -> None:
    """The host closes its end of the pipe while writes stand at the target."""
    place = run.place()
    history = run.history(place)
    async with stage(place, *_parts(asked)) as set_up:
        await set_up.workloads(*asked)
        async with (
            server(set_up, history, "p1", transport="stdio") as piped,
            pipe_agent(piped, history) as agent,
        ):
            gates = [
                hold_restart(set_up, name, after=bool(number % 2))
                for number, name in enumerate(asked)
            ]
            for name in asked:
                writing = writing_of(name)
                arguments = {**writing.arguments(name, wait_s=0), "reason": WHY}
                await agent.send(writing.tool, intent=name, **arguments)
            for gate in gates:
                await gate.reached()
            history.fault("stdin closed")
            assert piped.process.stdin is not None
            await piped.process.stdin.aclose()
            for gate in gates:
                gate.released.set()
            history.mended("stdin closed")
            run.expect(await piped.ended() == 0, "the server did not exit with 0")
            for number in range(1, len(asked) + 1):
                # The server answers what it began before it goes.
                answer = await agent.answer(number)
                run.expect(answer is not None, f"{asked[number - 1]} was not answered")
        await set_up.settled()
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=len(asked),
            least_effects=len(asked),
        )
