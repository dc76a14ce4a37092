"""The hash chain of the ledger: how a line is written, sealed and checked.

Three things hold a line:
- `hash` = SHA-256(previous hash + body): anyone can check that lines follow each other.
- `tag`, made with the key, shows the first line that was made without it.
- the anchor: number of lines, last hash, and a seal that runs through all lines
  (seal n = HMAC(key, seal n-1 + hash n)), so that a cut tail is found and is not covered up by the
  lines that follow it.
What cannot be found from this file alone: the whole file, anchor included, put back to an earlier
copy of itself, or a forger who has the key. Ship the lines elsewhere for that.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import orjson

from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Entry, EntryKind

_ALWAYS = frozenset({"kind", "call_id", "at", "tool", "duration_ms"})
_FIELDS = tuple(f.name for f in fields(Entry) if f.name != "seq")
_INDEXED = ("kind", "at", "tool", "principal", "target", "verdict", "trace_id", "call_id")
_INSERT = (
    "INSERT INTO entries (seq, kind, at, tool, principal, target, verdict, trace_id, call_id, "
    "upstream_calls, body, prev_hash, hash, tag) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
GENESIS = bytes(32)


def append(connection: sqlite3.Connection, key: bytes, entries: Iterable[Entry]) -> None:
    """Add lines at the end of the chain, within a write transaction."""
    anchor = connection.execute("SELECT seq, count, hash, mac FROM anchor").fetchone()
    if anchor is None:
        raise StoreUnavailable(
            "The ledger has lost its anchor, so that no line can be added.",
            hint="Verify the ledger, keep the file, and start with a new one.",
        )
    seq, count, last, mac = anchor
    rows = []
    for entry in entries:
        body = encode(entry)
        seq, count, previous = seq + 1, count + 1, last
        last, mac, tag = _link(key, last, mac, body)
        rows.append((seq, *_columns(entry), body, previous, last, tag))
    connection.executemany(_INSERT, rows)
    connection.execute(
        "UPDATE anchor SET seq = ?, count = ?, hash = ?, mac = ?", (seq, count, last, mac)
    )


def encode(entry: Entry) -> bytes:
    """The canonical JSON of an entry, without empty fields and without its number."""
    body = {name: value for name in _FIELDS if (value := getattr(entry, name)) or name in _ALWAYS}
    try:
        return orjson.dumps(body, option=orjson.OPT_SORT_KEYS, default=_plain)
    except TypeError:  # a lone surrogate, a huge number, a key that is no text
        return _encode_odd(body)


def decode(body: bytes, seq: int) -> Entry:
    """The entry of a line; fields that this version doesn't know are left out."""
    try:
        raw: dict[str, Any] = json.loads(body)
        known = {name: raw[name] for name in _FIELDS if name in raw}
        return Entry(**{**known, "kind": EntryKind(raw["kind"]), "seq": seq})
    except (ValueError, KeyError, TypeError) as error:
        raise StoreUnavailable(
            f"Line {seq} of the ledger cannot be read: it was changed or damaged.",
            hint="Verify the ledger.",
        ) from error


def clean(text: str) -> str:
    """Text that SQLite can hold, whatever a client sent."""
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclass(slots=True)
class Walk:
    """A check of the chain from its first line on, fed in pieces, in constant memory.

    `seq` is the last line that was found right.
    """

    key: bytes
    seq: int = 0
    last: bytes = GENESIS
    mac: bytes = GENESIS

    def step(self, row: sqlite3.Row) -> str:
        """Look at the next line; answers what is wrong with it, or nothing."""
        expected = self.seq + 1
        if row["seq"] != expected:
            return f"line {expected} is missing"
        if row["prev_hash"] != self.last:
            return f"line {expected} does not follow the one before it: moved or replaced"
        last, mac, tag = _link(self.key, self.last, self.mac, row["body"])
        if row["hash"] != last:
            return f"the content of line {expected} was changed"
        if row["tag"] != tag:
            return f"line {expected} was not sealed with this ledger's key: forged or key replaced"
        columns = tuple(row[name] for name in (*_INDEXED, "upstream_calls"))
        if columns != _columns(decode(row["body"], expected)):
            return f"the search fields of line {expected} are not those of its content"
        self.seq, self.last, self.mac = expected, last, mac
        return ""

    def finish(self, anchor: sqlite3.Row, highest: int) -> str:
        """Compare the end of the walk with the anchor as it was when the walk began."""
        if highest > self.seq:
            return f"line {self.seq + 1} was added round the anchor"
        if (anchor["count"], anchor["hash"], anchor["mac"]) != (self.seq, self.last, self.mac):
            return f"line {self.seq + 1} is missing: the tail was cut and the anchor forged"
        return ""


def _link(key: bytes, last: bytes, mac: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
    digest = hashlib.sha256(last + body).digest()
    seal = hmac.digest(key, mac + digest, "sha256")
    return digest, seal, hmac.digest(key, b"tag" + seal, "sha256")[:16]


def _columns(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.kind.value,
        float(entry.at),
        *(clean(str(getattr(entry, name))) for name in _INDEXED[2:]),
        entry.upstream_calls,
    )


def _encode_odd(body: dict[str, Any]) -> bytes:
    try:
        text = _dump(body)
    except (ValueError, RecursionError):  # it contains itself: a line without it beats no line
        text = _dump({**body, "arguments": {}, "evidence": {"unreadable": True}})
    return text.encode("utf-8", "replace")


def _dump(body: dict[str, Any]) -> str:
    return json.dumps(
        body, ensure_ascii=False, skipkeys=True, default=_plain, separators=(",", ":")
    )


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return str(value)
