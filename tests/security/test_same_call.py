"""Calls that differ in letters only are one call: for keys, denials and approvals."""

from __future__ import annotations

from typing import Any

from mcp_ops.call import parse
from mcp_ops.catalog import ALL_TOOLS
from tests.guard.bench import AGENT

RESTART: dict[str, Any] = {"name": "api", "reason": "it hangs"}


def digest(**arguments: Any) -> str:
    tool = ALL_TOOLS["restart_deployment"]
    raw = {**RESTART, **arguments}
    return parse(tool, raw, caller=AGENT, call_id="c", targets=("shop",)).digest


def test_another_wait_is_no_other_restart() -> None:
    assert digest(wait_s=1) == digest(wait_s=2) == digest()


def test_another_reason_key_or_spelling_of_a_default_is_no_other_restart() -> None:
    assert digest(target="shop", reason="else", idempotency_key="k") == digest()
    assert digest(name="deployment/api") == digest()


def test_another_object_is_another_restart() -> None:
    assert digest(name="statefulset/api") != digest()
    assert digest(name="web") != digest()
