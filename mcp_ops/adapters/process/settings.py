"""The commands that may be run, as the operator lists them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from mcp_ops.adapter import AdapterSettings
from mcp_ops.wire.http import checked_parts

_NAME = re.compile(r"[a-z0-9]([-a-z0-9._]{0,60}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,100}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _command(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not Path(argv[0]).is_absolute():
        raise ValueError("must begin with the absolute path of a program; there is no shell")
    if any("\0" in each for each in argv):
        raise ValueError("must have no NUL characters")
    return argv


def _variables(names: dict[str, SecretStr]) -> dict[str, SecretStr]:
    if any(not _VARIABLE.fullmatch(name) for name in names):
        raise ValueError("names of variables are letters, digits and underscores")
    return names


def _here(url: str) -> str:
    if url and checked_parts(url).hostname not in _LOOPBACK:
        raise ValueError("must be a URL of this machine")
    return url


class CommandSettings(BaseModel):
    """One command. It has to stay in the foreground."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    argv: Annotated[
        tuple[Annotated[str, Field(max_length=4_096)], ...],
        Field(min_length=1, max_length=64),
        AfterValidator(_command),
    ]
    cwd: Annotated[Path, AfterValidator(_absolute)] = Path("/")
    env: dict[str, str] = Field({}, max_length=200, description="Its variables; no others.")
    secrets: Annotated[dict[str, SecretStr], AfterValidator(_variables)] = Field(
        {}, max_length=50, description="Further variables, references."
    )
    restart: Literal["never", "on-failure", "always"] = Field(
        "on-failure", description="What follows when it ends by itself."
    )
    backoff_s: float = Field(1.0, ge=0.05, le=600, description="First wait before that.")
    max_backoff_s: float = Field(60.0, ge=0.05, le=3_600, description="Longest wait before that.")
    stop_signal: Literal["TERM", "INT", "HUP", "QUIT"] = "TERM"
    grace_s: float = Field(10.0, ge=0, le=300, description="From that signal to SIGKILL.")
    settle_s: float = Field(2.0, ge=0, le=300, description="How long it must stay up to be ready.")
    ready_port: int | None = Field(None, ge=1, le=65_535, description="Ready when it listens.")
    ready_url: Annotated[str, AfterValidator(_here)] = Field(
        "", max_length=300, description="Ready when this answers with 2xx."
    )
    ready_log: str = Field("", max_length=200, description="Ready when it wrote this literal.")
    log_bytes: int = Field(
        4 * 1024 * 1024, ge=65_536, le=64 * 1024 * 1024, description="What is kept of its output."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if any(not _VARIABLE.fullmatch(name) or "\0" in text for name, text in self.env.items()):
            raise ValueError("env: names of variables are letters, digits and underscores")
        if self.env.keys() & self.secrets.keys():
            raise ValueError("env and secrets have the same name")
        return self


class ProcessSettings(AdapterSettings):
    """Which commands."""

    commands: dict[str, CommandSettings] = Field(min_length=1, max_length=50)
    timeout_s: float = Field(
        5.0, gt=0, le=60, description="Longest wait for a keeper's answer, seconds."
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        if any(not _NAME.fullmatch(name) for name in self.commands):
            raise ValueError("names are lower case letters, digits, dots and dashes; at most 62")
        return self
