"""A look at a target before anyone is asked: what is shown of it, and what it is compared by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mcp_ops.call import Call
from mcp_ops.capabilities.base import Result
from mcp_ops.guard.explain import supposed
from mcp_ops.guard.seen import MAX_ITEMS, Seen, Sight, look, rehearsal
from mcp_ops.redact import Redactor
from tests.guard.bench import AGENT, answering, modern
from tests.guard.shelf import SHELF_TOOLS, ItemPut

PUT = supposed(SHELF_TOOLS["put_item"], {"name": "a"}, AGENT, ("shelf",))


async def seen(
    plan: list[str], state: Mapping[str, Any] | None = None, items: tuple[str, ...] | None = None
) -> Seen:
    async def rehearse(call: Call, sight: Sight) -> Result:
        assert call.dry_run
        if state is not None:
            sight.tell(state, items)
        return ItemPut(outcome="planned", plan=plan)

    return await look(PUT, rehearse, Redactor())


async def test_fifty_lines_of_a_plan_are_shown_and_all_are_compared() -> None:
    lines = [f"Put {number}." for number in range(60)]
    first = await seen(lines)
    assert first.shown == {"plan": lines[:50]}
    assert (await seen(lines)).digest == first.digest
    assert (await seen([*lines[:-1], "Drop all."])).digest != first.digest


async def test_a_state_that_was_told_is_shown_and_compared_in_place_of_the_plan() -> None:
    first = await seen(["Put a."], {"b": 1, "a": 2})
    assert first.shown == {"plan": ["Put a."], "state": {"a": 2, "b": 1}}
    assert (await seen(["Put it."], {"a": 2, "b": 1})).digest == first.digest
    assert (await seen(["Put a."], {"a": 2, "b": 2})).digest != first.digest


async def test_a_thousand_items_are_shown() -> None:
    names = tuple(f"i{number}" for number in range(MAX_ITEMS + 5))
    found = await seen([], {}, names)
    assert found.shown == {"plan": [], "items": list(names[:1_000])}
    assert (await seen([], {}, ())).shown == {"plan": [], "items": []}


class Odd:
    def __repr__(self) -> str:
        return "\ud800"


async def test_what_cannot_be_text_is_shown_as_far_as_it_can_be() -> None:
    found = await seen([], {"odd": Odd()})
    assert found.shown == {"unreadable": "{'plan': [], 'state': {'odd': ?}}"}


def test_a_look_is_a_plan_that_may_read_and_asks_nobody() -> None:
    writer = replace(
        modern(answered=("q1", "accept")), scopes=frozenset({"ops:write"}), ask=answering("accept")
    )
    call = replace(PUT, id="c1", caller=writer, idempotency_key="once", dry_run=False)
    plan = rehearsal(call)
    assert (plan.dry_run, plan.arguments.model_dump()["dry_run"]) == (True, True)
    assert plan.id != "c1"
    assert (plan.parent, plan.approved_by, plan.idempotency_key) == ("c1", "c1", "")
    assert plan.caller == replace(
        writer,
        scopes=frozenset({"ops:write", "ops:read"}),
        ask=None,
        asks_by_result=False,
        answered=None,
        progress=None,
    )
