"""The hash chain of a ledger, apart from where its lines are kept: how a line is sealed, checked.

Four things hold a line:
- `hash` = SHA-256(previous hash + body): anyone can check that lines follow each other.
- `tag`, made with the key, shows the first line that was made without it.
- the anchor: number of lines, last hash, and a seal that runs through all lines
  (seal n = HMAC(key, seal n-1 + hash n)), so that a cut tail is found and is not covered up by the
  lines that follow it.
- the start: where retention removed lines, the place where the chain begins now, sealed with the
  key, so that nobody else can move it.
What cannot be found from the store alone: all of it, anchor included, put back to an earlier copy
of itself, or a forger who has the key. An anchor that is kept elsewhere finds the first.

Each writer has a chain of its own; `seq` is here the place in that chain, from 1 without gaps.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Protocol

import orjson

from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Entry, EntryKind

GENESIS = bytes(32)
INDEXED = ("kind", "at", "tool", "principal", "target", "verdict", "trace_id", "call_id")
"""The fields of an entry that a store keeps in columns beside the body, then `upstream_calls`."""

_BLOCK = 64  # bytes, of SHA-256
_ALWAYS = frozenset({"kind", "call_id", "at", "tool", "duration_ms"})
_FIELDS = tuple(f.name for f in fields(Entry) if f.name != "seq")


class Row(Protocol):
    """A row of a ledger: `seq`, `prev_hash`, `body`, `hash`, `tag`, `upstream_calls`, `INDEXED`."""

    def __getitem__(self, key: str, /) -> Any:
        """A column by name."""
        ...


@dataclass(frozen=True, slots=True)
class End:
    """Where a chain stands: its last line's number and hash, and the seal through all lines."""

    seq: int = 0
    hash: bytes = GENESIS
    mac: bytes = GENESIS


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a chain begins since lines were removed: the last removed line, how many in all."""

    writer: str
    end: End
    pruned: int

    def seal(self, key: bytes) -> bytes:
        """What only a holder of the key can make of it."""
        return sealed(key, "start", self.writer, self.end, self.pruned)


def sealed(key: bytes, purpose: str, writer: str, end: End, *more: object) -> bytes:
    """A seal over a place of a chain, which is good for one purpose only."""
    said = [purpose, writer, end.seq, end.hash.hex(), end.mac.hex(), *more]
    return hmac.digest(key, b"mcp-ops " + orjson.dumps(said), "sha256")


def link(key: bytes, end: End, body: bytes) -> tuple[End, bytes]:
    """The end of the chain after one more line, and that line's tag."""
    digest = hashlib.sha256(end.hash + body).digest()
    mac = keyed(key, end.mac + digest)
    return End(end.seq + 1, digest, mac), keyed(key, b"tag" + mac)[:16]


def keyed(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256, of a line.

    Python's own gives the interpreter's lock away for each of these few bytes: a writer of a
    thousand lines and the event loop would hand it to each other all the time.
    """
    inner, outer = _states(key)
    inside, outside = inner.copy(), outer.copy()
    inside.update(message)
    outside.update(inside.digest())
    return outside.digest()


@lru_cache(maxsize=8)
def _states(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """What both hashes of an HMAC begin with (RFC 2104)."""
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    inner, outer = (bytes(each ^ pad for each in block) for pad in (0x36, 0x5C))
    return hashlib.sha256(inner), hashlib.sha256(outer)


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
    """Text that a store can hold, whatever a client sent."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


def columns(entry: Entry) -> tuple[Any, ...]:
    """The values of `INDEXED` and `upstream_calls`, as they are kept beside the body."""
    return (
        entry.kind.value,
        float(entry.at),
        *(clean(str(getattr(entry, name))) for name in INDEXED[2:]),
        entry.upstream_calls,
    )


@dataclass(slots=True)
class Walk:
    """A check of a chain from its start on, fed in pieces, in constant memory.

    `end` is the last line that was found right.
    """

    key: bytes
    end: End = field(default_factory=End)

    def step(self, row: Row) -> str:
        """Look at the next line; answers what is wrong with it, or nothing."""
        expected = self.end.seq + 1
        if row["seq"] != expected:
            return f"line {expected} is missing"
        if row["prev_hash"] != self.end.hash:
            return f"line {expected} does not follow the one before it: moved or replaced"
        end, tag = link(self.key, self.end, row["body"])
        if row["hash"] != end.hash:
            return f"the content of line {expected} was changed"
        if row["tag"] != tag:
            return f"line {expected} was not sealed with this ledger's key: forged or key replaced"
        kept = tuple(row[name] for name in (*INDEXED, "upstream_calls"))
        if kept != columns(decode(row["body"], expected)):
            return f"the search fields of line {expected} are not those of its content"
        self.end = end
        return ""

    def finish(self, anchor: End, highest: int) -> str:
        """Compare the end of the walk with the anchor as it was when the walk began; `highest` is
        the number of the last line that there was then."""
        if highest > self.end.seq:
            return f"line {self.end.seq + 1} was added round the anchor"
        if anchor != self.end:
            return f"line {self.end.seq + 1} is missing: the tail was cut and the anchor forged"
        return ""


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
