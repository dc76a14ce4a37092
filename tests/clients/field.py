"""The clients of the field: which there are, what each can do, and how one is put to the test.

What stands here is in the table of docs/clients.md, and each test proves a row of it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from mcp_ops.clock import SystemClock
from mcp_ops.lab.place import write_private
from mcp_ops.records import AuditQuery
from mcp_ops.schema import shipped_schemas
from mcp_ops.stores.sqlite.embedded import open_stores
from tests.clients.install import Installed, framework, locked_version
from tests.clients.live import ROOT, LiveLab, Place, serving
from tests.clients.official import CALL_S
from tests.clients.sweep import PUBLISHED, REASON, Said, Sweep, said

MODERN, SESSIONS = "2026-07-28", "2025-11-25"
_SCRIPT = ROOT / "tests" / "clients" / "field_client.py"
_KEY = "a-key-of-the-clients-of-the-field-0123456789"
_KEYS = """
[[server.keys]]
name = "field"
key = "file:secrets/field-key"
scopes = ["ops:read", "ops:write", "ops:destroy"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldClient:
    """One client. `eras` is the revision that it speaks, by transport; a transport that it has not
    is missing. `asks` says whether it lets a server ask its user."""

    name: str
    lock: str
    eras: Mapping[str, str]
    asks: bool = False
    script: str = ""

    @property
    def version(self) -> str:
        """The version that is locked."""
        return locked_version(self.name, self.lock)

    def command(self, clients: Installed) -> list[str]:
        """How it is run."""
        if self.script:
            return [str(clients.node), str(clients.typescript / self.script)]
        return [str(framework(self.lock)), str(_SCRIPT), self.name]


def _everywhere(era: str, *transports: str) -> dict[str, str]:
    return dict.fromkeys(transports or ("stdio", "sse", "http"), era)


FIELD = (
    FieldClient(
        name="@modelcontextprotocol/sdk",
        lock="typescript",
        script="sdk.mjs",
        eras=_everywhere(SESSIONS),
        asks=True,
    ),
    FieldClient(
        name="@modelcontextprotocol/client",
        lock="typescript",
        script="client.mjs",
        eras=_everywhere(MODERN),
        asks=True,
    ),
    FieldClient(
        name="fastmcp",
        lock="fastmcp",
        # Over SSE it speaks the older era only.
        eras={**_everywhere(MODERN), "sse": SESSIONS},
        asks=True,
    ),
    FieldClient(name="langchain-mcp-adapters", lock="mcp1", eras=_everywhere(SESSIONS), asks=True),
    FieldClient(name="openai-agents", lock="mcp1", eras=_everywhere(SESSIONS)),
    FieldClient(name="semantic-kernel", lock="mcp1", eras=_everywhere(SESSIONS)),
    FieldClient(
        name="agent-framework-core", lock="agent", eras=_everywhere(MODERN, "stdio", "http")
    ),
)
# Those that `make test` drives; `make clients` drives them all.
QUICK = [each for each in FIELD if each.lock in ("typescript", "agent")]


class Spoken:
    """A client's process: a line in, a line out."""

    def __init__(self, process: anyio.abc.Process, tools: list[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self.tools = tools

    async def say(self, value: Any) -> dict[str, Any]:
        """A line in, a line out."""
        await self._stdin.send(json.dumps(value).encode() + b"\n")
        with anyio.fail_after(CALL_S):
            answer: dict[str, Any] = json.loads(await self._stdout.receive_until(b"\n", 1_000_000))
        return answer

    async def call(self, tool: str, arguments: dict[str, Any]) -> Said:
        """A tool call. A framework that shows a model the text only shows it all there is."""
        answer = await self.say({"tool": tool, "arguments": arguments})
        text, is_error = answer["text"], bool(answer["is_error"])
        shown = None if is_error else json.loads(text)
        return said(text, answer.get("structured", shown), is_error)


@asynccontextmanager
async def speaking(
    client: FieldClient, clients: Installed, how: dict[str, Any], home: Path
) -> AsyncIterator[Spoken]:
    """The client, connected."""
    command = await anyio.to_thread.run_sync(client.command, clients)
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    with (home / "client.stderr").open("ab") as stderr:
        async with await anyio.open_process(
            command, env=environment, cwd=home, stderr=stderr
        ) as process:
            try:
                spoken = Spoken(process, [])
                spoken.tools = (await spoken.say(how))["tools"]
                yield spoken
            finally:
                if process.returncode is None:
                    process.terminate()


def keyed_place(lab: LiveLab, directory: Path) -> Place:
    """A place for servers that want a key over HTTP."""
    write_private(lab.config.parent / "secrets" / "field-key", _KEY)
    config = lab.config.with_name("field.toml")
    config.write_text(lab.config.read_text(encoding="utf-8") + _KEYS, encoding="utf-8")
    return Place(config=config, state=directory / "state")


async def prove_stdio(client: FieldClient, clients: Installed, lab: LiveLab, place: Place) -> None:
    """The client starts a server of its own and works with it."""
    command = place.command("serve", "--transport", "stdio")
    how = {"command": command, "env": place.environment, "cwd": str(ROOT)}
    await _prove(client, clients, lab, place, {"transport": "stdio", **how})


async def prove_remote(client: FieldClient, clients: Installed, lab: LiveLab, place: Place) -> None:
    """The client works with a server that wants a key, over each transport that it has."""
    headers = {"Authorization": f"Bearer {_KEY}"}
    async with serving(place, "sse") as server:
        for transport in [each for each in client.eras if each != "stdio"]:
            how = {"transport": transport, "url": server.endpoint(transport), "headers": headers}
            await _prove(client, clients, lab, place, how)


async def _prove(
    client: FieldClient,
    clients: Installed,
    lab: LiveLab,
    place: Place,
    how: dict[str, Any],
) -> None:
    """List, read, read a refusal, be refused by the policy, write."""
    transport = how["transport"]
    lab.calm()
    schemas = {name: each.output for name, each in shipped_schemas().items()}
    async with speaking(client, clients, how, place.state.parent) as spoken:
        assert set(spoken.tools) == PUBLISHED
        sweep = Sweep(call=spoken.call, place=place, schemas=schemas)
        assert (await sweep.do("get_deployment", name="worker"))["ready"] == 2
        missing = await spoken.call("get_deployment", {"name": "nothing-of-this-name"})
        assert missing.code == "not_found"
        assert missing.text["error"]["hint"]
        held = len(lab.deadletters())
        waiting = (await sweep.do("list_deadletters", target="orders"))["items"]
        # A lab that was calmed holds the same items again: a new key makes it a new call.
        change = {"target": "orders", "ids": [waiting[0]["id"]], **_new("discard", transport)}
        # Refused in words that say what to do; done once a person approved it.
        await sweep.do("discard_deadletters", **change)
        assert len(lab.deadletters()) == held - 1
        before = len(lab.effects("kubernetes", "client.patch"))
        restarted = await sweep.do(
            "restart_deployment", name="worker", **_new("restart", transport)
        )
        assert restarted["outcome"] == "verified"
        assert len(lab.effects("kubernetes", "client.patch")) == before + 1
    # Over stdio the client's own dialog counts; over HTTP who can't be asked waits for a person.
    confirmed = [] if transport == "stdio" or client.asks else ["restart_deployment"]
    assert sweep.approved == ["discard_deadletters", *confirmed]
    assert await _spoke(place) == client.eras[transport]


def _new(what: str, transport: str) -> dict[str, str]:
    return {"reason": REASON, "idempotency_key": f"{what} over {transport}"}


async def _spoke(place: Place) -> str:
    """The revision in which the last restart was asked for."""
    async with open_stores(place.state / "state.db", SystemClock()) as stores:
        lines = await stores.ledger.search(AuditQuery(tool="restart_deployment", limit=1))
    return lines[0].era
