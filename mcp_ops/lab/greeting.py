"""What the lab says to the person at the terminal."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from mcp_ops.commands.init import SERVER_NAME, own_command, server_entry

_RULE = "-" * 78


def greeting(config: Path, url: str, directory: Path) -> str:
    """How to connect, and what to try; `url` is empty without a server."""
    entry = {"mcpServers": {SERVER_NAME: server_entry(config)}}
    command = shlex.join(own_command())
    where = "" if directory == Path(".lab").absolute() else f" --directory {_quoted(directory)}"
    lines = [_RULE, "This is a lab: stand-ins and a real Valkey on this machine, nothing real.", ""]
    if url:
        lines += [
            f"MCP server   {url}/mcp     Streamable HTTP",
            f"             {url}/sse     SSE",
            f"             {url}/health",
            "",
            "MCP Inspector:",
            f"  npx @modelcontextprotocol/inspector --cli {url}/mcp --method tools/list",
            "",
        ]
    lines += [
        "Claude Desktop (claude_desktop_config.json), over stdio:",
        json.dumps(entry, indent=2, ensure_ascii=False),
        "",
        "Try at once, in another terminal:",
        f"  {command} call get_health --config {_quoted(config)}",
        f"  {command} lab break token-expired{where}",
        f"  {command} call check_oauth_token target=crm --config {_quoted(config)}",
        f"  {command} lab status{where}",
        "",
        "Ctrl-C stops everything that was started here.",
        _RULE,
    ]
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def fault_lines(said: dict[str, Any]) -> str:
    """What was broken or mended, as text."""
    if "broken" in said:
        broken = said["broken"]
        return f"Broken: {broken['name']} at {broken['at']}, since {broken['since']}."
    mended = [f"Mended: {each['name']} at {each['at']}." for each in said.get("mended", [])]
    return "\n".join(mended) or "Nothing of that was broken."


def status_lines(said: dict[str, Any]) -> str:
    """The status as text."""
    rows = [("component", "target", "state", "address")]
    rows += [(c["name"], c["target"], c["state"], c["url"]) for c in said["components"]]
    if (server := said.get("server")) is not None:
        rows.append(("MCP server", "", server["state"], server["url"]))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f"Lab in {said['directory']}", f"Configuration: {said['config']}", ""]
    lines += ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows]
    faults = [f"  {f['name']} at {f['at']}, since {f['since']}" for f in said["faults"]]
    lines += ["", "In force:", *(faults or ["  nothing is broken"])]
    lines += ["", f"Can be broken: {', '.join(said['can_break'])}"]
    return "\n".join(lines)
