"""Sessions, SSE and questions with several workers: who has one serves it, whoever is called."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx2
import mcp_types as types
from mcp.client import ClientRequestContext

from mcp_ops.transport_refusals import MAX_BODY
from tests.over_http import (
    ALICE,
    BOB,
    BOTH,
    HELLO,
    MODES,
    PING,
    Stream,
    accept,
    bearer,
    call,
    endpoint,
    modern,
    speaking,
)
from tests.test_workers import ROOT, START_S, address, children, steered, until
from tests.worker_peer import STEPS

COUNT = 3
ASKABLE: dict[str, Any] = copy.deepcopy(HELLO)
ASKABLE["params"]["capabilities"] = {"elicitation": {}}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


@dataclass
class Standing:
    """The workers under their supervisor, and what they say."""

    process: anyio.abc.Process
    said: Path

    @property
    def url(self) -> str:
        return address(self.said)

    def count(self, text: str) -> int:
        """How often something was said."""
        return self.said.read_text(encoding="utf-8").count(text)

    @property
    def directory(self) -> Path:
        """Where the sockets between the workers are."""
        return Path(self.said.read_text(encoding="utf-8").partition("in ")[2].split()[0])

    @asynccontextmanager
    async def at(self, worker: int, key: str = ALICE) -> AsyncIterator[httpx2.AsyncClient]:
        """A client with one connection, which this worker has."""
        async with steered(self.url, worker, key) as http:
            http.headers.update({**BOTH, **bearer(key)})
            yield http

    async def process_of(self, worker: int) -> int:
        """The process id of a worker."""
        async with self.at(worker) as http:
            facts = await where(http, await opened(http))
        assert facts["worker"] == worker
        return int(facts["process"])


@asynccontextmanager
async def served(directory: Path, transport: str = "http") -> AsyncIterator[Standing]:
    """Three workers, ready."""
    said = directory / "stderr"
    command = [sys.executable, "-m", "tests.worker_peer", transport, str(COUNT)]
    with said.open("wb") as file:
        process = await anyio.open_process(command, cwd=ROOT, stderr=file.fileno())
    async with process:
        standing = Standing(process, said)
        try:
            await until(lambda: standing.count("serving at") == COUNT or process.returncode)
            with anyio.fail_after(START_S):
                yield standing
        finally:
            with anyio.move_on_after(START_S, shield=True) as waiting:
                if process.returncode is None:
                    process.terminate()
                await process.wait()
            if waiting.cancelled_caught:
                process.kill()
            await until(lambda: not children(process.pid))


async def opened(http: httpx2.AsyncClient, hello: dict[str, Any] = HELLO) -> dict[str, str]:
    """Open a session where the connection is; the header for its requests."""
    answer = await http.post("/mcp", json=hello)
    assert answer.status_code == 200, answer.text
    session = {"mcp-session-id": answer.headers["mcp-session-id"]}
    assert (await http.post("/mcp", headers=session, json=INITIALIZED)).status_code == 202
    return session


async def where(http: httpx2.AsyncClient, session: dict[str, str]) -> dict[str, Any]:
    """Who answers a call of a session."""
    answer = await http.post("/mcp", headers=session, json=call("where"))
    assert answer.status_code == 200, answer.text
    facts: dict[str, Any] = answer.json()["result"]["structuredContent"]
    return facts


async def events(answer: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """The messages of a stream."""
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def yes(question: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question."""
    assert question["method"] == "elicitation/create"
    result = {"action": "accept", "content": {"yes": True}}
    return {"jsonrpc": "2.0", "id": question["id"], "result": result}


async def test_each_request_of_a_session_reaches_it_over_any_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as standing:
        for owner in range(1, COUNT + 1):
            async with standing.at(owner) as http:
                session = await opened(http)
                assert (await where(http, session))["worker"] == owner
            for taker in range(1, COUNT + 1):
                async with standing.at(taker) as http:
                    assert (await where(http, session))["worker"] == owner
                    assert (await http.get("/health")).status_code == 200
                async with standing.at(taker, BOB) as http:
                    foreign = await http.post("/mcp", headers=session, json=call("where"))
                    assert foreign.status_code == 404
            async with standing.at(owner % COUNT + 1) as http:
                assert (await http.delete("/mcp", headers=session)).status_code == 200
                assert (await http.post("/mcp", headers=session, json=PING)).status_code == 404


