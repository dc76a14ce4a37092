"""The ledger outside: exports that anybody can check, OCSF events that a SIEM takes, anchors."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from mcp_ops.cli import main
from mcp_ops.clock import Clock, ManualClock, SystemClock
from mcp_ops.commands import ocsf
from mcp_ops.commands.audit_file import check_export, jsonl, lines_of, moment
from mcp_ops.commands.exits import Exit
from mcp_ops.errors import InvalidInput
from mcp_ops.records import EntryKind, Line
from mcp_ops.stores.sqlite.embedded import open_stores
from tests.stores import records

REPOSITORY = Path(__file__).parent.parent
DAY = 86_400


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A state directory with ten lines of today and five of ten days ago, and its configuration."""
    config = tmp_path / "config.toml"
    config.write_text(f'state_dir = "{tmp_path / "state"}"\n', encoding="utf-8")
    now = SystemClock().now()
    old = ManualClock(now - 10 * DAY)
    anyio.run(_fill, tmp_path, 5, old)
    anyio.run(_fill, tmp_path, 10, SystemClock())
    return tmp_path


async def _fill(path: Path, count: int, clock: Clock) -> None:
    async with open_stores(path / "state" / "state.db", SystemClock()) as stores:
        for number in range(count):
            line = records.entry(
                clock, f"c{number}", reason="ümläut\u2028", arguments={"name": "api"}
            )
            stores.ledger.note(line)


