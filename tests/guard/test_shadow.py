"""Shadow mode: what would have been refused has a line of its own, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_ops.ports import Mode
from mcp_ops.settings import FreezeWindow, GuardSettings, LimitSettings, ProtectedObject
from tests.guard.bench import AGENT, OPEN_LIMITS, WHY, Bench, bench


async def shadows(b: Bench) -> list[tuple[str, str]]:
    found = [e for e in await b.entries() if e.evidence == {"shadow": True}]
    assert {(e.kind.value, e.verdict) for e in found} <= {("changed", "")}
    assert (await b.ok("get_guard_status"))["shadow_refusals"] == len(found)
    return [(e.tool, e.code) for e in found]


ALWAYS = FreezeWindow(start="2020-01-01T00:00:00Z", end="2040-01-01T00:00:00Z", reason="r")


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"freeze": (ALWAYS,)}, "frozen"),
        ({"protected": (ProtectedObject(),)}, "protected"),
        ({"mode": Mode.READ_ONLY}, "read_only"),
        ({"profile": "strict"}, "approval_required"),
        # Frozen and locked down: the first refusal counts, as it would have.
        ({"freeze": (ALWAYS,), "mode": Mode.LOCKDOWN, "profile": "strict"}, "frozen"),
    ],
)
async def test_what_would_have_been_refused_passes_and_has_its_line(
    tmp_path: Path, settings: dict[str, object], code: str
) -> None:
    trial = GuardSettings.model_validate(
        {"enforcement": "shadow", "limits": OPEN_LIMITS, **settings}
    )
    async with bench(tmp_path, settings=trial) as b:
        await b.ok("put_item", name="a", reason=WHY)
        assert b.world.effects == ["put a"]
        assert await shadows(b) == [("put_item", code)]
        (line,) = [e for e in await b.entries() if e.evidence == {"shadow": True}]
        assert (line.principal, line.target) == (AGENT.principal, "shelf")
        kinds = [e.kind.value for e in await b.entries(tool="put_item")]
        assert sorted(kinds) == ["began", "changed", "ended"]


async def test_budgets_and_rates_that_are_used_up_have_their_lines(tmp_path: Path) -> None:
    limits = LimitSettings(writes_per_object=1, principal_per_minute=2)
    trial = GuardSettings(enforcement="shadow", limits=limits)
    async with bench(tmp_path, settings=trial) as b:
        for number in range(2):
            await b.ok("put_item", name="a", reason=WHY, idempotency_key=str(number))
        await b.ok("look_at_item", name="a")
        await b.ok("look_at_item", name="b")
        found = [(e.tool, e.code) for e in await b.entries() if e.evidence == {"shadow": True}]
        assert found[0] == ("put_item", "budget_exhausted")
        assert ("look_at_item", "rate_limited") in found


async def test_who_may_do_what_is_not_on_trial(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=GuardSettings(enforcement="shadow")) as b:
        reader = replace(AGENT, scopes=frozenset({"ops:read"}))
        assert await b.code("put_item", reader, name="a", reason=WHY) == "permission_denied"
        assert await shadows(b) == []


async def test_without_shadow_mode_a_refusal_has_its_terminal_line_alone(tmp_path: Path) -> None:
    settings = GuardSettings(limits=OPEN_LIMITS, freeze=(ALWAYS,))
    async with bench(tmp_path, settings=settings) as b:
        assert await b.code("put_item", name="a", reason=WHY) == "frozen"
        assert await shadows(b) == []
        assert await b.ends(tool="put_item") == [("refused", "frozen")]


async def test_what_a_person_would_have_to_allow_is_done_in_shadow_mode(tmp_path: Path) -> None:
    trial = GuardSettings(enforcement="shadow", limits=OPEN_LIMITS)
    async with bench(tmp_path, settings=trial) as b:
        await b.set_mode(Mode.READ_ONLY, scope="*")
        loosened = await b.ok("set_guard_mode", mode="normal", reason=WHY)
        assert loosened["evidence"] == {"asked": "normal", "in_force": "normal"}
        more = {"target": "shelf", "max_concurrent": 20, "reason": WHY}
        assert (await b.ok("set_bulkhead_limit", **more))["max_concurrent"] == 20