async def test_who_takes_a_connection_decides_nothing(tmp_path: Path) -> None:
    """Key, host and size are read by who serves, as for a connection of its own."""
    async with served(tmp_path) as standing:
        async with standing.at(1) as http:
            session = await opened(http)
        async with standing.at(2) as http:
            wrong = {**session, "authorization": "Bearer nobody-0123456789"}
            assert (await http.post("/mcp", headers=wrong, json=PING)).status_code == 401
        async with standing.at(3) as http:
            stranger = {**session, "host": "evil.example"}
            assert (await http.post("/mcp", headers=stranger, json=PING)).status_code == 421
        async with standing.at(2) as http:
            twice = [*session.items(), ("mcp-session-id", "02" + "0" * 30)]
            headers = httpx2.Headers([*BOTH.items(), *bearer(ALICE).items(), *twice])
            assert (await http.post("/mcp", headers=headers, json=PING)).status_code == 400
        async with standing.at(2) as http:
            large = await http.post("/mcp", headers=session, content=b" " * MAX_BODY)
            assert large.status_code == 400  # it was read, and is not JSON
        async with standing.at(3) as http:
            assert (await where(http, session))["worker"] == 1


async def test_a_question_within_a_call_is_answered_over_another_worker(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as standing,
        standing.at(1) as asker,
        standing.at(2) as answering,
    ):
        session = await opened(asker, ASKABLE)
        async with asker.stream("POST", "/mcp", headers=session, json=call("confirm")) as answer:
            messages = events(answer)
            question = await anext(messages)
            said = await answering.post("/mcp", headers=session, json=yes(question))
            assert said.status_code == 202
            result = await anext(messages)
        assert result["result"]["structuredContent"] == {"action": "accept"}


async def test_a_call_is_cancelled_over_another_worker(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as standing,
        standing.at(1) as caller,
        standing.at(3) as other,
    ):
        session = await opened(caller)
        answers: list[str] = []

        async def ask() -> None:
            answers.append((await caller.post("/mcp", headers=session, json=call("hang"))).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: standing.count("began"))
            note = {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": 5},
            }
            assert (await other.post("/mcp", headers=session, json=note)).status_code == 202
        await until(lambda: standing.count("cancelled"))
    assert "-32800" in answers[0]


async def test_messages_of_an_sse_stream_are_posted_to_any_worker(tmp_path: Path) -> None:
    async with (
        served(tmp_path, "sse") as standing,
        standing.at(2) as listening,
        standing.at(3) as first,
        standing.at(1) as second,
        standing.at(1, BOB) as foreign,
    ):
        async with listening.stream("GET", "/sse") as answer:
            lines = answer.aiter_lines()
            path = await endpoint(lines)
            assert "session_id=02" in path
            stream = Stream(first, lines, path)
            assert (await stream.ask(ASKABLE) or {})["id"] == HELLO["id"]
            assert await stream.post(INITIALIZED) == 202
            assert await Stream(foreign, lines, path).post(PING) == 404
            other = Stream(second, lines, path)
            found = await other.ask(call("where"))
            assert (found or {})["result"]["structuredContent"]["worker"] == 2
            question = await stream.ask(call("confirm"))
            result = await other.ask(yes(question or {}))
            assert (result or {})["result"]["structuredContent"] == {"action": "accept"}
        while (status := await stream.post(PING)) != 404:  # it is told a moment later
            assert status == 202


async def slowly(
    context: ClientRequestContext, params: types.ElicitRequestParams
) -> types.ElicitResult:
    """Say yes, while others are served."""
    await anyio.sleep(0)
    return await accept(context, params)


