"""Calls: what a client sent becomes typed values, or an error that names field and rule."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from mcp_ops.call import Call, digest_of, new_id, parse, shown_arguments, shown_digest
from mcp_ops.errors import InvalidInput
from mcp_ops.redact import Redactor
from mcp_ops.tools.deployment_config import set_config
from mcp_ops.tools.guard import reset_circuit, search_audit, set_guard_mode
from tests.guard.bench import AGENT, WHY
from tests.guard.shelf import list_items, put_item

SHELVES = ("shelf", "depot")


def parsed(raw: dict[str, Any], tool: Any = put_item, targets: tuple[str, ...] = SHELVES) -> Call:
    return parse(tool, raw, caller=AGENT, call_id=new_id(), targets=targets)


def problem(raw: dict[str, Any], tool: Any = put_item, targets: Any = SHELVES) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parsed(raw, tool, targets)
    return caught.value


X = {"target": "shelf", "name": "x", "reason": WHY}


def test_a_call_knows_its_target_object_reason_and_effect() -> None:
    call = parsed(X)
    assert (call.target, call.object, call.reason, call.effect) == ("shelf", "x", WHY, "write")
    assert parsed({**X, "dry_run": True}).effect == "read"


def test_the_digest_covers_what_a_call_does_and_not_how_it_is_worded() -> None:
    one = parsed(X)
    same = parsed({**X, "reason": "other words", "dry_run": True, "idempotency_key": "k"})
    assert one.digest == same.digest
    assert parsed({**X, "name": "y"}).digest != one.digest
    assert parsed({**X, "target": "depot"}).digest != one.digest
    assert parsed({**X, "code": "c"}).digest != one.digest
    assert digest_of("a", "", {"x": 1, "y": 2}) == digest_of("a", "", {"y": 2, "x": 1})


def test_an_answer_to_a_plan_is_bound_to_the_plan() -> None:
    call = parsed(X)
    assert call.binding == call.digest
    assert replace(call, dry_run=True).binding != call.digest


def test_the_key_is_the_callers_own() -> None:
    call = parsed({**X, "idempotency_key": "k"})
    other = replace(call, caller=replace(AGENT, principal="agent:b@h"))
    assert call.operation_key != other.operation_key
    assert parsed(X).operation_key == f"{AGENT.principal}|digest|{call.digest}"


def test_a_single_target_need_not_be_named() -> None:
    assert parsed({"name": "x", "reason": WHY}, targets=("shelf",)).target == "shelf"
    error = problem({"name": "x", "reason": WHY})
    assert error.message == "target: is required: several targets have this tool."
    assert error.hint == "One of: shelf, depot."


@pytest.mark.parametrize("target", ["elsewhere", 5, None, ["shelf"], {"a": 1}, True])
def test_a_target_is_one_of_the_configured_ones(target: Any) -> None:
    error = problem({**X, "target": target})
    assert error.hint == "One of: shelf, depot."
    assert "elsewhere" not in error.message


def test_tools_about_a_target_take_only_configured_ones() -> None:
    call = parsed({"target": "depot", "reason": WHY}, reset_circuit)
    assert (call.target, call.about, call.object) == ("", "depot", "depot")
    for tool in (reset_circuit, set_guard_mode):
        problem({"target": "elsewhere", "mode": "lockdown", "reason": WHY}, tool)
    problem({"target": "all", "reason": WHY}, reset_circuit)
    everywhere = parsed({"mode": "lockdown", "reason": WHY}, set_guard_mode)
    assert (everywhere.about, everywhere.object) == ("", "all")
    assert parsed({}, search_audit).about == ""


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"limit": 0}, "must be at least 1"),
        ({"limit": 201}, "must be at most 200"),
        ({"limit": "1"}, "must be a whole number"),
        ({"cursor": "x" * 513}, "must have at most 512 characters"),
        ({"cursor": 1}, "must be text"),
    ],
)
def test_a_rule_is_named_in_words(arguments: dict[str, Any], rule: str) -> None:
    error = problem({"target": "shelf", **arguments}, list_items)
    assert error.details["fields"][0]["rule"] == rule
    assert error.hint == "Arguments of list_items: cursor, limit."


def test_what_is_missing_is_named() -> None:
    error = problem({"target": "shelf"})
    assert error.message == "name: is required; reason: is required."


def test_at_most_ten_problems_are_told() -> None:
    error = problem({"target": "shelf", **{f"bad{n}": n for n in range(50)}})
    assert len(error.details["fields"]) == 10


def test_what_is_shown_leaves_out_what_is_empty_and_hides_secrets() -> None:
    shown = shown_arguments(parsed({**X, "code": "hunter2"}), Redactor())
    assert set(shown) == {"name", "reason", "dry_run", "code"}
    assert shown["code"].startswith("fingerprint:")
    assert "hunter2" not in str(shown)


def test_a_fingerprint_can_be_tried_only_with_the_key_of_the_installation() -> None:
    call, redactor, other = parsed({**X, "code": "1234"}), Redactor(), Redactor()
    redactor.use_key(b"k" * 32)
    other.use_key(b"k" * 32)
    assert shown_arguments(call, redactor) == shown_arguments(call, other)
    assert shown_digest(call, redactor) == shown_digest(call, other)
    other.use_key(b"l" * 32)
    assert shown_arguments(call, redactor) != shown_arguments(call, other)
    assert shown_digest(call, redactor) != shown_digest(call, other)
    # The plain digest gives the value away to whoever tries all of four digits.
    assert call.digest not in shown_digest(call, redactor)


def test_a_value_that_is_named_as_a_secret_is_refused_before_anything_is_kept() -> None:
    setting = {**X, "name": "worker", "value": "48151"}
    error = problem({**setting, "key": "web:DB_PIN"}, set_config)
    assert error.message == "value: must not be a secret, and key is named as one."
    assert "48151" not in str(error.details)
    plain = parsed({**setting, "key": "COUNTRY_CODE"}, set_config)
    assert shown_arguments(plain, Redactor())["value"] == "48151"
    refer = {**X, "name": "worker", "key": "DB_PIN", "value_ref": "secret/db/pin"}
    assert parsed(refer, set_config).object == "worker"


def test_the_digest_of_what_is_no_secret_is_shown_as_it_is() -> None:
    call = parsed({"target": "shelf"}, list_items)
    assert shown_digest(call, Redactor()) == call.digest


_FORKING = """
import os, re
from mcp_ops.call import new_id
made = [new_id() for _ in range(1_000)]
assert len(set(made)) == len(made)
assert all(re.fullmatch("[0-9a-f]{16}", each) for each in made)
if hasattr(os, "fork"):
    reader, writer = os.pipe()
    if not os.fork():
        os.write(writer, "".join(new_id() for _ in range(300)).encode())
        os._exit(0)
    os.wait()
    told = os.read(reader, 16 * 300).decode()
    theirs = {told[at : at + 16] for at in range(0, len(told), 16)}
    assert len(theirs) == 300 and theirs.isdisjoint(new_id() for _ in range(300))
print("ok")
"""


def test_ids_are_never_the_same_not_even_in_a_child_of_this_process() -> None:
    # In a process of its own: this one has threads, and must not fork.
    done = subprocess.run([sys.executable, "-c", _FORKING], capture_output=True, text=True)
    assert done.stdout == "ok\n", done.stderr
