"""`mcp-ops policy`, `elevate` and `call --break-glass`, from outside."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from mcp_ops.cli import main
from mcp_ops.commands.policy import caller_as, moment, split_as
from mcp_ops.errors import InvalidInput
from mcp_ops.settings import KeySettings, ServerSettings, Settings

REPOSITORY = Path(__file__).parent.parent
KEY = "a credential for emergencies"
CONFIG = """
state_dir = "state"
policy_file = "policy.toml"

[guard.break_glass]
key = "file:glass.txt"

[targets.vault]
kind = "file_secrets"
path = "secrets"
"""
POLICY = """[[policy]]
tool = "isolate_target"
require = "none"

[[policy]]
tool = "reset_circuit"
principal = "key:*"
require = "approve"
approvals = 2

[[freeze]]
days = ["fri"]
from = "17:00"
to = "09:00"
timezone = "Europe/Berlin"
reason = "the weekend is near"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "policy.toml").write_text(POLICY, encoding="utf-8")
    (tmp_path / "glass.txt").write_text(KEY, encoding="utf-8")
    return tmp_path


def command(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "mcp_ops", *words, "--config", str(home / "config.toml")]


class Run(Protocol):
    """A command in this process: exit code, stdout, stderr."""

    def __call__(self, *words: str) -> tuple[int, str, str]: ...


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def command_here(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--config", str(home / "config.toml")])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command_here


def run_with(home: Path, *words: str, **environ: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command(home, *words),
        cwd=REPOSITORY,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def at_terminal(home: Path, typed: Sequence[tuple[str, str]], *words: str) -> tuple[int, str]:
    """Run a command on a terminal of its own; type each line once its question has come."""
    child, descriptor = pty.fork()
    if child == 0:  # pragma: no cover - the child is another program at once
        os.chdir(REPOSITORY)
        os.execv(sys.executable, command(home, *words))
    shown = ""
    pending = list(typed)
    try:
        while True:
            shown += os.read(descriptor, 4_096).decode("utf-8", "replace")
            if pending and pending[0][0] in shown:
                os.write(descriptor, f"{pending.pop(0)[1]}\n".encode())
    except OSError:  # the child closed its terminal
        pass
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown


def test_show_prints_the_rules_with_their_places_and_those_of_the_profile(
    home: Path, run: Run
) -> None:
    _, out, _ = run("policy", "show", "--json", "--channel", "http")
    rows: list[dict[str, str]] = json.loads(out)
    assert [row["rule"] for row in rows] == [
        *("policy[1]", "policy[2]", "team[1]", "team[2]", "team[3]", "team[4]"),
    ]
    assert rows[1]["place"] == f"{home / 'policy.toml'} line 5: policy #2"
    assert rows[1]["approvers"] == "2 of who may approve"
    assert rows[2]["place"] == "built in"
    assert "policy[2]" in run("policy", "show")[1]
    assert run("policy", "show", "--channel", "pigeon")[0] == 2


def test_explain_says_stage_by_stage_what_would_become_of_a_call(home: Path, run: Run) -> None:
    asked = ("policy", "explain", "reset_circuit", "target=vault", "as", "key:bot")
    _, out, _ = run(*asked, "--at", "2027-01-14T12:00:00Z", "--json")
    found: dict[str, Any] = json.loads(out)
    assert found["outcome"] == "approve"
    (policy,) = [stage for stage in found["stages"] if stage["name"] == "policy"]
    assert policy["says"] == (
        f"policy[2] ({home / 'policy.toml'} line 5: policy #2) requires approve"
    )
    code, out, _ = run(*asked, "--at", "2027-01-15T18:00:00Z")
    assert code == 0
    assert "refuses: frozen" in out
    assert out.rstrip().endswith("outcome: frozen")


EXPECTATIONS = """[[expect]]
tool = "reset_circuit"
target = "vault"
principal = "key:bot"
at = "2027-01-14T12:00:00Z"
outcome = "approve"

[[expect]]
tool = "isolate_target"
target = "vault"
outcome = "allowed"

[[expect]]
tool = "reset_circuit"
target = "vault"
at = "2027-01-15T18:00:00Z"
outcome = "frozen"

[[expect]]
tool = "list_deadletters"
outcome = "allowed"
"""


def expecting(home: Path, text: str) -> tuple[str, str, str]:
    (home / "expect.toml").write_text(text, encoding="utf-8")
    return "policy", "test", str(home / "expect.toml")


def test_expectations_that_hold_end_with_zero(home: Path, run: Run) -> None:
    code, out, _ = run(*expecting(home, EXPECTATIONS))
    assert (code, out) == (0, "4 of 4 expectations hold.\n")


def test_an_expectation_that_does_not_hold_is_shown_with_its_line_and_the_rule(
    home: Path, run: Run
) -> None:
    more = '\n[[expect]]\ntool = "reset_circuit"\ntarget = "vault"\nprincipal = "key:bot"\n'
    more += 'at = "2027-01-14T12:00:00Z"\noutcome = "allowed"\n'
    code, out, _ = run(*expecting(home, EXPECTATIONS + more))
    assert code == 1
    assert out.splitlines() == [
        "line 23: reset_circuit on vault, key:bot",
        "  - expected allowed",
        f"  + found    approve   (policy[2], {home / 'policy.toml'} line 5: policy #2)",
        "4 of 5 expectations hold.",
    ]
    found = json.loads(run("policy", "test", str(home / "expect.toml"), "--json")[1])
    assert (found["expectations"], found["wrong"][0]["found"]) == (5, "approve")


def test_the_configured_mode_counts_for_expectations(home: Path, run: Run) -> None:
    path = home / "config.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        f"{text}\n[guard]\nmode = 'lockdown'\n".replace(
            '[guard.break_glass]\nkey = "file:glass.txt"\n', ""
        ),
        encoding="utf-8",
    )
    asked = "[[expect]]\ntool = 'reset_circuit'\ntarget = 'vault'\noutcome = 'locked_down'\n"
    asked += "at = '2027-01-14T12:00:00Z'\n"
    code, out, _ = run(*expecting(home, asked))
    assert code == 0, out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[expect]]\ntool = 'x'\n", "expect.toml line 1: expect #1.outcome: it is missing."),
        ("[[expect]]\ntool = 'get_helth'\noutcome = 'allowed'\n", 'Did you mean "get_health"?'),
        ("[[expect]]\ntool = 'reset_circuit'\ntarget = 'no'\noutcome = 'frozen'\n", "1: target"),
        ("[[expect]]\ntool = 'get_health'\nat = 'now'\noutcome = 'frozen'\n", "line 1: at: a time"),
        ("", "expect: it is missing"),
        ("[[expect]\n", "not TOML"),
    ],
)
def test_expectations_that_cannot_be_read_end_with_four(
    home: Path, run: Run, text: str, says: str
) -> None:
    code, _, err = run(*expecting(home, text))
    assert (code, says in err) == (4, True), err


