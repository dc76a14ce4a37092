"""systemd's own programs as subprocesses: fixed arguments, no shell, bounded time and output.

Nothing of the server's environment reaches them, and nothing of a call but unit names that the
operator listed.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from mcp_ops.errors import (
    BadAnswer,
    ConfigurationError,
    Conflict,
    ConnectionLost,
    Forbidden,
    NotFound,
    Rejected,
    Unreachable,
    Upstream,
    UpstreamBroken,
    UpstreamTimeout,
)
from mcp_ops.redact import Redactor, tame
from mcp_ops.wire.marked import MARK

_MAX_ERRORS: Final = 8_192
_POLKIT: Final = (
    "Allow it to the server's user: a polkit rule for org.freedesktop.systemd1.manage-units"
    " (docs/targets/systemd.md)."
)
_GROUP: Final = "Add the server's user to the group systemd-journal, and start the server again."
# What systemd says in the C locale, most specific first; the first that is found counts.
_SAID: Final[tuple[tuple[str, type[Upstream], str, str], ...]] = (
    ("insufficient permissions", Forbidden, "The journal is not readable for the server.", _GROUP),
    (
        "authentication required",
        Forbidden,
        "systemd does not let the server's user do it.",
        _POLKIT,
    ),
    ("access denied", Forbidden, "systemd does not let the server's user do it.", _POLKIT),
    ("permission denied", Forbidden, "systemd does not let the server's user do it.", _POLKIT),
    (
        "not been booted with systemd",
        Unreachable,
        "This machine does not run systemd.",
        "Use the kind process for commands on a machine without systemd.",
    ),
    (
        "failed to connect to",
        Unreachable,
        "systemd cannot be reached from here.",
        "In a container its bus has to be mounted; scope user needs a session (enable-linger).",
    ),
    ("connection timed out", ConnectionLost, "systemd gave no answer in time.", ""),
    ("connection reset", ConnectionLost, "The connection to systemd broke.", ""),
    (
        "transport endpoint",
        ConnectionLost,
        "The connection to systemd broke.",
        "When it is so each time, the bus does not know the server's user (libnss-systemd).",
    ),
    ("connection terminated", ConnectionLost, "The connection to systemd broke.", ""),
    ("is masked", Rejected, "The unit is masked: somebody forbade that it runs.", ""),
    ("not found", NotFound, "systemd has no such unit.", "Check the name in `units`."),
    ("not loaded", NotFound, "systemd has no such unit loaded.", "Check the name in `units`."),
    ("operation refused", Rejected, "The unit forbids to be started or stopped by hand.", ""),
    ("destructive", Conflict, "It is in conflict with something that systemd does now.", ""),
    ("too quickly", Conflict, "The unit was started too often in a short time.", ""),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a program ended. `cut` tells that it wrote more than was read."""

    code: int
    out: bytes
    errors: str
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """The two programs, for the units of the system or of the server's own user."""

    systemctl: Path
    journalctl: Path
    user: bool
    timeout_s: float
    redactor: Redactor
    environment: Mapping[str, str]

    async def control(self, *arguments: str, max_bytes: int = 1024 * 1024) -> bytes:
        """What `systemctl` writes; raises the errors of this module for an exit code."""
        return (await self._controlled(*arguments, max_bytes=max_bytes)).out

    async def enqueue(self, verb: str, unit: str, *, mark: str) -> str:
        """Ask for a job without waiting for it; what `systemctl` tells of it, which it writes where
        others write errors. By its mark another process of the server can tell this systemctl from
        others, and end it. Raises as `control` does."""
        asked = (verb, "--no-block", "--show-transaction", "--", unit)
        return (await self._controlled(*asked, max_bytes=64 * 1024, **{MARK: mark})).errors

    async def _controlled(self, *arguments: str, max_bytes: int, **more: str) -> Ran:
        fixed = ("--no-pager", "--no-ask-password", *(("--user",) if self.user else ()))
        ran = await self._run(self.systemctl, (*fixed, *arguments), max_bytes, **more)
        if ran.cut:
            raise BadAnswer("systemctl wrote more than any answer of it should have.")
        if ran.code != 0:
            raise failure(ran, self.redactor)
        return ran

    async def journal(self, *arguments: str, max_bytes: int) -> Ran:
        """What `journalctl` writes, newest first; output beyond the bound is left."""
        fixed = ("--no-pager", "--output=json", "--reverse", *(("--user",) if self.user else ()))
        ran = await self._run(self.journalctl, (*fixed, *arguments), max_bytes)
        if ran.code != 0 and not ran.cut:
            raise failure(ran, self.redactor)
        return ran

    async def _run(
        self, program: Path, arguments: tuple[str, ...], max_bytes: int, **more: str
    ) -> Ran:
        argv, environment = [str(program), *arguments], {**self.environment, **more}
        with anyio.move_on_after(self.timeout_s):
            return await run(argv, environment=environment, max_bytes=max_bytes)
        raise UpstreamTimeout(f"{program.name} did not end within {self.timeout_s:g} seconds.")


