"""The command line from outside: what can be seen without an open server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from mcp_ops.call import Question
from mcp_ops.cli import main
from mcp_ops.commands import root, serving
from mcp_ops.commands.approvals import described
from mcp_ops.commands.exits import Exit, exit_of_error, exit_of_result
from mcp_ops.commands.serving import ServeOptions
from mcp_ops.commands.session import operator
from mcp_ops.errors import RefusalCode
from mcp_ops.questions import Approval

REPOSITORY = Path(__file__).parent.parent


def leaves(command: Any, path: str = "") -> dict[str, Any]:
    """Every command by its full name."""
    found = {path: command} if path else {}
    for name, inner in getattr(command, "commands", {}).items():
        found |= leaves(inner, f"{path} {name}".strip())
    return found


COMMANDS = leaves(typer.main.get_command(root.app))


def options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ServeOptions()),
        (["--transport", "sse"], ServeOptions(transport="sse")),
        (["--transport=http", "--port=0"], ServeOptions(transport="http", port=0)),
        (["--host", "::1", "--config", "x.toml"], ServeOptions(host="::1", config=Path("x.toml"))),
    ],
)
def test_plain_serve_options_need_no_command_line_library(
    arguments: list[str], expected: ServeOptions
) -> None:
    assert serving.parse(arguments) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--transport"],
        ["--transport", "smoke"],
        ["--port", "x"],
        ["--port", "65536"],
        ["--port", "²"],
        ["--prot", "1"],
        ["--host="],
        ["extra"],
    ],
)
def test_any_other_serve_options_are_left_to_the_full_command_line(arguments: list[str]) -> None:
    assert serving.parse(arguments) is None


def test_serve_imports_neither_typer_nor_rich(tmp_path: Path) -> None:
    done = run("-X", "importtime", "-m", "mcp_ops", "serve", "--config", str(tmp_path / "none"))
    assert done.returncode == Exit.CONFIGURATION
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mcp_ops.settings_file" in imported
    assert not {name for name in imported if name.split(".")[0] in ("typer", "rich", "click")}


def test_serve_says_mistakes_on_stderr_and_keeps_stdout_for_the_protocol(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[server]\nprot = 1\n", encoding="utf-8")
    assert main(["serve", "--config", str(config)]) == Exit.CONFIGURATION
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert b'Did you mean "port"?' in err


def test_python_m_is_the_same_command() -> None:
    done = run("-m", "mcp_ops", "--version")
    assert done.returncode == Exit.OK
    assert done.stdout.startswith("mcp-ops ")


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["serve", "--transport", "smoke"], ["mode", "set", "strict", "--reason", "x"]],
)
def test_a_mistake_in_the_usage_exits_with_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == Exit.USAGE
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == Exit.OK
    assert COMMANDS[name].help
    for parameter in COMMANDS[name].params:
        assert parameter.name == "help" or parameter.help, f"{name}: {parameter.name} says nothing"


def test_every_command_but_the_servers_has_json() -> None:
    groups = {name for name, command in COMMANDS.items() if hasattr(command, "commands")}
    lacking = {n for n, c in COMMANDS.items() if n not in groups and "--json" not in options(c)}
    assert lacking == {"serve"}


@pytest.mark.parametrize(
    "arguments", [["tools"], ["call", "get_health"], ["audit", "verify"], ["mode"], ["doctor"]]
)
def test_a_wrong_configuration_ends_every_command_with_four(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "none.toml")
    if arguments == ["mode"]:
        arguments = ["mode", "show"]
    assert main([*arguments, "--config", missing]) == Exit.CONFIGURATION
    assert main([*arguments, "--json", "--config", missing]) == Exit.CONFIGURATION
    out = capsys.readouterr().out
    body = json.loads(out[out.index("{\n") if "doctor" not in arguments else out.index("[\n") :])
    found = body[0]["state"] if "doctor" in arguments else body["error"]["code"]
    assert found == ("fail" if "doctor" in arguments else "configuration_error")


@pytest.mark.parametrize(
    ("configured", "hint"),
    [
        ("", 'set tools.profile = "full"'),
        ('[tools]\nprofile = "full"\nexclude = ["scale_*"]\n', "tools.exclude"),
        ('[tools]\nprofile = "full"\n', "No configured target can do it"),
    ],
)
def test_a_tool_that_is_not_published_says_what_would_publish_it(
    configured: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'state_dir = "state"\n{configured}', encoding="utf-8")
    assert main(["call", "scale_deployment", "--config", str(config)]) == Exit.USAGE
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": "invalid_input"}, Exit.USAGE),
        ({"code": "unknown_tool"}, Exit.USAGE),
        ({"code": "configuration_error"}, Exit.CONFIGURATION),
        ({"code": "not_found", "executed": "no"}, Exit.FAILED),
        ({"code": "connection_lost", "executed": "unknown"}, Exit.UNKNOWN),
        ({}, Exit.FAILED),
    ],
)
def test_exit_codes_follow_the_error(error: dict[str, Any], expected: Exit) -> None:
    assert exit_of_error(error) == expected


@pytest.mark.parametrize("code", list(RefusalCode))
def test_every_refusal_exits_with_refused_or_approval(code: RefusalCode) -> None:
    approval = code.value.startswith("approval_")
    expected = Exit.APPROVAL if approval else Exit.REFUSED
    assert exit_of_error({"code": code.value, "executed": "no"}) == expected


def test_exit_codes_follow_the_outcome_of_a_write() -> None:
    assert exit_of_result({"outcome": "unknown"}) == Exit.UNKNOWN
    assert exit_of_result({"outcome": "failed"}) == Exit.FAILED
    assert exit_of_result({"outcome": "verified"}) == Exit.OK
    assert exit_of_result({"items": []}) == Exit.OK
    assert exit_of_result(None) == Exit.OK


def test_command_line_page_documents_every_command_option_and_exit_code() -> None:
    page = (REPOSITORY / "docs" / "command-line.md").read_text(encoding="utf-8")
    missing = [name for name in COMMANDS if f"mcp-ops {name}" not in page]
    missing += [
        option
        for command in COMMANDS.values()
        for option in options(command)
        if option.startswith("--") and option != "--help" and option not in page
    ]
    missing += [str(int(code)) for code in Exit if f"| {int(code)} |" not in page]
    assert missing == []


async def test_without_a_terminal_nobody_can_approve_and_yes_only_confirms() -> None:
    silent, eager = operator(), operator(yes=True)
    assert silent.ask is None
    assert "ops:approve" not in silent.scopes | eager.scopes
    assert eager.ask is not None
    confirm = Question(id="1", kind="confirm", message="Do it?", digest="")
    approve = Question(id="2", kind="approve", message="Do it?", digest="")
    assert await eager.ask(confirm) == "accept"
    assert await eager.ask(approve) is None
    assert silent.principal.startswith("operator:")
    assert silent.channel == "cli"


def test_an_approval_is_shown_whole_and_harmless_for_the_terminal() -> None:
    approval = Approval(
        id="abcd1234",
        kind="approve",
        state="pending",
        principal="agent:x@y",
        tool="restart_deployment",
        target="shop",
        digest="d",
        policy="solo/1",
        message="Allow \x1b[2J it?",
        arguments={"name": "api\u202e", "dry_run": False},
        reason="it hangs",
        created_at=0,
        expires_at=900,
    )
    text = "\n".join(described(approval))
    assert "restart_deployment on shop" in text
    assert '"name": "api\\u202e"' in text  # what would run, not what it looks like
    assert "it hangs" in text
    assert "abcd1234" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