def run(place: Path, *arguments: str) -> int:
    return main(["audit", *arguments, "--config", str(place / "config.toml")])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_an_export_is_whole_private_and_checks_without_the_ledger(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "export.jsonl"
    assert run(place, "export", "--out", str(out)) == Exit.OK
    assert "15 lines; the last is 15." in capsys.readouterr().err
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    found = lines(out)
    assert [line["seq"] for line in found] == list(range(1, 16))
    assert found[0]["entry"]["reason"] == "ümläut\u2028"
    assert run(place, "verify", "--file", str(out)) == Exit.OK
    assert capsys.readouterr().out == "The export is intact: 15 lines, 1 to 15.\n"


def test_an_export_goes_on_where_the_last_one_ended(place: Path) -> None:
    out = place / "export.jsonl"
    assert run(place, "export", "--out", str(out), "--until", "1d") == Exit.OK
    assert len(lines(out)) == 5
    assert run(place, "export", "--out", str(out)) == Exit.USAGE  # it is there already
    assert run(place, "export", "--out", str(out), "--after", "5") == Exit.OK
    assert [line["seq"] for line in lines(out)] == list(range(1, 16))
    assert check_export(out).problem == ""


def test_an_export_of_a_time_has_no_gaps(place: Path) -> None:
    out = place / "export.jsonl"
    assert run(place, "export", "--out", str(out), "--since", "1d") == Exit.OK
    assert [line["seq"] for line in lines(out)] == list(range(6, 16))
    assert run(place, "export", "--since", "yesterday") == Exit.USAGE
    assert run(place, "export", "--out", str(place / "none" / "x")) == Exit.USAGE


def changed(old: bytes, new: bytes) -> Callable[[list[bytes]], object]:
    def tamper(rows: list[bytes]) -> None:
        rows[7] = rows[7].replace(old, new)

    return tamper


def swap(rows: list[bytes]) -> None:
    rows[7], rows[8] = rows[8], rows[7]


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (changed(b"api", b"apo"), "line 8 of the file (seq 8) was changed"),
        (changed(b'"hash":"', b'"hash":"0'), "line 8 of the file (seq 8) was changed"),
        (changed(b'"previous"', b'"earlier"'), "line 8 of the file is no line of an export"),
        (changed(b'"entry"', b'"line"'), "line 8 of the file is no line of an export"),
        (lambda rows: rows.pop(7), "line 8 of the file (seq 9) does not follow"),
        (swap, "line 8 of the file (seq 9) does not follow"),
    ],
)
def test_whatever_is_changed_in_an_export_is_found(
    place: Path,
    tamper: Callable[[list[bytes]], object],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = place / "export.jsonl"
    run(place, "export", "--out", str(out))
    rows = out.read_bytes().splitlines(keepends=True)
    tamper(rows)
    out.write_bytes(b"".join(rows))
    capsys.readouterr()
    assert run(place, "verify", "--file", str(out)) == Exit.FAILED
    assert words in capsys.readouterr().out
    assert run(place, "verify", "--file", str(place / "none")) == Exit.USAGE


def test_anchors_find_a_ledger_and_an_export_that_were_made_anew(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anchors, out = place / "anchors.jsonl", place / "export.jsonl"
    run(place, "anchor")
    anchors.write_text(capsys.readouterr().out, encoding="utf-8")
    held = ("--anchor", str(anchors))
    assert run(place, "verify", *held) == Exit.OK
    run(place, "export", "--out", str(out))
    assert run(place, "verify", "--file", str(out), *held) == Exit.OK
    assert "1 of them were anchored" in capsys.readouterr().out
    # Somebody begins anew with the same key, and makes as many lines.
    key = (place / "state" / "state.key").read_bytes()
    for file in (place / "state").iterdir():
        file.unlink()
    (place / "state" / "state.key").write_bytes(key)
    anyio.run(_fill, place, 15, SystemClock())
    out.unlink()
    run(place, "export", "--out", str(out))
    assert run(place, "verify") == Exit.OK
    assert run(place, "verify", *held) == Exit.FAILED
    assert "line 15 is not the one" in capsys.readouterr().out
    assert run(place, "verify", "--file", str(out), *held) == Exit.FAILED
    assert run(place, "verify", "--json", *held) == Exit.FAILED
    anchors.write_text('{"writer": 5}\n', encoding="utf-8")
    assert run(place, "verify", *held) == Exit.USAGE
    assert run(place, "verify", "--file", str(out), *held) == Exit.USAGE


def test_a_search_selects_and_says_what_was_found(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, "search", "--call", "c3", "--json") == Exit.OK
    found = [json.loads(line) for line in capsys.readouterr().out.split("\n")[:-1]]
    assert [line["call_id"] for line in found] == ["c3", "c3"]
    run(place, "search", "--since", "1d", "--verdict", "ok", "-n", "4", "--json")
    assert len(capsys.readouterr().out.split("\n")[:-1]) == 4


def test_pruning_needs_a_terminal_and_leaves_the_last_day(place: Path) -> None:
    assert run(place, "prune", "--before", "3d", "--reason", "full") == Exit.APPROVAL
    assert run(place, "prune", "--before", "3h", "--reason", "full") == Exit.USAGE


def test_a_person_at_a_terminal_prunes_and_the_ledger_says_who_and_why(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mcp_ops", "audit", "prune", "--before", "3d"]
    process = subprocess.Popen(
        [*command, "--reason", "the disk is full", "--config", str(place / "config.toml")],
        cwd=REPOSITORY,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, b"yes\n")
    assert process.wait(timeout=30) == Exit.OK
    os.close(ours)
    assert run(place, "search", "--tool", "prune_ledger", "--json") == Exit.OK
    asked, done = (json.loads(line) for line in capsys.readouterr().out.split("\n")[:-1])
    assert asked["principal"].startswith("operator:")
    assert asked["reason"] == "the disk is full"
    assert done["evidence"]["removed"] == 5
    assert run(place, "verify") == Exit.OK


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-12-24", 1_798_070_400),
        ("2026-12-24T18:00:00Z", 1_798_135_200),
        ("2026-12-24T18:00:00+01:00", 1_798_131_600),
        ("30m", 1_000_000 - 1_800),
        ("12h", 1_000_000 - 43_200),
        ("7d", 1_000_000 - 604_800),
    ],
)
def test_a_time_is_rfc_3339_or_so_long_ago(text: str, seconds: float) -> None:
    assert moment(text, 1_000_000) == seconds


@pytest.mark.parametrize("text", ["", "d", "7w", "-7d", "x" * 99, "9" * 30 + "d", "0000-01-01"])
def test_no_other_time_is_taken(text: str) -> None:
    with pytest.raises(InvalidInput, match="RFC 3339"):
        moment(text, 1_000_000)


async def test_an_export_needs_no_more_memory_for_more_lines(tmp_path: Path) -> None:
    async with open_stores(tmp_path / "ops.db", CLOCK) as stores:

        async def peak(count: int) -> int:
            for number in range(count):
                stores.ledger.note(records.entry(CLOCK, f"c{number}"))
            await stores.ledger.flush()
            written = 0
            tracemalloc.start()
            try:
                async for line in lines_of(stores.ledger, after=0, since=None, until=None):
                    written += len(jsonl(line))
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        first = await peak(1_500)
        assert await peak(7_500) < first * 1.5


CLOCK = ManualClock()
LINE = Line(
    entry=records.entry(
        CLOCK,
        "c1",
        object="api",
        client="claude 1",
        channel="stdio",
        effect="write",
        digest="d",
        arguments={"name": "api"},
        reason="it hangs",
        policy="solo[2]",
        outcome="verified",
        duration_ms=12.5,
        upstream_calls=1,
        trace_id="ab" * 16,
        evidence={"repeats": 7},
        seq=3,
    ),
    previous="aa" * 32,
    hash="bb" * 32,
    body=b"{}",
)

# What OCSF requires of API Activity and of the objects in it, and of which there must be one
# (docs/audit.md names the sources).
REQUIRED: dict[str, set[str]] = {
    "": {
        "activity_id", "actor", "api", "category_uid", "class_uid", "metadata", "severity_id",
        "src_endpoint", "time", "type_uid",
    },
    "metadata": {"product", "version"},
    "metadata.product": {"name", "vendor_name"},
    "api": {"operation"},
    "api.request": {"uid"},
}  # fmt: skip
AT_LEAST_ONE = {
    "actor": {"process", "user", "invoked_by", "session", "app_name", "app_uid"},
    "actor.user": {"account", "name", "uid"},
    "src_endpoint": {"ip", "uid", "name", "hostname", "svc_name", "instance_uid"},
    "dst_endpoint": {"ip", "uid", "name", "hostname", "svc_name", "instance_uid"},
    "metadata.product": {"name", "uid"},
}
ENUMS = {
    "activity_id": {0, 1, 2, 3, 4, 99},
    "category_uid": {6},
    "class_uid": {6003},
    "severity_id": {0, 1, 2, 3, 4, 5, 6, 99},
    "status_id": {0, 1, 2, 99},
}
INTEGERS = {*ENUMS, "type_uid", "time", "start_time", "end_time", "duration", "count"}


def at(event: dict[str, Any], path: str) -> Any:
    found: Any = event
    for name in path.split(".") if path else []:
        found = found.get(name) if found else None
    return found


def check(event: dict[str, Any]) -> None:
    """Hold an event against what the schema requires."""
    for path, names in REQUIRED.items():
        assert names <= set(at(event, path)), path
    for path, names in AT_LEAST_ONE.items():
        found = at(event, path)
        assert found is None or names & set(found), path
    for name, values in ENUMS.items():
        assert event[name] in values, name
    assert all(type(event[name]) is int for name in INTEGERS & set(event))
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    for each in event.get("observables", []):
        assert {"name", "type_id", "value"} <= set(each)
        assert type(each["type_id"]) is int
    assert orjson.loads(orjson.dumps(event)) == event


VERDICTS: tuple[Any, ...] = ("", "ok", "refused", "invalid", "asked", "failed", "unknown", "error")


def every_kind_of_line() -> Iterator[Line]:
    for kind in EntryKind:
        for verdict in VERDICTS:
            for effect in ("", "read", "write", "destroy"):
                entry = replace(LINE.entry, kind=kind, verdict=verdict, effect=effect)
                yield replace(LINE, entry=entry)
    bare = records.entry(CLOCK, "", tool="", target="", principal="", verdict="invalid")
    yield replace(LINE, entry=bare)


def test_every_event_has_what_ocsf_requires() -> None:
    for line in every_kind_of_line():
        check(ocsf.event(line))


def test_an_event_says_what_the_line_says() -> None:
    event = ocsf.event(LINE)
    assert event["time"] == round(CLOCK.now() * 1000)
    assert (event["type_uid"], event["status_id"], event["severity_id"]) == (600303, 1, 1)
    assert event["actor"]["user"]["name"] == "agent:x@y"
    assert event["api"]["operation"] == "restart_deployment"
    assert event["resources"] == [{"uid": "shop/api", "name": "api", "group": {"name": "shop"}}]
    assert event["metadata"]["uid"] == LINE.hash
    assert "count" not in event  # what a target said of itself is no number of calls
    lost = set(asdict(LINE.entry)) - {"seq", "at", "call_id", "tool", "target", "principal"}
    lost -= {"client", "code", *event["unmapped"]}
    assert {name for name in lost if getattr(LINE.entry, name)} == set()


def test_a_line_of_a_flood_is_an_event_that_counts() -> None:
    calls = {"repeats": 3, "calls": ["c2", "c3"]}
    entry = replace(LINE.entry, verdict="refused", upstream_calls=0, evidence=calls)
    assert ocsf.event(replace(LINE, entry=entry))["count"] == 3


async def test_all_lines_of_a_running_ledger_become_events(tmp_path: Path) -> None:
    async with open_stores(tmp_path / "ops.db", CLOCK) as stores:
        stores.ledger.note(records.entry(CLOCK, "c1"))
        await stores.ledger.change(records.entry(CLOCK, "c2", kind=EntryKind.CHANGED, verdict=""))
        events: AsyncIterator[Line] = lines_of(stores.ledger, after=0, since=None, until=None)
        found = [ocsf.event(line) async for line in events]
    for event in found:
        check(event)
    assert [event["metadata"]["sequence"] for event in found] == [1, 2]