ELEVATE = (
    *("elevate", "agent:*", "--tool", "reset_*", "--target", "vault", "--minutes", "5"),
    *("--incident", "INC-7", "--reason", "it is stuck", "--require", "none"),
)


def test_elevating_needs_a_terminal(run: Run) -> None:
    code, _, err = run(*ELEVATE)
    assert code == 5
    assert "needs the yes of a person at a terminal; nothing was changed" in err
    assert run("elevate", "list")[1] == "No elevation is in force.\n"


def test_an_elevation_is_given_at_a_terminal_listed_and_ended_without_one(
    home: Path, run: Run
) -> None:
    code, shown = at_terminal(home, [("Elevate? [y/N]", "y")], *ELEVATE)
    assert code == 0, shown
    (grant,) = json.loads(run("elevate", "list", "--json")[1])
    assert (grant["principal"], grant["incident"]) == ("agent:*", "INC-7")
    assert grant["id"] in run("elevate", "list")[1]
    asked = ("policy", "explain", "reset_circuit", "target=vault", "as", "agent:x")
    assert f"elevation {grant['id']} for INC-7" in run(*asked)[1]
    assert run("elevate", "end", grant["id"])[1] == f"ended: {grant['id']}\n"
    assert run("elevate", "end", grant["id"])[0] == 1


