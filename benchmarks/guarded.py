"""mcp-ops with everything on and two no-op tools: what the guard and the transports cost.

The tools that are published read the store, so they say nothing about the guard alone. Here the
opened application's own guard, ledger and transports serve `look`, the bare server's no-op, and
`touch`, a write that does nothing.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from typing import Annotated, Any

import anyio
from pydantic import Field

from mcp_ops.app import App, open_app
from mcp_ops.capabilities.base import Effect, Result, WriteResult
from mcp_ops.capabilities.guard import GuardControl
from mcp_ops.clock import SystemClock
from mcp_ops.ports import OWN_TARGET
from mcp_ops.redact import Redactor
from mcp_ops.server import OpsServer, Published
from mcp_ops.settings_file import load_settings, process_environment
from mcp_ops.tool import Write, schemas_of, tool
from mcp_ops.transport import bind_caller, seal
from mcp_ops.transport_stdio import serve_stdio

Text = Annotated[str, Field(description="A name.", min_length=1, max_length=100)]
Number = Annotated[int, Field(description="A number.", ge=1, le=100)]


class Looked(Result):
    """What `look` answers."""

    name: str
    limit: int
    items: list[str]


@tool(effect=Effect.READ)
async def look(guard: GuardControl, name: Text, limit: Number = 20) -> Looked:
    """Answer at once with what was asked."""
    return Looked(name=name, limit=limit, items=[])


@tool(effect=Effect.WRITE)
async def touch(guard: GuardControl, name: Text, write: Write) -> WriteResult:
    """Do nothing and say so."""
    return WriteResult(outcome="verified", evidence={"name": name})


def serving(app: App) -> OpsServer:
    """The edge of an open application, with the two tools."""
    return OpsServer(
        guard=app.guard,
        tools={
            each.name: Published(tool=each, targets=(OWN_TARGET,), schemas=schemas_of(each))
            for each in (look, touch)
        },
        ledger=app.stores.ledger,
        redactor=Redactor(),
        clock=SystemClock(),
        version="1",
        user="benchmark",
    )


async def main(transport: str, config: Path) -> None:
    """Serve until the client leaves or the process is ended."""
    environ = process_environment()
    settings = load_settings(config, environ, {"server.transport": transport})
    async with open_app(settings, environ=environ) as app:
        server = serving(app)
        seal(server.mcp, [b"benchmark" * 4], bind_caller("benchmark"))
        stop = anyio.Event()
        gc.freeze()  # as the server does
        if transport == "stdio":
            await serve_stdio(server.mcp, stop=stop)
        else:
            await _serve_http(server, settings.server, stop)


async def _serve_http(server: OpsServer, settings: Any, stop: anyio.Event) -> None:
    from mcp_ops.transport_http import http_app, serve_http

    async def health() -> tuple[int, dict[str, Any]]:
        return 200, {"status": "ok"}

    app = http_app(server.mcp, settings=settings, health=health, sse=True)
    await serve_http(app, settings=settings, stop=stop, on_ready=lambda url: print(url, flush=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=["stdio", "http"])
    parser.add_argument("--config", type=Path, required=True)
    chosen = parser.parse_args()
    options: dict[str, Any] = {}
    if chosen.transport == "http":
        from mcp_ops.transport_http import fast_loop

        options = {"loop_factory": fast_loop()}
    sys.exit(anyio.run(main, chosen.transport, chosen.config, backend_options=options))
