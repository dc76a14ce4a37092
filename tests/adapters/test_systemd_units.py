"""How the properties of a unit are read and judged. Pure functions, real shapes."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_ops.adapters.systemd.changing import follow
from mcp_ops.adapters.systemd.units import Unit, parse_show, read_unit
from mcp_ops.capabilities.changes import Plan
from mcp_ops.lab.systemd.programs import new_unit

RUNS = {
    "ActiveState": "active",
    "SubState": "running",
    "InvocationID": "b" * 32,
    "ConditionTimestampMonotonic": 1,
    "ActiveEnterTimestampMonotonic": 5_000_000,
}


STALE = "Its file changed; systemd has not read it yet (daemon-reload)."
ENDED = "its process was ended by a signal"


def unit(**properties: Any) -> Unit:
    block = {key: str(value) for key, value in new_unit("a.service", **properties).items()}
    return read_unit("a.service", block, offset=1_000.0)


@pytest.mark.parametrize(
    ("properties", "problem", "explained"),
    [
        (RUNS, "none", "It is active (running)."),
        (
            {**RUNS, "NRestarts": 2, "NeedDaemonReload": "yes"},
            "none",
            f"It is active (running). It was restarted automatically 2 times. {STALE}",
        ),
        ({}, "scaled_to_zero", "It is stopped."),
        (
            {"ActiveState": "activating", "SubState": "start"},
            "rolling_out",
            "systemd is at work on it: activating (start).",
        ),
        ({**RUNS, "Job": "17"}, "rolling_out", "systemd is at work on it: active (running)."),
        (
            {
                "ActiveState": "activating",
                "SubState": "auto-restart",
                "Result": "signal",
                "ExecMainCode": 2,
                "ExecMainStatus": 11,
                "NRestarts": 4,
            },
            "crash_loop",
            f"It dies again and again (4 restarts): {ENDED} (ended by SIGSEGV).",
        ),
        (
            {"ActiveState": "failed", "SubState": "failed", "Result": "timeout"},
            "not_ready",
            "It failed: it did not start or stop in time.",
        ),
        (
            {
                "ActiveState": "failed",
                "Result": "new-word",
                "ExecMainCode": 2,
                "ExecMainStatus": 99,
            },
            "not_ready",
            "It failed: its result is new-word (ended by signal 99).",
        ),
        (
            {"LoadState": "masked"},
            "not_ready",
            "The unit is masked: somebody forbade that it runs.",
        ),
    ],
)
def test_state_is_judged_in_the_words_of_all_platforms(
    properties: dict[str, Any], problem: str, explained: str
) -> None:
    found = unit(**properties)
    assert (found.problem(), found.explained()) == (problem, explained)


@pytest.mark.parametrize("text", ["", "[not set]", "infinity", "x", "-1", "9" * 30, "\u0663"])
def test_sizes_that_are_no_numbers_are_unknown(text: str) -> None:
    assert unit(MemoryCurrent=text).memory is None


@pytest.mark.parametrize(
    ("action", "properties", "state"),
    [
        ("restart", RUNS, "verified"),
        ("restart", {**RUNS, "InvocationID": "a" * 32}, "failed"),
        ("restart", {**RUNS, "InvocationID": "a" * 32, "Job": "7"}, "pending"),
        ("restart", {**RUNS, "Job": "7"}, "pending"),
        ("restart", {**RUNS, "ActiveState": "deactivating"}, "pending"),
        ("restart", {**RUNS, "ActiveState": "failed"}, "failed"),
        ("restart", {}, "superseded"),
        ("stop", {}, "verified"),
        ("stop", {"ActiveState": "failed"}, "verified"),
        ("stop", {**RUNS, "InvocationID": "a" * 32, "ActiveState": "deactivating"}, "pending"),
        ("stop", {**RUNS, "InvocationID": "a" * 32}, "pending"),
        ("stop", RUNS, "superseded"),
        ("start", RUNS, "verified"),
        ("start", {**RUNS, "InvocationID": "a" * 32}, "verified"),
        ("start", {"ActiveState": "activating"}, "pending"),
    ],
)
def test_unit_after_a_change_is_judged(action: str, properties: dict[str, Any], state: str) -> None:
    plan = Plan(action=action, name="a.service", lines=[], lock=f"{'a' * 32}/0")
    assert follow(plan, unit(**properties), now=1_100.0, settle_s=3.0).state == state
    if state == "verified" and action != "stop":
        assert follow(plan, unit(**properties), now=1_006.0, settle_s=3.0).state == "pending"


@pytest.mark.parametrize("parts", ["\u2028", "\u2029", "\x85", "\r", "\x0b", "\x0c", "\x1e"])
def test_status_text_of_a_unit_is_no_property_of_it(parts: str) -> None:
    """A unit writes its own status, and `systemctl show` only keeps newlines out of it."""
    forged = parts.join(["StatusText=fine", "ActiveState=active", "Id=b.service"])
    (block,) = parse_show(f"{forged}\nId=a.service\nActiveState=failed\n")
    assert (block["Id"], block["ActiveState"]) == ("a.service", "failed")
