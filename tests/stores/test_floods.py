"""Floods: the lines of calls that cost nothing are joined, beyond a bound, and name every call."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.records import Entry, EntryKind
from mcp_ops.stores import floods
from mcp_ops.stores.floods import Floods, closes
from tests.stores import records

CLOCK = ManualClock()


def refused(number: int, **fields: object) -> Entry:
    values = {"verdict": "refused", "code": "frozen", **fields}
    return records.entry(CLOCK, f"c{number}", **values)


def calls(lines: tuple[Entry, ...]) -> list[str]:
    return [call for line in lines for call in closes(line)]


def test_lines_within_the_bound_stay_as_they_are() -> None:
    lines = tuple(refused(n) for n in range(5))
    assert Floods(5).joined(lines) == lines


def test_beyond_the_bound_the_first_line_names_the_calls_of_those_that_follow() -> None:
    found = Floods(2).joined(refused(n, at=CLOCK.now() + n) for n in range(6))
    assert [line.call_id for line in found] == ["c0", "c1", "c2"]
    assert found[2].evidence == {
        "repeats": 4,
        "last_at": CLOCK.now() + 5,
        "calls": ["c3", "c4", "c5"],
    }
    assert calls(found) == [f"c{n}" for n in range(6)]


@pytest.mark.parametrize(
    "other",
    [
        {"principal": "agent:other"},
        {"target": "else"},
        {"tool": "else"},
        {"code": "read_only"},
        {"verdict": "invalid"},
    ],
)
def test_only_lines_that_agree_are_joined(other: dict[str, str]) -> None:
    flood = Floods(0)
    assert len(flood.joined([refused(1), refused(2, **other), refused(3)])) == 2


def test_names_of_unknown_tools_are_no_way_round() -> None:
    lines = [refused(n, tool=f"t{n}", code="unknown_tool", verdict="invalid") for n in range(9)]
    (line,) = Floods(0).joined(lines)
    assert (line.tool, len(closes(line))) == ("t0", 9)


@pytest.mark.parametrize(
    "charged",
    [
        {"verdict": "ok", "code": ""},
        {"verdict": "failed", "code": "unreachable"},
        {"upstream_calls": 1},
        {"kind": EntryKind.CHANGED},
    ],
)
def test_calls_that_cost_something_keep_a_line_each(charged: dict[str, object]) -> None:
    lines = tuple(refused(n, **charged) for n in range(4))
    assert Floods(0).joined(lines) == lines


def test_evidence_of_a_target_does_not_make_a_line_the_record_of_other_calls() -> None:
    said = {"repeats": 3, "calls": ["x", "y"]}
    assert closes(records.entry(CLOCK, "c1", evidence=said)) == ("c1",)


def test_the_count_begins_anew_each_minute_and_for_each_principal() -> None:
    flood = Floods(1)
    assert len(flood.joined([refused(1), refused(2), refused(3)])) == 2
    assert len(flood.joined([refused(4, principal="agent:other")])) == 1
    later = CLOCK.now() + 61
    again = flood.joined([refused(n, at=later) for n in range(3)])
    assert [len(closes(line)) for line in again] == [1, 2]


def test_a_batch_that_could_not_be_written_is_joined_once() -> None:
    flood = Floods(0)
    once = flood.joined(refused(n) for n in range(3))
    assert flood.joined(once) == once


def test_one_line_names_at_most_a_thousand_calls() -> None:
    found = Floods(0).joined(refused(n) for n in range(2_500))
    assert [len(closes(line)) for line in found] == [1_000, 1_000, 500]
    assert len(set(calls(found))) == 2_500


def test_principals_of_earlier_minutes_are_forgotten() -> None:
    flood = Floods(1)
    flood.joined(refused(n, principal=f"p{n}") for n in range(floods._MOST_PRINCIPALS))
    later = replace(refused(1), at=CLOCK.now() + 61, principal="new")
    assert flood.joined([later]) == (later,)
    assert list(flood._seen) == ["new"]
