"""The rows of the ledger's lines in SQLite: one chain for all processes that share the file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Entry
from mcp_ops.stores.chain import End, columns, encode, link

_INSERT = (
    "INSERT INTO entries (seq, kind, at, tool, principal, target, verdict, trace_id, call_id, "
    "upstream_calls, body, prev_hash, hash, tag) VALUES "
)
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
# Rows of one statement; 64 have fewer values than any build of SQLite takes. Each statement gives
# the interpreter's lock away and waits for it again, which holds up the event loop, too.
_SIZES = (64, 16, 4, 1)
# After so many lines the event loop may have the interpreter's lock, for which it would wait for
# five milliseconds: a thousand lines take ten.
_AT_ONCE = 32


def append(connection: sqlite3.Connection, key: bytes, entries: Iterable[Entry]) -> None:
    """Add lines at the end of the chain, within a write transaction."""
    end = anchor(connection)
    if end is None:
        raise StoreUnavailable(
            "The ledger has lost its anchor, so that no line can be added.",
            hint="Verify the ledger, keep the file, and start with a new one.",
        )
    rows = []
    for entry in entries:
        body = encode(entry)
        previous = end.hash
        end, tag = link(key, end, body)
        rows.append((end.seq, *columns(entry), body, previous, end.hash, tag))
        if len(rows) % _AT_ONCE == 0:
            time.sleep(0)
    _insert(connection, rows)
    connection.execute(
        "UPDATE anchor SET seq = ?, count = ?, hash = ?, mac = ?",
        (end.seq, end.seq, end.hash, end.mac),
    )


def _insert(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    at = 0
    for size in _SIZES:
        statement = _INSERT + ", ".join([_ROW] * size)
        while len(rows) - at >= size:
            connection.execute(statement, [*chain.from_iterable(rows[at : at + size])])
            at += size


def anchor(connection: sqlite3.Connection) -> End | None:
    """Where the chain ends, by its own account; None if that is lost."""
    row = connection.execute("SELECT seq, hash, mac FROM anchor WHERE count = seq").fetchone()
    return None if row is None else End(*row)
