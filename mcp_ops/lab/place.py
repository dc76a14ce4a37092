"""The lab's directory: one lab holds it at a time, and it remembers the ports."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mcp_ops.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
_WAIT_S = 5.0
# The watchdogs' shell uses the descriptors below 10 itself.
_LOWEST_LOCK = 20


class Place:
    """A directory that this process holds.

    `lock` is the descriptor that holds it: processes that inherit it hold the directory too.
    """

    def __init__(self, directory: Path, lock: int) -> None:
        self.directory = directory
        self.lock = lock
        self._file = directory / "ports.json"
        self._ports = _ports_in(self._file)

    def reserve(self, name: str) -> socket.socket:
        """A socket on the port that `name` had before, or on a free one; nobody listens yet.

        A client that connects meanwhile is refused, and nobody else gets the port.
        """
        try:
            taken = reserve(self._ports.get(name, 0))
        except OSError:
            taken = reserve(0)
        port = int(taken.getsockname()[1])
        if self._ports.get(name) != port:
            self._ports[name] = port
            write_private(self._file, json.dumps(self._ports, indent=2) + "\n")
        return taken

    def secret(self, name: str) -> str:
        """A random text that stays the same in this directory."""
        path = self.directory / "secrets" / name
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24))
        return path.read_text(encoding="utf-8")


def reserve(port: int) -> socket.socket:
    """A bound loopback socket; raises `OSError` when the port is taken."""
    taken = socket.socket()
    try:
        # Connections of an earlier lab may linger; a listener still keeps the port to itself.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((LOOPBACK, port))
    except OSError:
        taken.close()
        raise
    return taken


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, completely or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text.encode("utf-8"))
    draft.replace(path)


@contextmanager
def hold(directory: Path) -> Iterator[Place]:
    """Hold a directory; raises `ConfigurationError` while another lab does."""
    directory = directory.absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise ConfigurationError(
            f"The lab cannot use {directory} ({exc.strerror or 'error'}).",
            hint="Choose another one with --directory.",
        ) from exc
    lock = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _LOWEST_LOCK)
    os.close(opened)
    try:
        _lock(lock, directory)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield Place(directory, lock)
    finally:
        os.close(lock)


def _lock(lock: int, directory: Path) -> None:
    """Lock it; what a killed lab has started needs a moment to end, and that is waited for."""
    until = time.monotonic() + _WAIT_S
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        holder = os.pread(lock, 20, 0).decode("ascii", "replace")
        if _alive(holder) or time.monotonic() > until:
            raise ConfigurationError(
                f"A lab runs in {directory} already (process {holder or 'unknown'}).",
                hint="Use that one, stop it with Ctrl-C, or choose another --directory.",
            )
        time.sleep(0.05)


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _ports_in(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(k): v for k, v in found.items() if isinstance(v, int) and 0 < v < 65_536}
