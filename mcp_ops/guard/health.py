"""Health: every target is asked, and the operations runbook's figures held to thresholds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from mcp_ops.capabilities.base import Effect
from mcp_ops.capabilities.deadletters import DeadLetterQueue
from mcp_ops.capabilities.guard import ComponentHealth, Status, Threshold
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import OpsError, Refused, StoreUnavailable
from mcp_ops.failed import FailedOperations
from mcp_ops.guard.targets import Targets
from mcp_ops.ports import OWN_TARGET, CircuitPhase, CircuitState

PING_S = 5.0
# Name, warning above, critical above: the operations runbook's table of key metrics.
THRESHOLDS = {
    "open circuits": (1, 2),
    "failed checks": (2, 3),
    "dead letters": (50, 100),
}
SubCall = Callable[[str, Effect, Callable[[Any], Awaitable[Any]], type], Awaitable[Any]]


class Pingable:
    """What health asks of an adapter; every adapter has it."""

    async def ping(self) -> None:
        """The cheapest call that shows that the system answers."""


class HealthCheck:
    """Asks all targets side by side, each through the guard as a sub-call."""

    def __init__(
        self,
        *,
        targets: Targets,
        failed: FailedOperations,
        clock: Clock,
        sub_call: SubCall,
        ping_s: float = PING_S,
        away: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._targets = targets
        self._failed = failed
        self._clock = clock
        self._sub_call = sub_call
        self._ping_s = ping_s
        self._away = away
        self.waiting: dict[str, int] = {}  # dead letters when each queue was last asked

    async def components(self) -> list[ComponentHealth]:
        """The state of each target, in the configuration's order."""
        names = [name for name in self._targets.names() if name != OWN_TARGET]
        found: dict[str, ComponentHealth] = {}

        async def check(name: str) -> None:
            found[name] = await self._component(name)

        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(check, name)
        return [*(found[name] for name in names), *self._stores()]

    def _stores(self) -> list[ComponentHealth]:
        """The parts of the guard's own store that do not answer."""
        return [
            ComponentHealth(
                name=name,
                kind="store",
                status="unhealthy",
                problem=f"away since {rfc3339(since)}: reads go on restricted, writes are refused",
            )
            for name, since in self._away().items()
        ]

    async def _component(self, name: str) -> ComponentHealth:
        kind = self._targets.info(name).kind
        started = self._clock.monotonic()
        problem = ""
        status: Status = "healthy"
        try:
            with anyio.fail_after(self._ping_s):
                await self._sub_call(name, Effect.READ, lambda it: it.ping(), Pingable)
        except TimeoutError:
            status, problem = "unhealthy", f"no answer within {self._ping_s:g} s"
        except Refused as refusal:
            status = "unhealthy" if refusal.code == "circuit_open" else "degraded"
            problem = refusal.message
        except OpsError as error:
            status, problem = "unhealthy", f"{error.code}: {error.message}"
        return ComponentHealth(
            name=name,
            kind=kind,
            status=status,
            latency_ms=round((self._clock.monotonic() - started) * 1000, 1),
            age_s=0.0,
            problem=problem or None,
        )

    async def dead_letters(self) -> int:
        """How many wait, over the embedded queue and all queues that answer."""
        try:
            total = await self._failed.count()
        except StoreUnavailable:
            if not self._away():
                raise
            total = 0
        for name in self._targets.names():
            if name == OWN_TARGET or DeadLetterQueue not in self._targets.info(name).capabilities:
                continue
            try:
                with anyio.fail_after(self._ping_s):
                    stats = await self._sub_call(
                        name, Effect.READ, lambda queue: queue.stats(), DeadLetterQueue
                    )
            except (TimeoutError, OpsError):
                continue  # its own component says what is wrong with it
            self.waiting[name] = stats.total
            total += stats.total
        return total


def thresholds(
    components: list[ComponentHealth], circuits: tuple[CircuitState, ...], dead_letters: int
) -> list[Threshold]:
    """The figures that are past a threshold."""
    values = {
        "open circuits": sum(1 for c in circuits if c.phase is not CircuitPhase.CLOSED),
        "failed checks": sum(1 for c in components if c.status == "unhealthy"),
        "dead letters": dead_letters,
    }
    found = []
    for name, value in values.items():
        warning, critical = THRESHOLDS[name]
        if value > warning:
            level = "critical" if value > critical else "warning"
            found.append(Threshold(name=name, value=value, level=level))
    return found


def overall(components: list[ComponentHealth], past: list[Threshold]) -> Status:
    """Unhealthy when a figure is critical or nothing answers, degraded when something is wrong."""
    unhealthy = [c for c in components if c.status == "unhealthy"]
    if any(t.level == "critical" for t in past) or (
        unhealthy and len(unhealthy) == len(components)
    ):
        return "unhealthy"
    if past or any(c.status != "healthy" for c in components):
        return "degraded"
    return "healthy"
