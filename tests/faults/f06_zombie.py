"""F6: two processes redrive one queue; the first is stopped past its lease, and goes on."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from mcp_ops.clock import SystemClock
from tests.faults import books
from tests.faults.agents import WHY, Answer, HttpAgent
from tests.faults.checker import Effect
from tests.faults.history import History
from tests.faults.items import Queued, fill, members, moved, moved_count
from tests.faults.later import local
from tests.faults.row import Run, Size
from tests.faults.servers import Server, server
from tests.faults.stage import AGAIN, QUEUE_URL, Stage, stage
from tests.faults.wire import Wire, wire

ALL = "2000-01-01T00:00:00Z"


async def fault_06(run: Run, size: Size) -> None:
    """The fencing token refuses what the first process sends late; each item is moved once."""
    await _once(run, items=40, wait=False)
    if size == "long":
        for number in run.rounds(short=1, most=20):
            await _once(run, items=200, wait=number % 4 == 0)


async def _once(run: Run, *, items: int, wait: bool) -> None:
    place = run.place()
    history = run.history(place)
    async with stage(place, "moves") as up:
        assert up.queue is not None
        queued = await fill(up, items)
        async with wire(up.queue.port) as between:
            own = {QUEUE_URL: f"redis://127.0.0.1:{between.port}/0"}
            async with run.served(up, history, environment=own) as (holder, agent):
                said: list[Answer | None] = []

                async def redrive() -> None:
                    said.append(await retry(agent, items))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(redrive)
                    await reach(up, run.random.randint(1, items // 2))
                    again = await _stopped(history, up, holder, between)
                    await _overtaken(
                        run, history, up, queued, between, holder, agent, again, wait=wait
                    )
                answer = await retry(agent, items)
        where = await places(up, queued)
        waiting = {item["id"] for item in await members(up)}
        run.expect(again in waiting, f"{again}: the late move of the first process was not refused")
        where[again] -= again in waiting
        counted(run, answer, items)
        await run.judge(
            history,
            place,
            effects=[Effect(intent=each) for each in await moved(up)],
            items=where,
            least_calls=2,
            least_effects=items,
        )


async def _stopped(history: History, up: Stage, holder: Server, between: Wire) -> str:
    """Keep the next move of an item on the wire and stop its process; the item's id."""
    between.marker = AGAIN.encode()
    with anyio.fail_after(60):
        await between.arrived.wait()
        history.fault("stopped")
        holder.process.send_signal(signal.SIGSTOP)
        # Stopped in the middle of a transaction it would stop everybody on this file.
        while books.locked(up.directory / "state" / "state.db"):
            holder.process.send_signal(signal.SIGCONT)
            await anyio.sleep(0.02)
            holder.process.send_signal(signal.SIGSTOP)
    found = re.search(rb"item-\d+", between.kept)
    assert found is not None, "no item is being moved"
    return found.group().decode()


async def _overtaken(
    run: Run,
    history: History,
    up: Stage,
    queued: Queued,
    between: Wire,
    holder: Server,
    agent: HttpAgent,
    again: str,
    *,
    wait: bool,
) -> None:
    """Another process goes on, the item fails anew, and only then does the late move arrive."""
    async with _successor(up, history, wait=wait):
        await reach(up, len(queued.ids) if run.random.random() < 0.5 else _after(again))
        await queued.put_back(up, again)
        between.release.set()
        with anyio.fail_after(60):
            await between.answered.wait()
            holder.process.send_signal(signal.SIGCONT)
            history.mended("stopped")
        await agent.must("get_guard_status")
        history.recovered("stopped")
        await reach(up, len(queued.ids))
        await run.settle(up.directory)


def _after(item_id: str) -> int:
    return int(item_id.partition("-")[2]) + 1


@asynccontextmanager
async def _successor(up: Stage, history: History, *, wait: bool) -> AsyncIterator[None]:
    if wait:
        async with server(up, history, "s2"):
            yield
        return
    books.lapse(up.directory / "state" / "state.db")
    async with local(up, history, clock=SystemClock(), name="s2"):
        yield


async def retry(agent: HttpAgent, items: int) -> Answer | None:
    """Redrive the whole queue."""
    arguments: dict[str, Any] = {"since": ALL, "max_items": items, "rate_per_s": 50}
    return await agent.call("retry_deadletters", target="orders", reason=WHY, **arguments)


async def reach(up: Stage, count: int, *, within_s: float = 90.0) -> None:
    """Wait until that many items were moved."""
    with anyio.fail_after(within_s):
        while await moved_count(up) < count:
            await anyio.sleep(0.01)


async def places(up: Stage, queued: Queued) -> Counter[str]:
    """In how many places each item lies: the queue, the list that items are moved to."""
    where = Counter(item["id"] for item in await members(up))
    where.update(await moved(up))
    where.update(dict.fromkeys(queued.ids, 0))
    return where


def counted(run: Run, answer: Answer | None, items: int) -> None:
    """The recorded answer counts every item, and each as moved."""
    body = {} if answer is None else answer.body
    counts = {part: body.get(part) for part in ("retried", "failed", "skipped", "remaining")}
    wanted = {"retried": items, "failed": 0, "skipped": 0, "remaining": 0}
    run.expect(counts == wanted, f"counted {counts} of {items}: {body.get('problem')}")
