"""What leaves is stamped, valid JSON and bounded."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from mcp_ops.capabilities.base import NextStep, Page, Result, Undo, WriteResult
from mcp_ops.guard.settle import TooLarge, settle
from mcp_ops.redact import Redactor
from tests.guard.shelf import Item, ItemPage

LIMIT = 4_096


def settled(result: Result, *, ask_again: bool = False, target: str = "shelf") -> dict[str, Any]:
    data = settle(
        result,
        target=target,
        at=1_800_000_000.0,
        redactor=Redactor(),
        limit_bytes=LIMIT,
        ask_again=ask_again,
    )
    assert len(orjson.dumps(data)) <= LIMIT
    return data


def test_an_answer_is_stamped_with_target_and_time() -> None:
    assert settled(Result()) == {"target": "shelf", "observed_at": "2027-01-15T08:00:00.000Z"}


def test_what_the_tool_said_of_target_and_time_stays() -> None:
    step = NextStep(tool="look", why="see")
    found = settled(Result(target="own", observed_at="then", next_steps=[step]))
    assert (found["target"], found["observed_at"]) == ("own", "then")
    assert found["next_steps"] == [{"tool": "look", "arguments": {}, "why": "see"}]


def test_a_page_says_how_many_would_fit() -> None:
    page = ItemPage(items=[Item(name=f"{n}", text="x" * 500) for n in range(20)], searched="s")
    with pytest.raises(TooLarge) as caught:
        settled(page, ask_again=True)
    assert 1 <= caught.value.fitting < 8


def test_a_page_that_cannot_be_asked_for_again_is_cut_and_says_so() -> None:
    page = ItemPage(items=[Item(name=f"{n}", text="x" * 50) for n in range(200)], searched="s")
    found = settled(page)
    assert found["truncated"] is True
    assert 0 < len(found["items"]) < 200


@pytest.mark.parametrize(
    "evidence",
    [
        {"log": "x" * 50_000},
        {"lines": ["x" * 100] * 500},
        {"deep": {"deeper": [{"text": "y" * 9_000}, {"list": [[1, 2, 3]] * 5_000}]}},
        {f"key-{n}": "short" for n in range(5_000)},
        {f"key-{n}": n for n in range(5_000)},
        # So many texts that what says that each was cut is itself too much.
        {f"k{n}": "x" * 60 for n in range(190)},
    ],
)
def test_evidence_of_any_shape_fits(evidence: dict[str, Any]) -> None:
    undo = Undo(tool="put", arguments={"name": "x"})
    found = settled(WriteResult(outcome="verified", evidence=evidence, undo=undo))
    assert found["outcome"] == "verified"
    assert found["undo"] == {"tool": "put", "arguments": {"name": "x"}}


def test_what_cannot_be_cut_is_left_as_it_is() -> None:
    steps = [NextStep(tool="t" * 700, why="w") for _ in range(3)]
    assert settled(Result(next_steps=steps))["target"] == "shelf"


class Described(Item):
    details: dict[str, Any]


class DescribedPage(Page[Described]):
    note: str = ""


@pytest.mark.parametrize("items", [1, 2])
def test_an_item_of_very_many_small_values_loses_them(items: int) -> None:
    details = {f"key-{n}": n for n in range(5_000)}
    page = DescribedPage(
        items=[Described(name=f"{n}", details=details) for n in range(items)], searched="s"
    )
    found = settled(page)
    assert found["items"][0] == {"name": "0", "text": "", "details": {"cut": "too large"}}


def test_a_frame_that_does_not_fit_by_itself_is_left_whole() -> None:
    found = settle(
        Result(),
        target="shelf",
        at=1_800_000_000.0,
        redactor=Redactor(),
        limit_bytes=650,
        ask_again=False,
    )
    assert found["target"] == "shelf"


def test_numbers_and_text_that_json_cannot_carry_are_made_harmless() -> None:
    found = settled(
        WriteResult(
            outcome="verified",
            evidence={"big": 2**80, "odd": "a\ud800b", "list": [{"n": -(2**70)}], "nan": 1.5},
        )
    )
    assert found["evidence"]["big"] == float(2**80)
    assert found["evidence"]["odd"] == "a?b"
    orjson.loads(orjson.dumps(found))
