"""Changes at Railway that meet another one, or go on for a lost process: one effect at most."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mcp_ops.errors import Conflict, ConnectionLost
from tests.railway_cases import CASES, EACH, Case, another, count, gone_on, shown
from tests.railway_lab import BACKEND, lab


@EACH
async def test_one_call_that_is_begun_many_times_at_once_has_one_effect(
    tmp_path: Path, case: Case
) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        plan = await case.plan(place.platform)
        found: list[str] = []

        async def begin() -> None:
            begun = await place.platform.begin(plan, reason="now", call_id="c")
            found.append(begun.at)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(begin)
        assert len(set(found)) == 1
        assert count(place, case) == 1


@EACH
async def test_what_somebody_changed_since_the_look_is_not_changed_again(
    tmp_path: Path, case: Case
) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        plan = await case.plan(place.platform)
        service = place.world.by_name(BACKEND)
        place.world.deploy(service, reason="deploy", commit="7" * 40)
        with pytest.raises(Conflict):
            await place.platform.begin(plan, reason="now", call_id="c")
        with pytest.raises(Conflict):
            await place.platform.rehearse(plan)
        assert place.effects() == []


@pytest.mark.parametrize("name", ["restart", "config", "stop", "start"])
async def test_the_same_change_by_two_calls_is_made_by_one(tmp_path: Path, name: str) -> None:
    """Two agents looked at the same moment: what the first did, the second one sees."""
    case = CASES[name]
    async with lab(tmp_path) as place:
        case.before(place)
        one, other = await case.plan(place.platform), await case.plan(place.platform)
        await place.platform.begin(one, reason="now", call_id="one")
        await shown(place, one)
        with pytest.raises(Conflict):
            await place.platform.begin(other, reason="now", call_id="other")
        assert count(place, case) == 1


@EACH
async def test_a_killed_process_after_the_effect_is_gone_on_with(
    tmp_path: Path, case: Case
) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        plan = await case.plan(place.platform)
        async with another(place) as killed:
            await killed.begin(plan, reason="now", call_id="call-1")
        await shown(place, plan)
        done = await gone_on(place, plan)
        assert done.outcome == "verified"
        assert count(place, case) == 1


@EACH
async def test_a_killed_process_before_the_effect_leaves_a_doubt_and_no_second_try(
    tmp_path: Path, case: Case
) -> None:
    async with lab(tmp_path) as place:
        case.before(place)
        plan = await case.plan(place.platform)
        with pytest.raises(ConnectionLost) as raised:
            await gone_on(place, plan)
        assert raised.value.executed == "unknown"
        assert place.effects() == []
