"""Whatever is done to the lines of a ledger behind its back, `verify` finds it."""

from __future__ import annotations

import hmac
import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import AuditQuery, Entry, EntryKind, Verification
from mcp_ops.stores.chain import End, decode, encode, keyed, link
from mcp_ops.stores.sqlite.embedded import open_stores
from tests.stores import records

LINES = 600
Tamper = Callable[[sqlite3.Connection], object]


async def ledger(path: Path, lines: int = LINES, name: str = "c") -> None:
    clock = ManualClock()
    async with open_stores(path, clock) as stores:
        for index in range(lines):
            stores.ledger.note(records.entry(clock, f"{name}{index + 1}"))


async def verify(path: Path) -> Verification:
    async with open_stores(path, ManualClock()) as stores:
        return await stores.ledger.verify()


def change(path: Path, tamper: Tamper) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        tamper(connection)
    finally:
        connection.close()


def relink(connection: sqlite3.Connection, first: int, key: bytes = b"wrong" * 8) -> None:
    """Make the hashes right again from a line on, as a forger without the key can."""
    end = End(
        *connection.execute(
            "SELECT seq, hash, hash FROM entries WHERE seq = ?", (first - 1,)
        ).fetchone()
    )
    rows = connection.execute("SELECT seq, body FROM entries WHERE seq >= ? ORDER BY seq", (first,))
    for seq, body in rows.fetchall():
        previous = end.hash
        end, tag = link(key, end, body)
        connection.execute(
            "UPDATE entries SET prev_hash = ?, hash = ?, tag = ? WHERE seq = ?",
            (previous, end.hash, tag, seq),
        )
    connection.execute("UPDATE anchor SET hash = ?, seq = ?, count = ?", (end.hash, seq, seq))


def swap(connection: sqlite3.Connection) -> None:
    for before, after in ((520, -1), (521, 520), (-1, 521)):
        connection.execute("UPDATE entries SET seq = ? WHERE seq = ?", (after, before))


def splice(connection: sqlite3.Connection) -> None:
    """Put a line of elsewhere in the place of one, content and hashes right from there on."""
    connection.execute(
        "UPDATE entries SET body = (SELECT body FROM entries WHERE seq = 3) WHERE seq = 520"
    )
    relink(connection, 520)


def cut(connection: sqlite3.Connection, *, forge: bool) -> None:
    connection.execute("DELETE FROM entries WHERE seq > 520")
    if forge:
        connection.execute(
            "UPDATE anchor SET seq = 520, count = 520, "
            "hash = (SELECT hash FROM entries WHERE seq = 520)"
        )


def add(connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT INTO entries SELECT seq + 1, kind, at, tool, principal, target, verdict, trace_id, "
        f"call_id, upstream_calls, body, hash, hash, tag FROM entries WHERE seq = {LINES}"
    )


def run(sql: str) -> Tamper:
    return lambda connection: connection.execute(sql)


TAMPERINGS: dict[str, tuple[Tamper, int, str]] = {
    "flip": (
        run(
            "UPDATE entries SET body = "
            "CAST(replace(CAST(body AS TEXT), 'restart', 'restarT') AS BLOB) "
            "WHERE seq = 520"
        ),
        520,
        "content of line 520 was changed",
    ),
    "flipped hash": (
        run("UPDATE entries SET hash = zeroblob(32) WHERE seq = 520"),
        520,
        "content of line 520 was changed",
    ),
    "delete": (run("DELETE FROM entries WHERE seq = 520"), 520, "line 520 is missing"),
    "delete first": (run("DELETE FROM entries WHERE seq = 1"), 1, "line 1 is missing"),
    "reorder": (swap, 520, "line 520 does not follow"),
    "splice": (splice, 520, "line 520 was not sealed"),
    "truncate": (lambda c: cut(c, forge=False), 521, "line 521 is missing: the tail was cut"),
    "truncate and forge": (lambda c: cut(c, forge=True), 521, "the tail was cut and the anchor"),
    "all deleted": (run("DELETE FROM entries"), 1, "line 1 is missing: the tail was cut"),
    "added": (add, LINES + 1, f"line {LINES + 1} was added round the anchor"),
    "hidden from search": (
        run("UPDATE entries SET tool = 'innocent' WHERE seq = 520"),
        520,
        "search fields of line 520",
    ),
}


async def test_an_untouched_ledger_verifies(tmp_path: Path) -> None:
    await ledger(tmp_path / "ops.db")
    assert await verify(tmp_path / "ops.db") == Verification(ok=True, entries=LINES)


async def test_an_empty_ledger_verifies(tmp_path: Path) -> None:
    assert await verify(tmp_path / "ops.db") == Verification(ok=True, entries=0)


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_tampering_is_found_where_it_happened(tmp_path: Path, name: str) -> None:
    tamper, line, words = TAMPERINGS[name]
    await ledger(tmp_path / "ops.db")
    change(tmp_path / "ops.db", tamper)
    found = await verify(tmp_path / "ops.db")
    assert not found.ok
    assert found.first_bad_seq == line
    assert found.entries == line - 1
    assert words in found.problem


