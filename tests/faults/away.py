"""A store of the guard that goes away, loses what it had, or takes nothing: and comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from tests.faults.agents import Answer, HttpAgent
from tests.faults.checker import DONE
from tests.faults.history import History
from tests.faults.row import Run
from tests.faults.stage import Stage

_IN_FLIGHT = 3
_BACK_S = 60.0
# The writes of a fault start over this time, and the fault comes in the middle of it.
_SPAN_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """One fault of a store. `closed`: while it lasts no write may be begun."""

    name: str
    begin: Callable[[Stage], Awaitable[None]]
    mend: Callable[[Stage], Awaitable[None]]
    closed: bool = True


@dataclass(kw_only=True)
class Played:
    """What the faults of a run met."""

    run: Run
    history: History
    up: Stage
    agent: HttpAgent
    names: list[str] = field(default_factory=list)

    async def fault(self, away: Away, *, lasts_s: float = 0.0) -> None:
        """Writes are in flight, the fault comes, and for so long nothing new is begun; when it is
        over, a write and a read are done again."""
        prefix = f"{away.name}-{len(self.names):03}"
        flying = [f"{prefix}-{n}" for n in range(_IN_FLIGHT)]
        later = f"{prefix}-later"
        self.names += [*flying, later]
        await self.up.workloads(*flying, later)
        async with anyio.create_task_group() as tasks:
            for name in flying:
                tasks.start_soon(self._write, name, self.run.random.uniform(0, _SPAN_S))
            await anyio.sleep(self.run.random.uniform(0, _SPAN_S))
            self.history.fault(away.name)
            await away.begin(self.up)
            if away.closed:
                await self._closed(away.name, later)
                await anyio.sleep(lasts_s)
            await away.mend(self.up)
            self.history.mended(away.name)
            with anyio.fail_after(_BACK_S):
                while not _done(await self.agent.restart(later, wait_s=0)):
                    await anyio.sleep(0.05)
            self.history.recovered(away.name)

    async def _write(self, name: str, after_s: float) -> None:
        await anyio.sleep(after_s)
        await self.agent.restart(name, wait_s=0)

    async def _closed(self, fault: str, name: str) -> None:
        answer = await self.agent.restart(name, wait_s=0)
        said = None if answer is None else (answer.code, answer.body.get("executed"))
        self.run.expect(said == ("store_unavailable", "no"), f"{fault}: a write was told {said}")
        read = await self.agent.call("get_deployment", name=name)
        said = None if read is None else (read.code, "")
        self.run.expect(said == ("ok", ""), f"{fault}: a read was told {said}")


def _done(answer: Answer | None) -> bool:
    return answer is not None and answer.outcome in DONE
