"""The peer's tools in several workers, as a program: `python -m tests.worker_peer TRANSPORT COUNT`.

Beside those of `transport_peer`: `where` says which worker answers, `steps` reports progress, and
`hang` says when it begins and when it is cancelled.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server

from mcp_ops.app import _stop_when_left
from mcp_ops.commands.workers import Workers, starts
from mcp_ops.settings import ServerSettings
from mcp_ops.transport import bind_caller, seal
from mcp_ops.transport_http import fast_loop, http_app, serve_http
from mcp_ops.transport_inbox import Worker, bound_inboxes
from mcp_ops.transport_socket import bound_socket
from tests.over_http import SEAL, TWO_KEYS
from tests.transport_peer import SCHEMA, TOOLS, Peer, _stop_on_signal, health, said

STEPS = 5


class WorkerPeer(Peer):
    """One of several."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    async def call_tool(
        self, ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        """Do what the tool's name says."""
        match params.name:
            case "where":
                return said(worker=self.number, process=os.getpid())
            case "steps":
                for done in range(1, STEPS + 1):
                    await ctx.session.report_progress(done, STEPS, "so far")
                return said(worker=self.number)
            case "hang":
                say("began")
                try:
                    await anyio.sleep_forever()
                finally:
                    say("cancelled")
        return await super().call_tool(ctx, params)


def say(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


def build(number: int) -> Server[Any]:
    """The server, sealed with the same key in each."""
    peer = WorkerPeer(number)
    known = (*TOOLS, "where", "steps", "hang")
    server: Server[Any] = Server(
        "peer",
        version="1",
        on_list_tools=peer.list_tools,
        on_call_tool=peer.call_tool,
        get_tool_input_schema=lambda name: SCHEMA if name in known else None,
    )
    seal(server, SEAL, bind_caller("local"))
    return server


async def work(worker: Worker, settings: ServerSettings) -> None:
    """Serve as one of several until told to stop."""
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(_stop_on_signal, stop)
        tasks.start_soon(_stop_when_left, stop)
        app = http_app(
            build(worker.number),
            settings=settings,
            health=health,
            sse=settings.transport == "sse",
            worker=worker.number,
        )
        await serve_http(
            app,
            settings=settings,
            stop=stop,
            on_ready=lambda url: say(f"worker {worker.number} serving at {url}"),
            worker=worker,
        )
        tasks.cancel_scope.cancel()


def main(transport: str, arguments: list[str]) -> int:
    """A worker, or who starts them."""
    settings = ServerSettings.model_validate(
        {"port": 0, "transport": transport, "keys": TWO_KEYS, "allowed_hosts": ["ops.example"]}
    )
    if len(arguments) == 4:
        number, listener, inbox, directory = arguments
        worker = Worker(
            number=int(number),
            listener=socket.socket(fileno=int(listener)),
            inbox=socket.socket(fileno=int(inbox)),
            directory=Path(directory),
        )
        options = {"loop_factory": fast_loop()}
        anyio.run(work, worker, settings, backend_options=options)
        return 0
    count = int(arguments[0])
    with bound_socket(settings) as bound, bound_inboxes(count) as inboxes:
        program = [sys.executable, "-m", "tests.worker_peer", transport]
        made = [
            # The interpreter and its module are the peer's, the rest is as it is served.
            replace(start, command=[*program, *start.command[3:]])
            for start in starts(count, bound, inboxes, [])
        ]
        say(f"in {inboxes.directory}")
        return anyio.run(Workers(made, say=say, gone=inboxes.gone).run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
