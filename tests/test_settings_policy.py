"""The policy in a file of its own: what it adds, its mistakes, and that it must be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_ops.errors import ConfigurationError
from mcp_ops.settings import Settings
from mcp_ops.settings_file import load_settings
from mcp_ops.settings_policy import lines_of

RULES = """
# what holds here
[[policy]]
tool = "discard_*"
require = "deny"

[[policy]]
require = "approve"
approvals = 2
approvers = ["key:lead-*"]

[[freeze]]
calendar = "file:freeze.ics"

[[protected]]
object = "billing"
"""


def load(folder: Path, main: str, policy: str | None = None) -> Settings:
    (folder / "config.toml").write_text(main, encoding="utf-8")
    if policy is not None:
        (folder / "rules").mkdir()
        (folder / "rules" / "policy.toml").write_text(policy, encoding="utf-8")
    return load_settings(folder / "config.toml", {}, {})


def wrong(folder: Path, main: str, policy: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(folder, main, policy)
    return caught.value.message


NAMED = 'policy_file = "rules/policy.toml"\n'


def test_rules_windows_and_protections_come_from_their_own_file(tmp_path: Path) -> None:
    main = f"{NAMED}[[guard.protected]]\nobject = 'ledger'\n"
    settings = load(tmp_path, main, RULES)
    assert [rule.require for rule in settings.policy] == ["deny", "approve"]
    assert (settings.policy[1].approvals, settings.policy[1].approvers) == (2, ("key:lead-*",))
    assert [item.object for item in settings.guard.protected] == ["ledger", "billing"]
    folder = tmp_path / "rules"
    assert settings.guard.freeze[0].calendar == f"file:{folder / 'freeze.ics'}"
    assert settings.rule_places == (
        f"{folder / 'policy.toml'} line 3: policy #1",
        f"{folder / 'policy.toml'} line 7: policy #2",
    )


def test_rules_of_the_main_file_have_their_places_and_calendars_its_folder(tmp_path: Path) -> None:
    main = (
        "[[policy]]\nrequire = 'none'\n"
        "[[guard.freeze]]\ncalendar = 'file:freeze.ics'\n"
        "[[guard.freeze]]\ncalendar = 'file:/etc/freeze.ics'\n"
    )
    settings = load(tmp_path, main)
    assert settings.rule_places == (f"{tmp_path / 'config.toml'} line 1: policy #1",)
    assert [window.calendar for window in settings.guard.freeze] == [
        f"file:{tmp_path / 'freeze.ics'}",
        "file:/etc/freeze.ics",
    ]


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (None, "policy.toml: the file cannot be read (No such file or directory)."),
        ("[[policy]\n", "policy.toml: this is not TOML: "),
        ("a = 1\nb = [\n", "line 3"),
        ("\n\n[[policy]]\nrequire = 'always'\n", "policy.toml line 3: policy #1.require: found"),
        ("[[policy]]\nrequire = 'none'\nwho = 1\n", "line 1: policy #1.who: there is no such key"),
        ("[[freeze]]\nstart = 'now'\n", "policy.toml line 1: freeze #1.start: found"),
        (
            "[[freeze]]\nform = '17:00'\n",
            'freeze #1.form: there is no such key. Did you mean "from"',
        ),
        ("[[freeze]]\nreason = 'r'\n", "freeze #1: expected one of the three"),
        ("policy = [{require = 'always'}]\n", "policy.toml: policy #1.require: found"),
        ("[[polices]]\nrequire = 'none'\n", 'polices: there is no such key. Did you mean "policy"'),
        ("policy = 1\n", "policy: it is written [[policy]]."),
        ('note = """x"""\n', "note: there is no such key."),
    ],
)
def test_a_missing_or_broken_policy_file_stops_the_start_and_names_the_place(
    tmp_path: Path, policy: str | None, says: str
) -> None:
    assert says in wrong(tmp_path, NAMED, policy)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in wrong(tmp_path, "policy_file = 'policy.toml'\n")
    (tmp_path / "policy.toml").write_bytes(b"#" * 1_048_577)
    assert "larger than 1 MiB" in wrong(tmp_path, "policy_file = 'policy.toml'\n")


def test_rules_in_both_files_are_a_mistake_since_the_first_wins(tmp_path: Path) -> None:
    main = f"{NAMED}[[policy]]\nrequire = 'none'\n"
    assert "keep them in one of the two" in wrong(tmp_path, main, RULES)


def test_an_empty_policy_file_adds_nothing(tmp_path: Path) -> None:
    settings = load(tmp_path, NAMED, "")
    assert (settings.policy, settings.rule_places) == ((), ())


def test_lines_are_not_guessed_in_a_file_with_text_over_several_lines() -> None:
    assert lines_of("[[policy]]\n [[ policy ]]\n") == {("policy", 0): 1, ("policy", 1): 2}
    assert lines_of('x = """\n[[policy]]\n"""\n[[policy]]\n') == {}


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ('"secret text that stands here"', "expected a reference, env:NAME or file:PATH"),
        ('"env:GLASS"', "GLASS, which is not set"),
        ('"file:short.txt"', "a key of at least 16 characters"),
    ],
)
def test_the_break_glass_key_is_a_reference_to_a_long_secret(
    tmp_path: Path, key: str, says: str
) -> None:
    (tmp_path / "short.txt").write_text("short", encoding="utf-8")
    message = wrong(tmp_path, f"[guard.break_glass]\nkey = {key}\n")
    assert says in message
    assert "short" not in message.replace("short.txt", "")


def test_the_break_glass_key_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "glass.txt").write_text("a long enough credential\n", encoding="utf-8")
    key = load(tmp_path, '[guard.break_glass]\nkey = "file:glass.txt"\n').guard.break_glass.key
    assert key is not None
    assert key.get_secret_value() == "a long enough credential"


def test_places_cannot_be_written(tmp_path: Path) -> None:
    assert "rule_places: there is no such key" in wrong(tmp_path, "rule_places = []\n")