GLASS = ("call", "list_circuits", "--break-glass", "--reason", "everything is down")


def test_break_glass_takes_its_credential_from_the_environment_and_is_shown_after(
    home: Path, run: Run
) -> None:
    code, _, err = run_with(home, *GLASS, MCP_OPS_BREAK_GLASS=KEY)
    assert code == 0, err
    assert "BREAK-GLASS: this call goes past the guard" in err
    assert "list_circuits on this server" in run("mode")[2]
    (told,) = [f for f in json.loads(run("doctor", "--json")[1]) if "glass" in f["check"]]
    assert (told["state"], '"everything is down"' in told["message"]) == ("warn", True)


def test_break_glass_asks_for_its_credential_without_showing_it(home: Path) -> None:
    code, shown = at_terminal(home, [("credential: ", KEY)], *GLASS)
    assert code == 0, shown
    assert KEY not in shown


def test_break_glass_with_a_wrong_credential_opens_nothing(home: Path, run: Run) -> None:
    code, _, err = run_with(home, *GLASS, MCP_OPS_BREAK_GLASS="wrong")
    assert (code, "This is not the break-glass credential" in err) == (3, True), err
    assert run("mode")[2] == ""


def test_break_glass_without_a_credential_is_not_tried(run: Run) -> None:
    code, _, err = run(*GLASS)
    assert (code, "The break-glass credential was not given." in err) == (2, True), err


def test_clearing_a_mode_names_one_scope_and_needs_a_terminal(run: Run) -> None:
    assert run("mode", "clear", "nowhere")[0] == 2
    assert run("mode", "clear", "vault", "--target", "vault")[0] == 2
    assert run("mode", "clear", "principal:agent:x")[0] == 5


def test_the_word_as_is_followed_by_one_principal() -> None:
    assert split_as(["a=1", "as", "key:x"]) == (["a=1"], "key:x")
    assert split_as(["a=1"]) == (["a=1"], "")
    for words in (["as"], ["as", "a", "b"]):
        with pytest.raises(InvalidInput):
            split_as(words)


def test_a_principal_has_the_rights_of_its_channel(tmp_path: Path) -> None:
    key = KeySettings.model_validate(
        {"name": "bot", "key": "x" * 16, "scopes": ["ops:read"], "host_confirms": True}
    )
    settings = Settings(state_dir=tmp_path, server=ServerSettings(keys=(key,)))
    bot = caller_as(settings, "key:bot", "")
    assert (bot.channel, bot.client_confirms) == ("http", True)
    assert bot.scopes == {"ops:read"}
    assert caller_as(settings, "", "http").principal == "key:bot"
    assert "ops:write" in caller_as(settings, "key:other", "").scopes
    operator = caller_as(settings, "operator:ada", "")
    assert (operator.channel, "ops:admin" in operator.scopes) == ("cli", True)
    agent = caller_as(settings, "", "")
    assert (agent.channel, agent.principal[:6]) == ("stdio", "agent:")
    with pytest.raises(InvalidInput, match="one of stdio, http, cli"):
        caller_as(settings, "", "pigeon")


@pytest.mark.parametrize("text", ["soon", "2027-01-15T12:00:00"])
def test_a_moment_has_an_offset(text: str) -> None:
    with pytest.raises(InvalidInput, match="with an offset"):
        moment(text)
