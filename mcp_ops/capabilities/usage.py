"""ApiUsageSource: how much of a metered API is used up, and what that means for the guard."""

from __future__ import annotations

from typing import Literal, Protocol

from mcp_ops.capabilities.base import Capability, Model, Moment, Result
from mcp_ops.ports import Port

Level = Literal["ok", "warning", "restrict", "critical"]


class UsageLimit(Model):
    """One limit of an API. `used_percent` is of `max`; levels at 70, 80 and 90 % by default."""

    name: str
    used: int
    max: int
    remaining: int
    used_percent: float
    level: Level
    window: str | None = None
    resets_at: Moment | None = None


class UsageReading(Model):
    """All limits that a system reported. `drives` names the one that drives the guard's mode.

    `skipped` names limits whose figures were not numbers that make sense.
    """

    limits: list[UsageLimit]
    drives: str
    skipped: list[str] = []


class GuardModeChange(Model):
    """The mode of the target after this reading, and whether the reading changed it."""

    mode: str
    changed: bool


class ApiUsage(Result):
    """Answer of check_api_usage: limits by use, the worst first."""

    limits: list[UsageLimit]
    worst: UsageLimit | None = None
    skipped: list[str] = []
    guard: GuardModeChange


class UsageGuard(Port, Protocol):
    """What the guard offers to a reading of usage: the server gives it to the tool."""

    async def usage_read(self, reading: UsageReading) -> GuardModeChange:
        """Let a reading of the call's target change its mode; says which mode holds now."""
        ...


class ApiUsageSource(Capability, Protocol):
    """A system whose API is metered."""

    async def usage(self) -> UsageReading:
        """Read every limit from the system itself; raises `Upstream` errors."""
        ...


def level_of(
    used_percent: float, *, warning: float = 70, restrict: float = 80, critical: float = 90
) -> Level:
    """The level of a use in percent, inclusive at each threshold."""
    if used_percent >= critical:
        return "critical"
    if used_percent >= restrict:
        return "restrict"
    return "warning" if used_percent >= warning else "ok"