async def converse(url: str, transport: str, mode: str) -> None:
    """The SDK's client, with as many connections as it likes: questions, progress, and calls at
    once."""
    heard: list[float] = []

    async def progress(
        progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        heard.append(progress)

    async with speaking(
        url, transport=transport, mode=mode, key=BOB, elicitation_callback=slowly
    ) as client:
        for _ in range(3):
            answer = await client.call_tool("confirm", {})
            assert (answer.structured_content or {})["action"] == "accept"
            await client.call_tool("steps", {}, progress_callback=progress)
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(client.call_tool, "where", {})
        await until(lambda: len(heard) == 3 * STEPS)


async def test_many_clients_of_every_kind_at_once(tmp_path: Path) -> None:
    async with served(tmp_path, "sse") as standing, anyio.create_task_group() as tasks:
        for _ in range(8):
            for mode in MODES:
                tasks.start_soon(converse, standing.url, "http", mode)
            tasks.start_soon(converse, standing.url, "sse", "legacy")


async def test_a_worker_that_is_killed_takes_its_sessions_along_and_no_others(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as standing:
        async with standing.at(1) as http:
            kept = await opened(http)
        lost = await standing.process_of(2)
        async with standing.at(2) as http:
            gone = await opened(http)
        async with standing.at(3) as waiting, standing.at(3) as http:
            os.kill(lost, signal.SIGSTOP)
            answers: list[int] = []

            async def ask() -> None:
                answers.append((await waiting.post("/mcp", headers=gone, json=PING)).status_code)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                # It has to be with the second worker, which does not take it.
                await until(lambda: waits_at(standing.directory / "2"))
                assert (await where(http, kept))["worker"] == 1
                os.kill(lost, signal.SIGKILL)
                await until(lambda: standing.count("ended with -9"))
            assert answers == [404]  # of the next worker of that number
            async with standing.at(3) as other:
                assert (await other.post("/mcp", headers=gone, json=PING)).status_code == 404
                assert (await where(other, kept))["worker"] == 1
        assert await standing.process_of(2) != lost


def waits_at(path: Path) -> bool:
    """Whether a connection waits at a Unix socket that nobody accepts from."""
    lines = Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()
    return sum(line.endswith(f" {path}") for line in lines) > 1


async def test_questions_are_answered_to_the_end_while_all_workers_stop(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as standing,
        standing.at(1) as first,
        standing.at(2) as second,
        standing.at(1) as beside,
    ):
        sessions = [await opened(first, ASKABLE), await opened(second, ASKABLE)]
        async with (
            first.stream("POST", "/mcp", headers=sessions[0], json=call("confirm")) as one,
            second.stream("POST", "/mcp", headers=sessions[1], json=call("confirm")) as two,
        ):
            answers = [events(one), events(two)]
            questions = [await anext(each) for each in answers]
            standing.process.terminate()
            await until(lambda: not (standing.directory / "3").exists())
            while (await beside.get("/health")).status_code != 503:
                await anyio.sleep(0.02)
            # On a connection of the first worker, which stops as well, and on a new one.
            said = await beside.post("/mcp", headers=sessions[1], json=yes(questions[1]))
            assert said.status_code == 202
            result = await anext(answers[1])
            assert result["result"]["structuredContent"] == {"action": "accept"}
            async with httpx2.AsyncClient(base_url=standing.url, timeout=60) as new:
                head = {**BOTH, **bearer(ALICE), **sessions[0]}
                said = await new.post("/mcp", headers=head, json=yes(questions[0]))
            assert said.status_code == 202
            result = await anext(answers[0])
            assert result["result"]["structuredContent"] == {"action": "accept"}
        assert await standing.process.wait() == 0
        assert not standing.directory.exists()


async def test_the_modern_era_is_answered_by_whoever_takes_it(tmp_path: Path) -> None:
    head, body = modern("where")
    async with served(tmp_path) as standing:
        for worker in range(1, COUNT + 1):
            async with standing.at(worker) as http:
                answer = await http.post("/mcp", headers=head, json=body)
                assert answer.json()["result"]["structuredContent"]["worker"] == worker
