"""The spool: lines of the ledger on this machine while the shared store is away.

Append-only JSON lines, each with a MAC under the ledger's key, durable when `add` returns. They
are merged in their order when the store answers again. A line that was changed or cut meanwhile is
left out and counted: the file then stays, under another name.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import anyio.to_thread

from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Entry
from mcp_ops.stores.chain import decode, encode

LARGEST = 64 * 1024 * 1024


class Spool:
    """A file of lines; used by one process, which owns the state directory's name for it."""

    def __init__(self, path: Path, key: bytes, *, largest: int = LARGEST) -> None:
        self._path = path
        self._key = key
        self._largest = largest
        self._lock = anyio.Lock()

    @property
    def waiting(self) -> bool:
        """Whether lines wait to be merged."""
        return self._path.exists()

    async def add(self, entries: Sequence[Entry]) -> None:
        """Durably add lines. Raises `StoreUnavailable` when the file is full or not writable."""
        async with self._lock:
            await anyio.to_thread.run_sync(self._add, list(entries))

    async def take(self) -> tuple[list[Entry], int]:
        """All lines in their order, and how many were unreadable. They stay until `done`.

        Raises `StoreUnavailable` when the file cannot be read.
        """
        async with self._lock:
            return await anyio.to_thread.run_sync(self._take)

    async def done(self, *, damaged: bool) -> None:
        """The lines are in the store: remove the file, or keep it aside where it was damaged."""
        async with self._lock:
            await anyio.to_thread.run_sync(self._done, damaged)

    def _add(self, entries: list[Entry]) -> None:
        lines = b"".join(self._line(entry) for entry in entries)
        try:
            self._append(lines)
        except OSError as error:
            raise _unusable("written") from error

    def _append(self, lines: bytes) -> None:
        """All of it or, while there is room to take it back, nothing: it may be tried again."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        with os.fdopen(os.open(self._path, flags, 0o600), "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                lines = b"\n" + lines  # a process was killed in the middle of the last line
            if size + len(lines) > self._largest:
                raise _full()
            try:
                while lines:
                    lines = lines[file.write(lines) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def _take(self) -> tuple[list[Entry], int]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return [], 0
        except OSError as error:
            raise _unusable("read") from error
        good: list[Entry] = []
        for line in lines:
            body = self._body(line)
            if body is not None:
                good.append(decode(body, 0))
        return good, len(lines) - len(good)

    def _done(self, damaged: bool) -> None:
        if damaged:
            names = (self._path.with_suffix(f".damaged-{number}") for number in count(1))
            self._path.replace(next(name for name in names if not name.exists()))
        else:
            self._path.unlink(missing_ok=True)

    def _line(self, entry: Entry) -> bytes:
        body = encode(entry)
        return self._mac(body) + b" " + body + b"\n"

    def _body(self, line: bytes) -> bytes | None:
        mac, _, body = line.partition(b" ")
        return body if hmac.compare_digest(mac, self._mac(body)) else None

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._key, b"spool" + body, hashlib.sha256).hexdigest().encode()


def _full() -> StoreUnavailable:
    return StoreUnavailable(
        "The ledger's store is away, and the spool on this machine is full.",
        hint="The operator brings the store back; reads go on then.",
    )


def _unusable(done: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The ledger's store is away, and the spool on this machine cannot be {done}.",
        hint="An operator must look at the state directory: space, rights.",
    )
