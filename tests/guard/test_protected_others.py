"""A change that reaches more than the object it names: a protected one is not changed that way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.settings import FreezeWindow, GuardSettings, PolicyRule, ProtectedObject
from tests.guard.bench import AGENT, OPEN_LIMITS, OPERATOR, WHY, bench

X: dict[str, Any] = {"name": "x", "reason": WHY}
FREE = (PolicyRule(require="none"),)
GOLD = ProtectedObject(target="sh*", object="gold*", effects=("write",), reason="ask finance")


def settings(*protected: ProtectedObject, **more: Any) -> GuardSettings:
    return GuardSettings(limits=OPEN_LIMITS, protected=protected, **more)


async def test_a_protected_object_is_not_changed_through_another_one(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=settings(GOLD), rules=FREE) as b:
        b.world.beside = ["iron", "golden"]
        refusal = await b.error("push_item", **X)
        assert refusal["code"] == "protected"
        assert refusal["message"] == (
            "golden, which it reaches, too, is protected from write: ask finance."
        )
        assert "[[guard.protected]]" in refusal["hint"]
        assert await b.code("push_item", **X, dry_run=True) == "ok"
        assert b.world.effects == []
        assert (await b.ends(tool="push_item"))[0] == ("refused", "protected")
        b.world.beside = ["iron"]
        assert await b.code("push_item", **X) == "ok"


async def test_what_cannot_be_seen_counts_as_protected_where_anything_is(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=settings(GOLD), rules=FREE) as b:
        b.world.beside = None
        refusal = await b.error("push_item", **X)
        assert (refusal["code"], b.world.effects) == ("protected", [])
        assert "push_item reaches more than x there" in refusal["message"]
        assert "shelf has protected objects" in refusal["message"]
        assert "credential" in refusal["hint"]


@pytest.mark.parametrize(
    "other",
    [GOLD.model_copy(update=more) for more in ({"target": "depot"}, {"effects": ("destroy",)})],
)
async def test_protection_of_another_target_or_effect_does_not_hold(
    tmp_path: Path, other: ProtectedObject
) -> None:
    async with bench(tmp_path, settings=settings(other), rules=FREE) as b:
        for number, beside in enumerate((["golden"], None)):
            b.world.beside = beside
            assert await b.code("push_item", **X, idempotency_key=f"k{number}") == "ok"


async def test_nobody_is_asked_about_what_would_be_refused(tmp_path: Path) -> None:
    rules = (PolicyRule(effect="write", require="approve"),)
    async with bench(tmp_path, settings=settings(GOLD), rules=rules) as b:
        b.world.beside = ["golden"]
        assert await b.code("push_item", **X) == "protected"
        assert await b.stores.approvals.recent(10) == []
        b.world.beside = []
        assert await b.code("push_item", **X) == "approval_required"


async def test_break_glass_passes_it(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=settings(GOLD), rules=FREE) as b:
        b.world.beside = ["golden"]
        assert await b.code("push_item", OPERATOR, **X) == "protected"
        assert await b.code("push_item", replace(OPERATOR, break_glass=True), **X) == "ok"


async def test_shadow_mode_counts_it_and_lets_it_pass(tmp_path: Path) -> None:
    trial = settings(GOLD, enforcement="shadow")
    async with bench(tmp_path, settings=trial, rules=FREE) as b:
        b.world.beside = ["golden"]
        await b.ok("push_item", **X)
        assert b.world.effects == ["put x"]
        (line,) = [e for e in await b.entries() if e.evidence == {"shadow": True}]
        assert (line.tool, line.code, line.principal) == (
            "push_item",
            "protected",
            AGENT.principal,
        )
        assert (await b.ok("get_guard_status"))["shadow_refusals"] == 1


async def test_shadow_mode_counts_a_call_once(tmp_path: Path) -> None:
    frozen = FreezeWindow(start="2020-01-01T00:00:00Z", end="2040-01-01T00:00:00Z", reason="r")
    trial = settings(GOLD, enforcement="shadow", freeze=(frozen,))
    async with bench(tmp_path, settings=trial, rules=FREE) as b:
        b.world.beside = ["golden"]
        await b.ok("push_item", **X)
        lines = [e.code for e in await b.entries() if e.evidence == {"shadow": True}]
        assert lines == ["frozen"]
