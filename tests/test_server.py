"""The edge: the official client against the server, in both eras of the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import jsonschema  # ships no types
import mcp_types as types
import orjson
import pytest
from mcp.client import Client, ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from pydantic import SecretStr

from mcp_ops.settings import KeySettings, ServerSettings
from mcp_ops.transport_http import http_app, serve_http
from tests.guard.bench import WHY, Bench, bench, shelf_target

MODES = ("2026-07-28", "legacy")
X = {"name": "x", "reason": WHY}
both_eras = pytest.mark.parametrize("mode", MODES)


class Person:
    """A client's user, who answers as told and remembers what was asked."""

    def __init__(self, action: str = "accept") -> None:
        self.action = action
        self.asked: list[types.ElicitRequestFormParams] = []

    async def __call__(
        self, context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult | types.ErrorData:
        assert isinstance(params, types.ElicitRequestFormParams)
        self.asked.append(params)
        if self.action == "error":
            return types.ErrorData(code=types.INTERNAL_ERROR, message="no window")
        return types.ElicitResult(action=self.action, content={})


@asynccontextmanager
async def speaking(
    b: Bench, mode: str, person: Person | None = None, *, name: str = "tester"
) -> AsyncIterator[Client]:
    with anyio.fail_after(20):
        async with Client(
            b.server.mcp,
            mode=mode,
            elicitation_callback=person,
            client_info=types.Implementation(name=name, version="1.2"),
        ) as client:
            yield client


def error_of(result: types.CallToolResult) -> dict[str, Any]:
    assert result.is_error
    assert result.structured_content is None
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    body: dict[str, Any] = orjson.loads(content.text)["error"]
    return body


@both_eras
async def test_a_call_answers_structured_content_and_the_same_as_text(
    tmp_path: Path, mode: str
) -> None:
    async with bench(tmp_path) as b, speaking(b, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        result = await client.call_tool("look_at_item", {"name": "x"})
        assert not result.is_error
        (content,) = result.content
        assert isinstance(content, types.TextContent)
        assert orjson.loads(content.text) == result.structured_content
        schema = tools["look_at_item"].output_schema
        assert schema is not None
        jsonschema.validate(result.structured_content, schema)


@both_eras
async def test_an_unknown_tool_is_the_only_protocol_error(tmp_path: Path, mode: str) -> None:
    async with bench(tmp_path) as b, speaking(b, mode) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("launch_missiles", {"name": "hunter2"})
        assert caught.value.error.code == types.INVALID_PARAMS
        assert "launch" not in caught.value.error.message
        assert await b.ends() == [("invalid", "unknown_tool")]


@both_eras
@pytest.mark.parametrize(
    "arguments",
    [{"name": 1}, {"name": "x", "hunter2": True}, {"name": "hunter2" * 50}, {"target": "hunter2"}],
)
async def test_bad_arguments_are_a_result_that_the_model_can_read(
    tmp_path: Path, mode: str, arguments: dict[str, Any]
) -> None:
    async with bench(tmp_path) as b, speaking(b, mode) as client:
        error = error_of(await client.call_tool("look_at_item", arguments))
        assert set(error) >= {
            "code",
            "message",
            "executed",
            "retryable",
            "retry_after_s",
            "hint",
            "target",
            "audit_id",
        }
        assert error["code"] == "invalid_input"
        assert "hunter2" not in str(error)


@both_eras
async def test_a_cursor_that_is_none_of_ours_is_refused(tmp_path: Path, mode: str) -> None:
    async with bench(tmp_path) as b, speaking(b, mode) as client:
        with pytest.raises(MCPError) as caught:
            await client.list_tools(cursor="bogus")
        assert caught.value.error.code == types.INVALID_PARAMS


@both_eras
async def test_a_person_is_asked_and_says_yes(tmp_path: Path, mode: str) -> None:
    async with bench(tmp_path) as b:
        person = Person()
        async with speaking(b, mode, person) as client:
            result = await client.call_tool("put_item", X)
        assert result.structured_content is not None
        assert result.structured_content["outcome"] == "verified"
        (question,) = person.asked
        assert "put_item (write) on shelf" in question.message
        assert b.world.effects == ["put x"]
        began = [e for e in await b.entries() if e.kind == "began"]
        assert began[0].approval.startswith("confirm ")
        assert began[0].principal == "agent:host"
        assert began[0].client == "tester 1.2"


@both_eras
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_no_ends_the_call_and_is_not_asked_again(
    tmp_path: Path, mode: str, action: str
) -> None:
    async with bench(tmp_path) as b:
        person = Person(action)
        async with speaking(b, mode, person) as client:
            for _ in range(3):
                error = error_of(await client.call_tool("put_item", X))
                assert error["code"] == "approval_denied"
        assert len(person.asked) == 1
        assert b.world.effects == []


async def test_a_client_that_cannot_show_its_question_said_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        async with speaking(b, "legacy", Person("error")) as client:
            error = error_of(await client.call_tool("put_item", X))
        assert error["code"] == "approval_required"
        assert b.world.effects == []


@both_eras
async def test_a_client_that_cannot_ask_is_taken_at_its_word_for_a_write(
    tmp_path: Path, mode: str
) -> None:
    async with bench(tmp_path) as b:
        async with speaking(b, mode) as client:
            result = await client.call_tool("put_item", X)
            assert not result.is_error
            error = error_of(await client.call_tool("drop_item", X))
            assert error["code"] == "approval_required"
        began = [e for e in await b.entries() if e.kind == "began"]
        assert began[0].approval == "confirm, client-asserted"


YES: dict[str, Any] = {"confirm": types.ElicitResult(action="accept", content={})}


async def test_an_answer_to_no_question_is_ignored(tmp_path: Path) -> None:
    async with bench(tmp_path) as b, speaking(b, MODES[0], Person()) as client:
        found = await client.session.call_tool(
            "put_item", X, input_responses=YES, allow_input_required=True
        )
        assert isinstance(found, types.InputRequiredResult)
        assert b.world.effects == []


async def test_forged_state_is_refused(tmp_path: Path) -> None:
    async with bench(tmp_path) as b, speaking(b, MODES[0], Person()) as client:
        question = await client.session.call_tool("put_item", X, allow_input_required=True)
        assert isinstance(question, types.InputRequiredResult)
        assert question.request_state is not None
        # In the middle: the last characters of base64 may carry bits that nobody reads.
        sealed = question.request_state
        forged = sealed[:-20] + ("B" if sealed[-20] == "A" else "A") + sealed[-19:]
        for state in ("question:0123456789abcdef", forged):
            with pytest.raises(MCPError):
                await client.session.call_tool(
                    "put_item",
                    X,
                    input_responses=YES,
                    request_state=state,
                    allow_input_required=True,
                )
        assert b.world.effects == []


async def test_a_sealed_answer_is_used_once_and_only_for_its_arguments(tmp_path: Path) -> None:
    async with bench(tmp_path) as b, speaking(b, MODES[0], Person()) as client:
        question = await client.session.call_tool("put_item", X, allow_input_required=True)
        assert isinstance(question, types.InputRequiredResult)
        state = question.request_state

        async def answer(arguments: dict[str, Any], responses: Any = None) -> Any:
            return await client.session.call_tool(
                "put_item",
                arguments,
                input_responses=YES if responses is None else responses,
                request_state=state,
                allow_input_required=True,
            )

        with pytest.raises(MCPError):
            await answer({**X, "name": "other"})
        first = await answer(X)
        assert first.structured_content["outcome"] == "verified"
        again = await answer(X)
        assert again.structured_content["replayed"] is True
        b.clock.advance(601)
        late = await answer(X)
        assert error_of(late)["code"] == "approval_required"
        assert b.world.effects == ["put x"]


async def test_state_without_an_answer_is_a_no(tmp_path: Path) -> None:
    async with bench(tmp_path) as b, speaking(b, MODES[0], Person()) as client:
        question = await client.session.call_tool("put_item", X, allow_input_required=True)
        assert isinstance(question, types.InputRequiredResult)
        found = await client.session.call_tool(
            "put_item",
            X,
            input_responses={"other": YES["confirm"]},
            request_state=question.request_state,
            allow_input_required=True,
        )
        assert isinstance(found, types.CallToolResult)
        assert error_of(found)["code"] == "approval_denied"


@both_eras
async def test_a_defect_says_nothing_of_itself(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path) as b, speaking(b, mode) as client:
        b.world.plans.append(ZeroDivisionError("hunter2"))
        error = error_of(await client.call_tool("look_at_item", {"name": "x"}))
        assert error["code"] == "internal_error"
        assert "hunter2" not in str(error)
        assert error["audit_id"] in error["hint"]
        (record,) = [r for r in caplog.records if "defect" in r.message]
        assert record.call == error["audit_id"]  # type: ignore[attr-defined]


@both_eras
async def test_a_client_that_goes_away_loses_no_write(tmp_path: Path, mode: str) -> None:
    async with bench(tmp_path) as b:
        hold = b.world.hold()
        async with speaking(b, mode) as client, anyio.create_task_group() as tasks:

            async def call() -> None:
                await client.call_tool("put_item", X)

            tasks.start_soon(call)
            await hold.arrived.wait()
            tasks.cancel_scope.cancel()
        hold.released.set()
        async with speaking(b, mode) as client:
            result = await client.call_tool("put_item", X)
        assert result.structured_content is not None
        assert (result.structured_content["outcome"], result.structured_content["replayed"]) == (
            "verified",
            True,
        )
        assert b.world.effects == ["put x"]


@both_eras
async def test_a_trace_of_the_client_is_in_the_ledger(tmp_path: Path, mode: str) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with bench(tmp_path) as b, speaking(b, mode) as client:
        meta: Any = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        await client.call_tool("look_at_item", {"name": "x"}, meta=meta)
        (entry,) = await b.entries()
        assert entry.trace_id == trace
        assert entry.era == (mode if mode in MODES[:1] else client.protocol_version)


# ---- over HTTP: the key is the principal

READER, AGENT_KEY, HOSTED = (
    "reader-key-0123456789",
    "agent-key-0123456789a",
    "hosted-key-0123456789",
)
KEYS = (
    KeySettings(name="reader", key=SecretStr(READER), scopes=("ops:read",)),
    KeySettings(name="agent", key=SecretStr(AGENT_KEY)),
    KeySettings(name="hosted", key=SecretStr(HOSTED), host_confirms=True),
)


@asynccontextmanager
async def served(b: Bench) -> AsyncIterator[str]:
    async def health() -> tuple[int, dict[str, Any]]:
        return 200, {}

    chosen = ServerSettings(transport="http", port=0, keys=KEYS)
    app = http_app(b.server.mcp, settings=chosen, health=health, sse=False)
    stop, ready = anyio.Event(), anyio.Event()
    urls: list[str] = []

    def tell(url: str) -> None:
        urls.append(url)
        ready.set()

    async def serve() -> None:
        await serve_http(app, settings=chosen, stop=stop, on_ready=tell)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await ready.wait()
            yield urls[0]
            stop.set()


@asynccontextmanager
async def remote(url: str, key: str, mode: str) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=20) as http,
        Client(
            streamable_http_client(f"{url}/mcp", http_client=http),
            mode=mode,
        ) as client,
    ):
        yield client


