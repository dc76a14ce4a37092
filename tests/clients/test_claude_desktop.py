"""The example for Claude Desktop, filled in, started and used as that host does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mcp_ops.commands.init import own_command
from tests.clients.lines import started
from tests.clients.live import ROOT, LiveLab

EXAMPLE = ROOT / "claude_desktop_config.example.json"
PLACEHOLDER = "/ABSOLUTE/PATH/TO/mcp-ops"
# The revision that the host opens with.
REVISION = "2025-11-25"


async def test_the_example_serves_the_tools_that_need_no_target(tmp_path: Path) -> None:
    tools, health = await hosted({}, tmp_path)
    assert {"get_health", "search_audit", "list_deadletters"} <= tools
    assert "restart_deployment" not in tools
    assert health["overall"] == "healthy"
    assert health["components"] == []


async def test_the_example_with_a_configuration_serves_its_targets(
    lab: LiveLab, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    environment = {"MCP_OPS_CONFIG": str(lab.config), "MCP_OPS_STATE_DIR": str(state)}
    tools, health = await hosted(environment, tmp_path)
    assert "restart_deployment" in tools
    assert {each["name"] for each in health["components"]} >= {"crm", "shop", "orders"}
    assert health["overall"] == "healthy"
    assert (state / "state.db").is_file()


async def hosted(environment: dict[str, str], home: Path) -> tuple[set[str], dict[str, Any]]:
    """The names of the tools, and the server's health; it has to leave nothing on stderr."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.count(PLACEHOLDER) == 1
    command, *more = own_command()
    entry = json.loads(text.replace(PLACEHOLDER, command))["mcpServers"]["mcp-ops"]
    assert Path(entry["command"]).is_absolute()
    bare = {"HOME": str(home), **entry.get("env", {}), **environment}
    if more:  # not installed, but run from its folder
        bare["PYTHONPATH"] = str(ROOT)
    said = home / "stderr"
    with said.open("wb") as stderr:
        async with started(
            [entry["command"], *more, *entry["args"]], bare, Path("/"), stderr
        ) as server:
            await server.greet(REVISION)
            listed = await server.ask("tools/list")
            called = await server.ask("tools/call", name="get_health", arguments={})
            await server.stdin.aclose()
            assert await server.code() == 0
    assert said.read_text(encoding="utf-8") == ""
    names = {tool["name"] for tool in listed["result"]["tools"]}
    return names, called["result"]["structuredContent"]
