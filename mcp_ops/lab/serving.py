"""The MCP server of `mcp-ops lab --serve`: a process of its own, as an operator would start it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from mcp_ops.commands.init import own_command
from mcp_ops.errors import ConfigurationError, Unreachable
from mcp_ops.lab.child import Child, start_child
from mcp_ops.lab.configuration import lab_environment
from mcp_ops.lab.place import LOOPBACK, reserve
from mcp_ops.settings_file import process_environment

# Longer than the server itself takes at most to end its writes.
_STOP_S: Final = 40.0
_START_S: Final = 30.0
_MOST_ENDS: Final = 3
_WITHIN_S: Final = 60.0


def chosen_port(port: int) -> int:
    """The port, or a free one for 0; raises `ConfigurationError` when it is taken."""
    try:
        with reserve(port) as found:
            return int(found.getsockname()[1])
    except OSError as exc:
        raise ConfigurationError(
            f"Port {port} on 127.0.0.1 is taken by another program, so nothing was started.",
            hint=f"Stop that program, or take another port: --port {port % 65_535 + 1} "
            f"(make run PORT={port % 65_535 + 1}).",
        ) from exc


class McpServer:
    """The server's process; it is started again when it ends by itself."""

    def __init__(
        self, *, config: Path, port: int, keep_open: Sequence[int], say: Callable[[str], None]
    ) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        self._port = port
        self._command = [*own_command(), "serve", "--transport", "sse", "--host", LOOPBACK]
        self._command += ["--port", str(port), "--config", str(config)]
        self._keep_open = keep_open
        self._say = say
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The process, or 0."""
        return self._child.pid if self._child is not None else 0

    @property
    def state(self) -> str:
        """Whether it runs."""
        return "up" if self._child is not None else "down"

    def kill(self) -> None:
        """End it at once."""
        if self._child is not None:
            self._child.kill()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start it, and stop it at the end; raises `Unreachable` when it does not come up."""
        try:
            await self._start()
            yield
        finally:
            if self._child is not None:
                await self._child.stop(within_s=_STOP_S)

    async def supervised(self) -> int:
        """Start it again whenever it ends; the exit code when that has become a habit."""
        ends: list[float] = []
        while True:
            assert self._child is not None  # noqa: S101 - it is running
            code = await self._child.ended()
            await self._child.stop(within_s=_STOP_S)
            self._child = None
            ends = [at for at in ends if at > time.monotonic() - _WITHIN_S] + [time.monotonic()]
            if len(ends) >= _MOST_ENDS:
                self._say(f"The MCP server ended again (exit code {code}); giving up.")
                return 1
            self._say(f"The MCP server ended by itself (exit code {code}); it is started again.")
            await self._start()

    async def _start(self) -> None:
        self._child = child = await start_child(
            self._command,
            env=lab_environment(process_environment()),
            quiet=False,
            keep_open=self._keep_open,
        )
        with anyio.move_on_after(_START_S):
            while child.process.returncode is None:
                if await self._answers():
                    return
                await anyio.sleep(0.05)
        raise Unreachable(
            "The MCP server of the lab did not start; what it said is above.",
            hint="mcp-ops doctor --config with the lab's mcp-ops.toml says more.",
        )

    async def _answers(self) -> bool:
        try:
            stream = await anyio.connect_tcp(LOOPBACK, self._port)
        except OSError:
            return False
        await stream.aclose()
        return True
