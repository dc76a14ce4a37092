"""The server over HTTP: part of the composition root, imported only by who serves it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import anyio

from mcp_ops.app_probes import Readiness, health_of
from mcp_ops.approval_page import key_page
from mcp_ops.auth.door import open_door
from mcp_ops.auth.principal import HttpPrincipal
from mcp_ops.auth.step_up import StepUp
from mcp_ops.call import SCOPE_OF, new_id
from mcp_ops.clock import Clock
from mcp_ops.errors import RefusalCode
from mcp_ops.records import Entry, EntryKind, Ledger
from mcp_ops.redact import Redactor
from mcp_ops.stores.sqlite.ledger import MOST_NOTED
from mcp_ops.tool import Tool
from mcp_ops.transport_edge import OPEN_ROUTES
from mcp_ops.transport_handing import PAGE_WORKER
from mcp_ops.transport_http import http_app, serve_http
from mcp_ops.transport_inbox import Worker
from mcp_ops.transport_probes import METRICS_PATH, Metrics, probe_routes

if TYPE_CHECKING:
    from mcp_ops.app import App


async def serve_app(
    app: App,
    redactor: Redactor,
    stop: anyio.Event,
    *,
    on_ready: Callable[[str], None],
    metrics: Metrics | None = None,
    worker: Worker | None = None,
) -> None:
    """Serve an open app until `stop` is set, with `metrics` where they are on; `worker` is one of
    several. Raises `ConfigurationError`, also where it could be reached from other machines without
    a credential.
    """
    settings, clock = app.settings.server, app.parts.clock
    probed = app.settings.telemetry
    ready = Readiness(app.parts, most_unwritten=MOST_NOTED)
    number = worker.number if worker else 0
    open_too = {METRICS_PATH} if metrics and probed.metrics_open else set()
    async with open_door(settings, app.keys, clock=clock, redactor=redactor) as door:
        application = http_app(
            app.server.mcp,
            settings=settings,
            health=health_of(app.parts, app.inside),
            sse=settings.transport == "sse",
            pages=[
                # Who signs in is known to one process, and who fails is counted there.
                *(key_page(app.people, app.keys, clock) if number in (0, PAGE_WORKER) else ()),
                *probe_routes(ready, metrics, metrics_open=probed.metrics_open, worker=number),
            ],
            door=door,
            step_up=step_up(app.tools, app.stores.ledger, clock),
            open_routes=OPEN_ROUTES | open_too,
            worker=number,
        )
        # What is loaded stays: a full collection would walk over it, 50 ms in which every call
        # waits, and the first one comes within the first hundred calls.
        gc.freeze()
        await serve_http(
            application, settings=settings, stop=stop, on_ready=on_ready, worker=worker
        )


def step_up(tools: Mapping[str, Tool], ledger: Ledger, clock: Clock) -> StepUp:
    """What sends a user's client back for a scope; each such call has its line in the record."""
    scopes = {name: SCOPE_OF[tool.effect] for name, tool in tools.items()}

    def refused(principal: HttpPrincipal, tool: str, scope: str) -> None:
        ledger.note(
            Entry(
                kind=EntryKind.ENDED,
                call_id=new_id(),
                at=clock.now(),
                tool=tool,
                principal=principal.id,
                channel="http",
                effect=tools[tool].effect.value,
                verdict="refused",
                code=RefusalCode.PERMISSION_DENIED.value,
                evidence={"lacks": scope},
            )
        )

    return StepUp(scopes, refused)