@both_eras
async def test_progress_of_a_write_reaches_the_client(tmp_path: Path, mode: str) -> None:
    infos = (shelf_target(environment="dev"),)
    async with (
        bench(tmp_path, infos=infos) as b,
        served(b) as url,
        remote(url, HOSTED, mode) as client,
    ):
        hold = b.world.hold()
        heard: list[tuple[float, float | None, str | None]] = []
        told = anyio.Event()

        async def progress(progress: float, total: float | None, message: str | None) -> None:
            heard.append((progress, total, message))
            told.set()

        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                await client.call_tool("put_item", X, progress_callback=progress)

            tasks.start_soon(call)
            await told.wait()
            hold.released.set()
        assert heard == [(1.0, 2.0, "putting")]


@both_eras
async def test_over_http_the_key_says_who_calls_and_what_it_may(tmp_path: Path, mode: str) -> None:
    infos = (shelf_target(environment="dev"),)
    async with bench(tmp_path, infos=infos) as b, served(b) as url:

        async def call(key: str, tool: str, arguments: dict[str, Any]) -> types.CallToolResult:
            async with remote(url, key, mode) as client:
                return await client.call_tool(tool, arguments)

        assert not (await call(READER, "look_at_item", {"name": "x"})).is_error
        assert error_of(await call(READER, "put_item", X))["code"] == "permission_denied"
        assert error_of(await call(AGENT_KEY, "put_item", X))["code"] == "approval_required"
        assert not (await call(HOSTED, "put_item", X)).is_error
        principals = {e.principal: e.verdict for e in await b.entries() if e.kind == "ended"}
        assert set(principals) == {"key:reader", "key:agent", "key:hosted"}
        assert b.world.effects == ["put x"]
