"""check_api_usage, against the lab's org."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_ops import errors
from mcp_ops.capabilities.usage import ApiUsage, GuardModeChange, UsageReading
from mcp_ops.tools.usage import check_api_usage
from tests.lab_org import Lab, running_lab


class Modes:
    """The guard's part: it remembers what it was told."""

    def __init__(self) -> None:
        self.readings: list[UsageReading] = []

    async def usage_read(self, reading: UsageReading) -> GuardModeChange:
        self.readings.append(reading)
        return GuardModeChange(mode="restrictive", changed=True)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running_lab(tmp_path) as running:
        yield running


async def test_the_worst_limit_is_first_and_the_guard_is_told(lab: Lab) -> None:
    lab.org.inject("quota")
    guard = Modes()
    async with lab.crm() as crm:
        usage = await check_api_usage.function(crm, guard)
    assert isinstance(usage, ApiUsage)
    assert usage.worst == usage.limits[0]
    assert usage.worst is not None
    assert (usage.worst.name, usage.worst.level) == ("DailyApiRequests", "restrict")
    shares = [limit.used_percent for limit in usage.limits]
    assert shares == sorted(shares, reverse=True)
    assert usage.guard == GuardModeChange(mode="restrictive", changed=True)
    assert [step.tool for step in usage.next_steps] == ["list_hot_tools"]
    (reading,) = guard.readings
    assert reading.drives == "DailyApiRequests"
    assert len(reading.limits) == len(usage.limits) > 45
    assert len(usage.model_dump_json(exclude_none=True, exclude_defaults=True)) < 12_000


async def test_a_calm_target_has_no_next_step(lab: Lab) -> None:
    async with lab.crm() as crm:
        usage = await check_api_usage.function(crm, Modes())
    assert usage.next_steps == []


async def test_a_failed_reading_tells_the_guard_nothing(lab: Lab) -> None:
    lab.org.inject("html-error")
    guard = Modes()
    async with lab.crm() as crm:
        with pytest.raises(errors.BadAnswer):
            await check_api_usage.function(crm, guard)
    assert guard.readings == []


def test_the_reading_of_usage_is_not_bulk_and_takes_no_argument() -> None:
    assert not check_api_usage.bulk
    assert check_api_usage.input_schema["properties"] == {}
    assert list(check_api_usage.ports) == ["guard"]
