"""The whole command line, put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from mcp_ops.commands import approvals, audit, elevate, keys, lab, mode, policy
from mcp_ops.commands.call import call
from mcp_ops.commands.doctor import doctor
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.init import init
from mcp_ops.commands.output import say, use_utf8
from mcp_ops.commands.serving import ServeOptions
from mcp_ops.commands.serving import serve as run_server
from mcp_ops.commands.session import ConfigOption
from mcp_ops.commands.tools import schemas, tools

# Its pretty tracebacks print local variables, and those can hold secrets.
app = typer.Typer(
    name="mcp-ops",
    help="A guarded MCP server with which agents operate production systems.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("mcp-ops")
        except PackageNotFoundError:
            found = "unknown: this runs from a source tree"
        say(f"mcp-ops {found}")
        raise typer.Exit(Exit.OK)


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """A guarded MCP server with which agents operate production systems."""


@app.command()
def serve(
    transport: Annotated[
        Literal["stdio", "sse", "http"] | None,
        typer.Option(help="How clients reach the server; http is Streamable HTTP."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port to listen on.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that serve http or sse.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Serve MCP until stopped."""
    path: Path | None = config
    options = ServeOptions(transport=transport, host=host, port=port, workers=workers, config=path)
    raise typer.Exit(run_server(options))


app.command()(init)
app.command()(doctor)
app.command()(tools)
app.command()(call)
app.command()(schemas)
app.add_typer(approvals.group, name="approvals")
app.add_typer(mode.group, name="mode")
app.add_typer(policy.group, name="policy")
app.add_typer(elevate.group, name="elevate")
app.add_typer(keys.group, name="keys")
app.add_typer(audit.group, name="audit")
app.add_typer(lab.group, name="lab")


def run(arguments: Sequence[str]) -> int:
    """Run one command and answer its exit code."""
    use_utf8()
    try:
        app(args=list(arguments), prog_name="mcp-ops")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(bool(exc.code))
    return Exit.OK
