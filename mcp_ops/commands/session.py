"""What the commands that need the server's parts share: settings, the open app, the operator."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol

import anyio
import typer

from mcp_ops.adapter import Advice
from mcp_ops.call import Answer, Ask, Caller, Question
from mcp_ops.capabilities.guard import ComponentHealth
from mcp_ops.clock import rfc3339
from mcp_ops.commands.output import ask_line, fail, interactive, warn
from mcp_ops.errors import OpsError, RefusalCode, Refused, the_error
from mcp_ops.questions import Approval, Approvals
from mcp_ops.records import Ledger
from mcp_ops.redact import quoted, tame
from mcp_ops.settings import Settings
from mcp_ops.settings_file import load_settings, process_environment
from mcp_ops.tool import Tool

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file; else MCP_OPS_CONFIG, else the user's own."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]

Progress = Callable[[float, float, str], Awaitable[None]]

OPERATOR_SCOPES = frozenset({"ops:read", "ops:write", "ops:destroy", "ops:approve", "ops:admin"})


class Reply(Protocol):
    """What a call answers: JSON text, the same as data on success, and whether it is an error."""

    text: str
    structured: dict[str, Any] | None
    is_error: bool


class Stores(Protocol):
    """The stores that commands look into."""

    approvals: Approvals
    ledger: Ledger


class Desk(Protocol):
    """What people can do with questions; raises `OpsError`."""

    async def recent(self, limit: int) -> list[Approval]:
        """Pending ones first, then the newest."""
        ...

    async def get(self, approval_id: str) -> Approval:
        """One question."""
        ...

    async def decide(
        self, approval_id: str, caller: Caller, *, approved: bool, note: str
    ) -> Approval:
        """Say yes or no to a pending question."""
        ...

    async def revoke(self, approval_id: str, caller: Caller, *, note: str) -> Approval:
        """Take a question back."""
        ...


class RunningApp(Protocol):
    """What the commands use of the composition root, `mcp_ops.app`."""

    settings: Settings
    tools: Mapping[str, Tool]
    stores: Stores
    guard: Any
    keys: Any

    def control(self, caller: Caller) -> Any:
        """The guard's controls in the hands of a caller."""
        ...

    async def call(self, name: str, arguments: dict[str, Any], caller: Caller) -> Reply:
        """One tool call, on the way that every call takes."""
        ...

    @property
    def people(self) -> Desk:
        """Where people decide questions, each in the name of a caller."""
        ...

    async def check_targets(self) -> Sequence[ComponentHealth]:
        """Ask every target whether it answers."""
        ...

    async def examine_targets(self) -> Sequence[tuple[str, Advice]]:
        """What an operator should know of each target, with its name."""
        ...


def open_app(
    settings: Settings, environ: Mapping[str, str], *, alone: bool = False
) -> AbstractAsyncContextManager[RunningApp]:
    """The server's parts, opened; the module is imported only by commands that need it.

    `alone` opens stores of this machine where the shared ones are away: for break-glass. What
    other processes left is a server's to go on with: a command ends too soon.
    """
    opened: AbstractAsyncContextManager[RunningApp] = import_module("mcp_ops.app").open_app(
        settings, environ=environ, alone=alone, resumes=False
    )
    return opened


def with_app(
    config: Path | None,
    body: Callable[[RunningApp], Awaitable[int]],
    *,
    as_json: bool,
    alone: bool = False,
) -> NoReturn:
    """Load the settings, open the app, run `body` in it and end with its exit code."""

    async def run() -> int:
        environ = process_environment()
        settings = load_settings(config, environ, {})
        async with open_app(settings, environ, alone=alone) as app:
            return await body(app)

    try:
        code = anyio.run(run)
    except (OpsError, BaseExceptionGroup) as exc:
        error = the_error(exc)
        if error is None:
            raise
        code = fail(error, as_json=as_json)
    raise typer.Exit(code)


def operator(*, yes: bool = False, progress: Progress | None = None) -> Caller:
    """The person at the command line, as a caller.

    Only a person at a terminal can approve. Without a terminal the scope for it is missing, and
    what needs an approval waits for `mcp-ops approvals approve`. `yes` confirms, no more.
    """
    terminal = interactive()
    return Caller(
        principal=f"operator:{user_name()}",
        scopes=OPERATOR_SCOPES if terminal else OPERATOR_SCOPES - {"ops:approve"},
        channel="cli",
        client="mcp-ops",
        ask=_asking(yes=yes) if yes or terminal else None,
        progress=progress,
    )


async def person(question: str, command: str) -> None:
    """Let a person at the terminal say yes; raises `Refused` for anything else."""
    line = await ask_line(question) if interactive() else None
    if line is None or line.lower() not in ("y", "yes"):
        raise Refused(
            RefusalCode.APPROVAL_REQUIRED,
            "What makes the guard looser needs the yes of a person at a terminal; nothing was "
            "changed.",
            hint=f"Run {command} in a terminal of your own.",
        )


def _asking(*, yes: bool) -> Ask:
    async def ask(question: Question) -> Answer | None:
        if yes and question.kind == "confirm":
            return "accept"
        if not interactive():
            return None
        warn(tame(question.message))
        line = await ask_line("Do it? [y/N] ")
        if line is None:
            return None
        return "accept" if line.lower() in ("y", "yes") else "decline"

    return ask


async def broken_glass(app: RunningApp) -> list[str]:
    """A line for each use of break-glass in the last day, newest first."""
    from mcp_ops.guard.break_glass import openings

    return [
        tame(
            f"BREAK-GLASS at {rfc3339(entry.at)} by {entry.principal}: {entry.object} on "
            f"{entry.target or 'this server'}: {quoted(entry.reason, 200)}",
            1_000,
        )
        for entry in await openings(app.stores.ledger, app.guard.clock.now())
    ]


def user_name() -> str:
    """Who the operating system says this is: variables such as USER say what anyone likes."""
    if sys.platform == "win32":
        try:
            return os.getlogin()
        except OSError:
            return getpass.getuser()
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"