def environment_of(user: bool) -> dict[str, str]:
    """All that the programs see: a fixed path and language, and for a user where its systemd is."""
    found = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    if user:
        found["XDG_RUNTIME_DIR"] = f"/run/user/{os.getuid()}"
    return found


def check_program(path: Path) -> None:
    """Refuse a program that somebody else could have put there; raises `ConfigurationError`.

    It and its folder belong to root or the server's user, and nobody else may write to them; nor
    to the folder of a link to it.
    """
    try:
        real = path.resolve(strict=True)
        for each in (real, real.parent, path.parent):
            facts = each.stat()
            if facts.st_uid not in (0, os.getuid()) or facts.st_mode & (
                stat.S_IWGRP | stat.S_IWOTH
            ):
                raise ConfigurationError(
                    f"{each} could be changed by others than root and the server's user.",
                    hint="Name systemd's own program, or take the permission to write away.",
                )
        usable = real.is_file() and os.access(real, os.X_OK)
    except OSError:
        usable = False
    if not usable:
        raise ConfigurationError(
            f"There is no program {path}.",
            hint="Install systemd, or name where it is: systemctl and journalctl of the target.",
        )


async def run(argv: list[str], *, environment: Mapping[str, str], max_bytes: int) -> Ran:
    """Run a program to its end, or until it has written `max_bytes`; then it is ended.

    A cancelled wait ends it too. Raises `Unreachable` where it can't be started.
    """
    try:
        process = await anyio.open_process(
            argv, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    except OSError as exc:
        raise Unreachable(f"{Path(argv[0]).name} could not be started.") from exc
    try:
        out, errors = bytearray(), bytearray()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read, process.stderr, errors, _MAX_ERRORS, False)
            cut = await _read(process.stdout, out, max_bytes, True)
            if cut:
                _end(process)
        code = await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            _end(process)
            await process.aclose()
    return Ran(code=code, out=bytes(out), errors=errors.decode("utf-8", "replace"), cut=cut)


def _end(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()


async def _read(
    stream: anyio.abc.ByteReceiveStream | None, into: bytearray, most: int, stop: bool
) -> bool:
    """Keep the first `most` bytes; whether there were more. `stop` ends the reading there."""
    assert stream is not None  # noqa: S101 - a pipe was asked for
    more = False
    async for chunk in stream:
        room = most - len(into)
        into += chunk[:room]
        if len(chunk) > room:
            more = True
            if stop:
                break
    return more


def failure(ran: Ran, redactor: Redactor) -> Upstream:
    """The error that systemd's words stand for."""
    said = tame(redactor.text(ran.errors[:2_000]), 300)
    lower = ran.errors.lower()
    for words, kind, message, hint in _SAID:
        if words in lower:
            return kind(message, said=said, hint=hint)
    return UpstreamBroken(f"systemd's program ended with code {ran.code}.", said=said)
