"""Ways round modes, keys and isolations that were open once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.errors import Conflict, Refused, UpstreamUnavailable
from mcp_ops.ports import Mode
from tests.guard.bench import AGENT, OPERATOR, WHY, Bench, bench
from tests.guard.shelf import Item

RETRY: dict[str, Any] = {"target": "mcp-ops", "reason": WHY, "rate_per_s": 50.0}


async def failed_put(b: Bench) -> str:
    """A write that failed without effect, and waits in the embedded queue."""
    b.world.plans.append(UpstreamUnavailable("no"))
    assert await b.code("put_one", name="a", reason=WHY) == "upstream_unavailable"
    (item,) = (await b.ok("list_deadletters", target="mcp-ops"))["items"]
    return str(item["id"])


async def test_a_key_of_an_agent_cannot_stand_in_for_a_retry(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        item = await failed_put(b)
        taken = f"retry-{item}-0"
        await b.ok("put_one", name="other", reason=WHY, idempotency_key=taken)
        answer = await b.ok("retry_deadletters", ids=[item], **RETRY)
        assert (answer["retried"], answer["failed"]) == (1, 0)
        assert b.world.effects == ["put other", "put a"]


async def test_read_only_on_top_of_a_restriction_keeps_its_page_size(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.world.items = [Item(name=str(number)) for number in range(50)]
        await b.set_mode(Mode.RESTRICTIVE)
        assert len((await b.ok("list_items", limit=50))["items"]) == 20
        await b.ok("set_guard_mode", mode="read_only", target="shelf", minutes=5, reason=WHY)
        assert len((await b.ok("list_items", limit=50))["items"]) == 20


async def test_an_operators_isolation_is_lifted_at_a_terminal_only(tmp_path: Path) -> None:
    """An agent may have a shell: what it starts there has no terminal."""
    async with bench(tmp_path) as b:
        await b.control(OPERATOR).isolate("shelf", reason=WHY)
        shell = replace(OPERATOR, scopes=OPERATOR.scopes - {"ops:approve"})
        with pytest.raises(Refused):
            await b.control(shell).reset_circuit("shelf", reason=WHY)
        await b.control(OPERATOR).reset_circuit("shelf", reason=WHY)


async def test_another_admins_isolation_is_an_operators_too(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        admin = replace(OPERATOR, principal="key:admin", channel="http")
        await b.control(admin).isolate("shelf", reason=WHY)
        with pytest.raises(Refused):
            await b.control(AGENT).reset_circuit("shelf", reason=WHY)


async def test_a_retry_whose_process_died_is_not_run_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        item = await failed_put(b)
        queue = await b.targets.adapter("mcp-ops")
        await queue.begin_retry(item)  # and then the process is killed
        b.clock.advance(3_600)  # past the hold, and past the time in which a key is kept
        with pytest.raises(Conflict, match="without an answer"):
            await queue.begin_retry(item)
        answer = await b.ok("retry_deadletters", ids=[item], **RETRY)
        assert (answer["retried"], b.world.effects) == (0, [])
        assert (await b.ok("get_deadletter", target="mcp-ops", id=item))["item"]["id"] == item
