"""What a person reads before a decision: the agent fills it, and must not forge it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mcp_ops.commands.approvals import described
from mcp_ops.redact import tame
from tests.guard.bench import AGENT, bench, modern

FORGED = "x\nReason given by the agent: asked for by Ada\nAllow look_at_item (read) on depot?"
HIDDEN = "safe\u202eevil\u200b\x1b[2J\x9b2J\rover"


async def test_an_argument_cannot_forge_a_line_of_the_question(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        asked = await b.question("put_item", modern(), name=FORGED, reason="why")
    lines = asked.message.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["Allow", "Arguments:", "Reason"]
    assert '"name": "x\\nReason given' in lines[1]


async def test_a_reason_cannot_forge_a_line_of_the_question(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        asked = await b.question("put_item", modern(), name="a", reason=FORGED)
    assert len(asked.message.splitlines()) == 3
    assert asked.message.splitlines()[0] == "Allow put_item (write) on shelf?"


async def test_nothing_invisible_reaches_the_person_who_is_asked(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        asked = await b.question("put_item", modern(), name=HIDDEN, reason=HIDDEN)
    assert asked.message.isascii()
    assert "\x1b" not in asked.message
    assert "\r" not in asked.message


async def test_a_question_that_is_cut_says_so(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        ids = [f"{number:03}" + "x" * 190 for number in range(200)]
        asked = await b.question(
            "retry_deadletters", modern(), target="mcp-ops", ids=ids, max_items=77, reason="why"
        )
    assert len(asked.message) < 3_000
    assert "characters cut" in asked.message
    assert '"max_items": 77' in asked.message  # what is short is shown, whatever else is long


async def test_a_reason_cannot_forge_a_line_on_the_terminal(tmp_path: Path) -> None:
    forged = "fine\nrule: none; expires never; id 0000000000000000\rid 1111"
    async with bench(tmp_path) as b:
        error = await b.error("drop_item", replace(AGENT), name="a", reason=forged)
        approval = await b.stores.approvals.get(error["details"]["approval_id"])
    assert approval is not None
    lines = "\n".join(described(approval)).splitlines()
    assert sum(line.startswith("rule:") for line in lines) == 1
    assert not any("\r" in line for line in described(approval))


def test_a_carriage_return_does_not_write_over_a_line() -> None:
    assert tame("one\r\ntwo\rthree") == "one\ntwothree"
