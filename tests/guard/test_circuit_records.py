"""What people change of a circuit: how it is recorded, and what it is no more."""

from __future__ import annotations

from pathlib import Path

from tests.guard.bench import OPERATOR, WHY, bench
from tests.guard.test_circuit import ONE_TRY, break_shelf


async def test_changes_of_a_circuit_are_recorded_with_what_it_was(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        await break_shelf(b)
        opened = (await b.stores.hot.circuits())[0].opened_at
        b.clock.advance(5)
        await b.control(OPERATOR).isolate("shelf", reason="it harms")
        assert (await b.stores.hot.circuits())[0].opened_at == opened
        await b.control(OPERATOR).reset_circuit("shelf", reason="mended")
        lines = [e for e in await b.entries() if e.kind == "changed" and e.target == "shelf"]
        assert [(e.tool, e.principal, e.reason, e.evidence) for e in lines] == [
            ("isolate_target", "operator:ada", "it harms", {"from": "open"}),
            ("reset_circuit", "operator:ada", "mended", {"from": "isolated", "to": "closed"}),
        ]


async def test_what_an_operator_closed_is_no_isolation(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.control(OPERATOR).reset_circuit("shelf", reason="mended")
        assert (await b.stores.hot.circuits())[0].by == "operator:ada"
        assert await b.code("reset_circuit", target="shelf", reason=WHY) == "ok"
