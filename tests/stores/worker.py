"""A process of its own on a shared store: what the contention and crash tests start."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from mcp_ops.clock import SystemClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.ports import Mode
from mcp_ops.records import EntryKind
from mcp_ops.stores.sqlite.embedded import Stores, open_stores
from tests.stores import records

CLOCK = SystemClock()
ATTEMPTS = 40


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def claim(stores: Stores, number: str) -> int:
    """Claim the same keys as everybody else; how many were won."""
    won = 0

    async def one(index: int) -> None:
        nonlocal won
        name = f"{number}-{index}"
        mine = records.operation(CLOCK, name, key=f"key-{index}")
        begun = await stores.ledger.begin(records.began(CLOCK, name), mine)
        won += begun.claimed

    async with anyio.create_task_group() as group:
        for index in range(ATTEMPTS):
            group.start_soon(one, index)
    return won


async def one_key(stores: Stores, number: str) -> int:
    """Claim one key again and again; how often it was won."""
    won = 0
    for index in range(ATTEMPTS):
        mine = records.operation(CLOCK, f"one-{number}-{index}")
        begun = await stores.ledger.begin(records.began(CLOCK, mine.id), mine)
        won += begun.claimed
    return won


async def redeem(stores: Stores, number: str) -> int:
    """Redeem the same approval from several tasks at once; how often it was granted."""
    granted = 0

    async def one() -> None:
        nonlocal granted
        used = await stores.approvals.redeem(
            "a1", principal="agent:x@y", digest="d", policy="v1", at=CLOCK.now()
        )
        granted += used

    async with anyio.create_task_group() as group:
        for _ in range(13):
            group.start_soon(one)
    return granted


async def spend(stores: Stores, number: str) -> int:
    """Ask for one budget from several tasks at once; how often it was granted."""
    granted = 0

    async def one(index: int) -> None:
        nonlocal granted
        name = f"{number}-{index}"
        begun = await stores.ledger.begin(
            records.began(CLOCK, name),
            records.operation(CLOCK, name, key=name),
            budgets=(records.budget(limit=7, window_s=3600.0),),
        )
        granted += begun.claimed

    async with anyio.create_task_group() as group:
        for index in range(ATTEMPTS):
            group.start_soon(one, index)
    return granted


async def use(stores: Stores, number: str) -> int:
    """Begin writes that use up the same approval, at once; how many got through."""
    granted = 0

    async def one(index: int) -> None:
        nonlocal granted
        name = f"{number}-{index}"
        begun = await stores.ledger.begin(
            records.began(CLOCK, name),
            records.operation(CLOCK, name, key=name),
            approval=records.redemption(),
        )
        granted += begun.claimed

    async with anyio.create_task_group() as group:
        for index in range(13):
            group.start_soon(one, index)
    return granted


async def probe(stores: Stores, number: str) -> int:
    """Ask for the probe of a circuit that is due; how often it was given."""
    probes = 0
    for _ in range(5):
        probes += (await stores.hot.admit(records.request())).probe
    return probes


RACES: dict[str, Callable[[Stores, str], Awaitable[int]]] = {
    "claim": claim,
    "one_key": one_key,
    "redeem": redeem,
    "spend": spend,
    "use": use,
    "probe": probe,
}


async def write_forever(stores: Stores) -> None:
    """Begin and end operations for ever, a line for each that is durable; until killed."""
    index = 0
    while True:
        index += 1
        mine = records.operation(CLOCK, f"w{index}", key=f"k{index}", lease_until=CLOCK.now())
        await stores.ledger.begin(records.began(CLOCK, mine.id), mine)
        say({"began": mine.id})
        stores.ledger.note(records.entry(CLOCK, f"r{index}"))
        if index % 3:
            done = replace(mine, state="done", outcome="succeeded")
            await stores.ledger.end(records.entry(CLOCK, mine.id), done, keep=True)
            say({"ended": mine.id})


async def lockdown(stores: Stores) -> None:
    """Set a mode as an operator's command would."""
    await stores.hot.set_mode(records.mode(CLOCK, mode=Mode.LOCKDOWN))
    say("set")


async def fill(stores: Stores, bytes_left: int) -> None:
    """Write with a limit on the size of files, as on a full disk, and say how that ended."""
    import resource

    size = max(path.stat().st_size for path in Path(sys.argv[1]).parent.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + bytes_left, resource.RLIM_INFINITY))
    durable = 0
    try:
        while True:
            line = records.entry(CLOCK, f"c{durable}", kind=EntryKind.CHANGED, reason="x" * 400)
            await stores.ledger.change(line)
            durable += 1
    except StoreUnavailable as error:
        say({"durable": durable, "code": error.code, "executed": error.executed})
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


async def main(address: str, what: str, *arguments: str) -> None:
    async with open_stores(Path(address), CLOCK) as stores:
        if what in RACES:
            say("ready")
            await anyio.to_thread.run_sync(sys.stdin.readline)
            say(await RACES[what](stores, *arguments))
        elif what == "write_forever":
            await write_forever(stores)
        elif what == "lockdown":
            await lockdown(stores)
        elif what == "fill":
            await fill(stores, int(arguments[0]))


if __name__ == "__main__":
    anyio.run(partial(main, *sys.argv[1:]))
