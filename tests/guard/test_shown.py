"""What the stores keep, as the tools show it: with all that there is, and without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from mcp_ops.errors import RefusalCode
from mcp_ops.guard import shown
from mcp_ops.guard.explain import supposed
from mcp_ops.guard.freeze import Freeze
from mcp_ops.ports import CircuitPhase, CircuitState, Grant, Mode, ModeEntry
from mcp_ops.questions import Approval, Vote
from mcp_ops.records import Entry, EntryKind
from tests.guard.bench import AGENT
from tests.guard.shelf import SHELF_TOOLS

AT = 1_800_000_000.0


def moment(seconds: int) -> str:
    return f"2027-01-15T08:00:{seconds:02}.000Z"


def said(model: BaseModel) -> dict[str, Any]:
    """What leaves: what is not there is left out."""
    return model.model_dump(mode="json", exclude_none=True)


def test_a_mode_ends_when_it_does() -> None:
    entry = ModeEntry(
        scope="shelf",
        mode=Mode.READ_ONLY,
        source="operator",
        reason="why",
        author="ada",
        since=AT,
        expires_at=AT + 1,
    )
    expected = {
        "scope": "shelf",
        "mode": "read_only",
        "source": "operator",
        "reason": "why",
        "author": "ada",
        "since": moment(0),
    }
    assert said(shown.mode_info(entry)) == {**expected, "expires_at": moment(1)}
    assert said(shown.mode_info(replace(entry, expires_at=None))) == expected


def test_a_circuit_has_what_happened_to_it() -> None:
    state = CircuitState(
        target="shelf",
        phase=CircuitPhase.OPEN,
        failures=3,
        opened_at=AT,
        retry_at=AT + 1,
        last_error="boom",
        by="ada",
        reason="3 failures in a row",
    )
    assert said(shown.circuit_info(state)) == {
        "target": "shelf",
        "state": "open",
        "failures": 3,
        "opened_at": moment(0),
        "retry_at": moment(1),
        "last_error": "boom",
        "by": "ada",
        "reason": "3 failures in a row",
    }
    assert said(shown.circuit_info(CircuitState(target="shelf"))) == {
        "target": "shelf",
        "state": "closed",
        "failures": 0,
    }


LINE = Entry(kind=EntryKind.ENDED, call_id="c1", at=AT, tool="put_item", principal="p", seq=7)


def test_a_line_of_the_ledger_has_what_was_recorded() -> None:
    found: dict[str, Any] = {
        "target": "shelf",
        "verdict": "refused",
        "code": "frozen",
        "outcome": "unknown",
        "reason": "why",
        "trace_id": "t1",
    }
    always = {
        "seq": 7,
        "at": moment(0),
        "call_id": "c1",
        "kind": "ended",
        "tool": "put_item",
        "principal": "p",
    }
    line = replace(LINE, duration_ms=1.5, **found)
    assert said(shown.audit_item(line)) == {**always, **found, "duration_ms": 1.5}
    assert said(shown.audit_item(LINE)) == always


ASKED = Approval(
    id="q1",
    kind="approve",
    state="pending",
    principal="p",
    tool="put_item",
    target="shelf",
    digest="d",
    policy="v",
    message="m",
    arguments={},
    reason="why",
    created_at=AT,
    expires_at=AT + 1,
    needed=2,
    votes=(Vote(by="operator:ada", at=AT, note=""),),
)


def test_a_question_has_who_decided_and_what_they_said() -> None:
    expected = {
        "id": "q1",
        "kind": "approve",
        "state": "pending",
        "tool": "put_item",
        "target": "shelf",
        "principal": "p",
        "reason": "why",
        "created_at": moment(0),
        "expires_at": moment(1),
        "votes": "1 of 2",
    }
    assert said(shown.approval_item(ASKED)) == expected
    decided = replace(ASKED, decided_by="operator:ada", note="no", target="")
    assert said(shown.approval_item(decided)) == {
        **expected,
        "target": "mcp-ops",
        "decided_by": "operator:ada",
        "note": "no",
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"progress": "1 of 2 said yes"}),
        ({"kind": "confirm", "progress": None}, {}),
        ({"target": ""}, {"target": "mcp-ops", "progress": "1 of 2 said yes"}),
        ({"note": "later"}, {"progress": "1 of 2 said yes"}),
        ({"state": "denied"}, {"state": "denied", "progress": "1 of 2 said yes"}),
        *(
            (
                {"state": state, "note": "too late", "decided_at": AT + 2},
                {
                    "state": state,
                    "progress": "1 of 2 said yes; too late",
                    "ended_at": moment(2),
                },
            )
            for state in ("denied", "revoked")
        ),
        (
            {"state": "approved", "note": "go", "decided_at": AT + 2, "execute_by": AT + 3},
            {
                "state": "approved",
                "progress": "1 of 2 said yes",
                "ended_at": moment(2),
                "execute_by": moment(3),
            },
        ),
    ],
)
def test_who_waits_for_a_question_sees_how_far_it_is(
    changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    changes.pop("progress", None)
    found = said(shown.approval_status(replace(ASKED, **changes)))
    assert found == {
        # What every answer has, and is filled in later.
        "answer": {},
        "next_steps": [],
        "observed_at": "",
        "id": "q1",
        "kind": "approval",
        "state": "pending",
        "tool": "put_item",
        "target": "shelf",
        "started_at": moment(0),
        "expires_at": moment(1),
        **expected,
    }


def test_a_freeze_has_its_times_where_it_has_some() -> None:
    freeze = Freeze(
        targets=("a", "b"), when="w", reason="why", active=True, since=0.0, until=0.0, problem="p"
    )
    expected = {"when": "w", "targets": ["a", "b"], "reason": "why", "active": True}
    zero = "1970-01-01T00:00:00.000Z"
    assert said(shown.freeze_info(freeze)) == {
        **expected,
        "start": zero,
        "end": zero,
        "problem": "p",
    }
    bare = Freeze(targets=("a", "b"), when="w", reason="why", active=True)
    assert said(shown.freeze_info(bare)) == expected


def test_an_elevation_says_for_what_it_is_and_until_when() -> None:
    grant = Grant(
        id="g1",
        principal="agent:*",
        tool="put_*",
        target="shelf",
        require="none",
        incident="INC-7",
        reason="why",
        author="ada",
        since=AT,
        expires_at=AT + 1,
    )
    assert said(shown.elevation_info(grant)) == {
        "id": "g1",
        "principal": "agent:*",
        "tool": "put_*",
        "elevated_target": "shelf",
        "require": "none",
        "incident": "INC-7",
        "reason": "why",
        "author": "ada",
        "expires_at": moment(1),
    }


def test_a_use_of_break_glass_says_on_what_it_was() -> None:
    used = replace(LINE, object="drop_item", target="shelf", reason="why")
    expected = {"at": moment(0), "principal": "p", "tool": "drop_item", "reason": "why"}
    assert said(shown.break_glass_info(used)) == {**expected, "used_on": "shelf"}
    own = replace(used, target="")
    assert said(shown.break_glass_info(own)) == {**expected, "used_on": "mcp-ops"}


def test_a_line_of_shadow_mode_says_what_would_have_refused_which_call() -> None:
    caller = replace(AGENT, trace_id="t1")
    raw = {"name": "a", "dry_run": True}
    call = supposed(SHELF_TOOLS["put_item"], raw, caller, ("shelf",))
    call = replace(call, parent="c0")
    line = shown.shadow_line(call, RefusalCode.FROZEN, rule="policy[1]", at=AT)
    assert line == Entry(
        kind=EntryKind.CHANGED,
        call_id=call.id,
        at=AT,
        tool="put_item",
        target="shelf",
        principal="agent:test@host",
        channel="stdio",
        effect="write",
        dry_run=True,
        policy="policy[1]",
        code="frozen",
        evidence={"shadow": True},
        trace_id="t1",
        parent="c0",
    )
    about = replace(call, target="", about="depot")
    assert shown.shadow_line(about, RefusalCode.FROZEN, rule="", at=AT).target == "depot"
