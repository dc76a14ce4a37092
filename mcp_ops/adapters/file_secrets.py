"""Secrets in files of a directory: one JSON file each, readable by the server's user only.

A write replaces the file in one step; a reader sees the old or the new secret, never half. On
Windows, where file modes mean nothing, the access list of the directory has to protect it: keep
it inside the user's profile.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio
import anyio.to_thread
from pydantic import Field

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.capabilities.tokens import SecretInfo
from mcp_ops.clock import rfc3339
from mcp_ops.errors import (
    BadAnswer,
    Conflict,
    Forbidden,
    InvalidInput,
    UpstreamBroken,
    UpstreamUnavailable,
)

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_SECRET_FIELD: Final = re.compile(r"(?:^|_)(?:token|secret|verifier|password|key)$")
_MAX_BYTES: Final = 256 * 1024
_POLL_S: Final = 0.05
_WRITE_WAIT_S: Final = 5.0
_DAMAGED: Final = "Move the file away and authorize again (begin_oauth_authorization)."
# Absent on Windows. Not blocking, because opening a pipe would wait for its writer.
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_PLAIN: Final = _NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class FileSecretsAdapter(Adapter):
    """A directory of secret files."""

    kind: ClassVar[str] = "file_secrets"
    title: ClassVar[str] = "Secret files"

    class Settings(AdapterSettings):
        """Where the files are."""

        path: Path | None = Field(
            None, description="Directory of the files; default: `secrets` in the state directory."
        )

    def __init__(self, directory: Path, wiring: Wiring) -> None:
        self._directory = directory
        self._wiring = wiring

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, wiring: Wiring) -> AsyncIterator[FileSecretsAdapter]:
        """Make the directory (mode 0700) if it is missing; files are touched when asked for."""
        directory = settings.path or wiring.directory / "secrets"
        with _translated("The directory of the secret files"):
            await anyio.to_thread.run_sync(_make_directory, directory)
        yield cls(directory, wiring)

    async def ping(self) -> None:
        """Look whether the directory is there and writable."""
        with _translated("The directory of the secret files"):
            writable = await anyio.to_thread.run_sync(_is_writable, self._directory)
        if not writable:
            raise Forbidden(
                "The directory of the secret files cannot be written.",
                hint="Give the server's user write access to the path of the target.",
            )

    @property
    def lasting(self) -> bool:
        """Files survive a restart."""
        return True

    async def read(self, name: str) -> Mapping[str, str] | None:
        """The fields of a secret, or None; raises `BadAnswer` for a damaged or unsafe file."""
        path = self._file(name)
        with _translated(f"The secret {name}"):
            body = await anyio.to_thread.run_sync(_read_file, path, name)
        if body is None:
            return None
        fields = _parse(body, name)[1]
        self._wiring.redactor.add(
            *(value for key, value in fields.items() if _SECRET_FIELD.search(key))
        )
        return fields

    async def write(self, name: str, fields: Mapping[str, str]) -> SecretInfo:
        """Replace a secret atomically and durably; a damaged one is replaced too."""
        path, at = self._file(name), rfc3339(self._wiring.clock.now())
        async with self._held(name, ".write", _WRITE_WAIT_S):
            with _translated(f"The secret {name}"):
                version = await anyio.to_thread.run_sync(_replace, path, name, dict(fields), at)
        return SecretInfo(name=name, version=version, updated_at=at)

    @asynccontextmanager
    async def lock(self, name: str, wait_s: float) -> AsyncIterator[None]:
        """Hold the secret exclusively over all processes of this machine (and NFSv4 clients)."""
        async with self._held(name, ".lock", wait_s):
            yield

    @asynccontextmanager
    async def _held(self, name: str, suffix: str, wait_s: float) -> AsyncIterator[None]:
        """Hold a lock file. The lock ends with its process, however that dies."""
        path = self._file(name).with_suffix(suffix)
        with _translated(f"The lock of the secret {name}"):
            descriptor = await anyio.to_thread.run_sync(_open_lock, path)
        try:
            with anyio.move_on_after(wait_s) as wait, _translated(f"The lock of {name}"):
                # Another process has no event for us: this one polls.
                while not await anyio.to_thread.run_sync(_try_lock, descriptor):  # noqa: ASYNC110
                    await anyio.sleep(_POLL_S)
            if wait.cancelled_caught:
                raise Conflict(
                    f"The secret {name} is held by another operation for more than {wait_s:g} s.",
                    hint="Try again when that operation has ended.",
                )
            yield
        finally:
            os.close(descriptor)

    def _file(self, name: str) -> Path:
        if not _NAME.fullmatch(name) or ".." in name:
            raise InvalidInput("A secret's name has 1 to 100 of a-z, 0-9, '.', '_' and '-'.")
        return self._directory / f"{name}.json"


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Operating system errors in our words; the path stays in the log."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Forbidden(
                f"{what} may not be used by the server's user.",
                hint="Check owner and mode of the target's path (directory 0700, files 0600).",
            ) from exc
        if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR):
            raise BadAnswer(
                f"{what} is not a plain file or directory; links are not followed.",
                hint="Put a plain file or directory there.",
            ) from exc
        if exc.errno in (errno.EIO, errno.ESTALE):
            raise UpstreamBroken(f"{what} cannot be used: the disk failed.") from exc
        raise UpstreamUnavailable(
            f"{what} cannot be used ({errno.errorcode.get(exc.errno or 0, 'unknown')}).",
            hint="Check that the disk is mounted, and has room.",
        ) from exc


def _make_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.is_symlink():
        raise OSError(errno.ELOOP, "a link")
    if os.name == "posix" and stat.S_IMODE(directory.stat().st_mode) != 0o700:
        directory.chmod(0o700)


def _is_writable(directory: Path) -> bool:
    directory.stat()
    return os.access(directory, os.W_OK | os.X_OK)


def _read_file(path: Path, name: str) -> bytes | None:
    """The file's bytes, or None where there is none."""
    if path.is_symlink():  # also for Windows, which has no O_NOFOLLOW
        raise OSError(errno.ELOOP, "a link")
    try:
        descriptor = os.open(path, os.O_RDONLY | _PLAIN)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EISDIR, "not a file")
        if os.name == "posix" and status.st_mode & 0o077:
            raise BadAnswer(
                f"The file of the secret {name} is open to other users; it is not used.",
                hint="Find out who could read it, then set its mode to 0600 or authorize again.",
            )
        return file.read(_MAX_BYTES + 1)


