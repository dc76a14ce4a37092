"""The composition root: settings, stores, targets, guard, server. The only module that knows all.

Everything is opened in one exit stack and closed in reverse.
"""

from __future__ import annotations

import gc
import getpass
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from mcp_ops import log
from mcp_ops.adapter import Advice
from mcp_ops.adapters.embedded import EmbeddedQueue
from mcp_ops.app_sealing import installation_key, question_keys
from mcp_ops.app_targets import configured_targets, examined
from mcp_ops.auth.keys import KeyBook
from mcp_ops.auth.ring import KeyRing
from mcp_ops.call import Caller
from mcp_ops.capabilities.guard import ComponentHealth, GuardControl
from mcp_ops.capabilities.usage import UsageGuard
from mcp_ops.catalog import ALL_TOOLS, publish
from mcp_ops.clock import Clock, SystemClock
from mcp_ops.errors import Internal
from mcp_ops.guard.control import Control, Parts
from mcp_ops.guard.health import HealthCheck
from mcp_ops.guard.hiding import Hiding
from mcp_ops.guard.inside import Inside
from mcp_ops.guard.operations import Operations
from mcp_ops.guard.order import Guard
from mcp_ops.guard.people import People
from mcp_ops.guard.reads import check_cache
from mcp_ops.guard.resume import Resumer
from mcp_ops.guard.usage import UsageWatch
from mcp_ops.ports import ALL_TARGETS, Mode, ModeEntry
from mcp_ops.redact import Redactor
from mcp_ops.server import OpsServer, Reply
from mcp_ops.settings import Settings
from mcp_ops.settings_options import secrets_in
from mcp_ops.stores.opening import SQLITE, Place, Stores, open_stores
from mcp_ops.tool import Tool
from mcp_ops.transport import bind_caller, seal
from mcp_ops.transport_bus import ToolListBus
from mcp_ops.version import VERSION

if TYPE_CHECKING:
    from mcp_ops.transport_inbox import Worker

DRAIN_S = 25.0
Metrics = Callable[[str], Awaitable[tuple[bytes, str]]]
_log = logging.getLogger("mcp_ops")

