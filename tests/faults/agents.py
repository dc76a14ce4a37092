"""Clients that write down what they asked and what they were told, over HTTP and over pipes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.faults.history import History
from tests.faults.servers import Server
from tests.faults.stage import AGENT_KEY, OTHER_KEY
from tests.faults.writes import writing_of

VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "faults", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
WHY = "a fault run wants it"
DEADLINE_S = 75.0  # a write answers within 55 s, with a handle at the latest
_LONGEST = 16 * 1024 * 1024
_GONE = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    anyio.IncompleteRead,
    OSError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a call was told. `code` is `ok` or the error's."""

    body: dict[str, Any]
    error: bool

    @property
    def code(self) -> str:
        """`ok`, or the code of the error."""
        return str(self.body.get("code", "protocol")) if self.error else "ok"

    @property
    def outcome(self) -> str:
        """What became of a write."""
        return "" if self.error else str(self.body.get("outcome", ""))


def answer_of(message: dict[str, Any]) -> Answer:
    """The answer in a JSON-RPC message."""
    if "error" in message:
        return Answer(body={"code": "protocol", **message["error"]}, error=True)
    result = message["result"]
    text = json.loads(result["content"][0]["text"])
    if result.get("isError"):
        return Answer(body=text["error"], error=True)
    return Answer(body=text, error=False)


