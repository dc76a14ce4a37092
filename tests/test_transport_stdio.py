"""The stdio transport, over the pipes of real subprocesses."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import mcp_types as types
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

ROOT = Path(__file__).parent.parent
PEER = [sys.executable, str(ROOT / "tests" / "transport_peer.py")]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
VERSION = "2026-07-28"
CAPABLE: dict[str, Any] = {"elicitation": {"form": {}}}
MODES = ("legacy", VERSION)


def peer(*options: str) -> StdioServerParameters:
    """The peer for the official client."""
    return StdioServerParameters(command=PEER[0], args=[*PEER[1:], "stdio", *options], env=ENV)


def call(
    number: int, tool: str, *, capabilities: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A 2026 call, as it goes over the wire."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "raw client", "version": "7"},
        "io.modelcontextprotocol/clientCapabilities": capabilities or {},
        **more.pop("meta", {}),
    }
    params = {"name": tool, "arguments": {}, "_meta": meta, **more}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


class Raw:
    """A peer that is spoken to in bytes."""

    def __init__(self, process: anyio.abc.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin = process.stdin
        self.stdout = BufferedByteReceiveStream(process.stdout)
        self.stderr = BufferedByteReceiveStream(process.stderr)

    async def send(self, message: dict[str, Any] | bytes) -> None:
        """Write a line."""
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        await self.stdin.send(line + b"\n")

    async def line(self) -> dict[str, Any]:
        """Read a line."""
        with anyio.fail_after(20):
            line = await self.stdout.receive_until(b"\n", 64 * 1024 * 1024)
        value: dict[str, Any] = json.loads(line)
        return value

    async def log(self, expected: bytes) -> None:
        """Wait for a line on standard error."""
        with anyio.fail_after(20):
            while expected not in await self.stderr.receive_until(b"\n", 65_536):
                pass

    async def code(self) -> int:
        """Wait for the end; the exit code."""
        with anyio.fail_after(20):
            return await self.process.wait()


@asynccontextmanager
async def raw(*options: str) -> AsyncIterator[Raw]:
    """A running peer; killed at the end if it still runs."""
    process = await anyio.open_process([*PEER, "stdio", *options], env=ENV)
    async with process:
        try:
            yield Raw(process)
        finally:
            if process.returncode is None:
                process.kill()


async def accept(
    context: ClientRequestContext, params: types.ElicitRequestParams
) -> types.ElicitResult:
    """A person who says yes."""
    return types.ElicitResult(action="accept", content={"yes": True})


@pytest.mark.parametrize("mode", MODES)
async def test_the_official_client_lists_and_calls_in_both_eras(mode: str) -> None:
    with anyio.fail_after(30):
        async with Client(peer(), mode=mode) as client:
            tools = await client.list_tools()
            result = await client.call_tool("look", {"name": "api"})
    assert "look" in [tool.name for tool in tools.tools]
    assert result.structured_content is not None
    caller = result.structured_content["caller"]
    assert result.structured_content["arguments"] == {"name": "api"}
    assert caller["principal"] is None
    assert caller["client"] == "mcp"
    assert caller["era"] == ("2026" if mode == VERSION else "session")


@pytest.mark.parametrize("mode", MODES)
async def test_a_person_is_asked_in_both_eras(mode: str) -> None:
    with anyio.fail_after(30):
        async with Client(peer(), mode=mode, elicitation_callback=accept) as client:
            result = await client.call_tool("confirm", {})
    assert result.structured_content is not None
    assert result.structured_content["action"] == "accept"


async def test_a_client_that_cannot_be_asked_is_known_as_such_in_both_eras() -> None:
    for mode in MODES:
        with anyio.fail_after(30):
            async with Client(peer(), mode=mode) as client:
                result = await client.call_tool("confirm", {})
        assert result.structured_content == {"action": "cannot ask"}


async def test_stray_prints_do_not_reach_the_protocol() -> None:
    with anyio.fail_after(30):
        async with Client(peer()) as client:
            result = await client.call_tool("shout", {})
    assert result.structured_content == {"shouted": True}


async def test_the_2026_envelope_says_who_calls_and_how_to_trace_it() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with raw() as server:
        await server.send(
            call(1, "look", capabilities=CAPABLE, meta={"traceparent": trace, "progressToken": 9})
        )
        caller = (await server.line())["result"]["structuredContent"]["caller"]
    assert caller == {
        "principal": None,
        "client": "raw-client",
        "client_version": "7",
        "protocol_version": VERSION,
        "era": "2026",
        "asks_by_result": True,
        "can_elicit": False,
        "traceparent": trace,
        "progress_token": 9,
    }


async def test_sealed_state_is_opened_by_its_process_and_refused_by_one_with_other_keys() -> None:
    async with raw() as minting, raw("--seal", "fedcba9876543210") as other:
        await minting.send(call(1, "confirm", capabilities=CAPABLE))
        asked = (await minting.line())["result"]
        assert asked["resultType"] == "input_required"
        assert "asked once" not in asked["requestState"]
        retry = {
            "requestState": asked["requestState"],
            "inputResponses": {"confirm": {"action": "accept", "content": {"yes": True}}},
        }
        await other.send(call(2, "confirm", capabilities=CAPABLE, **retry))
        refused = await other.line()
        await minting.send(call(3, "confirm", capabilities=CAPABLE, **retry))
        opened = await minting.line()
        # The state belongs to the arguments that were asked about.
        await minting.send(
            call(4, "confirm", capabilities=CAPABLE, **retry, arguments={"name": "other"})
        )
        swapped = await minting.line()
    assert refused["error"]["code"] == types.INVALID_PARAMS
    assert swapped["error"]["code"] == types.INVALID_PARAMS
    assert opened["result"]["structuredContent"] == {"action": "accept", "state": "asked once"}


async def test_garbage_lines_are_survived_and_answered_where_they_have_an_id() -> None:
    async with raw() as server:
        for garbage in (b"", b"not json", b"[]", b"[1]", b'"x"', b"\xff\xfe", b"[" * 5_000):
            await server.send(garbage)
        await server.send(b'{"jsonrpc":"2.0","id":11,"method":"tools/call","params":"\xff"}')
        not_utf8 = await server.line()
        await server.send({"jsonrpc": "1.0", "id": "x", "method": "tools/call"})
        not_rpc = await server.line()
        await server.send(b'{"jsonrpc":"2.0","id":12,"method":"look","params":{"a":"\\ud800"}}')
        lone = await server.line()
        await server.send(b'{"jsonrpc":"2.0","id":14,"method":"look","params":' + b'{"a":' * 5_000)
        deep = await server.line()
        await server.send(call(13, "look"))
        fine = await server.line()
    assert (not_utf8["id"], not_utf8["error"]["code"]) == (11, types.PARSE_ERROR)
    assert (not_rpc["id"], not_rpc["error"]["code"]) == ("x", types.INVALID_REQUEST)
    assert (lone["id"], lone["error"]["code"]) == (12, types.PARSE_ERROR)
    assert (deep["id"], deep["error"]["code"]) == (None, types.PARSE_ERROR)
    assert fine["id"] == 13
    assert "result" in fine


async def test_a_line_that_is_too_long_is_answered_and_the_next_one_served() -> None:
    async with raw() as server:
        for _ in range(9):
            await server.stdin.send(b"x" * 1024 * 1024)
        await server.send(b"end")
        refused = await server.line()
        await server.send(call(1, "look"))
        served = await server.line()
    assert (refused["id"], refused["error"]["code"]) == (None, types.PARSE_ERROR)
    assert served["id"] == 1


async def test_what_json_cannot_carry_never_goes_out_raw() -> None:
    async with raw() as server:
        await server.send(call(1, "surrogate"))
        content = (await server.line())["result"]["structuredContent"]
    assert content == {"text": "a\ufffdb", "pair": "\U0001f600", "nan": None, "big": 2**80}


async def test_closed_stdin_ends_the_server_with_exit_code_0() -> None:
    async with raw() as server:
        await server.log(b"ready")
        await server.stdin.aclose()
        assert await server.code() == 0


async def test_calls_that_came_before_the_end_of_input_are_answered() -> None:
    async with raw() as server:
        for number in range(1, 6):
            await server.send(call(number, "look"))
        await server.stdin.aclose()
        answers = sorted([(await server.line())["id"] for _ in range(5)])
        assert await server.code() == 0
    assert answers == [1, 2, 3, 4, 5]


async def test_a_question_that_nobody_can_answer_any_more_ends_with_the_input() -> None:
    async with raw() as server:
        hello = {
            "protocolVersion": "2025-11-25",
            "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "raw", "version": "1"},
        }
        await server.send({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
        await server.line()
        await server.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        params = {"name": "confirm", "arguments": {}}
        await server.send({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})
        assert (await server.line())["method"] == "elicitation/create"
        await server.stdin.aclose()
        answer = await server.line()
        assert await server.code() == 0
    assert answer["result"]["structuredContent"] == {"action": "unanswered"}


async def test_sigterm_ends_an_idle_server_with_exit_code_0() -> None:
    async with raw() as server:
        await server.send(call(1, "look"))
        await server.line()
        server.process.send_signal(signal.SIGTERM)
        assert await server.code() == 0


async def test_sigterm_lets_calls_in_flight_end_and_refuses_new_ones() -> None:
    async with raw() as server:
        await server.send(call(1, "wait"))
        await server.log(b"waiting")
        server.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(10):
            refused: dict[str, Any] = {}
            number = 2
            while "error" not in refused:
                # The signal may arrive after the next line: ask until it has.
                await server.send(call(number, "look"))
                refused = await server.line()
                number += 1
        assert "nothing was run" in refused["error"]["message"]
        note = {"requestId": 1}
        await server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": note})
        assert await server.code() == 0


async def test_a_client_that_stops_reading_ends_the_server_with_exit_code_0() -> None:
    process = subprocess.Popen(
        [*PEER, "stdio"], env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    try:
        process.stdin.write(json.dumps(call(1, "look")).encode() + b"\n")
        process.stdin.flush()
        code = await anyio.to_thread.run_sync(lambda: process.wait(timeout=20))
    finally:
        process.kill()
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
    assert code == 0


def test_input_and_output_may_be_files(tmp_path: Path) -> None:
    asked, answered = tmp_path / "in", tmp_path / "out"
    asked.write_text(json.dumps(call(1, "look")) + "\n", encoding="utf-8")
    with asked.open("rb") as source, answered.open("wb") as sink:
        done = subprocess.run(
            [*PEER, "stdio"], env=ENV, stdin=source, stdout=sink, timeout=30, check=False
        )
    assert done.returncode == 0
    assert json.loads(answered.read_text(encoding="utf-8"))["id"] == 1


def test_the_null_device_as_input_ends_the_server_with_exit_code_0() -> None:
    done = subprocess.run(
        [*PEER, "stdio"],
        env=ENV,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")


async def test_sigterm_ends_a_server_whose_input_is_a_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        process = await anyio.open_process([*PEER, "stdio"], env=ENV, stdin=theirs)
        async with process:
            assert process.stderr is not None
            with anyio.fail_after(20):
                assert b"ready" in await process.stderr.receive()
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)


async def test_a_slow_reader_gets_every_answer() -> None:
    async with raw() as server:
        text = "x" * 100_000

        async def ask() -> None:
            for number in range(1, 101):
                await server.send(call(number, "look", arguments={"name": text}))

        async with anyio.create_task_group() as tg:
            tg.start_soon(ask)
            answers = {(await server.line())["id"] for _ in range(100)}
    assert answers == set(range(1, 101))


async def test_an_unknown_tool_is_an_error_of_the_protocol() -> None:
    with anyio.fail_after(30):
        async with Client(peer()) as client:
            with pytest.raises(MCPError) as error:
                await client.call_tool("nothing", {})
    assert error.value.code == types.INVALID_PARAMS
