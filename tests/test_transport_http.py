"""The HTTP transports on real sockets: both eras, sessions, questions, the log, the end."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.server.lowlevel import Server

from mcp_ops.errors import ConfigurationError
from mcp_ops.transport import seal
from tests.over_http import (
    ALICE,
    BOB,
    BOTH,
    HELLO,
    MODES,
    PING,
    SEAL,
    TWO_KEYS,
    VERSION,
    accept,
    bearer,
    endpoint,
    modern,
    running,
    settings,
    speaking,
)

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_the_official_client_calls_over_both_transports_in_both_eras(
    transport: str, mode: str
) -> None:
    async with (
        running(settings(keys=TWO_KEYS)) as url,
        speaking(url, transport=transport, mode=mode, key=ALICE) as client,
    ):
        tools = await client.list_tools()
        result = await client.call_tool("look", {"name": "api"})
    assert "look" in [tool.name for tool in tools.tools]
    assert result.structured_content is not None
    caller = result.structured_content["caller"]
    assert caller["principal"] == {
        "id": "key:alice",
        "scopes": ["ops:read"],
        "host_confirms": True,
        "reach": [],
    }
    assert caller["client"] == "mcp"
    assert caller["era"] == ("2026" if mode == VERSION else "session")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_a_person_is_asked_over_both_transports_in_both_eras(
    transport: str, mode: str
) -> None:
    async with (
        running(settings()) as url,
        speaking(url, transport=transport, mode=mode, elicitation_callback=accept) as client,
    ):
        result = await client.call_tool("confirm", {})
    assert result.structured_content is not None
    assert result.structured_content["action"] == "accept"


async def test_without_sessions_a_client_of_the_older_era_calls_and_is_not_asked() -> None:
    async with (
        running(settings(sessions=False), sse=False) as url,
        speaking(url, mode="legacy", elicitation_callback=accept) as client,
    ):
        looked = await client.call_tool("look", {"name": "api"})
        asked = await client.call_tool("confirm", {})
    assert looked.structured_content is not None
    assert looked.structured_content["arguments"] == {"name": "api"}
    assert asked.structured_content is not None
    assert asked.structured_content["action"] == "cannot ask"


async def test_state_that_was_sealed_for_one_key_is_refused_from_another() -> None:
    async with running(settings(keys=TWO_KEYS)) as url, httpx2.AsyncClient(base_url=url) as http:
        head, body = modern("confirm")
        asked = (await http.post("/mcp", headers={**head, **bearer(ALICE)}, json=body)).json()
        retry = {
            "requestState": asked["result"]["requestState"],
            "inputResponses": {"confirm": {"action": "accept"}},
        }
        head, body = modern("confirm", **retry)
        foreign = (await http.post("/mcp", headers={**head, **bearer(BOB)}, json=body)).json()
        own = (await http.post("/mcp", headers={**head, **bearer(ALICE)}, json=body)).json()
    assert foreign["error"]["code"] == types.INVALID_PARAMS
    assert own["result"]["structuredContent"]["action"] == "accept"


async def test_a_question_is_open_to_every_key_and_sealed_by_the_first() -> None:
    old, new = b"o" * 32, b"n" * 32
    retry = {"inputResponses": {"confirm": {"action": "accept"}}}

    async def spoken(*keys: bytes, state: str = "") -> dict[str, Any]:
        head, body = modern("confirm", **({**retry, "requestState": state} if state else {}))
        async with (
            running(settings(), seal_keys=list(keys)) as url,
            httpx2.AsyncClient(base_url=url) as http,
        ):
            found: dict[str, Any] = (await http.post("/mcp", headers=head, json=body)).json()
            return found

    asked_by_old = (await spoken(old))["result"]["requestState"]
    asked_by_new = (await spoken(new, old))["result"]["requestState"]
    for keys, state, opens in (
        ((new, old), asked_by_old, True),
        ((new,), asked_by_old, False),
        ((new,), asked_by_new, True),
        ((old,), asked_by_new, False),
    ):
        answer = await spoken(*keys, state=state)
        assert ("result" in answer) is opens, (keys, answer)


async def test_session_ids_and_bodies_are_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    secret = "0123456789abcdef" * 2
    async with running(settings()) as url, httpx2.AsyncClient(base_url=url) as http:
        opened = await http.post("/mcp", headers=BOTH, json=HELLO)
        session = {**BOTH, "mcp-session-id": opened.headers["mcp-session-id"]}
        await http.delete("/mcp", headers=session)
        await http.post("/mcp", headers={**BOTH, "mcp-session-id": secret}, json=PING)
        await http.post(f"/messages/?session_id={secret}", headers=BOTH, json=PING)
        async with http.stream("GET", "/sse") as stream:
            lines = stream.aiter_lines()
            path = await endpoint(lines)
            await http.post(path, headers=BOTH, content=b'{"jsonrpc": "a body in the log"}')
    ours = [record for record in caplog.records if record.name.startswith("mcp")]
    text = "\n".join(logging.Formatter().format(record) for record in ours)
    assert opened.headers["mcp-session-id"] not in text
    assert path.partition("=")[2] not in text.replace("-", "")
    assert secret not in text
    assert "a body in the log" not in text


async def test_stopping_ends_open_streams_and_answers_what_is_in_flight() -> None:
    stop = anyio.Event()
    got: list[Any] = []
    async with (
        running(settings(), stop=stop) as url,
        speaking(url, mode="legacy") as client,
        speaking(url, mode="legacy", transport="sse") as other,
    ):

        async def wait(caller: Client) -> None:
            got.append((await caller.call_tool("wait", {})).structured_content)

        async with anyio.create_task_group() as tg:
            tg.start_soon(wait, client)
            tg.start_soon(wait, other)
            await client.call_tool("look", {})
            await other.call_tool("look", {})
            await client.call_tool("release", {})
            stop.set()
    assert got == [{"waited": True}, {"waited": True}]


def test_seal_keys_that_are_missing_or_short_are_refused() -> None:
    for keys in ([], [b"short"], [SEAL[0], SEAL[0]]):
        with pytest.raises(ConfigurationError):
            seal(Server("x"), keys, lambda ctx: None)


async def test_sigterm_ends_the_server_with_exit_code_0() -> None:
    command = [sys.executable, str(ROOT / "tests" / "transport_peer.py"), "http"]
    command += ["--settings", json.dumps({"port": 0})]
    process = await anyio.open_process(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    async with process:
        assert process.stderr is not None
        with anyio.fail_after(20):
            url = (await process.stderr.receive()).decode().strip()
            async with speaking(url) as client:
                await client.call_tool("look", {})
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