__all__ = ["ALL_TOOLS", "App", "open_app", "serve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The opened parts, for the transports and the command line."""

    settings: Settings
    tools: Mapping[str, Tool]
    guard: Guard
    stores: Stores
    server: OpsServer
    operations: Operations
    parts: Parts
    inside: Inside
    keys: KeyRing

    async def call(self, name: str, arguments: dict[str, Any], caller: Caller) -> Reply:
        """One tool call, on the way that every call takes."""
        return await self.server.call_tool(name, arguments, caller)

    def control(self, caller: Caller) -> Control:
        """The guard's controls in the hands of a caller."""
        return Control(self.parts, caller)

    @property
    def people(self) -> People:
        """Where people decide questions, each in the name of a caller."""
        return People(
            approvals=self.stores.approvals,
            ledger=self.stores.ledger,
            policy=self.guard.policy,
            clock=self.parts.clock,
            redactor=self.guard.redactor,
            environment_of=self._environment_of,
        )

    def _environment_of(self, target: str) -> str:
        """The environment of a target; of one that is not here any more the strictest."""
        known = target in self.guard.targets.names()
        return self.guard.targets.info(target).environment if known else "prod"

    async def check_targets(self) -> list[ComponentHealth]:
        """Ask every target whether it answers, as the server itself."""
        return await self.inside.components()

    async def examine_targets(self) -> list[tuple[str, Advice]]:
        """What an operator should know of each target that can be opened, with its name."""
        return await examined(self.guard.targets, self.tools)


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    environ: Mapping[str, str],
    clock: Clock | None = None,
    redactor: Redactor | None = None,
    alone: bool = False,
    resumes: bool = True,
    tools: Mapping[str, Tool] = ALL_TOOLS,
) -> AsyncIterator[App]:
    """Everything, opened; leaving waits for running writes, then closes in reverse.

    `alone` opens stores of this machine where the shared ones are away: for break-glass. `tools`
    are those that may be published. `resumes`: go on with writes that other processes left.

    Raises `ConfigurationError` for options that a kind does not take, `StoreUnavailable`.
    """
    clock = clock or SystemClock()
    redactor = redactor or Redactor()
    redactor.add(*(text for text in secrets_in(settings) if text != SQLITE))
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(
            open_stores(_place(settings, alone=alone), clock, floor=_floor(settings, clock))
        )
        check_cache(settings.guard.cache.tools, ALL_TOOLS)
        keys = KeyRing(
            settings.server.keys,
            clock,
            book=KeyBook(stores.ledger, clock.now),
            grants=settings.server.grants,
        )
        await keys.refresh()
        usage = UsageWatch(
            hot=stores.hot, ledger=stores.ledger, clock=clock, settings=settings.guard.usage
        )
        # Before the task group, which would wrap what is wrong with the configuration.
        targets = configured_targets(settings, environ, clock, redactor, usage, lambda: queue)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        operations = Operations(tasks, stores.ledger, clock)
        inside_of: list[Inside] = []

        def make_port(port: type, call: Any) -> Any:
            if port is GuardControl:
                return Control(parts, call.caller)
            if port is Clock:
                return clock
            if port is UsageGuard:
                return inside_of[0].usage_of(call)
            raise Internal(f"No port {port.__name__}.")

        guard = Guard(
            settings=settings.guard,
            rules=settings.policy,
            targets=targets,
            hot=stores.hot,
            ledger=stores.ledger,
            approvals=stores.approvals,
            failed=stores.failed,
            clock=clock,
            redactor=redactor,
            operations=operations,
            make_port=make_port,
            approver_keys=keys,
        )
        health = HealthCheck(
            targets=targets,
            failed=stores.failed,
            clock=clock,
            sub_call=guard.sub_call,
            away=stores.away,
        )
        inside = Inside(guard=guard, tools=tools, ledger=stores.ledger, usage=usage, health=health)
        inside_of.append(inside)
        queue = EmbeddedQueue(
            stores.failed,
            inside.rerun,
            clock=clock,
            redactor=redactor,
            retention_s=settings.deadletters.retention_days * 86_400,
        )
        parts = Parts(
            guard=guard,
            ledger=stores.ledger,
            approvals=stores.approvals,
            operations=operations,
            health=health,
            clock=clock,
            version=VERSION,
            started_at=clock.now(),
            away=stores.away,
        )
        hiding = bus = None
        if settings.guard.hide_disabled_tools:
            hiding = Hiding(stores.hot, targets)
            bus = ToolListBus(stores.signals)
            tasks.start_soon(bus.follow, hiding.state)
        infos = [targets.info(name) for name in targets.names()]
        published = publish(infos, settings.tools, tools)
        server = OpsServer(
            guard=guard,
            tools=published,
            ledger=stores.ledger,
            redactor=redactor,
            clock=clock,
            version=VERSION,
            user=_user(),
            hiding=hiding,
            bus=bus,
        )
        redactor.use_key(installation_key(settings))
        seal(server.mcp, question_keys(settings), bind_caller(_user()))
        await stack.enter_async_context(targets.serving(tasks))
        resumer = Resumer(
            guard=guard,
            tools=tools,
            ledger=stores.ledger,
            operations=operations,
            now=clock.now,
            keys=keys.scopes,
        )
        tasks.start_soon(operations.keep_leases)
        if resumes:
            tasks.start_soon(resumer.follow)
        tasks.start_soon(keys.follow)
        tasks.start_soon(usage.follow)
        tasks.start_soon(usage.poll, inside.read_usage)
        app = App(
            settings=settings,
            tools={name: each.tool for name, each in published.items()},
            guard=guard,
            stores=stores,
            server=server,
            operations=operations,
            parts=parts,
            inside=inside,
            keys=keys,
        )
        try:
            yield app
        finally:
            with anyio.CancelScope(shield=True):
                left = await operations.drain(DRAIN_S)
            if left:
                _log.warning("%d writes did not end in time; their outcome is unknown", left)


