"""A ledger that takes no more lines: what was not answered yet is refused, errors stay errors."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mcp_ops.errors import Unreachable
from mcp_ops.stores.sqlite.ledger import MOST_NOTED
from tests.guard.bench import WHY, bench
from tests.guard.test_leases import away
from tests.stores import records


async def test_an_error_stays_the_error_that_it_is_and_the_log_says_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path) as b:
        line = records.entry(b.clock)
        async with away(b):
            for _ in range(MOST_NOTED):
                b.stores.ledger.note(line)
            b.world.plans += [Unreachable("No connection.")] * 9
            failed = await b.error("look_at_item", name="a")
            assert failed["code"] == "unreachable"
            (said,) = [r for r in caplog.records if "no room for the record" in r.message]
            assert said.call_id == failed["audit_id"]  # type: ignore[attr-defined]
            b.world.plans.clear()
            refused = await b.error("look_at_item", name="b")
            assert refused["code"] == "store_unavailable"
            assert "takes no more" in refused["message"]
            assert await b.code("put_item", name="a", reason=WHY) == "store_unavailable"
        assert b.world.effects == []
        with anyio.fail_after(5):  # once the lines that wait are written
            while await b.code("look_at_item", name="c") != "ok":
                await anyio.sleep(0.01)
