"""A refusal in the middle of a call: what it cost comes back where no system was reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_ops.capabilities.base import Effect
from mcp_ops.ports import Mode
from mcp_ops.settings import GuardSettings
from mcp_ops.tool import Linked, tool
from tests.guard.bench import OPEN_LIMITS, bench
from tests.guard.shelf import ItemFound, Name, Shelf


@tool(effect=Effect.READ)
async def look_beside(shelf: Shelf, name: Name, endpoint: Linked[Shelf] | None) -> ItemFound:
    """Look at the linked shelf."""
    assert endpoint is not None
    return ItemFound(item=await endpoint.use(lambda other: other.look(name)), number=1)


@tool(effect=Effect.READ)
async def look_at_both(shelf: Shelf, name: Name, endpoint: Linked[Shelf] | None) -> ItemFound:
    """Look here, then at the linked shelf."""
    assert endpoint is not None
    await shelf.look(name)
    return ItemFound(item=await endpoint.use(lambda other: other.look(name)), number=2)


@pytest.mark.parametrize(
    ("name", "third"), [("look_beside", "locked_down"), ("look_at_both", "rate_limited")]
)
async def test_what_reached_a_system_stays_charged(tmp_path: Path, name: str, third: str) -> None:
    settings = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"principal_per_minute": 2}))
    tools = {each.name: each for each in (look_beside, look_at_both)}
    async with bench(tmp_path, settings=settings, extra_tools=tools) as b:
        await b.set_mode(Mode.LOCKDOWN, scope="depot")
        codes = [await b.code(name, target="shelf", name=f"x{number}") for number in range(3)]
        assert codes == ["locked_down", "locked_down", third]
