"""One write in a process of its own that kills itself at a boundary of the write."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import anyio

from mcp_ops.call import Answer, Question
from mcp_ops.clock import ManualClock
from tests.guard.bench import AGENT, WHY, bench
from tests.guard.shelf import World

BOUNDARIES = ("before_intent", "after_intent", "after_effect", "before_outcome", "before_reply")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyClock(ManualClock):
    """Kills the process when the guard stamps the answer: the effect is there, no record yet."""

    armed = False

    def now(self) -> float:
        if self.armed:
            die()
        return super().now()


async def main(path: Path, boundary: str) -> None:
    clock, world = DeadlyClock(), World()

    async def before() -> None:
        if boundary == "after_intent":
            die()

    async def after() -> None:
        with (path / "effects.log").open("a", encoding="utf-8") as log:
            log.write("put\n")
            log.flush()
        if boundary == "after_effect":
            die()
        clock.armed = boundary == "before_outcome"

    async def ask(_question: Question) -> Answer:
        if boundary == "before_intent":
            die()
        return "accept"

    world.plans.append(before)
    world.after.append(after)
    async with bench(path, clock=clock, worlds={"shelf": world}) as b:
        await b.ok("put_item", replace(AGENT, ask=ask), name="x", reason=WHY)
        if boundary == "before_reply":
            die()
    raise AssertionError("still alive")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2])
