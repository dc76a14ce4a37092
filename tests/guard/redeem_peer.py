"""A process that uses one approval from 25 calls at once, when it is told to; what that did."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import anyio.to_thread

from tests.guard.bench import WHY, bench

CALLS = 25


async def main(path: Path, name: str) -> None:
    codes: list[str] = []
    async with bench(path) as b:

        async def call(number: int) -> None:
            key = f"{name}-{number}"
            codes.append(await b.code("drop_item", name="x", reason=WHY, idempotency_key=key))

        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await anyio.to_thread.run_sync(sys.stdin.readline)
        async with anyio.create_task_group() as tasks:
            for number in range(CALLS):
                tasks.start_soon(call, number)
        sys.stdout.write(json.dumps({"effects": b.world.effects, "codes": codes}) + "\n")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2])
