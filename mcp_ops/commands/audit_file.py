"""The ledger in files: exports as JSON lines or OCSF, and checks of them without the ledger.

A line of a JSON export is `{"seq":…,"writer":…,"previous":…,"hash":…,"entry":…}`, where `entry` is
the last member and stands as it was sealed, byte by byte: `hash` is the SHA-256 of the bytes of
`previous` and of those. Anybody can check that with `sha256sum`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from mcp_ops.errors import InvalidInput
from mcp_ops.records import Anchor, AuditQuery, Ledger, Line

_PAGE = 500
_LONGEST = 16 * 1024 * 1024
_ENTRY = b',"entry":'


def jsonl(line: Line) -> bytes:
    """A line of a JSON export."""
    seal = {
        "seq": line.entry.seq,
        "writer": line.entry.writer,
        "previous": line.previous,
        "hash": line.hash,
    }
    return orjson.dumps(seal)[:-1] + _ENTRY + line.body + b"}\n"


async def lines_of(
    ledger: Ledger, *, after: int, since: float | None, until: float | None
) -> AsyncIterator[Line]:
    """The lines after a number, from the first that is not older than `since` up to the first that
    is not older than `until`: without gaps, so that they can be checked. Ends with the line that
    is the newest when it begins."""
    newest = await ledger.search(AuditQuery(limit=1))
    last = newest[0].seq if newest else 0
    while after < last:
        page = await ledger.lines(after=after, limit=_PAGE, since=since)
        for line in page:
            if line.entry.seq > last or (until is not None and line.entry.at >= until):
                return
            yield line
        if not page:
            return
        after, since = page[-1].entry.seq, None


def destination(path: str, *, append: bool) -> AbstractContextManager[BinaryIO]:
    """Where an export goes: `-` is stdout; a new file is readable by its owner only. Raises
    `InvalidInput` when the file is there already and is not to be continued."""
    if path == "-":
        return nullcontext(sys.stdout.buffer)
    flags = os.O_APPEND if append else os.O_EXCL
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "wb")
    except FileExistsError:
        raise InvalidInput(
            "--out: the file is there already.",
            hint="Continue it with --after and the number that the last export said.",
        ) from None
    except OSError as error:
        raise InvalidInput(f"--out: the file cannot be written: {error.strerror}.") from None


@dataclass(slots=True)
class Checked:
    """What a check of an export found. `first` and `last` are numbers of lines, `anchored` is how
    many of them agree with an anchor."""

    lines: int = 0
    first: int = 0
    last: int = 0
    anchored: int = 0
    problem: str = ""


def check_export(path: Path, anchors: Iterable[Anchor] = ()) -> Checked:
    """Recompute every hash of a JSON export and hold it against anchors, in constant memory.

    An export can begin and end anywhere; in it every line of a writer follows the one before it.
    """
    wanted = {(anchor.writer, anchor.seq): anchor.hash for anchor in anchors}
    found, previous = Checked(), dict[str, str]()
    for number, raw in enumerate(_raw_lines(path), start=1):
        seal, problem = _checked(raw)
        if seal is not None:
            problem = _misplaced(seal, previous, wanted)
        if seal is None or problem:
            found.problem = f"line {number} of the file {problem}"
            break
        writer, seq = seal["writer"], seal["seq"]
        previous[writer] = seal["hash"]
        found.lines, found.first, found.last = found.lines + 1, found.first or seq, seq
        found.anchored += (writer, seq) in wanted
    return found


def _misplaced(
    seal: dict[str, Any], previous: dict[str, str], anchored: dict[tuple[str, int], str]
) -> str:
    writer, seq = seal["writer"], seal["seq"]
    if seal["previous"] != previous.get(writer, seal["previous"]):
        return f"(seq {seq}) does not follow the one before it"
    if seal["hash"] != anchored.get((writer, seq), seal["hash"]):
        return f"(seq {seq}) is not the one that the anchor knows"
    return ""


def read_anchors(path: Path) -> list[Anchor]:
    """The anchors of a file, one object of JSON a line; raises `InvalidInput`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [Anchor(**json.loads(line)) for line in lines if line.strip()]
        sound = all(_is_anchor(each) for each in found)
    except (OSError, ValueError, TypeError):
        found, sound = [], False
    if not found or not sound:
        raise InvalidInput(
            "--anchor: the file cannot be read as anchors.",
            hint="It holds what mcp-ops audit anchor printed, one a line.",
        )
    return found


def moment(text: str, now: float) -> float:
    """A time as Unix seconds: RFC 3339 (UTC unless it says otherwise), or `30m`, `12h`, `7d` ago.
    Raises `InvalidInput`."""
    units = {"m": "minutes", "h": "hours", "d": "days"}
    try:
        if text[-1:] in units and text[:-1].isdecimal():
            return now - timedelta(**{units[text[-1]]: int(text[:-1])}).total_seconds()
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise InvalidInput(
            "A time must be RFC 3339 or so long ago.",
            hint="For example 2026-12-24, 2026-12-24T18:00:00Z, 30m, 12h or 7d.",
        ) from None


def _is_anchor(anchor: Anchor) -> bool:
    texts = all(isinstance(each, str) for each in (anchor.writer, anchor.hash, anchor.mac))
    return texts and isinstance(anchor.seq, int) and isinstance(anchor.at, int | float)


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while raw := file.readline(_LONGEST):
                yield raw
    except OSError as error:
        raise InvalidInput(f"--file: it cannot be read: {error.strerror}.") from None


def _checked(raw: bytes) -> tuple[dict[str, Any] | None, str]:
    """What seals a line, if its hash is right; else what is wrong with it."""
    head, found, body = raw.rstrip(b"\r\n").partition(_ENTRY)
    try:
        seal = orjson.loads(head + b"}")
        previous, digest = bytes.fromhex(seal["previous"]), seal["hash"]
        sound = bool(found) and isinstance(seal["seq"], int) and isinstance(seal["writer"], str)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound or not body.endswith(b"}"):
        return None, "is no line of an export"
    if hashlib.sha256(previous + body[:-1]).hexdigest() != digest:
        return None, f"(seq {seal['seq']}) was changed: its hash is another"
    return seal, ""
