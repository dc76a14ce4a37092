"""`mcp-ops init` and the checks of `mcp-ops doctor` that need no open server."""

from __future__ import annotations

import json
import re
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.capabilities.guard import ComponentHealth
from mcp_ops.cli import main
from mcp_ops.commands.doctor import of_clock, of_configuration, of_state_directory, of_target
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.init import SERVER_NAME, TEMPLATE, own_command
from mcp_ops.settings_file import load_settings

REPOSITORY = Path(__file__).parent.parent


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_writes_a_private_configuration_that_loads(tmp_path: Path) -> None:
    config = tmp_path / "new" / "config.toml"
    assert main(["init", "--config", str(config)]) == Exit.OK
    if sys.platform != "win32":
        assert mode_of(config) == 0o600
    assert load_settings(config, {}, {}).targets == ()
    assert [path.name for path in config.parent.iterdir()] == ["config.toml"]


def test_the_examples_in_the_template_load_when_they_are_uncommented() -> None:
    lines = [re.sub(r"^# (?=\[|[a-z_]+ = )", "", line) for line in TEMPLATE.splitlines()]
    table = tomllib.loads("\n".join(lines))
    assert set(table["targets"]) == {"crm", "vault", "cache", "shop"}


def test_uncommented_template_is_a_valid_configuration(tmp_path: Path) -> None:
    lines = [re.sub(r"^# (?=\[|[a-z_]+ = )", "", line) for line in TEMPLATE.splitlines()]
    config = tmp_path / "config.toml"
    config.write_text("\n".join(lines), encoding="utf-8")
    settings = load_settings(config, {"FOUNDRY_KEY": "a-key-that-is-long-enough"}, {})
    assert [target.name for target in settings.targets] == ["crm", "vault", "cache", "shop"]


def test_init_never_overwrites_without_force(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("mine", encoding="utf-8")
    assert main(["init", "--config", str(config)]) == Exit.CONFIGURATION
    assert config.read_text(encoding="utf-8") == "mine"
    assert main(["init", "--config", str(config), "--force"]) == Exit.OK
    assert config.read_text(encoding="utf-8") == TEMPLATE


def test_init_prints_what_a_client_needs_with_absolute_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    assert main(["init", "--config", str(config), "--json"]) == Exit.OK
    entry = json.loads(capsys.readouterr().out)["mcpServers"][SERVER_NAME]
    assert Path(entry["command"]).is_file()
    assert Path(entry["command"]).is_absolute()
    assert entry["args"][-4:] == ["--transport", "stdio", "--config", str(config)]


def test_init_adds_the_server_to_a_clients_file_and_keeps_the_rest(tmp_path: Path) -> None:
    client = tmp_path / "claude_desktop_config.json"
    before = {"theme": "dark", "mcpServers": {"other": {"command": "x"}}}
    client.write_bytes(b"\xef\xbb\xbf" + json.dumps(before).encode())
    arguments = ["init", "--config", str(tmp_path / "c.toml"), "--client", str(client)]
    assert main(arguments) == Exit.OK
    after = json.loads(client.read_text(encoding="utf-8"))
    assert after["theme"] == "dark"
    assert set(after["mcpServers"]) == {"other", SERVER_NAME}
    assert main([*arguments, "--force"]) == Exit.OK


def test_init_leaves_everything_as_it_was_when_the_client_has_the_server(tmp_path: Path) -> None:
    client = tmp_path / "claude_desktop_config.json"
    client.write_text('{"mcpServers": {"mcp-ops": {}}}', encoding="utf-8")
    config = tmp_path / "c.toml"
    arguments = ["init", "--config", str(config), "--client", str(client)]
    assert main(arguments) == Exit.CONFIGURATION
    assert not config.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"mcpServers": []}'])
def test_init_touches_no_client_file_that_it_does_not_understand(
    tmp_path: Path, content: str
) -> None:
    client = tmp_path / "client.json"
    client.write_text(content, encoding="utf-8")
    arguments = ["init", "--config", str(tmp_path / "c.toml"), "--client", str(client), "--force"]
    assert main(arguments) == Exit.CONFIGURATION
    assert client.read_text(encoding="utf-8") == content


def test_own_command_starts_this_installation() -> None:
    command = own_command()
    assert Path(command[0]).is_absolute()
    assert Path(command[0]).parent == Path(sys.executable).parent


def test_the_example_for_claude_desktop_says_what_to_put_in() -> None:
    path = REPOSITORY / "claude_desktop_config.example.json"
    entry = json.loads(path.read_text(encoding="utf-8"))["mcpServers"][SERVER_NAME]
    assert entry["command"] == "/ABSOLUTE/PATH/TO/mcp-ops"
    assert entry["args"] == ["serve", "--transport", "stdio"]


def test_doctor_ends_with_the_codes_of_a_wrong_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[server]\nport = -1\n", encoding="utf-8")
    assert main(["doctor", "--config", str(config)]) == Exit.CONFIGURATION
    assert "fail  configuration" in capsys.readouterr().out


def test_doctor_warns_of_files_that_others_can_read(tmp_path: Path) -> None:
    config, token = tmp_path / "config.toml", tmp_path / "token"
    config.write_text("[targets.crm]\nkind = 'x'\ntoken = 'file:token'\n", encoding="utf-8")
    token.write_text("x", encoding="utf-8")
    config.chmod(0o644)
    token.chmod(0o640)
    found = of_configuration(load_settings(config, {}, {}))
    warned = [finding.message for finding in found if finding.check == "permissions"]
    assert len(warned) == 2
    config.chmod(0o600)
    token.chmod(0o600)
    found = of_configuration(load_settings(config, {}, {}))
    assert all(finding.state == "ok" for finding in found)


def test_doctor_says_that_a_state_directory_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    finding = of_state_directory(blocked / "state")
    assert finding.state == "fail"
    assert "MCP_OPS_STATE_DIR" in finding.advice
    assert of_state_directory(tmp_path / "state").state == "ok"


def test_doctor_notices_a_clock_that_went_back() -> None:
    now = 1_800_000_000.0
    assert of_clock(now, None).state == "ok"
    assert of_clock(now, now + 59).state == "ok"
    assert of_clock(now, now + 61).state == "warn"
    assert of_clock(0.0, None).state == "fail"


@pytest.mark.parametrize(
    ("status", "state"), [("healthy", "ok"), ("degraded", "warn"), ("unhealthy", "fail")]
)
def test_doctor_says_of_each_target_whether_it_answers(status: Any, state: str) -> None:
    found = of_target(ComponentHealth(name="crm", kind="salesforce", status=status))
    assert found.state == state
    assert found.check == "target crm"
    assert bool(found.advice) == (state != "ok")
