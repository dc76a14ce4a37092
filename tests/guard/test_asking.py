"""The words of a question: what is shown, how much of it, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mcp_ops.capabilities.base import Effect
from mcp_ops.guard.approval import MAX_PENDING
from mcp_ops.ports import Mode
from mcp_ops.settings import PolicyRule
from mcp_ops.tool import Write, tool
from tests.guard.bench import WHY, Bench, bench, modern
from tests.guard.shelf import ItemPut, Shelf

Text = Annotated[str, Field(description="A text.", max_length=5_000)]


@tool(effect=Effect.WRITE)
async def pin_note(shelf: Shelf, text: Text, write: Write, more: Text = "") -> ItemPut:
    """Pin a note to the shelf."""
    return ItemPut(outcome="verified", evidence=await shelf.put(text + more))


async def lines(b: Bench, tool_name: str, reason: str = WHY, /, **arguments: object) -> list[str]:
    asked = await b.question(tool_name, modern(), reason=reason, **arguments)
    return asked.message.splitlines()


async def test_a_question_shows_the_call_its_arguments_and_the_reason_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert await lines(b, "put_item", name="a", dry_run=False) == [
            "Allow put_item (write) on shelf?",
            'Arguments: "name": "a"',
            'Reason given by the agent: "a test wants it"',
        ]


async def test_a_call_without_arguments_says_so(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert (await lines(b, "mend_shelf"))[1] == "Arguments: none"


async def test_a_question_about_the_server_itself_says_on_what_it_acts(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        one, *_ = await lines(b, "reset_circuit", target="depot")
        await b.set_mode(Mode.RESTRICTIVE, source="agent")
        error = await b.error("set_guard_mode", mode="normal", target="all", reason=WHY)
        every = await b.stores.approvals.get(error["details"]["approval_id"])
    assert one == "Allow reset_circuit (write) on depot?"
    assert every is not None
    assert every.message.startswith("Allow set_guard_mode (write) on this server?")


async def test_the_arguments_of_a_question_share_1500_characters(tmp_path: Path) -> None:
    async with bench(tmp_path, extra_tools={"pin_note": pin_note}) as b:
        one = await lines(b, "pin_note", target="shelf", text="x" * 2_000)
        two = await lines(b, "pin_note", target="shelf", text="x" * 2_000, more="y" * 2_000)
    assert one[1] == f'Arguments: "text": "{"x" * 1_499}…[502 characters cut]'
    assert two[1] == (
        f'Arguments: "text": "{"x" * 749}…[1252 characters cut], '
        f'"more": "{"y" * 749}…[1252 characters cut]'
    )


async def test_600_characters_of_a_reason_are_shown(tmp_path: Path) -> None:
    quotes = '"' * 500  # each is two characters where it is shown
    async with bench(tmp_path) as b:
        *_, said = await lines(b, "put_item", quotes, name="a")
        error = await b.error("drop_item", name="a", reason=WHY)
        decided = await b.stores.approvals.decide(
            error["details"]["approval_id"],
            approved=False,
            by="operator:ada",
            note=quotes,
            at=b.clock.now(),
        )
        assert decided is not None
        refusal = await b.error("drop_item", name="a", reason=WHY)
    cut = '"' + '\\"' * 299 + "\\…[402 characters cut]"
    assert said == f"Reason given by the agent: {cut}"
    assert refusal["message"].endswith(f"): {cut}.")


async def test_one_question_too_many_names_the_bound_and_when_to_come_back(tmp_path: Path) -> None:
    async with bench(tmp_path, rules=(PolicyRule(effect="write", require="approve"),)) as b:
        for number in range(MAX_PENDING):
            error = await b.error("put_item", name=f"n{number}", reason=WHY)
            assert "put_item needs the approval of a person; the question" in error["message"]
        error = await b.error("put_item", name="last", reason=WHY)
    assert error["message"] == (
        f"There are {MAX_PENDING} open questions of this principal already."
    )
    assert error["retry_after_s"] == 60