def _as_it_is(_app: App) -> None:
    """Nothing is added to what was opened."""


async def serve(
    settings: Settings,
    environ: Mapping[str, str],
    worker: Worker | None = None,
    *,
    tools: Mapping[str, Tool] = ALL_TOOLS,
    prepare: Callable[[App], None] = _as_it_is,
) -> int:
    """Serve on the configured transport until SIGTERM, SIGINT or the end of stdin; then exit 0.

    `worker` is one of several that serve HTTP.
    With `tools` and `prepare`, which sees the opened parts before the first request, the suite of
    the protocol's conformance puts what it calls beside the tools.
    """
    redactor = Redactor()  # the logs' and the app's: what one learns the other hides
    log.to_stderr(environ.get("MCP_OPS_LOG_LEVEL", "WARNING"), redactor)
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            await tasks.start(_stop_on_signals, stop)
        if worker is not None:
            tasks.start_soon(_stop_when_left, stop)
        async with (
            _exporting(settings, redactor) as sdk,
            open_app(settings, environ=environ, redactor=redactor, tools=tools) as app,
            _watching(app, sdk) as metrics,
        ):
            prepare(app)
            if settings.server.transport == "stdio":
                from mcp_ops.transport_stdio import serve_stdio

                gc.freeze()  # what is loaded stays: no collection has to walk over it
                await serve_stdio(app.server.mcp, stop=stop)
            else:
                # Only who serves HTTP pays for importing it.
                from mcp_ops.app_http import serve_app

                await serve_app(
                    app, redactor, stop, on_ready=_say_ready, metrics=metrics, worker=worker
                )
        tasks.cancel_scope.cancel()
    return 0


def _exporting(settings: Settings, redactor: Redactor) -> AbstractAsyncContextManager[Any]:
    """The SDK of telemetry, open; None where nothing of it is on, and nothing is loaded."""
    if not settings.telemetry.on:
        return nullcontext()
    from mcp_ops.app_telemetry import exporting

    return exporting(settings.telemetry, redactor)


def _watching(app: App, sdk: Any) -> AbstractAsyncContextManager[Metrics | None]:
    if sdk is None:
        return nullcontext()
    from mcp_ops.app_telemetry import watching

    telemetry = app.settings.telemetry
    return watching(sdk, telemetry, parts=app.parts, stores=app.stores, inside=app.inside)


def _say_ready(url: str) -> None:
    with suppress(OSError):  # nobody reads it
        sys.stderr.write(f"mcp-ops: serving at {url} (Streamable HTTP at {url}/mcp)\n")
        sys.stderr.flush()


async def _stop_on_signals(stop: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            stop.set()
            return


async def _stop_when_left(stop: anyio.Event) -> None:
    # Standard input is a pipe from who started the workers, and says only that they have gone.
    await anyio.wait_readable(sys.stdin)
    stop.set()


def _place(settings: Settings, *, alone: bool) -> Place:
    store = settings.store
    return Place(
        directory=settings.state_dir,
        hot=store.hot.get_secret_value(),
        ledger=store.ledger.get_secret_value(),
        key=store.key.get_secret_value() if store.key else "",
        alone=alone,
        signals=settings.guard.hide_disabled_tools,
        keeping={
            "failed_items": settings.deadletters.max_items,
            "failed_s": settings.deadletters.retention_days * 86_400,
            **settings.store.bounds,
        },
    )


def _floor(settings: Settings, clock: Clock) -> tuple[ModeEntry, ...]:
    """The environment's mode: it holds in this process and nobody can lift it."""
    if settings.guard.mode is Mode.NORMAL:
        return ()
    return (
        ModeEntry(
            scope=ALL_TARGETS,
            mode=settings.guard.mode,
            source="environment",
            reason="MCP_RATE_LIMIT_MODE or guard.mode",
            author="configuration",
            since=clock.now(),
        ),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"
