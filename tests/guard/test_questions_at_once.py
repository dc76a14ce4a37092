"""Questions that several calls ask, answer and use at the same moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import orjson

from mcp_ops.capabilities.base import Effect
from mcp_ops.guard.approval import MAX_PENDING
from mcp_ops.settings import PolicyRule
from mcp_ops.tool import Write, tool
from tests.guard.bench import AGENT, WHY, Bench, bench
from tests.guard.shelf import ItemPut, Name, Shelf

ASK = (PolicyRule(effect="write", require="approve"),)
COPY = {"name": "a", "reason": WHY}


def seeing(say: Callable[[], Awaitable[str]]) -> Any:
    """A tool whose plan sees what the test says."""

    @tool(effect=Effect.WRITE)
    async def mark_item(shelf: Shelf, name: Name, write: Write) -> ItemPut:
        """Put an item that was looked at."""
        if write.dry_run:
            write.saw({"is": await say()}, None)
            return ItemPut(outcome="planned")
        return ItemPut(outcome="verified", evidence=await shelf.put(name))

    return {"mark_item": mark_item}


async def together(b: Bench, count: int, tool_name: str, **arguments: Any) -> list[dict[str, Any]]:
    """The errors (or nothing) of calls that are made at the same moment."""
    errors: list[dict[str, Any]] = []

    async def one() -> None:
        reply = await b.reply(tool_name, AGENT, **arguments)
        errors.append({} if not reply.is_error else orjson.loads(reply.text)["error"])

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(one)
    return errors


async def test_a_yes_to_a_read_is_used_once_also_at_the_same_moment(tmp_path: Path) -> None:
    rules = (PolicyRule(effect="read", tool="look_at_item", require="approve"),)
    async with bench(tmp_path, rules=rules) as b:
        error = await b.error("look_at_item", name="a")
        await b.approve(error["details"]["approval_id"])
        errors = await together(b, 5, "look_at_item", name="a")
        assert sorted(each.get("code", "ok") for each in errors) == [
            *["approval_required"] * 4,
            "ok",
        ]
        assert b.world.asked == ["look a"]


async def test_the_last_free_question_is_given_once(tmp_path: Path) -> None:
    """One call looks at its target while others take the last places."""
    async with bench(tmp_path, rules=ASK) as b:
        hold = b.worlds["depot"].hold()
        codes: list[str] = []

        async def slow() -> None:
            codes.append(await b.code("copy_item", **COPY))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            for number in range(MAX_PENDING):
                await b.error("put_item", name=f"n{number}", reason=WHY)
            hold.released.set()
        assert codes == ["approval_required"]
        found = await b.stores.approvals.recent(100)
        assert len(found) == MAX_PENDING
        assert {each.tool for each in found} == {"put_item"}


async def test_two_that_find_the_same_drift_take_the_question_back_once(tmp_path: Path) -> None:
    seen = ["one"]

    async def say() -> str:
        return seen[0]

    async with bench(tmp_path, rules=ASK, extra_tools=seeing(say)) as b:
        error = await b.error("mark_item", target="shelf", **COPY)
        await b.approve(error["details"]["approval_id"])
        seen[0] = "two"
        errors = await together(b, 4, "mark_item", target="shelf", **COPY)
        assert {each["code"] for each in errors} == {"approval_required"}
        assert len({each["details"]["approval_id"] for each in errors}) == 1
        revoked = [e for e in await b.entries() if e.outcome == "revoked"]
        assert len(revoked) == 1
        assert b.world.effects == []


async def test_a_target_that_looks_different_to_each_call_ends_in_no_question_without_end(
    tmp_path: Path,
) -> None:
    """Calls that see different things take each other's question back, a bounded number of times;
    whatever they are told, nothing runs."""
    number = 0

    async def say() -> str:
        nonlocal number
        number += 1
        return str(number)

    async with bench(tmp_path, rules=ASK, extra_tools=seeing(say)) as b:
        errors = await together(b, 12, "mark_item", target="shelf", **COPY)
        assert {each["code"] for each in errors} == {"approval_required"}
        changed = [e for e in errors if "changed at this moment" in e["message"]]
        assert changed
        assert {(e["hint"], e["retry_after_s"]) for e in changed} == {("Call again.", 1.0)}
        assert b.world.effects == []
