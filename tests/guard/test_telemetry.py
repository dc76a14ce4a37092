"""Counters where the guard works: names and codes, never arguments or what a client made up."""

from __future__ import annotations

import json
import sys

import anyio


async def test_calls_and_refusals_are_counted_by_names_and_codes_alone() -> None:
    with anyio.fail_after(60):
        done = await anyio.run_process([sys.executable, "-m", "tests.guard.metric_peer"])
    points = json.loads(done.stdout)
    calls = {
        (p["tool"], p["target"], p["verdict"]): p["value"]
        for p in points
        if p["metric"] == "mcp_ops.calls"
    }
    assert calls == {
        ("put_item", "shelf", "ok"): 1,
        ("look_at_item", "shelf", "ok"): 1,
        ("look_at_item", "shelf", "refused"): 1,
        ("unknown", "", "invalid"): 1,
    }
    refusals = [p for p in points if p["metric"] == "mcp_ops.refusals"]
    assert [(p["code"], p["target"], p["value"]) for p in refusals] == [("locked_down", "shelf", 1)]
    assert b"payload" not in done.stdout
    assert b"made_up" not in done.stdout
