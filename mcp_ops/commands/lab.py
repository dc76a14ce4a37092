"""`mcp-ops lab`: the embedded environment for trying out and for game days."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import fail, say, show_json
from mcp_ops.commands.session import JsonOption
from mcp_ops.errors import ConfigurationError, OpsError, the_error

group = typer.Typer(help="The lab: stand-ins and real servers to try out on.")
DirectoryOption = Annotated[
    Path, typer.Option("--directory", help="Folder where the lab keeps its state.")
]
FaultName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of a fault; mcp-ops lab status lists them.")
]
AtOption = Annotated[str, typer.Option("--at", help="At this component or target.")]

_DIRECTORY = Path(".lab")


@group.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    directory: DirectoryOption = _DIRECTORY,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve MCP as well, over SSE and Streamable HTTP.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the MCP server.")] = 8000,
    shared: Annotated[
        bool,
        typer.Option("--shared", help="Keep the server's state as replicas share it: PostgreSQL."),
    ] = False,
    platforms: Annotated[
        bool,
        typer.Option("--platforms", help="Add App Service and Railway: agents name the target."),
    ] = False,
) -> None:
    """Start the lab and run until interrupted."""
    if context.invoked_subcommand is None:
        _run("run_lab", directory.absolute(), serve, port, shared, platforms)


@group.command("break")
def break_fault(
    name: FaultName,
    at: AtOption = "",
    directory: DirectoryOption = _DIRECTORY,
    as_json: JsonOption = False,
) -> None:
    """Cause a fault in the running lab."""
    _run("break_fault", directory.absolute(), name, at, as_json=as_json)


@group.command("mend")
def mend_fault(
    name: FaultName,
    at: AtOption = "",
    directory: DirectoryOption = _DIRECTORY,
    as_json: JsonOption = False,
) -> None:
    """End a fault; the name all ends every one."""
    _run("mend_fault", directory.absolute(), name, at, as_json=as_json)


@group.command()
def status(directory: DirectoryOption = _DIRECTORY, as_json: JsonOption = False) -> None:
    """Show what runs in the lab and what is broken."""
    _run("lab_status", directory.absolute(), as_json=as_json)


def _run(function: str, *arguments: Any, as_json: bool = False) -> NoReturn:
    """Call a function of the supervisor, and show what it answers.

    An exit code is passed on; of anything else the text is shown, or with `as_json` the rest.
    """
    try:
        if sys.platform == "win32":
            raise ConfigurationError("The lab runs on Linux and macOS.", hint="Use WSL on Windows.")
        answer = getattr(_supervisor(), function)(*arguments)
    except OpsError as exc:
        raise typer.Exit(fail(exc, as_json=as_json)) from exc
    except BaseExceptionGroup as group_:
        if (error := the_error(group_)) is None:
            raise
        raise typer.Exit(fail(error, as_json=as_json)) from group_
    if isinstance(answer, int):
        raise typer.Exit(answer)
    text = answer.pop("text")
    if as_json:
        show_json(answer)
    else:
        say(text)
    raise typer.Exit(Exit.OK)


def _supervisor() -> Any:
    try:
        return import_module("mcp_ops.lab.supervisor")
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            "The lab's parts are not installed.", hint='Install them: pip install "mcp-ops[lab]"'
        ) from exc
