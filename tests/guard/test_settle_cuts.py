"""What does not fit: which part is cut, by how much, and what is left as it was."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from mcp_ops.capabilities.base import Result, Undo, WriteResult
from mcp_ops.guard.settle import TooLarge, settle
from mcp_ops.redact import Redactor
from tests.guard.shelf import Item, ItemPage

# Of the bytes of a limit so many stay free for what is added later.
MARGIN = 640
CUT = "…[cut to fit]"


def settled(result: Result, limit: int, *, ask_again: bool = False) -> dict[str, Any]:
    """The answer within a limit that does without the margin."""
    return settle(
        result,
        target="shelf",
        at=1_800_000_000.0,
        redactor=Redactor(),
        limit_bytes=limit + MARGIN,
        ask_again=ask_again,
    )


def size(data: Any) -> int:
    return len(orjson.dumps(data))


def put(**evidence: Any) -> WriteResult:
    return WriteResult(outcome="verified", evidence=evidence)


def whole(result: Result) -> int:
    """How many bytes it has uncut."""
    return size(settled(result, 1_000_000))


def cut(result: Result, *, by: int, least: int = 0) -> dict[str, Any]:
    """The evidence, where the limit is so many bytes less than it would need."""
    limit = whole(result) - by
    found = settled(result, limit)
    assert least <= size(found) <= limit
    evidence: dict[str, Any] = found["evidence"]
    return evidence


def test_what_just_fits_is_left_as_it_is() -> None:
    result = put(log="x" * 500)
    assert settled(result, whole(result))["evidence"] == {"log": "x" * 500}
    assert settled(result, whole(result) - 1)["evidence"] == {"log": "x" * 459 + CUT}


def test_a_text_loses_what_is_too_much_and_room_for_saying_so() -> None:
    assert cut(put(log="x" * 5_000), by=1_000) == {"log": "x" * 3_960 + CUT}


def test_the_longest_text_is_cut_first_and_of_two_the_first() -> None:
    assert cut(put(a="x" * 900, b="y" * 1_000, c="short"), by=100) == {
        "a": "x" * 900,
        "b": "y" * 860 + CUT,
        "c": "short",
    }
    assert cut(put(a="x" * 900, b="y" * 900), by=100) == {"a": "x" * 760 + CUT, "b": "y" * 900}


def test_a_text_that_goes_as_a_whole_leaves_the_word_that_it_was_cut() -> None:
    assert cut(put(a="x" * 900, b="y" * 800), by=1_000) == {"a": CUT, "b": "y" * 645 + CUT}


def test_texts_are_found_at_any_depth() -> None:
    deep = {"list": [1, None, [[], {"text": "y" * 900}]], "number": 5, "flag": True}
    one = {"only": [{"text": "y" * 900}]}
    assert cut(put(deep=one), by=100) == {"deep": {"only": [{"text": "y" * 760 + CUT}]}}
    # A list of several parts is longer than the longest text in it, and loses parts.
    assert cut(put(deep=deep), by=100) == {"deep": {**deep, "list": [1, None]}}
    assert cut(put(deep=deep, long="x" * 990), by=100)["deep"] == deep


def test_a_list_loses_as_many_of_its_last_parts_as_needed() -> None:
    lines = ["aaaa"] * 400  # of seven bytes each, with quotes and comma
    assert cut(put(lines=lines), by=7 * 300) == {"lines": lines[:100]}
    assert cut(put(lines=lines), by=7 * 300 + 1) == {"lines": lines[:99]}
    assert cut(put(lines=lines), by=1) == {"lines": lines[:399]}


def test_the_longest_list_is_cut_first_and_of_two_the_first() -> None:
    lines = ["aaaa"] * 40
    assert cut(put(a=lines, b=["bbbb"] * 50, c=["cccc"] * 3), by=70) == {
        "a": lines,
        "b": ["bbbb"] * 40,
        "c": ["cccc"] * 3,
    }
    assert cut(put(a=lines, b=lines), by=70) == {"a": lines[:30], "b": lines}


def test_a_list_of_two_loses_one_and_a_list_of_one_keeps_it() -> None:
    assert cut(put(pair=["x" * 500, "y" * 500]), by=400) == {"pair": ["x" * 500]}
    assert cut(put(one=["x" * 500]), by=100) == {"one": ["x" * 360 + CUT]}


def test_lists_that_do_not_suffice_are_emptied() -> None:
    lines = ["aaaa"] * 40
    assert cut(put(a=lines, b=lines, c=lines[:39]), by=600) == {
        "a": [],
        "b": [],
        "c": lines[: 39 - 6],
    }


def test_only_a_page_says_that_it_is_truncated() -> None:
    assert "truncated" not in settled(put(log="x" * 500), 300)
    page = ItemPage(items=[Item(name=f"{n}") for n in range(50)], searched="s")
    found = settled(page, whole(page) - 1)
    assert (len(found["items"]), found["truncated"]) == (49, True)


def test_a_page_that_can_be_asked_for_again_says_how_many_items_would_fit() -> None:
    page = ItemPage(items=[Item(name=f"{n}", text="x" * 50) for n in range(100)], searched="s")
    assert len(settled(page, whole(page), ask_again=True)["items"]) == 100
    limit = 3_000
    with pytest.raises(TooLarge) as caught:
        settled(page, limit, ask_again=True)
    assert caught.value.fitting == int(100 * limit / whole(page) * 0.9)
    two = ItemPage(items=[Item(name=f"{n}", text="x" * 5_000) for n in range(2)], searched="s")
    with pytest.raises(TooLarge) as caught:
        settled(two, limit, ask_again=True)
    assert caught.value.fitting == 1
    one = ItemPage(items=two.items[:1], searched="s")
    assert settled(one, limit, ask_again=True)["items"][0]["text"].endswith(CUT)
    assert settled(put(log="x" * 5_000), limit, ask_again=True)["outcome"] == "verified"


MANY = {f"key-{number}": number for number in range(2_000)}


def test_of_very_many_small_values_the_largest_object_goes_as_a_whole() -> None:
    large = WriteResult(
        outcome="verified", evidence={"a": 1}, undo=Undo(tool="put", arguments=MANY)
    )
    found = settled(large, 1_000)
    assert (found["evidence"], found["undo"]) == ({"a": 1}, {"cut": "too large"})
    large = WriteResult(
        outcome="verified", evidence=MANY, undo=Undo(tool="put", arguments={"b": 2})
    )
    found = settled(large, 1_000)
    assert found["evidence"] == {"cut": "too large"}
    assert found["undo"] == {"tool": "put", "arguments": {"b": 2}}


def test_when_nothing_is_left_to_cut_the_rest_stays() -> None:
    found = settled(WriteResult(outcome="verified", evidence=MANY), 10)
    assert found["evidence"] == {"cut": "too large"}
    assert (found["outcome"], found["target"]) == ("verified", "shelf")


def test_a_secret_is_taken_out_before_anything_is_cut() -> None:
    found = settled(put(log="token=sk-abcdefghijklmnopqrstuv " + "x" * 500), 400)
    assert found["evidence"]["log"].startswith("token=[redacted] xxx")


def test_numbers_that_json_cannot_carry_are_the_only_ones_that_change() -> None:
    numbers = {"huge": 2**80, "edge": 2**63, "least": -(2**63), "most": 2**63 - 1, "small": 3}
    more = {"half": 1.5, "flag": True, "none": None, "pair": (1, 2), "odd": "a\ud800b"}
    found = settled(put(**numbers, **more), 10_000)["evidence"]
    assert found == {
        **numbers,
        "huge": float(2**80),
        "half": 1.5,
        "flag": True,
        "none": None,
        "pair": [1, 2],
        "odd": "a?b",
    }
    kinds = {key: type(value) for key, value in found.items()}
    assert [kinds[key] for key in ("huge", "edge", "least")] == [float] * 3
    assert [kinds[key] for key in ("most", "small", "flag")] == [int, int, bool]
