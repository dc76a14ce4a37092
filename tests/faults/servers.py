"""`mcp-ops serve` as processes on one state directory, and how they end."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc

from tests.faults.history import History
from tests.faults.stage import ROOT, Stage

START_S = 90.0
STOP_S = 90.0
_POLL_S = 0.01


@dataclass(kw_only=True)
class Server:
    """One process under test. `url` is empty for one on stdio."""

    name: str
    process: anyio.abc.Process
    history: History
    stderr: Path
    url: str = ""

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.returncode is None

    async def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.history.killed(self.name)
        if self.alive:
            self.process.send_signal(signal.SIGKILL)
        with anyio.fail_after(STOP_S):
            await self.process.wait()

    def terminate(self) -> None:
        """SIGTERM, as a service manager sends it."""
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Wait for the end; the exit code."""
        with anyio.fail_after(STOP_S):
            return await self.process.wait()


@asynccontextmanager
async def server(
    stage: Stage,
    history: History,
    name: str = "s1",
    *,
    transport: str = "http",
    state: str = "state",
    port: int = 0,
    environment: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> AsyncIterator[Server]:
    """A server that is ready to be called; it is ended cleanly at the end if it still runs."""
    command = [sys.executable, "-m", "mcp_ops", "serve", "--transport", transport]
    command += ["--config", str(config or stage.config)]
    if transport != "stdio":
        command += ["--port", str(port)]
    environ = {
        **stage.environment,
        "MCP_OPS_STATE_DIR": str(stage.directory / state),
        **(environment or {}),
    }
    stderr = stage.directory / f"{name}.stderr"
    with stderr.open("ab") as said:
        from_here = said.tell()
        process = await anyio.open_process(command, env=environ, cwd=ROOT, stderr=said.fileno())
    async with process:
        made = Server(name=name, process=process, history=history, stderr=stderr)
        try:
            if transport != "stdio":
                made.url = await _ready(made, from_here)
            yield made
            await _end(made)
        finally:
            with anyio.CancelScope(shield=True):
                if made.alive:
                    await made.kill()


async def _end(made: Server) -> None:
    if not made.alive:
        return
    if made.url:
        made.terminate()
    elif made.process.stdin is not None:
        await made.process.stdin.aclose()
    await made.ended()


async def _ready(made: Server, from_here: int) -> str:
    """Poll what the process says until it names its address."""
    with anyio.fail_after(START_S):
        while True:
            said = made.stderr.read_bytes()[from_here:].decode("utf-8", "replace")
            if "(Streamable" in said:
                return said.partition("serving at ")[2].split()[0]
            if not made.alive:
                raise AssertionError(f"{made.name} ended at its start: {said[-2000:]}")
            await anyio.sleep(_POLL_S)
