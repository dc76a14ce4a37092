"""The conditions of configured jobs: what they say, what they don't know, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_ops.adapters.http_jobs.expressions import (
    MAX_CHARS,
    read_expression,
    read_pointer,
    seconds_of,
)

NOW = 1_800_000_000.0
ANSWER: dict[str, Any] = {
    "status": "completed",
    "count": 3,
    "rate": 0.5,
    "ok": True,
    "nothing": None,
    "at": "2027-01-15T07:00:00Z",
    "runs": [{"id": "r1"}, {"id": "r2"}],
    "a name": {"x-y": 1},
    "__class__": "text",
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('$.status == "completed"', True),
        ('$.status != "completed"', False),
        ('$.status == "completed" and $.count > 2', True),
        ('$.status == "failed" or not $.ok', False),
        ("not ($.count >= 3)", False),
        ("$.count <= 3 and $.rate < 1", True),
        ('$.status < "d"', True),
        ("$.ok", True),
        ("$.ok == true", True),
        ("$.count == true", False),
        ("$.nothing == null", True),
        ('$.runs[1].id == "r2"', True),
        ('$["a name"].x-y == 1', True),
        ("age($.at) == 3600", True),
        ("age($.at) < 3600", False),
        ("exists($.at)", True),
        ("exists($.nothing)", False),
        ("exists($.missing)", False),
        ("true", True),
        ('$.__class__ == "text"', True),
        # What is not there, or can't be compared, is not known.
        ('$.missing == "x"', None),
        ("$.missing == null", None),
        ("$.status > 3", None),
        ("$.status", None),
        ("$.count", None),
        ("age($.status) < 5", None),
        ("age($.missing) < 5", None),
        ("$.runs[9].id == 1", None),
        ("$.status.x == 1", None),
        ("not $.missing", None),
        # One side that decides is enough.
        ("$.missing == 1 or $.ok", True),
        ("$.missing == 1 and not $.ok", False),
        ("$.missing == 1 and $.ok", None),
        ("$.missing == 1 or not $.ok", None),
    ],
)
def test_condition_holds_does_not_or_is_not_known(text: str, holds: bool | None) -> None:
    assert read_expression(text).holds(ANSWER, NOW) is holds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$.status ==",
        "== 3",
        "$.a == 1 2",
        "$.a < $.b < $.c",
        "status == 1",
        "$.a; import os",
        "__import__('os')",
        "age(3)",
        "age($.a",
        "len($.a)",
        "$..a",
        "$.a[*]",
        "$.a = 1",
        "3abc",
        '"open',
        "(" * 20 + "true" + ")" * 20,
        "not " * 40 + "true",
        "true or " * 60 + "true",
        "$." + "a" * MAX_CHARS,
    ],
)
def test_what_is_no_condition_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(ValueError):
        read_expression(text)


@pytest.mark.parametrize("answer", [None, [], "text", 3, {"status": {"deep": []}}])
def test_any_answer_is_survived(answer: Any) -> None:
    assert read_expression('$.status == "x" and age($.at) < 3').holds(answer, NOW) in (None, False)


def test_paths_lead_to_what_is_there() -> None:
    assert read_pointer("$.runs[0].id").value(ANSWER) == "r1"
    assert read_pointer("$").value(ANSWER) is ANSWER
    assert read_pointer("$.runs[7]").value(ANSWER) is None
    for bad in ("runs", "$.runs[0] ==", "", "$.a b"):
        with pytest.raises(ValueError):
            read_pointer(bad)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2027-01-15T08:00:00Z", NOW),
        ("2027-01-15T08:00:00", NOW),
        ("2027-01-15T09:00:00+01:00", NOW),
        (NOW, NOW),
        (1_800_000_000_000, NOW),
        (10**400, None),
        (-1, None),
        (True, None),
        ("yesterday", None),
        ("9" * 50, None),
        (None, None),
        ([], None),
    ],
)
def test_moments_are_read_as_services_write_them(value: Any, seconds: float | None) -> None:
    assert seconds_of(value) == seconds
