"""How long a read waits for the same one of another call."""

from __future__ import annotations

import anyio
import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.errors import DeadlineExceeded
from mcp_ops.guard.explain import supposed
from mcp_ops.guard.reads import Reads
from tests.guard.bench import AGENT
from tests.guard.shelf import SHELF_TOOLS

LOOK = supposed(SHELF_TOOLS["look_at_item"], {"name": "a"}, AGENT, ("shelf",))


async def test_who_waits_for_the_read_of_another_gives_up_at_its_own_deadline() -> None:
    reads = Reads(ManualClock(), attempts=1)
    began, ends = anyio.Event(), anyio.Event()
    answers: list[str] = []

    async def body() -> str:
        began.set()
        await ends.wait()
        return "late"

    async def lead() -> None:
        answers.append(await reads.share(LOOK, body, metered=False, within_s=60))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lead)
            await began.wait()
            with pytest.raises(DeadlineExceeded, match="gave no answer") as late:
                await reads.share(LOOK, body, metered=False, within_s=0.02)
            ends.set()
    assert "shelf gave no answer within 0.02 s" in late.value.message
    assert answers == ["late"]
