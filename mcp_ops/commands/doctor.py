"""`mcp-ops doctor`: is everything that the server needs there, and what to do where it is not."""

from __future__ import annotations

import stat
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import anyio
import typer

from mcp_ops.adapter import Advice
from mcp_ops.capabilities.guard import ComponentHealth
from mcp_ops.clock import SystemClock, rfc3339
from mcp_ops.commands.exits import Exit
from mcp_ops.commands.output import say, show_json
from mcp_ops.commands.session import (
    ConfigOption,
    JsonOption,
    RunningApp,
    broken_glass,
    open_app,
)
from mcp_ops.errors import OpsError, the_error
from mcp_ops.records import AuditQuery
from mcp_ops.redact import tame
from mcp_ops.settings import Settings
from mcp_ops.settings_file import load_settings, process_environment
from mcp_ops.settings_options import secret_files

State = Literal["ok", "warn", "fail"]

_CLOCK_TOLERANCE_S = 60.0
_EARLIEST = 1_750_000_000.0  # before this code was written


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report; `advice` says what to do, and is empty where all is well."""

    check: str
    state: State
    message: str
    advice: str = ""


def doctor(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Check configuration, credentials, targets, store and clock; exit code 1 on a failure."""
    findings = anyio.run(examine, config)
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            _show(finding)
    if any(f.check == "configuration" and f.state == "fail" for f in findings):
        raise typer.Exit(Exit.CONFIGURATION)
    failed = any(finding.state == "fail" for finding in findings)
    raise typer.Exit(Exit.FAILED if failed else Exit.OK)


async def examine(config: Path | None) -> list[Finding]:
    """Everything that can be checked, as far as one thing doesn't need the other."""
    environ = process_environment()
    try:
        settings = load_settings(config, environ, {})
    except OpsError as exc:
        return [_failure("configuration", exc)]
    findings = [*of_configuration(settings), of_state_directory(settings.state_dir)]
    if findings[-1].state == "fail":
        return findings
    try:
        async with open_app(settings, environ) as app:
            findings += await _of_app(app)
    except (OpsError, BaseExceptionGroup) as exc:
        error = the_error(exc)
        if error is None:
            raise
        findings.append(_failure("credentials", error))
    return findings


def of_configuration(settings: Settings) -> list[Finding]:
    """The configuration loads; its notices, and files that others can read."""
    source = settings.source or "no file: environment and defaults only"
    findings = [Finding(check="configuration", state="ok", message=source)]
    findings += [
        Finding(check="configuration", state="warn", message=notice) for notice in settings.notices
    ]
    if not settings.targets:
        findings.append(
            Finding(
                check="configuration",
                state="warn",
                message="No target is configured: only the tools on the server itself are there.",
                advice="Add [targets.NAME] to the configuration (mcp-ops init writes examples).",
            )
        )
    files = [Path(settings.source)] if settings.source else []
    for target in settings.targets:
        files += secret_files(target.options, settings.base)
    return findings + [finding for path in files if (finding := of_permissions(path))]


def of_permissions(path: Path) -> Finding | None:
    """A warning for a file that others than its owner can read; Windows has no such bits."""
    if sys.platform == "win32" or not path.is_file():
        return None
    if not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return None
    return Finding(
        check="permissions",
        state="warn",
        message=f"Others than its owner can use {path}.",
        advice="chmod 600 the file.",
    )


def of_state_directory(directory: Path) -> Finding:
    """Whether the embedded store can be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"mcp-ops")
    except OSError as exc:
        return Finding(
            check="store",
            state="fail",
            message=f"{directory} cannot be written ({exc.strerror or 'error'}).",
            advice="Make the folder writable, or choose another with MCP_OPS_STATE_DIR.",
        )
    if sys.platform != "win32" and directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Finding(
            check="store",
            state="warn",
            message=f"Others than its owner can put files into {directory}.",
            advice="chmod 700 the folder: who can replace its keys can answer questions.",
        )
    return Finding(check="store", state="ok", message=f"{directory} can be written.")


def of_clock(now: float, newest_entry: float | None) -> Finding:
    """Whether the clock can be right: approvals, expiries and tokens depend on it."""
    advice = "Set the clock, and keep it with NTP."
    if now < _EARLIEST:
        return Finding(
            check="clock", state="fail", message=f"It says {rfc3339(now)}.", advice=advice
        )
    if newest_entry is not None and newest_entry > now + _CLOCK_TOLERANCE_S:
        return Finding(
            check="clock",
            state="warn",
            message=f"It says {rfc3339(now)}, the newest line of the audit {rfc3339(newest_entry)}:"
            " the clock went back.",
            advice=advice,
        )
    return Finding(check="clock", state="ok", message=rfc3339(now))


def of_target(check: ComponentHealth) -> Finding:
    """Whether one target answers, and how fast."""
    latency = f" in {check.latency_ms:.0f} ms" if check.latency_ms is not None else ""
    if check.status == "healthy":
        return Finding(
            check=f"target {check.name}", state="ok", message=f"{check.kind} answered{latency}."
        )
    return Finding(
        check=f"target {check.name}",
        state="fail" if check.status == "unhealthy" else "warn",
        message=tame(check.problem or f"{check.kind} is {check.status}{latency}."),
        advice=f"Look at [targets.{check.name}], and at the network between here and there.",
    )


def of_advice(name: str, advice: Advice) -> Finding:
    """What a target's adapter tells of it."""
    return Finding(
        check=f"target {name}",
        state="ok" if advice.good else "warn",
        message=tame(advice.message),
        advice=advice.advice,
    )


async def _of_app(app: RunningApp) -> list[Finding]:
    findings = [
        Finding(check="credentials", state="ok", message="Every reference could be resolved.")
    ]
    newest = await app.stores.ledger.search(AuditQuery(limit=1))
    findings.append(of_clock(SystemClock().now(), newest[0].at if newest else None))
    findings += [
        Finding(
            check="break-glass",
            state="warn",
            message=line,
            advice="Find out who it was and why; change the credential if nobody should know it.",
        )
        for line in await broken_glass(app)
    ]
    findings += [of_target(check) for check in await app.check_targets()]
    findings += [of_advice(name, advice) for name, advice in await app.examine_targets()]
    return findings


def _failure(check: str, error: OpsError) -> Finding:
    return Finding(check=check, state="fail", message=error.message, advice=error.hint)


def _show(finding: Finding) -> None:
    colours = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}
    word = typer.style(f"{finding.state:<4}", fg=colours[finding.state])
    # Coloured, and so past `say`, which takes colours for harm.
    typer.echo(f"{word}  {finding.check}: {tame(finding.message, 8_000)}")
    if finding.advice:
        say(f"      {tame(finding.advice)}")
