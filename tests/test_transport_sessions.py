"""Sessions of the older era: their answers, streams, cancellations and ends."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import httpx2
import mcp_types as types
from mcp.server.lowlevel import Server

from mcp_ops.transport_sessions import MAX_SESSIONS, Session, Sessions
from tests.over_http import BOTH, HELLO, call, modern, probing, shaken


async def test_a_session_answers_a_plain_call_with_a_plain_body() -> None:
    async with probing() as (_, http):
        session = await shaken(http)
        answer = await http.post("/mcp", headers=session, json=call("look"))
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["content"] == [{"type": "text", "text": "look"}]
    assert answer.headers["mcp-session-id"] == session["mcp-session-id"]


async def test_a_client_of_a_session_that_leaves_cancels_nothing_but_a_notification_does() -> None:
    async with probing() as (probe, http):
        session = await shaken(http)
        answers: list[httpx2.Response] = []

        async def ask() -> None:
            answers.append(await http.post("/mcp", headers=session, json=call("hang")))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await probe.began.wait()
                twice = await http.post("/mcp", headers=session, json=call("hang"))
                note = {
                    "jsonrpc": "2.0",
                    "method": "notifications/cancelled",
                    "params": {"requestId": 5},
                }
                await http.post("/mcp", headers=session, json=note)
            await probe.cancelled.wait()
    assert twice.status_code == 400
    assert answers[0].headers["content-type"] == "text/event-stream"
    assert "-32800" in answers[0].text


async def test_a_session_has_one_stream_and_ends_once() -> None:
    async with probing() as (_, http):
        session = await shaken(http)
        async with http.stream("GET", "/mcp", headers=session) as stream:
            assert stream.status_code == 200
            second = await http.get("/mcp", headers=session)
            assert (await http.delete("/mcp", headers=session)).status_code == 200
            with anyio.fail_after(20):
                async for _ in stream.aiter_bytes():
                    pass
        gone = await http.post("/mcp", headers=session, json=call("look"))
        blind = await http.get("/mcp", headers={**session, "accept": "application/json"})
    assert (second.status_code, gone.status_code, blind.status_code) == (409, 404, 404)


async def test_who_waits_in_a_session_that_ends_is_told() -> None:
    async with probing() as (probe, http):
        session = await shaken(http)
        answers: list[httpx2.Response] = []

        async def ask() -> None:
            answers.append(await http.post("/mcp", headers=session, json=call("hang")))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await probe.began.wait()
                await http.delete("/mcp", headers=session)
            await probe.cancelled.wait()
    assert answers[0].status_code == 404


async def test_what_is_no_message_of_a_session_is_refused() -> None:
    async with probing() as (_, http):
        session = await shaken(http)
        found = {
            "no session": await http.post("/mcp", headers=BOTH, json=call("look")),
            "no stream either": await http.get("/mcp", headers=BOTH),
            "no JSON": await http.post("/mcp", headers=session, content=b"{"),
            "no message": await http.post("/mcp", headers=session, content=b"{}"),
            "no SSE": await http.post(
                "/mcp", headers={**session, "accept": "application/json"}, json=call("look")
            ),
            "no type": await http.post(
                "/mcp", headers={**session, "content-type": "text/plain"}, content=b"{}"
            ),
            "blind": await http.get("/mcp", headers={**session, "accept": "application/json"}),
            "the other era": await http.post("/mcp", headers=session, json=modern("look")[1]),
        }
    assert {name: answer.status_code for name, answer in found.items()} == {
        "no session": 400,
        "no stream either": 400,
        "no JSON": 400,
        "no message": 400,
        "no SSE": 406,
        "no type": 400,
        "blind": 406,
        "the other era": 200,
    }
    assert found["no JSON"].json()["error"]["code"] == types.PARSE_ERROR
    assert found["no message"].json()["error"]["code"] == types.INVALID_PARAMS
    assert found["the other era"].json()["error"]["code"] == types.INVALID_REQUEST


async def test_a_handshake_that_fails_opens_no_session() -> None:
    async with probing() as (_, http):
        wrong = {**HELLO, "params": {}}
        opened = await http.post("/mcp", headers=BOTH, json=wrong)
        session = {**BOTH, "mcp-session-id": opened.headers["mcp-session-id"]}
        after = await http.post("/mcp", headers=session, json=call("look"))
    assert opened.json()["error"]["code"] == types.INVALID_PARAMS
    assert after.status_code == 404


async def test_without_sessions_each_request_stands_alone() -> None:
    async with probing(sessions=False) as (_, http):
        opened = await http.post("/mcp", headers=BOTH, json=HELLO)
        assert "mcp-session-id" not in opened.headers
        answer = await http.post("/mcp", headers=BOTH, json=call("look"))
        listening = await http.get("/mcp", headers=BOTH)
    assert '"text":"look"' in answer.text
    assert listening.status_code == 405


async def test_nobody_takes_the_sessions_of_all_others() -> None:
    sessions = Sessions(Server("probe"))
    made = [Session("key:alice" if number else "key:bob", 15) for number in range(MAX_SESSIONS)]
    for each in made:
        each._last_use -= 60
    made[7]._last_use -= 1
    sessions._open = {each.id: each for each in made}
    assert sessions._has_room()
    assert made[7].id not in sessions._open
    assert made[0].id in sessions._open
    assert len(sessions._open) == MAX_SESSIONS - 1
    made.append(Session("key:bob", 15))
    sessions._open[made[-1].id] = made[-1]
    for each in made:
        each.use(1)
    assert not sessions._has_room()
    for each in made:
        each.close()
        each.messages.close()
