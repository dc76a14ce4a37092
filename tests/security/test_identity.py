"""What a client may say about itself, and what hangs on it."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp_types import Implementation

from mcp_ops.records import AuditQuery
from mcp_ops.settings import GuardSettings, LimitSettings
from tests.guard.bench import WHY, Bench, bench

TIGHT = GuardSettings(limits=LimitSettings(writes_per_hour=2, writes_per_object=10))


async def put_as(b: Bench, client: str, mode: str, name: str, key: str = "") -> str:
    """A write by a client of this name; the code of its refusal, or `ok`."""
    arguments = {"name": name, "reason": WHY, "idempotency_key": key}
    info = Implementation(name=client, version="1")
    with anyio.fail_after(20):
        async with Client(b.server.mcp, client_info=info, mode=mode) as session:
            result = await session.call_tool("put_item", arguments)
    return "ok" if not result.is_error else str(result.content)


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_a_client_that_renames_itself_gets_no_new_budget(tmp_path: Path, mode: str) -> None:
    async with bench(tmp_path, settings=TIGHT) as b:
        assert await put_as(b, "one", mode, "a") == "ok"
        assert await put_as(b, "two", mode, "b") == "ok"
        assert "budget_exhausted" in await put_as(b, "three", mode, "c")


async def test_a_client_that_renames_itself_repeats_no_write(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=TIGHT) as b:
        assert await put_as(b, "one", "2026-07-28", "a", key="k") == "ok"
        assert await put_as(b, "two", "2026-07-28", "a", key="k") == "ok"
        assert b.world.effects == ["put a"]


async def test_the_name_that_a_client_gives_itself_is_recorded_beside_the_principal(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, settings=TIGHT) as b:
        await put_as(b, "one", "2026-07-28", "a")
        found = await b.stores.ledger.search(AuditQuery(limit=10))
    (entry,) = (each for each in found if each.kind == "ended")
    assert entry.principal == "agent:host"
    assert entry.client == "one 1"
