"""The lab: every component on loopback, from one process that leaves nothing behind.

`running_lab` is the composition, for tests and for the command. `run_lab`, `break_fault`,
`mend_fault` and `lab_status` are what `mcp-ops lab` calls.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from mcp_ops.errors import InvalidInput
from mcp_ops.lab.azure.api import azure
from mcp_ops.lab.board import Board, InForce
from mcp_ops.lab.configuration import (
    PLATFORMS,
    SUBJECT,
    TARGETS,
    renew_tokens,
    write_configuration,
)
from mcp_ops.lab.control import CALLBACK, FILE, ask_lab, control
from mcp_ops.lab.coordinator import coordinator
from mcp_ops.lab.greeting import fault_lines, greeting, status_lines
from mcp_ops.lab.kubernetes.api import kubernetes
from mcp_ops.lab.oauth.server import oauth_server
from mcp_ops.lab.place import Place, hold, write_private
from mcp_ops.lab.railway.api import railway
from mcp_ops.lab.redis import Valkey, valkey
from mcp_ops.lab.salesforce import salesforce
from mcp_ops.lab.served import SLOW_S, Served, serving
from mcp_ops.lab.serving import McpServer, chosen_port
from mcp_ops.lab.standin import EffectLog, StandIn
from mcp_ops.lab.sync import sync_backend

__all__ = ["SUBJECT", "Lab", "break_fault", "lab_status", "mend_fault", "run_lab", "running_lab"]

Say = Callable[[str], None]
_SETTLE_S = 0.4


class Lab:
    """A running lab."""

    def __init__(
        self, place: Place, config: Path, board: Board, redis: Valkey, logs: dict[str, EffectLog]
    ) -> None:
        self.config = config
        self.place = place
        self.server: McpServer | None = None
        self._board = board
        self._redis = redis
        self._logs = logs

    @property
    def faults(self) -> tuple[str, ...]:
        """Every fault that there is."""
        return self._board.names

    async def break_fault(self, name: str, at: str = "") -> InForce:
        """Put a fault in force; raises `InvalidInput` for an unknown name or place."""
        return await self._board.break_fault(name, at)

    async def mend_fault(self, name: str, at: str = "") -> list[InForce]:
        """Undo a fault, or `all`; answers what was undone."""
        return await self._board.mend_fault(name, at)

    def effects(self, component: str) -> list[dict[str, Any]]:
        """What really happened at a component, oldest first; only stand-ins keep such a log."""
        if component not in self._logs:
            raise InvalidInput(
                "No effect log of this name.", hint=f"There are: {', '.join(self._logs)}."
            )
        return self._logs[component].read()

    def status(self) -> dict[str, Any]:
        """Everything that runs and what is broken, as JSON shows it."""
        server = self.server
        return {
            "directory": str(self.place.directory),
            "config": str(self.config),
            "server": {"url": server.url, "state": server.state} if server else None,
            "pids": {
                "lab": os.getpid(),
                "valkey": self._redis.pid,
                **({"server": server.pid} if server else {}),
            },
            "components": self._board.status(),
            "faults": [each.plain() for each in self._board.in_force],
            "can_break": list(self.faults),
        }


@asynccontextmanager
async def running_lab(
    directory: Path,
    *,
    settle_s: float = _SETTLE_S,
    slow_s: float = SLOW_S,
    shared: bool = False,
    platforms: bool = False,
    say: Say = lambda text: None,
) -> AsyncIterator[Lab]:
    """Every component of the lab, and a configuration of the server for them, until left.

    `settle_s` is one step of a rollout, `slow_s` what the fault `slow` adds to an answer. With
    `shared` the server's own state is in the Valkey and in a PostgreSQL, as replicas share it.
    `platforms` adds those that run deployments beside Kubernetes. Raises `ConfigurationError` while
    another lab runs in the directory.
    """
    targets = {**TARGETS, **PLATFORMS} if platforms else TARGETS
    async with AsyncExitStack() as stack:
        place = stack.enter_context(hold(directory))
        directory = place.directory
        taken = {name: place.reserve(name) for name in (*targets, "control")}
        ports = {name: int(each.getsockname()[1]) for name, each in taken.items()}
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        redirect_uri = urls["control"] + CALLBACK
        token = place.secret("kubernetes-token")

        authorization = oauth_server(
            directory=directory / "oauth", issuer=urls["oauth"], redirect_uris=(redirect_uri,)
        )
        authority = authorization.authority
        stand_ins: list[StandIn] = [
            salesforce(
                directory=directory / "salesforce", check_token=authority.check, oauth=authority
            ),
            authorization,
            kubernetes(directory=directory / "kubernetes", token=token, settle_s=settle_s),
            coordinator(directory=directory / "coordinator"),
            sync_backend(directory=directory / "sync", key=place.secret("sync-key")),
        ]
        if platforms:
            key = place.secret("azure-token")
            stand_ins.append(azure(directory=directory / "azure", token=key, settle_s=settle_s))
            key = place.secret("railway-token")
            stand_ins.append(railway(directory=directory / "railway", token=key, settle_s=settle_s))
        served: list[Served] = [
            await stack.enter_async_context(serving(each, taken[each.name], slow_s=slow_s))
            for each in stand_ins
        ]
        taken["redis"].close()
        redis = await stack.enter_async_context(
            valkey(
                directory / "redis",
                ports["redis"],
                keep_open=(place.lock,),
                on_death=lambda: say("Valkey ended by itself; it is started again."),
            )
        )
        await redis.calm()
        ledger = await _ledger(stack, place) if shared else ""
        config = write_configuration(
            place,
            urls={**urls, "redis": redis.url, "postgres": ledger},
            authority=authority,
            redirect_uri=redirect_uri,
            token=token,
        )
        issuer = _remembered(directory / "issuer", urls["oauth"])
        await renew_tokens(place, authority, all_of_them=not issuer)

        async def healed(fault: str) -> None:
            if fault in ("token-expired", "token-revoked"):
                await renew_tokens(place, authority)

        board = Board([*served, redis], targets, now=time.time, healed=healed)
        lab = Lab(place, config, board, redis, {each.name: each.log for each in stand_ins})
        await stack.enter_async_context(_controlled(lab, taken["control"], urls["control"], say))
        yield lab


async def _ledger(stack: AsyncExitStack, place: Place) -> str:
    """Start the PostgreSQL of a shared ledger; its URL."""
    from mcp_ops.lab.postgres import postgres

    taken = place.reserve("postgres")
    port = int(taken.getsockname()[1])
    taken.close()
    serving = postgres(
        place.directory / "postgres",
        port,
        password=place.secret("postgres-password"),
        keep_open=(place.lock,),
    )
    server = await stack.enter_async_context(serving)
    return server.url


@asynccontextmanager
async def _controlled(lab: Lab, taken: Any, url: str, say: Say) -> AsyncIterator[None]:
    """Serve the control endpoint, and leave its address in the directory meanwhile."""
    token = secrets.token_urlsafe(24)

    async def break_it(name: str, at: str) -> dict[str, Any]:
        found = await lab.break_fault(name, at)
        say(f"Broken: {found.fault} at {found.at}.")
        return {"broken": found.plain()}

    async def mend_it(name: str, at: str) -> dict[str, Any]:
        found = await lab.mend_fault(name, at)
        for each in found:
            say(f"Mended: {each.fault} at {each.at}.")
        return {"mended": [each.plain() for each in found]}

    app = control(token=token, break_fault=break_it, mend_fault=mend_it, status=lab.status)
    log = EffectLog(lab.place.directory / "control.jsonl")
    endpoint = StandIn(
        name="control", app=app, log=log, supported=(), inject=_no_fault, mend=_no_fault
    )
    file = lab.place.directory / FILE
    async with serving(endpoint, taken):
        write_private(file, f'{{"control": "{url}", "token": "{token}"}}\n')
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _no_fault(name: str) -> None:
    raise KeyError(name)


def _remembered(path: Path, text: str) -> bool:
    """Whether a file says this already; afterwards it does."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return True
    write_private(path, text)
    return False


