"""Telemetry of a serving process: part of the composition root, loaded only where it is on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from mcp_ops.guard.control import Control, Parts
from mcp_ops.guard.inside import Inside
from mcp_ops.redact import Redactor
from mcp_ops.settings_file import quieten
from mcp_ops.settings_telemetry import TelemetrySettings, headers_of
from mcp_ops.stores.opening import Stores
from mcp_ops.telemetry.gauges import make_gauges
from mcp_ops.telemetry.sdk import AZURE_QUIET, Sdk, check_extras
from mcp_ops.telemetry.snapshot import Watch
from mcp_ops.version import VERSION

_LOOK_EVERY_S = 15.0


@asynccontextmanager
async def exporting(settings: TelemetrySettings, redactor: Redactor) -> AsyncIterator[Sdk]:
    """Set up the SDK for the whole process; on the way out what waits is sent.

    Raises `ConfigurationError` for an extra that is not installed.
    """
    check_extras(settings)
    redactor.add(*headers_of(settings.otlp_headers).values())
    if "azure_monitor" in settings.exporters:
        quieten(AZURE_QUIET)
    # The libraries take a second to load: not on the event loop.
    sdk = await anyio.to_thread.run_sync(lambda: Sdk(settings, version=VERSION))
    try:
        yield sdk
    finally:
        await sdk.close()


@asynccontextmanager
async def watching(
    sdk: Sdk, settings: TelemetrySettings, *, parts: Parts, stores: Stores, inside: Inside
) -> AsyncIterator[Callable[[str], Awaitable[tuple[bytes, str]]] | None]:
    """Keep the gauges fresh; answers what writes the text for Prometheus, where that is on."""
    watch = Watch(
        guard=parts.guard,
        failed=stores.failed,
        approvals=stores.approvals,
        inside=inside,
        health=parts.health,
        clock=parts.clock,
        away=stores.away,
        unwritten=lambda: stores.ledger.unwritten,
        running=lambda: parts.operations.count,
    )
    make_gauges(lambda: watch.now)

    async def text(accept: str) -> tuple[bytes, str]:
        await watch.look()
        return await sdk.text(accept)

    async with anyio.create_task_group() as tasks:
        if settings.exporters:
            tasks.start_soon(watch.follow, min(_LOOK_EVERY_S, settings.interval_s))
        if settings.health_s:
            control = Control(parts, inside.caller)
            tasks.start_soon(watch.check, settings.health_s, lambda: inside.health(control))
        yield text if sdk.serves_text else None
        tasks.cancel_scope.cancel()