def _parse(body: bytes, name: str) -> tuple[int, dict[str, str]]:
    """Version and fields; raises `BadAnswer` for what no write of ours left there."""
    try:
        if len(body) > _MAX_BYTES:
            raise ValueError("too large")  # noqa: TRY301 - one translation for all of it
        data: Any = json.loads(body.decode("utf-8"))
        version, fields = data["version"], data["fields"]
        good = isinstance(version, int) and isinstance(fields, dict)
        if not good or not all(isinstance(value, str) for value in fields.values()):
            raise ValueError("wrong types")  # noqa: TRY301
    except (ValueError, TypeError, KeyError, RecursionError):
        # Without the cause: a decoding error carries the file's content.
        raise BadAnswer(f"The file of the secret {name} is damaged.", hint=_DAMAGED) from None
    return version, fields


def _replace(path: Path, name: str, fields: dict[str, str], at: str) -> int:
    """Write beside, make durable, rename over. Runs under the write lock: the name is ours."""
    version = 1
    with suppress(BadAnswer):
        body = _read_file(path, name)
        version = 1 if body is None else _parse(body, name)[0] + 1
    text = json.dumps({"version": version, "updated_at": at, "fields": fields})
    beside = path.with_suffix(".tmp")
    beside.unlink(missing_ok=True)  # left by a process that died here
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)
    return version


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as exc:
            if exc.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True
else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
