"""The checker itself: a planted violation of each class is found, and a sound run has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mcp_ops.records import Entry, EntryKind
from tests.faults.checker import LETTERS, Effect, Evidence, Letter, check

CANARY = "canary-token-77"


def call(number: int, intent: str, **more: Any) -> dict[str, Any]:
    return {"kind": "call", "number": number, "tool": "t", "intent": intent, "server": "s"} | more


def answer(number: int, outcome: str, audit: str, **more: Any) -> dict[str, Any]:
    body = {"outcome": outcome, "audit_id": audit, **more}
    return {"kind": "answer", "number": number, "body": body, "error": False}


def refusal(number: int, audit: str, executed: str = "no") -> dict[str, Any]:
    body = {"code": "read_only", "executed": executed, "audit_id": audit}
    return {"kind": "answer", "number": number, "body": body, "error": True}


def began(call_id: str, approval: str = "") -> Entry:
    return Entry(kind=EntryKind.BEGAN, call_id=call_id, at=1.0, tool="t", approval=approval)


def ended(call_id: str) -> Entry:
    return Entry(kind=EntryKind.ENDED, call_id=call_id, at=2.0, tool="t", verdict="ok")


HISTORY = [
    call(1, "a"),
    answer(1, "verified", "c1"),
    call(2, "b"),
    answer(2, "unknown", "c2"),
    {"kind": "look", "intent": "b", "found": False},
    call(3, "c"),
    refusal(3, "c3"),
    {"kind": "mended", "name": "x"},
    {"kind": "recovered", "name": "x", "seconds": 0.5},
]
SOUND = Evidence(
    history=HISTORY,
    entries=[began("c1", "approve q1 by ann"), ended("c1"), began("c2"), ended("c2"), ended("c3")],
    operations={"c1": "done", "c2": "unknown"},
    effects=[Effect(intent="a", call="c1")],
    items={"i1": 1},
    texts=[("a log", b"nothing to see")],
    canaries=(CANARY,),
)


def test_a_sound_run_counts_zeros_and_says_how_much_it_saw() -> None:
    verdict = check(SOUND)
    assert [verdict.count(letter) for letter in LETTERS] == [0] * 6
    assert (verdict.calls, verdict.effects, verdict.recovery_s) == (3, 1, 0.5)
    assert verdict.problems(least_calls=3, least_effects=1, most_recovery_s=10) == []


def without(index: int) -> list[Entry]:
    return SOUND.entries[:index] + SOUND.entries[index + 1 :]


PLANTED: list[tuple[str, Letter, Evidence]] = [
    ("reported done, no effect", "L", replace(SOUND, effects=[])),
    ("unknown and nobody looked", "L", replace(SOUND, history=HISTORY[:4])),
    (
        "a look that lies",
        "L",
        replace(SOUND, history=[*HISTORY, {"kind": "look", "intent": "a", "found": False}]),
    ),
    ("an item that is nowhere", "L", replace(SOUND, items={"i1": 0})),
    ("two effects of one operation", "D", replace(SOUND, effects=SOUND.effects * 2)),
    (
        "two effects of one intent under two operations",
        "D",
        replace(SOUND, effects=[*SOUND.effects, Effect(intent="a", call="c2")]),
    ),
    ("an item in two places", "D", replace(SOUND, items={"i1": 2})),
    (
        "one approval for two writes",
        "D",
        replace(
            SOUND,
            entries=[*SOUND.entries, began("c4", "approve q1 by ann"), ended("c4")],
        ),
    ),
    ("an effect without an intent in the ledger", "U", replace(SOUND, entries=without(0))),
    (
        "an effect that nobody asked for",
        "U",
        replace(SOUND, effects=[*SOUND.effects, Effect(intent="z")]),
    ),
    (
        "an effect of what was refused",
        "U",
        replace(SOUND, effects=[*SOUND.effects, Effect(intent="c")]),
    ),
    ("a write without an end", "A", replace(SOUND, entries=without(3))),
    ("a write with two ends", "A", replace(SOUND, entries=[*SOUND.entries, ended("c1")])),
    ("a refusal with two ends", "A", replace(SOUND, entries=[*SOUND.entries, ended("c3")])),
    ("a refusal without a record", "A", replace(SOUND, entries=without(4))),
    ("an operation that runs for good", "A", replace(SOUND, operations={"c1": "running"})),
    ("a broken chain", "A", replace(SOUND, chain_problem="a line was changed")),
    (
        "a call that waited in vain",
        "H",
        replace(SOUND, history=[*HISTORY, call(4, ""), {"kind": "hung", "number": 4}]),
    ),
    ("a secret in a log", "X", replace(SOUND, texts=[("a log", f"x {CANARY}".encode())])),
    (
        "a secret in an answer",
        "X",
        replace(SOUND, history=[*HISTORY, call(4, ""), answer(4, "", "c1", text=CANARY)]),
    ),
]


@pytest.mark.parametrize(("letter", "evidence"), [p[1:] for p in PLANTED], ids=lambda v: str(v)[:1])
def test_a_planted_violation_is_found(letter: Letter, evidence: Evidence) -> None:
    assert check(evidence).count(letter) >= 1


def test_there_is_a_planted_violation_of_every_class() -> None:
    assert {letter for _, letter, _ in PLANTED} == set(LETTERS)


def test_a_read_that_a_killed_server_had_no_time_to_record_is_no_gap_but_a_write_is() -> None:
    killed = [*HISTORY, {"kind": "killed", "server": "s"}]
    assert check(replace(SOUND, history=killed, entries=without(4))).count("A") == 0
    lost = [one for one in SOUND.entries if one.call_id != "c1"]
    assert check(replace(SOUND, history=killed, entries=lost)).count("A") >= 1


def test_a_run_that_saw_too_little_is_no_proof() -> None:
    verdict = check(SOUND)
    assert verdict.problems(least_calls=4, least_effects=1, most_recovery_s=10) == [
        "too little: 3 calls of at least 4"
    ]
    assert verdict.problems(least_calls=1, least_effects=2, most_recovery_s=10) == [
        "too little: 1 effects of at least 2"
    ]


def test_a_recovery_that_took_too_long_fails_the_run() -> None:
    slow = [*HISTORY, {"kind": "recovered", "name": "x", "seconds": 11.0}]
    verdict = check(replace(SOUND, history=slow))
    assert verdict.problems(least_calls=1, least_effects=1, most_recovery_s=10) == [
        "recovery took 11.0 s"
    ]
