"""The lab in a thread of its own, and `mcp-ops serve` as a process, for real clients."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx2
from anyio.from_thread import BlockingPortal, start_blocking_portal
from redis import Redis

from mcp_ops.clock import SystemClock
from mcp_ops.lab.configuration import SUBJECT, lab_environment
from mcp_ops.lab.redis import QUEUE_KEY
from mcp_ops.lab.supervisor import Lab, running_lab
from mcp_ops.stores.sqlite.embedded import open_stores

ROOT = Path(__file__).parent.parent.parent
COMPONENTS = ("salesforce", "oauth", "kubernetes", "coordinator")
# One step of a rollout, in seconds: short, so that a restart takes a moment only.
STEP_S = 0.05
START_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLab:
    """A running lab, for the thread of the tests."""

    lab: Lab
    portal: BlockingPortal

    @property
    def config(self) -> Path:
        """The configuration of a server for this lab."""
        return self.lab.config

    def break_fault(self, name: str, at: str = "") -> None:
        """Put a fault in force."""
        self.portal.call(self.lab.break_fault, name, at)

    def mend_fault(self, name: str, at: str = "") -> None:
        """Undo a fault, or `all`."""
        self.portal.call(self.lab.mend_fault, name, at)

    def calm(self) -> None:
        """Nothing is broken, and the few dead letters of a new lab wait."""
        self.mend_fault("all")
        self.break_fault("deadletters")
        self.mend_fault("deadletters")

    def effects(self, component: str, effect: str = "") -> list[dict[str, Any]]:
        """What really happened at a component."""
        found = self.portal.call(self.lab.effects, component)
        return [line for line in found if effect in ("", line["effect"])]

    def deadletters(self) -> list[bytes]:
        """The members of the coordinator's queue, as they are."""
        url = (self.lab.place.directory / "secrets" / "redis-url").read_text(encoding="utf-8")
        with Redis.from_url(url) as client:
            return sorted(client.zrange(QUEUE_KEY, 0, -1))

    def witnessed(self) -> dict[str, Any]:
        """Everything that a write could have changed."""
        logs = {name: self.effects(name) for name in COMPONENTS}
        return {**logs, "redis": self.deadletters()}


@contextmanager
def live_lab(directory: Path, *, shared: bool = False) -> Iterator[LiveLab]:
    """A lab in the directory, until left; `shared` adds the stores that replicas share."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            running_lab(directory, settle_s=STEP_S, slow_s=2.0, shared=shared)
        ) as lab,
    ):
        yield LiveLab(lab=lab, portal=portal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one server keeps its state; the lab is shared, the guard's memory is not."""

    config: Path
    state: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the server and of the operator's commands."""
        return {
            **lab_environment(os.environ),
            "MCP_OPS_STATE_DIR": str(self.state),
            "PYTHONPATH": str(ROOT),
        }

    def command(self, *arguments: str) -> list[str]:
        """A command of mcp-ops on this place."""
        return [sys.executable, "-m", "mcp_ops", *arguments, "--config", str(self.config)]

    @property
    def stderr(self) -> Path:
        """Where a stdio server's standard error goes."""
        return self.state.with_name(f"{self.state.name}.stderr")

    async def approve(self, approval_id: str) -> None:
        """A person says yes, on the operator's side."""
        clock = SystemClock()
        async with open_stores(self.state / "state.db", clock) as stores:
            decided = await stores.approvals.decide(
                approval_id, approved=True, by="operator:ann", note="", at=clock.now()
            )
        assert decided is not None
        assert decided.state == "approved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A server on a loopback port."""

    url: str
    process: anyio.abc.Process

    def endpoint(self, transport: str) -> str:
        """Where a client of this transport connects."""
        return f"{self.url}/sse" if transport == "sse" else f"{self.url}/mcp"


@asynccontextmanager
async def serving(place: Place, transport: str) -> AsyncIterator[Serving]:
    """`mcp-ops serve` over SSE or Streamable HTTP; killed at the end if it still runs."""
    command = place.command("serve", "--transport", transport, "--port", "0")
    async with listening(command, place.environment, place.stderr) as server:
        yield server


@asynccontextmanager
async def listening(
    command: list[str], environment: dict[str, str], stderr: Path
) -> AsyncIterator[Serving]:
    """A command that serves over HTTP and says where; killed at the end if it still runs."""
    with stderr.open("ab") as said:
        async with (
            await anyio.open_process(command, env=environment, cwd=ROOT) as process,
            anyio.create_task_group() as tasks,
        ):
            try:
                assert process.stderr is not None
                url = b""
                with anyio.fail_after(START_S):
                    while b"(Streamable" not in url:
                        url += await process.stderr.receive()
                said.write(url)
                tasks.start_soon(_keep, process.stderr, said)
                found = url.decode().partition("serving at ")[2].split()[0]
                yield Serving(url=found, process=process)
            finally:
                if process.returncode is None:
                    process.kill()
                tasks.cancel_scope.cancel()


async def _keep(stream: anyio.abc.ByteReceiveStream, said: Any) -> None:
    async for data in stream:
        said.write(data)
        said.flush()


async def consent(url: str) -> tuple[str, str]:
    """What a person's browser does with an authorization URL; code and state of the redirect."""
    async with httpx2.AsyncClient(timeout=10, trust_env=False) as browser:
        answer = await browser.get(f"{url}&login={SUBJECT}")
    assert answer.status_code in (302, 303), answer.text
    redirect = httpx2.URL(answer.headers["location"])
    return redirect.params["code"], redirect.params["state"]
