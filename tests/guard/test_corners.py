"""Corners of the guard that no call reaches by itself, and its spans."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import StatusCode

from mcp_ops.call import new_id, parse
from mcp_ops.errors import OpsError, RefusalCode
from mcp_ops.guard import checks, telemetry
from mcp_ops.guard.checks import Situation
from mcp_ops.guard.policy import Policy
from mcp_ops.opening import implements
from mcp_ops.ports import Admission, CircuitPhase, CircuitState, Mode
from mcp_ops.settings import GuardSettings
from tests.guard.bench import AGENT, WHY, bench, shelf_target
from tests.guard.shelf import Shelf, ShelfAdapter, put_item

CALL = parse(
    put_item, {"name": "x", "reason": WHY}, caller=AGENT, call_id=new_id(), targets=("shelf",)
)
SEEN = Admission(
    granted=False, at=1_000.0, modes=(), rates=(), circuit=CircuitState(target="shelf")
)


def situation(**more: Any) -> Situation:
    values: dict[str, Any] = {
        "call": CALL,
        "info": shelf_target(),
        "decision": Policy((), "solo").decide(CALL, shelf_target()),
        "settings": GuardSettings(),
        "modes_allowed": frozenset(Mode),
        "use_circuit": True,
        "tightening": False,
        "taking": True,
        "at": 1_000.0,
        "admission": SEEN,
    }
    return Situation(**{**values, **more})


def test_a_check_of_the_stores_state_never_runs_before_the_store_was_asked() -> None:
    with pytest.raises(AssertionError, match="before the store was asked"):
        checks.modes(situation(admission=None))


def test_what_the_store_refused_for_a_reason_gone_by_now_may_be_tried_again() -> None:
    refusal = checks.present_refusal(situation())
    assert refusal is not None
    assert (refusal.reason, refusal.retry_after_s) == (RefusalCode.RATE_LIMITED, 1)
    assert checks.present_refusal(situation(taking=False)) is None
    assert checks.present_refusal(situation(admission=replace(SEEN, granted=True))) is None


def test_a_circuit_whose_wait_is_over_lets_a_probe_through() -> None:
    due = CircuitState(target="shelf", phase=CircuitPhase.OPEN, retry_at=999.0)
    probing = replace(due, phase=CircuitPhase.HALF_OPEN, retry_at=None, probing=True)
    free = replace(probing, probing=False)
    for state, code in ((due, None), (free, None), (probing, RefusalCode.CIRCUIT_OPEN)):
        refusal = checks.circuit(situation(admission=replace(SEEN, circuit=state)))
        assert (refusal.reason if refusal else None) is code
    assert (
        checks.circuit(situation(admission=replace(SEEN, circuit=probing), use_circuit=False))
        is None
    )


def test_what_was_decided_is_remembered_within_a_bound() -> None:
    policy = Policy((), "solo")
    for number in range(1_500):
        caller = replace(AGENT, principal=f"agent:{number}@h")
        decision = policy.decide(replace(CALL, caller=caller), shelf_target())
        assert decision.require == "confirm"
    assert len(policy._decided) <= 1_000


async def test_a_question_denied_between_look_and_asking_ends_the_call(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        approver = b.guard._approver
        decision = b.guard.policy.decide(CALL, shelf_target())
        asked = await approver._mint("confirm", CALL, decision)
        await b.approve(asked.id, approved=False)
        with pytest.raises(OpsError) as caught:
            await approver._mint("confirm", CALL, decision)
        assert caught.value.code == "approval_denied"


async def test_a_circuit_that_changes_under_a_reset_is_a_conflict(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        codes: list[str] = []

        async def reset(number: int) -> None:
            found = await b.reply("reset_circuit", target="shelf", reason=f"{WHY} {number}")
            codes.append("conflict" if "conflict" in found.text else "ok")

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(reset, number)
        assert "ok" in codes
        assert len(codes) == 10


def test_a_class_implements_what_it_has_every_member_of() -> None:
    assert implements(ShelfAdapter, Shelf)
    assert not implements(object, Shelf)


async def test_an_attempt_of_the_server_at_itself_touches_no_circuit(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        async with b.guard._actor.attempt("", deadline_s=5, probe=False):
            pass
        assert await b.stores.hot.circuits() == ()


async def test_spans_say_what_happened_and_carry_no_payload() -> None:
    """In a process of its own: a tracer provider is set once for all."""
    with anyio.fail_after(30):
        done = await anyio.run_process([sys.executable, "-m", "tests.guard.span_peer"])
    found = json.loads(done.stdout)
    spans = found["calls"]
    assert [span["name"] for span in spans] == [
        "guard look_at_item",
        "guard look_at_item",
        "guard put_item",
    ]
    read, failed, refused = (span["attributes"] for span in spans)
    assert read["mcp_ops.target"] == "shelf"
    assert read["mcp_ops.principal"] == AGENT.principal
    assert "payload" not in done.stdout.decode()
    assert [each["status"] for each in spans] == ["UNSET", "ERROR", "UNSET"]
    ends = [(a["mcp_ops.verdict"], a.get("mcp_ops.code", "")) for a in (read, failed, refused)]
    assert ends == [("ok", ""), ("failed", "unreachable"), ("refused", "read_only")]
    assert {read["mcp_ops.effect"], failed["mcp_ops.effect"]} == {"read"}
    assert refused["gen_ai.tool.name"] == "put_item"
    call = "guard look_at_item"
    assert found["stages"]["look_at_item"] == [
        [call, ""],
        ["guard.plan", call],
        ["guard.take", call],
        ["guard.run", call],
        ["shelf look", "guard.run"],
        ["guard.circuit", call],
        ["guard.settle", call],
    ]
    write, operation = "guard put_item", "guard.operation"
    assert found["stages"]["put_item"] == [
        [write, ""],
        ["guard.replay", write],
        ["guard.plan", write],
        ["guard.approval", write],
        [operation, write],
        ["guard.take", operation],
        ["guard.begin", operation],
        ["guard.run", operation],
        ["shelf put", "guard.run"],
        ["guard.circuit", operation],
        ["guard.settle", operation],
        ["guard.end", operation],
    ]


def test_the_end_of_a_call_is_on_the_span_that_is_current() -> None:
    tracer = TracerProvider().get_tracer("tests")
    common = {"tool": "t", "target": "shelf", "seconds": 0.1}
    for verdict, code, status in (
        ("ok", "", StatusCode.UNSET),
        ("refused", "frozen", StatusCode.UNSET),
        ("failed", "unreachable", StatusCode.ERROR),
    ):
        with tracer.start_as_current_span("call") as span:
            telemetry.ended(verdict=verdict, code=code, upstream_calls=1, **common)  # type: ignore[arg-type]
        assert isinstance(span, ReadableSpan)
        attributes = dict(span.attributes or {})
        assert attributes["mcp_ops.verdict"] == verdict
        assert attributes.get("mcp_ops.code", "") == code
        assert span.status.status_code is status