def run_lab(
    directory: Path, serve: bool, port: int, shared: bool = False, platforms: bool = False
) -> int:
    """Run in the foreground until Ctrl-C or SIGTERM; the exit code."""
    return anyio.run(_run, directory, serve, port, shared, platforms)


async def _run(directory: Path, serve: bool, port: int, shared: bool, platforms: bool) -> int:
    if serve:
        port = chosen_port(port)
    ended: list[int] = []
    hurry: list[Callable[[], None]] = []
    async with anyio.create_task_group() as tasks:
        # From the first moment: Ctrl-C while something starts must stop what has started.
        inner = anyio.CancelScope()
        await tasks.start(_on_signals, inner, hurry)
        with inner:
            lab = running_lab(directory, shared=shared, platforms=platforms, say=_say)
            ended.append(await _until_stopped(directory, lab, serve, port, hurry))
        _say("Stopped; nothing is left running.")
        tasks.cancel_scope.cancel()
    return ended[0] if ended else 0


async def _until_stopped(
    directory: Path,
    starting: AbstractAsyncContextManager[Lab],
    serve: bool,
    port: int,
    hurry: list[Callable[[], None]],
) -> int:
    _say(f"Starting the lab in {directory} ...")
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(starting)
        server = None
        if serve:
            server = McpServer(config=lab.config, port=port, keep_open=(lab.place.lock,), say=_say)
            hurry.append(server.kill)
            lab.server = server
            await stack.enter_async_context(server.running())
        sys.stdout.write(greeting(lab.config, server.url if server else "", directory))
        sys.stdout.flush()
        return await (server.supervised() if server else _forever())


async def _forever() -> int:
    await anyio.sleep_forever()
    return 0


async def _on_signals(
    inner: anyio.CancelScope,
    hurry: list[Callable[[], None]],
    *,
    task_status: anyio.abc.TaskStatus[None],
) -> None:
    """The first signal stops everything; a second one does not wait for running writes."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            if not inner.cancel_called:
                _say("Stopping the lab; writes that run are finished first ...")
                inner.cancel()
                continue
            for kill in hurry:
                kill()


def _say(text: str) -> None:
    sys.stderr.write(f"lab: {text}\n")
    sys.stderr.flush()


def break_fault(directory: Path, name: str, at: str) -> dict[str, Any]:
    """Cause a fault in the lab that runs in a directory."""
    said = ask_lab(directory, "/break", {"name": name, "at": at})
    return {**said, "text": fault_lines(said)}


def mend_fault(directory: Path, name: str, at: str) -> dict[str, Any]:
    """End a fault in the lab that runs in a directory."""
    said = ask_lab(directory, "/mend", {"name": name, "at": at})
    return {**said, "text": fault_lines(said)}


def lab_status(directory: Path) -> dict[str, Any]:
    """What runs in a directory's lab, and what is broken."""
    said = ask_lab(directory, "/status")
    return {**said, "text": status_lines(said)}
