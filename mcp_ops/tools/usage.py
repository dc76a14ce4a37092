"""Tools on `ApiUsageSource`: how much of a metered API is used up."""

from __future__ import annotations

from mcp_ops.capabilities.base import Effect, NextStep
from mcp_ops.capabilities.usage import (
    ApiUsage,
    ApiUsageSource,
    UsageGuard,
    UsageLimit,
    UsageReading,
)
from mcp_ops.tool import tool


@tool(effect=Effect.READ)
async def check_api_usage(source: ApiUsageSource, guard: UsageGuard) -> ApiUsage:
    """Read how much of a metered API is used up, limit by limit, the worst first.

    The reading feeds the guard: it restricts the target at 80 % of its main limit and releases it
    below 70 %. Works in every mode but lockdown.
    """
    reading = await source.usage()
    change = await guard.usage_read(reading)
    limits = sorted(reading.limits, key=lambda limit: -limit.used_percent)
    return ApiUsage(
        limits=limits,
        worst=limits[0] if limits else None,
        skipped=reading.skipped,
        guard=change,
        next_steps=_next_steps(_driving(reading)),
    )


def _driving(reading: UsageReading) -> UsageLimit | None:
    return next((limit for limit in reading.limits if limit.name == reading.drives), None)


def _next_steps(limit: UsageLimit | None) -> list[NextStep]:
    if limit is None or limit.level == "ok":
        return []
    why = f"{limit.used_percent:g} % of {limit.name} is used: see what spends it."
    return [NextStep(tool="list_hot_tools", why=why)]