async def test_a_forged_cut_is_not_covered_up_by_the_lines_that_follow(tmp_path: Path) -> None:
    await ledger(tmp_path / "ops.db")
    change(tmp_path / "ops.db", lambda c: cut(c, forge=True))
    await ledger(tmp_path / "ops.db", lines=5)
    found = await verify(tmp_path / "ops.db")
    assert not found.ok
    assert found.first_bad_seq == 521


async def test_a_lost_key_is_found(tmp_path: Path) -> None:
    await ledger(tmp_path / "ops.db", lines=3)
    (tmp_path / "ops.key").unlink()
    found = await verify(tmp_path / "ops.db")
    assert found.first_bad_seq == 1
    assert "key replaced" in found.problem


async def test_a_lost_anchor_is_found_and_stops_writes(tmp_path: Path) -> None:
    clock = ManualClock()
    await ledger(tmp_path / "ops.db", lines=3)
    async with open_stores(tmp_path / "ops.db", clock) as stores:
        change(tmp_path / "ops.db", run("DELETE FROM anchor"))
        assert (await stores.ledger.verify()).problem == "the anchor is missing"
        with pytest.raises(StoreUnavailable, match="lost its anchor"):
            await stores.ledger.change(records.entry(clock))


async def test_a_line_in_the_way_of_the_next_stops_writes(tmp_path: Path) -> None:
    clock = ManualClock()
    await ledger(tmp_path / "ops.db")
    async with open_stores(tmp_path / "ops.db", clock) as stores:
        change(tmp_path / "ops.db", add)
        with pytest.raises(StoreUnavailable, match="contradicts"):
            await stores.ledger.change(records.entry(clock))


async def test_an_unreadable_line_is_named_by_a_search(tmp_path: Path) -> None:
    clock = ManualClock()
    await ledger(tmp_path / "ops.db", lines=3)
    async with open_stores(tmp_path / "ops.db", clock) as stores:
        change(tmp_path / "ops.db", run("UPDATE entries SET body = x'00' WHERE seq = 2"))
        with pytest.raises(StoreUnavailable, match="Line 2"):
            await stores.ledger.search(AuditQuery())
        assert (await stores.ledger.verify()).first_bad_seq == 2


@pytest.mark.parametrize("size", [0, 1, 32, 64, 65, 200])
def test_a_seal_is_the_hmac_that_everybody_knows(size: int) -> None:
    key = bytes(range(200))[:size]
    for message in (b"", b"tag", b"x" * 64, b"y" * 5_000):
        assert keyed(key, message) == hmac.digest(key, message, "sha256")


@pytest.mark.parametrize("lines", [1, 3, 4, 5, 15, 16, 63, 64, 65, 85, 149])
async def test_a_batch_of_any_size_has_all_its_lines_in_order(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "ledger.db"
    clock = ManualClock()
    async with open_stores(path, clock) as stores:
        for index in range(lines):
            stores.ledger.note(records.entry(clock, f"c{index}"))
        found = await stores.ledger.lines(after=0, limit=1_000)
        assert [line.entry.call_id for line in found] == [f"c{index}" for index in range(lines)]
        assert (await stores.ledger.verify()).entries == lines


def test_fields_of_a_newer_version_are_left_out() -> None:
    body = b'{"kind":"ended","call_id":"c","at":1.0,"tool":"t","from_the_future":true}'
    assert decode(body, 9).seq == 9


def entry_of(**fields: Any) -> Entry:
    return Entry(**{"kind": EntryKind.ENDED, "call_id": "c", "at": 1.0, "tool": "t", **fields})


def test_what_every_line_has_stands_in_it_even_when_it_is_empty() -> None:
    bare = entry_of(call_id="", at=0.0, tool="")
    assert json.loads(encode(bare)) == {
        "kind": "ended",
        "call_id": "",
        "at": 0.0,
        "tool": "",
        "duration_ms": None,
    }
    assert decode(encode(bare), 3) == replace(bare, seq=3)


def test_evidence_that_json_does_not_know_is_kept_as_text_in_order() -> None:
    odd: dict[str, Any] = {
        "names": {"b", "a"},
        "map": MappingProxyType({"k": 1}),
        "type": Path("x/y"),
    }
    assert decode(encode(entry_of(evidence=odd)), 1).evidence == {
        "names": ["a", "b"],
        "map": {"k": 1},
        "type": "x/y",
    }
    odd["huge"] = 2**80
    odd["half"] = "a\ud800"
    assert decode(encode(entry_of(evidence=odd)), 1).evidence == {
        "names": ["a", "b"],
        "map": {"k": 1},
        "type": "x/y",
        "huge": 2**80,
        "half": "a?",
    }


def test_a_line_that_contains_itself_keeps_the_rest() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    found = decode(encode(entry_of(evidence=loop, reason="why")), 1)
    assert (found.evidence, found.reason) == ({"unreadable": True}, "why")
