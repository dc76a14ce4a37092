"""The store's files: created whole or not at all, readable by nobody else."""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import suppress
from pathlib import Path

from mcp_ops.errors import StoreUnavailable
from mcp_ops.stores.sqlite.schema import migrate

BUSY_TIMEOUT_MS = 5_000
_KEY_BYTES = 32


def connect(path: Path, *, query_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit, which any one thread at a time may use."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    if query_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def create_database(path: Path) -> None:
    """Make the file if there is none, in WAL mode and with its tables from its first moment.

    Made under another name and linked into place: of several processes that start together one
    wins, and none ever sees half a database.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        return
    draft = _draft(path)
    draft.touch(mode=0o600)
    try:
        connection = connect(draft)
        try:
            # Before the first table, or never: pages that retention frees can then be given back.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection)
        finally:
            connection.close()
        _publish(draft, path)
    finally:
        draft.unlink()


def load_key(path: Path) -> bytes:
    """The key of the ledger's seals, made on first use."""
    if not path.exists():
        draft = _draft(path)
        draft.touch(mode=0o600)
        try:
            draft.write_text(secrets.token_hex(_KEY_BYTES), encoding="utf-8")
            _publish(draft, path)
        finally:
            draft.unlink()
    try:
        key = bytes.fromhex(path.read_text(encoding="utf-8"))
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise StoreUnavailable(
            "The key file beside the guard's store is damaged.",
            hint="Put it back from a backup. Without it the ledger cannot be continued.",
        )
    return key


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")


def _publish(draft: Path, path: Path) -> None:
    with suppress(FileExistsError):  # another process was first: its file is as good
        os.link(draft, path)
