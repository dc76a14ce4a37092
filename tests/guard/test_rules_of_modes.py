"""The tables of modes, rates and budgets at their edges: pure functions, without a server."""

from __future__ import annotations

import pytest

from mcp_ops.guard.limits import (
    destroys_budget,
    principal_rate,
    target_rate,
    writes_budget,
)
from mcp_ops.guard.modes import CODES, RATE_FACTORS, effective, floor_refuses, slowest, within
from mcp_ops.ports import ALL_TARGETS, PRINCIPAL_SCOPE, AdmitRequest, Mode, ModeEntry
from mcp_ops.settings import LimitSettings
from mcp_ops.stores.modes import allow, concerning, factor, in_force
from tests.guard.bench import shelf_target


def entry(mode: Mode, *, scope: str = "shelf", expires_at: float | None = None) -> ModeEntry:
    return ModeEntry(
        scope=scope,
        mode=mode,
        source="operator",
        reason="a test",
        author="test",
        since=1.0,
        expires_at=expires_at,
    )


def asked(**values: object) -> AdmitRequest:
    base: dict[str, object] = {
        "call_id": "c",
        "principal": "agent:test",
        "target": "shelf",
        "modes_allowed": frozenset({Mode.NORMAL, Mode.RESTRICTIVE}),
        "take": True,
        "rate_factors": RATE_FACTORS,
    }
    return AdmitRequest(**{**base, **values})  # type: ignore[arg-type]


def test_rates_shrink_in_restrictive_and_critical_and_stop_in_lockdown() -> None:
    assert {mode.value: slowest([entry(mode)], "shelf") for mode in Mode} == {
        "normal": 1.0,
        "restrictive": 0.25,
        "critical": 0.05,
        "read_only": 1.0,
        "lockdown": 0.0,
    }
    assert slowest([], "shelf") == 1.0
    assert slowest([entry(Mode.RESTRICTIVE), entry(Mode.CRITICAL)], "shelf") == 0.05
    assert slowest([entry(Mode.CRITICAL, scope="depot")], "shelf") == 1.0


def test_the_strictest_mode_of_target_and_principal_is_in_force() -> None:
    mine = entry(Mode.READ_ONLY, scope=f"{PRINCIPAL_SCOPE}agent:a")
    entries = [entry(Mode.RESTRICTIVE), mine, entry(Mode.CRITICAL, scope="depot")]
    assert effective(entries, "shelf") is Mode.RESTRICTIVE
    assert effective(entries, "shelf", "agent:a") is Mode.READ_ONLY
    assert effective(entries, "elsewhere") is Mode.NORMAL


def test_a_floor_refuses_what_may_not_run_under_it_with_its_own_code() -> None:
    for mode, code in CODES.items():
        assert floor_refuses(mode, frozenset({Mode.NORMAL})) is code
        assert floor_refuses(mode, frozenset({mode})) is None


def test_normal_for_all_replaces_every_target_but_no_principal() -> None:
    assert within("shelf", "shelf", Mode.LOCKDOWN)
    assert within("shelf", ALL_TARGETS, Mode.NORMAL)
    assert not within("shelf", ALL_TARGETS, Mode.RESTRICTIVE)
    assert not within("shelf", "depot", Mode.NORMAL)
    assert not within(f"{PRINCIPAL_SCOPE}agent:a", ALL_TARGETS, Mode.NORMAL)


def test_a_mode_has_ended_at_the_moment_of_its_expiry() -> None:
    ending = entry(Mode.LOCKDOWN, expires_at=10.0)
    assert in_force([ending], 9.999) == (ending,)
    assert in_force([ending], 10.0) == ()
    assert concerning([entry(Mode.CRITICAL, scope="depot"), ending], "shelf", "a", 9.0) == (ending,)


def test_every_mode_must_let_a_call_through() -> None:
    assert allow([], asked())
    assert allow([entry(Mode.RESTRICTIVE)], asked())
    assert not allow([entry(Mode.RESTRICTIVE), entry(Mode.LOCKDOWN)], asked())


def test_a_mode_without_a_factor_slows_nothing_down() -> None:
    assert factor([entry(Mode.RESTRICTIVE)], asked(rate_factors={})) == 1.0
    assert factor([], asked()) == 1.0
    assert factor([entry(Mode.RESTRICTIVE), entry(Mode.CRITICAL)], asked()) == 0.05


@pytest.mark.parametrize(("per_minute", "burst"), [(0.5, 1), (1.0, 1), (1.9, 1), (7.5, 7)])
def test_a_burst_is_a_minutes_calls_and_at_least_one(per_minute: float, burst: int) -> None:
    settings = LimitSettings(principal_per_minute=per_minute)
    assert principal_rate("a", settings).burst == burst
    limited = target_rate(shelf_target(per_minute=per_minute), settings)
    assert limited is not None
    assert (limited.burst, limited.scaled, limited.cost) == (burst, True, 1)


def test_only_a_metered_target_or_a_configured_one_has_a_rate() -> None:
    settings = LimitSettings(metered_per_minute=30)
    assert target_rate(shelf_target(), settings) is None
    metered = target_rate(shelf_target(metered=True), settings)
    assert metered is not None
    assert metered.per_minute == 30
    own = target_rate(shelf_target(metered=True, per_minute=5.0), settings, cost=3)
    assert own is not None
    assert (own.per_minute, own.cost) == (5.0, 3)


def test_budgets_of_a_principal_are_counted_for_an_hour() -> None:
    settings = LimitSettings(writes_per_hour=4, destroys_per_hour=2)
    writes, destroys = writes_budget("a", settings), destroys_budget("a", settings)
    assert (writes.key, writes.limit, writes.window_s) == ("writes|a", 4, 3600)
    assert (destroys.key, destroys.limit, destroys.window_s) == ("destroys|a", 2, 3600)
