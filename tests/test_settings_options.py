"""Options of a target: references, paths, and the quality of the errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from mcp_ops.adapter import AdapterSettings
from mcp_ops.errors import ConfigurationError
from mcp_ops.settings import TargetSettings
from mcp_ops.settings_draft import TARGET_KEYS
from mcp_ops.settings_options import resolve_options, secret_files, secrets_in


class Login(BaseModel):
    """A nested table with a secret."""

    model_config = ConfigDict(extra="forbid")
    user: str = ""
    password: SecretStr


class Example(AdapterSettings):
    """Settings with every sort of field that matters here."""

    url: str = Field(pattern=r"^https://")
    token: SecretStr | None = None
    more_tokens: tuple[SecretStr, ...] = ()
    login: Login | None = None
    headers: dict[str, SecretStr] = {}
    path: Path = Path()
    retries: int = Field(1, ge=0, le=5)


def resolve(
    options: Mapping[str, Any], environ: Mapping[str, str] | None = None, base: Path = Path("/base")
) -> Example:
    target = TargetSettings(name="crm", kind="example", options=dict(options))
    return resolve_options(target, Example, environ or {}, base, source=str(base / "config.toml"))


def wrong(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        resolve(options, environ)
    return caught.value.message


URL = "https://x.test"


def test_references_are_resolved_wherever_a_secret_stands() -> None:
    made = resolve(
        {
            "url": "env:URL",
            "token": "env:T1",
            "more_tokens": ["env:T1", "env:T2"],
            "login": {"user": "me", "password": "env:T2"},
            "headers": {"x-api-key": "env:T1"},
            "retries": "env:RETRIES",
        },
        {"URL": URL, "T1": "secret-one", "T2": "secret-two", "RETRIES": "2"},
    )
    assert made.url == URL
    assert made.retries == 2
    assert sorted(secrets_in(made)) == ["secret-one"] * 3 + ["secret-two"] * 2


def test_a_secret_file_is_relative_to_the_configuration_and_loses_its_last_newline(
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_bytes(b"secret\r\n")
    made = resolve({"url": URL, "token": "file:token"}, base=tmp_path)
    assert made.token is not None
    assert made.token.get_secret_value() == "secret"


def test_paths_are_relative_to_the_configuration(tmp_path: Path) -> None:
    assert resolve({"url": URL, "path": "here"}, base=tmp_path).path == tmp_path / "here"
    assert resolve({"url": URL, "path": "~/x"}).path == Path.home() / "x"


@pytest.mark.parametrize(
    "options",
    [
        {"token": "hunter2"},
        {"more_tokens": ["hunter2"]},
        {"login": {"password": "hunter2"}},
        {"headers": {"a": "hunter2"}},
        {"token": 42_424_242},
    ],
)
def test_a_literal_secret_is_refused_and_never_repeated(options: dict[str, Any]) -> None:
    message = wrong({"url": URL, **options})
    assert "expected a reference, env:NAME or file:PATH" in message
    assert "hunter2" not in message
    assert "42424242" not in message


def test_a_variable_that_is_missing_or_empty_is_named_once() -> None:
    message = wrong({"url": "env:NOT_THERE", "token": "env:EMPTY"}, {"EMPTY": " "})
    assert "targets.crm.url: it refers to the environment variable NOT_THERE, which is not set" in (
        message
    )
    assert "targets.crm.token: it refers to the environment variable EMPTY, which is empty" in (
        message
    )
    assert "2 places" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x" * 70_000, "64"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigurationError, match=says) as caught:
        resolve({"url": URL, "token": "file:token"}, base=tmp_path)
    assert str(tmp_path / "token") in caught.value.message


def test_an_unknown_option_suggests_options_of_the_kind_and_keys_of_every_target() -> None:
    assert 'targets.crm.retrys: there is no such key. Did you mean "retries"?' in wrong(
        {"url": URL, "retrys": 1}
    )
    assert 'Did you mean "environment"?' in wrong({"url": URL, "enviroment": "prod"})
    assert 'targets.crm.login.pasword: there is no such key. Did you mean "password"?' in wrong(
        {"url": URL, "login": {"pasword": "env:X", "password": "env:Y"}}, {"Y": "y"}
    )


def test_wrong_values_are_described_but_not_shown() -> None:
    message = wrong({"url": "http://hunter2", "retries": 99_887})
    assert "targets.crm.url: found text of 14 characters" in message
    assert "targets.crm.retries: found a number, expected at most 5" in message
    assert "hunter2" not in message
    assert "99887" not in message


def test_a_wrong_value_that_came_from_a_variable_names_the_variable() -> None:
    message = wrong({"url": "env:SF_INSTANCE_URL"}, {"SF_INSTANCE_URL": "nonsense"})
    assert "targets.crm.url (from the environment variable SF_INSTANCE_URL)" in message
    assert "nonsense" not in message


def test_a_target_of_the_environment_is_called_so_in_errors() -> None:
    target = TargetSettings(name="crm", kind="example", options={}, origin="environment")
    with pytest.raises(ConfigurationError, match=r"environment: targets\.crm\.url: it is missing"):
        resolve_options(target, Example, {}, Path("/"), source="")


def test_secret_files_are_found_for_the_check_of_their_permissions(tmp_path: Path) -> None:
    options = {"a": "file:one", "b": {"c": ["file:/two", "env:X"]}, "d": "file:///not/a/reference"}
    assert list(secret_files(options, tmp_path)) == [tmp_path / "one", Path("/two")]


def test_what_a_target_of_each_kind_has_is_no_option_of_its_kind() -> None:
    apart = {"name", "options", "origin"}
    assert set(TARGET_KEYS) == set(TargetSettings.model_fields) - apart
