"""Bad input gets its documented error over every transport in both eras, and nothing runs."""

from __future__ import annotations

import json
from typing import Any

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from tests.clients.lines import lines
from tests.clients.live import LiveLab, Place
from tests.clients.official import ERAS, NAN, TRANSPORTS, Conversation, Person, connected

CANARY = "canary-7f3a9b"
RESTART: dict[str, Any] = {"name": "worker", "reason": "bad input"}
RETRY: dict[str, Any] = {"target": "orders", "failure_type": "timeout", "reason": "bad input"}
# What is wrong, the call, and what the message has to name.
INVALID: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("unknown argument", "restart_deployment", {**RESTART, CANARY: "x"}, "unknown argument"),
    ("value in its name", "restart_deployment", {**RESTART, f"{CANARY} ": 1}, "unknown argument"),
    ("text for a number", "restart_deployment", {**RESTART, "wait_s": CANARY}, "wait_s"),
    ("number for text", "restart_deployment", {**RESTART, "name": 731_907_331}, "name"),
    ("text for a truth", "restart_deployment", {**RESTART, "dry_run": "no"}, "dry_run"),
    ("number for a truth", "restart_deployment", {**RESTART, "dry_run": 0}, "dry_run"),
    ("null", "restart_deployment", {**RESTART, "name": None}, "name"),
    ("text for a list", "retry_deadletters", {**RETRY, "ids": CANARY}, "ids"),
    ("not a number", "retry_deadletters", {**RETRY, "rate_per_s": NAN}, "rate_per_s"),
    ("too long", "restart_deployment", {**RESTART, "name": CANARY * 50_000}, "name"),
    ("too many", "retry_deadletters", {**RETRY, "ids": [CANARY] * 201}, "ids"),
    ("too little", "retry_deadletters", {**RETRY, "max_items": 0}, "max_items"),
    ("missing", "restart_deployment", {"name": CANARY}, "reason"),
    ("unknown target", "restart_deployment", {**RESTART, "target": CANARY}, "target"),
    ("target of another kind", "restart_deployment", {**RESTART, "target": "orders"}, "target"),
    ("target as a list", "restart_deployment", {**RESTART, "target": [CANARY]}, "target"),
    ("unknown target of the guard", "isolate_target", {"target": CANARY, "reason": "bad"}, "targ"),
)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_mistake_is_explained_and_nothing_runs(
    transport: str, era: str, lab: LiveLab, place: Place
) -> None:
    before = lab.witnessed()
    person = Person()
    async with connected(place, transport, era, person=person) as talk:
        for what, tool, arguments, names in INVALID:
            said = await talk.call(tool, arguments)
            error = said.text["error"]
            assert said.is_error, what
            assert said.structured is None, what
            assert (said.code, error["executed"]) == ("invalid_input", "no"), (what, error)
            assert names in error["message"], (what, error)
            assert error["hint"], what
            _not_echoed(json.dumps(said.text), what)
        await _unknown_tool(talk)
        recorded = await talk.call("search_audit", {"outcome": "invalid", "limit": 100})
        _not_echoed(json.dumps(recorded.text), "the audit")
        assert len(recorded.text["items"]) == len(INVALID) + 1
    assert person.asked == []
    assert lab.witnessed() == before
    _not_echoed(place.stderr.read_text(encoding="utf-8"), "stderr")


async def _unknown_tool(talk: Conversation) -> None:
    with pytest.raises(MCPError) as refused:
        await talk.client.call_tool("restart_everything", {"name": CANARY})
    assert refused.value.code == types.INVALID_PARAMS
    assert "restart_everything" not in str(refused.value)
    _not_echoed(str(refused.value), "unknown tool")


@pytest.mark.parametrize("era", ERAS)
async def test_a_line_with_what_is_not_json_is_refused_by_its_id_and_the_next_one_served(
    era: str, lab: LiveLab, place: Place
) -> None:
    before = lab.witnessed()
    async with lines(place) as server:
        meta = await server.greet(era)
        arguments = {**RETRY, "rate_per_s": float("nan"), "text": CANARY}
        refused = await server.ask(
            "tools/call", name="retry_deadletters", arguments=arguments, **meta
        )
        served = await server.ask("tools/call", name="list_circuits", arguments={}, **meta)
    assert refused["error"]["code"] == types.PARSE_ERROR
    _not_echoed(json.dumps(refused), "the line")
    assert served["result"]["structuredContent"]["circuits"] is not None
    assert lab.witnessed() == before


def _not_echoed(text: str, what: str) -> None:
    assert CANARY not in text, what
    assert "731907331" not in text, what
