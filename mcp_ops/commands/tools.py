"""`mcp-ops tools` and `mcp-ops schemas`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from mcp_ops.commands.exits import Exit
from mcp_ops.commands.manifests import manifests
from mcp_ops.commands.output import say, show_json, show_table
from mcp_ops.commands.session import ConfigOption, JsonOption, RunningApp, with_app
from mcp_ops.commands.snapshots import compare, shipped, snapshot, write_snapshots
from mcp_ops.commands.table import first_sentence, tables
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
                    tool.effect_in_words,
                    "bulk" if tool.bulk else "",
                    tool.capability.__name__,
                    first_sentence(tool.description),
                )
                for tool in app.tools.values()
            ),
        )
        return Exit.OK

    with_app(config, body, as_json=as_json)


def _ship(every: Mapping[str, Tool], *, check: bool) -> list[str]:
    """Keep the package's own copy of the schemas, which makes a start fast, like the snapshots."""
    wanted = shipped(every)
    if SHIPPED.exists() and SHIPPED.read_bytes() == wanted:
        return []
    if not check:
        SHIPPED.write_bytes(wanted)
    return [f"{SHIPPED.name}: the schemas that the package ships differ from the tools"]


def _tell(every: Mapping[str, Tool], root: Path, *, check: bool) -> list[str]:
    """Keep what documents and manifests say about the tools like the snapshots."""
    opening = import_module("mcp_ops.opening")

    def kinds_of(capability: type) -> list[str]:
        return sorted(
            kind
            for kind in opening.KINDS
            if opening.implements(opening.adapter_class(kind), capability)
        )

    changes = []
    for path, wanted in (tables(every, kinds_of, root) | manifests(root)).items():
        if path.exists() and path.read_bytes() == wanted:
            continue
        if not check:
            path.write_bytes(wanted)
        changes.append(f"{path.relative_to(root).as_posix()}: it differs from the tools")
    return changes


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
    root = SHIPPED.parent.parent
    if directory.resolve() == root / "tool_schemas":
        changes += _ship(every, check=check)
        changes += _tell(every, root, check=check)
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
