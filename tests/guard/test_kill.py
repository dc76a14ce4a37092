"""`kill -9` at every boundary of a write: what is found afterwards is never a second run."""

from __future__ import annotations

import signal
import sqlite3
import sys
from pathlib import Path

import anyio
import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.guard.operations import LEASE_S
from tests.guard.bench import WHY, bench
from tests.guard.kill_peer import BOUNDARIES

EXPECTED = {  # effects in the dead process, and what the call answers when it is sent again
    "before_intent": (0, "verified"),
    "after_intent": (0, "unknown"),
    "after_effect": (1, "unknown"),
    "before_outcome": (1, "unknown"),
    "before_reply": (1, "verified"),
}


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_after_a_kill_every_operation_ends_and_none_runs_twice(
    tmp_path: Path, boundary: str
) -> None:
    with anyio.fail_after(30):
        died = await anyio.run_process(
            [sys.executable, "-m", "tests.guard.kill_peer", str(tmp_path), boundary], check=False
        )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    log = tmp_path / "effects.log"
    effects = log.read_text(encoding="utf-8").count("put") if log.exists() else 0
    assert effects == EXPECTED[boundary][0]

    clock = ManualClock()
    clock.advance(LEASE_S + 1)
    async with bench(tmp_path, clock=clock) as b:
        found = await b.ok("put_item", name="x", reason=WHY)
        assert found["outcome"] == EXPECTED[boundary][1]
        again = 1 if boundary == "before_intent" else 0
        assert len(b.world.effects) == again
        assert effects + len(b.world.effects) <= 1
        assert (await b.stores.ledger.verify()).ok
        began = [e.call_id for e in await b.entries() if e.kind == "began"]
        ended = [e.call_id for e in await b.entries() if e.kind == "ended"]
        assert all(ended.count(call) == 1 for call in began)
    with sqlite3.connect(tmp_path / "s.db") as file:
        states = [row[0] for row in file.execute("SELECT state FROM operations")]
    file.close()
    assert states
    assert set(states) <= {"done", "unknown"}