@dataclass(kw_only=True)
class HttpAgent:
    """A client over Streamable HTTP, as many calls at once as it likes."""

    url: str
    server: str
    history: History
    http: httpx2.AsyncClient
    key: str = AGENT_KEY

    async def call(
        self, tool: str, *, intent: str = "", deadline_s: float = DEADLINE_S, **arguments: Any
    ) -> Answer | None:
        """Call a tool; None when the answer was lost. A hang is written down, and raised."""
        number = self.history.call(
            tool=tool, arguments=arguments, intent=intent, server=self.server
        )
        try:
            with anyio.fail_after(deadline_s):
                answer = await self._post(number, tool, arguments)
        except TimeoutError:
            self.history.hung(number)
            raise
        except httpx2.TransportError as gone:
            self.history.lost(number, type(gone).__name__)
            return None
        except BaseException:
            self.history.lost(number, "the client left")
            raise
        self.history.answered(number, answer.body, error=answer.error)
        return answer

    async def must(self, tool: str, **arguments: Any) -> Answer:
        """Call a tool whose answer can't be lost."""
        answer = await self.call(tool, **arguments)
        assert answer is not None, f"the answer of {tool} was lost"
        return answer

    async def restart(self, name: str, **more: Any) -> Answer | None:
        """Restart a workload, or what else its name tells: one effect for the intent of it."""
        writing = writing_of(name)
        arguments = {"intent": name, "reason": WHY, **writing.arguments(name, **more)}
        return await self.call(writing.tool, **arguments)

    async def ask(self, name: str) -> str:
        """Restart a workload as the other key, which is asked first; the sealed question."""
        arguments = {"name": name, "reason": WHY, "wait_s": 0}
        asked = await self._speak(arguments)
        return str(asked["result"]["requestState"])

    async def confirm(self, name: str, question: str) -> Answer:
        """The same call with a person's yes to a question."""
        arguments = {"name": name, "reason": WHY, "wait_s": 0}
        number = self.history.call(
            tool="restart_deployment", arguments=arguments, intent=name, server=self.server
        )
        responses = {"confirm": {"action": "accept", "content": {}}}
        said = await self._speak(arguments, requestState=question, inputResponses=responses)
        if "requestState" in said.get("result", {}):
            said = {"error": {"message": "asked anew", "executed": "no"}}
        answer = answer_of(said)
        self.history.answered(number, answer.body, error=answer.error)
        return answer

    async def _speak(self, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
        meta = {**META, "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}}
        params = {"name": "restart_deployment", "arguments": arguments, "_meta": meta, **more}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {**self._headers("restart_deployment"), "authorization": f"Bearer {OTHER_KEY}"}
        answer = await self.http.post(f"{self.url}/mcp", json=body, headers=headers)
        return _message(answer)

    async def look(self, name: str) -> bool:
        """Look at the target, through the server, whether the write had its effect."""
        writing = writing_of(name)
        answer = await self.must(writing.look, **writing.look_arguments(name))
        assert answer.code == "ok", answer.body
        found = writing.found(answer.body, name)
        self.history.looked(name, found=found)
        return found

    async def _post(self, number: int, tool: str, arguments: dict[str, Any]) -> Answer:
        headers = self._headers(tool)
        body = request(number, "tools/call", name=tool, arguments=arguments)
        answer = await self.http.post(f"{self.url}/mcp", content=body, headers=headers)
        if answer.headers.get("content-type", "").startswith("text/plain"):
            return Answer(body={"code": f"http_{answer.status_code}"}, error=True)
        return answer_of(_message(answer))

    def _headers(self, tool: str) -> dict[str, str]:
        named = tool if tool.isascii() and tool.isprintable() and tool.strip() == tool else "odd"
        return {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "mcp-protocol-version": VERSION,
            "mcp-method": "tools/call",
            "mcp-name": named,
            "authorization": f"Bearer {self.key}",
        }


def request(number: int, method: str, **params: Any) -> bytes:
    """A request of the 2026 revision as JSON."""
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    message["params"] = {**params, "_meta": META}
    return json.dumps(message).encode()


def _message(answer: httpx2.Response) -> dict[str, Any]:
    """The response in a body, or the last event of a stream."""
    if "text/event-stream" not in answer.headers.get("content-type", ""):
        found: dict[str, Any] = answer.json()
        return found
    lines = [line[5:] for line in answer.text.splitlines() if line.startswith("data:")]
    for line in reversed(lines):
        message: dict[str, Any] = json.loads(line)
        if "id" in message and "method" not in message:
            return message
    raise httpx2.RemoteProtocolError("the stream ended without the answer")


@asynccontextmanager
async def http_agent(
    server: Server, history: History, *, key: str = AGENT_KEY, url: str = ""
) -> AsyncIterator[HttpAgent]:
    """A client on a running server, or on a proxy before it (`url`)."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
    timeout = httpx2.Timeout(None, connect=10)
    async with httpx2.AsyncClient(limits=limits, timeout=timeout, trust_env=False) as http:
        yield HttpAgent(
            url=url or server.url, server=server.name, history=history, http=http, key=key
        )


@dataclass(kw_only=True)
class PipeAgent:
    """A client over stdio; answers may come in any order."""

    server: Server
    history: History
    _waiting: dict[int, tuple[anyio.Event, list[dict[str, Any]]]] = field(default_factory=dict)
    _gone: anyio.Event = field(default_factory=anyio.Event)

    async def send(self, tool: str, *, intent: str = "", **arguments: Any) -> int:
        """Write a call and do not wait; its number."""
        number = self.history.call(
            tool=tool, arguments=arguments, intent=intent, server=self.server.name
        )
        self._waiting[number] = (anyio.Event(), [])
        await self._write(request(number, "tools/call", name=tool, arguments=arguments))
        return number

    async def answer(self, number: int, *, deadline_s: float = DEADLINE_S) -> Answer | None:
        """Wait for the answer of a call; None when the server is gone."""
        arrived, found = self._waiting[number]
        try:
            with anyio.fail_after(deadline_s):
                await arrived.wait()
        except TimeoutError:
            self.history.hung(number)
            raise
        if not found:
            self.history.lost(number, "the server is gone")
            return None
        answer = answer_of(found[0])
        self.history.answered(number, answer.body, error=answer.error)
        return answer

    async def call(self, tool: str, *, intent: str = "", **arguments: Any) -> Answer | None:
        """Call a tool and wait for its answer."""
        return await self.answer(await self.send(tool, intent=intent, **arguments))

    async def cancel(self, number: int) -> None:
        """Tell the server that nobody waits for this call any more."""
        note = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": number, "_meta": META},
        }
        await self._write(json.dumps(note).encode())
        self.history.lost(number, "cancelled")

    async def read(self) -> None:
        """Sort what the server writes, until it closes its output."""
        assert self.server.process.stdout is not None
        stream = BufferedByteReceiveStream(self.server.process.stdout)
        try:
            while True:
                message = json.loads(await stream.receive_until(b"\n", _LONGEST))
                if message.get("id") in self._waiting and "method" not in message:
                    arrived, found = self._waiting[message["id"]]
                    found.append(message)
                    arrived.set()
        except _GONE:
            self._gone.set()
            for arrived, _ in self._waiting.values():
                arrived.set()

    async def _write(self, line: bytes) -> None:
        assert self.server.process.stdin is not None
        try:
            await self.server.process.stdin.send(line + b"\n")
        except _GONE:
            self._gone.set()


@asynccontextmanager
async def pipe_agent(server: Server, history: History) -> AsyncIterator[PipeAgent]:
    """A client on a server whose transport is stdio."""
    agent = PipeAgent(server=server, history=history)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent.read)
        yield agent
        tasks.cancel_scope.cancel()
