"""Looks at the state: at most one a second, and what they show of stores that do not answer."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import pytest

from mcp_ops.capabilities.guard import ServerHealth
from mcp_ops.errors import StoreUnavailable
from mcp_ops.ports import CircuitPhase, Mode
from mcp_ops.telemetry.gauges import GAUGES
from mcp_ops.telemetry.snapshot import Limit
from tests.guard.bench import bench, shelf_target
from tests.guard.test_store_away import shared
from tests.telemetry.watched import watch_of

LIMITED = (shelf_target(per_minute=30.0), shelf_target("depot", per_minute=60.0))


async def test_a_look_that_is_a_second_old_serves_again(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=LIMITED) as b:
        watch = watch_of(b)
        await watch.look()
        first = watch.now
        await b.set_mode(Mode.LOCKDOWN)
        await watch.look()
        assert watch.now is first
        b.clock.advance(1)
        await watch.look()
    assert first.modes["shelf"] is Mode.NORMAL
    assert watch.now.modes == {"shelf": Mode.LOCKDOWN, "depot": Mode.NORMAL}
    assert watch.now.limits["shelf"] == Limit(remaining=0, per_minute=0.0)
    assert watch.now.limits["depot"] == Limit(remaining=60, per_minute=60.0)


async def test_while_the_hot_store_is_away_the_last_that_is_known_is_shown(tmp_path: Path) -> None:
    async with shared(tmp_path) as (b, server):
        watch = watch_of(b)
        await server.crash()
        await b.code("look_at_item", name="a")
        await watch.look()
    assert watch.now.stores == {"hot store": False, "ledger": True}
    assert watch.now.modes["shelf"] is Mode.RESTRICTIVE
    assert watch.now.circuits["shelf"] is CircuitPhase.CLOSED
    assert watch.now.pending == 0


async def test_a_store_that_says_nothing_leaves_its_gauges_out(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=LIMITED) as b:
        watch = watch_of(b)
    await watch.look()  # everything is closed
    assert watch.now.pending is None
    assert (watch.now.circuits, watch.now.dead_letters) == ({}, {})
    shown = {gauge.name: list(gauge.read(watch.now)) for gauge in GAUGES}
    assert shown["mcp_ops.approvals.pending"] == []
    assert shown["mcp_ops.circuit.state"] == []
    assert len(shown["mcp_ops.store.up"]) == 2


async def test_what_fails_while_it_looks_does_not_end_the_watch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0
    enough = anyio.Event()

    async def health() -> ServerHealth:
        nonlocal asked
        asked += 1
        if asked == 3:
            enough.set()
        raise StoreUnavailable("away") if asked == 1 else RuntimeError("a defect")

    caplog.set_level(logging.WARNING)
    async with bench(tmp_path) as b, anyio.create_task_group() as tasks:
        tasks.start_soon(watch_of(b).check, 0.001, health)
        with anyio.fail_after(5):
            await enough.wait()
        tasks.cancel_scope.cancel()
    assert "the targets were not asked: store_unavailable" in caplog.text
    assert "a defect" in caplog.text
