"""Readings of how much of a target is used: which count, which hold, and what they change."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mcp_ops.guard.usage import AUTHOR
from mcp_ops.ports import Mode
from tests.guard.bench import Bench, bench
from tests.guard.test_modes import reading


async def by_usage(b: Bench, target: str) -> list[str]:
    entries = await b.stores.hot.modes()
    return [e.mode.value for e in entries if (e.scope, e.source) == (target, "usage")]


@pytest.mark.parametrize(
    ("percent", "noted"), [(40.0, True), (0.0, True), (-1.0, False), (float("nan"), False)]
)
async def test_what_is_no_share_is_no_reading(
    tmp_path: Path, percent: float, *, noted: bool
) -> None:
    async with bench(tmp_path) as b:
        b.usage.report("shelf", "Daily", percent)
        assert b.usage.last == ({"shelf": percent} if noted else {})


async def test_a_full_reading_is_newer_than_what_a_header_said_before(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.usage.report("shelf", "Daily", 95)
        changed = await b.usage.read("shelf", reading(10))
        assert (changed.mode, changed.changed, b.usage.last["shelf"]) == ("normal", False, 10)
        b.tasks.start_soon(b.usage.follow)
        await anyio.wait_all_tasks_blocked()
        assert await by_usage(b, "shelf") == []


async def test_modes_of_others_and_of_other_targets_are_none_of_its_own(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.usage.apply("depot", "Daily", 95)
        await b.set_mode(Mode.CRITICAL, scope="shelf")
        await b.usage.apply("shelf", "Daily", 95)
        assert await by_usage(b, "shelf") == ["critical"]
        await b.usage.apply("shelf", "Daily", 10)
        assert await by_usage(b, "shelf") == []
        assert await by_usage(b, "depot") == ["critical"]
        assert (await b.control().mode_of("shelf")).value == "critical"  # the operator's


async def test_each_change_has_its_line(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.usage.apply("shelf", "Daily", 95.25)
        await b.usage.apply("shelf", "Daily", 96)
        (line,) = [e for e in await b.entries() if e.kind == "changed"]
        assert (line.tool, line.target, line.principal) == ("set_guard_mode", "shelf", AUTHOR)
        assert AUTHOR == "guard:usage"
        assert line.reason == "Daily is used up to 95.2 %"
        assert line.evidence == {"from": "normal", "to": "critical"}
