"""`mcp-ops tools` and `mcp-ops schemas`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import say, show_json, show_table
from mcp_ops.commands.session import ConfigOption, JsonOption, RunningApp, with_app
from mcp_ops.commands.snapshots import compare, shipped, snapshot, write_snapshots
from mcp_ops.schema import SHIPPED
from mcp_ops.tool import Tool


def tools(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the tools that are published with this configuration."""

    async def body(app: RunningApp) -> int:
        if as_json:
            show_json([snapshot(tool) for tool in app.tools.values()])
            return Exit.OK
        show_table(
            ("TOOL", "EFFECT", "BULK", "CAPABILITY", "WHAT IT DOES"),
            (
                (
                    tool.name,
                    tool.effect.value,
                    "bulk" if tool.bulk else "",
                    tool.capability.__name__,
                    first_sentence(tool.description),
                )
                for tool in app.tools.values()
            ),
        )
        return Exit.OK

    with_app(config, body, as_json=as_json)


def first_sentence(description: str) -> str:
    """What a tool does, on one line."""
    text = " ".join(description.partition("\n\n")[0].split())
    head, end, _ = text.partition(". ")
    return head + end.strip()


def _ship(every: Mapping[str, Tool], *, check: bool) -> list[str]:
    """Keep the package's own copy of the schemas, which makes a start fast, like the snapshots."""
    wanted = shipped(every)
    if SHIPPED.exists() and SHIPPED.read_bytes() == wanted:
        return []
    if not check:
        SHIPPED.write_bytes(wanted)
    return [f"{SHIPPED.name}: the schemas that the package ships differ from the tools"]


def schemas(
    check: Annotated[
        bool, typer.Option("--check", help="Only compare; exit code 1 when something differs.")
    ] = False,
    directory: Annotated[Path, typer.Option("--dir", help="Folder of the snapshots.")] = Path(
        "tool_schemas"
    ),
    as_json: JsonOption = False,
) -> None:
    """Write the snapshots of all tools, or compare them.

    Every tool of the package has one file, whatever is configured here.
    """
    every = import_module("mcp_ops.app").ALL_TOOLS
    changes = compare(every, directory) if check else write_snapshots(every, directory)
    if directory.resolve() == (SHIPPED.parent.parent / "tool_schemas"):
        changes += _ship(every, check=check)
    if as_json:
        show_json({"checked": check, "tools": len(every), "changes": changes})
    else:
        for line in changes:
            say(line)
        if not changes:
            say(f"The snapshots of {len(every)} tools are as they should be.")
        elif check:
            say("If that is meant: mcp-ops schemas writes them anew.")
    raise typer.Exit(Exit.FAILED if check and changes else Exit.OK)
