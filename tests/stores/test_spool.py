"""The spool: what waits on this machine while the shared ledger is away, and in what state."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import anyio
import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.records import Entry
from mcp_ops.stores.spool import Spool
from tests.stores import records

KEY = b"a key of the tests"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.jsonl"


def lines(clock: ManualClock, *ids: str) -> list[Entry]:
    return [records.entry(clock, call_id, reason="why\r\nnot\u2028") for call_id in ids]


async def ids(spool: Spool) -> tuple[list[str], int]:
    entries, unreadable = await spool.take()
    return [entry.call_id for entry in entries], unreadable


async def test_lines_come_back_as_they_were_in_their_order(path: Path, clock: ManualClock) -> None:
    spool = Spool(path, KEY)
    assert not spool.waiting
    assert await spool.take() == ([], 0)
    first, second, third = lines(clock, "1", "2", "3")
    await spool.add([first, second])
    await spool.add([third])
    assert spool.waiting
    assert await spool.take() == ([first, second, third], 0)


async def test_lines_that_are_added_at_once_are_all_there(path: Path, clock: ManualClock) -> None:
    spool = Spool(path, KEY)
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(spool.add, lines(clock, f"{number}a", f"{number}b"))
    found, unreadable = await ids(spool)
    assert unreadable == 0
    assert len(found) == 40
    assert all(found.index(f"{n}b") == found.index(f"{n}a") + 1 for n in range(20))


async def test_lines_stay_until_they_are_merged_also_for_the_next_process(
    path: Path, clock: ManualClock
) -> None:
    await Spool(path, KEY).add(lines(clock, "1"))
    following = Spool(path, KEY)
    assert following.waiting
    assert await ids(following) == (["1"], 0)
    assert await ids(following) == (["1"], 0)
    await following.done(damaged=False)
    assert not following.waiting
    assert list(path.parent.iterdir()) == []
    await following.done(damaged=False)  # nothing waits: nothing happens


async def test_nobody_else_reads_the_file(path: Path, clock: ManualClock) -> None:
    before = os.umask(0)
    try:
        await Spool(path, KEY).add(lines(clock, "1"))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_changed_line_is_left_out_counted_and_kept_aside(
    path: Path, clock: ManualClock
) -> None:
    spool = Spool(path, KEY)
    await spool.add(lines(clock, "1", "2", "3"))
    text = path.read_bytes().replace(b'"2"', b'"9"')
    path.write_bytes(text)
    assert await ids(spool) == (["1", "3"], 1)
    await spool.done(damaged=True)
    assert not spool.waiting
    assert path.with_suffix(".damaged-1").read_bytes() == text


async def test_a_second_damaged_file_does_not_take_the_place_of_the_first(
    path: Path, clock: ManualClock
) -> None:
    spool = Spool(path, KEY)
    for call_id in ("1", "2"):
        await spool.add(lines(clock, call_id))
        await spool.done(damaged=True)
    kept = b"".join(sorted(each.read_bytes() for each in path.parent.iterdir()))
    assert b'"1"' in kept
    assert b'"2"' in kept


async def test_lines_of_another_key_are_not_believed(path: Path, clock: ManualClock) -> None:
    await Spool(path, b"of somebody else").add(lines(clock, "1"))
    assert await ids(Spool(path, KEY)) == ([], 1)


@pytest.mark.parametrize("junk", [b"\n", b"no mac at all\n", b"\xff\x00 {}\n", b" \n"])
async def test_what_is_no_line_is_counted(path: Path, clock: ManualClock, junk: bytes) -> None:
    spool = Spool(path, KEY)
    await spool.add(lines(clock, "1"))
    path.write_bytes(junk + path.read_bytes())
    assert await ids(spool) == (["1"], 1)


async def test_a_torn_line_does_not_take_the_next_one_with_it(
    path: Path, clock: ManualClock
) -> None:
    """A process that is killed in the middle of a line leaves its first half, without an end."""
    spool = Spool(path, KEY)
    await spool.add(lines(clock, "1", "2"))
    path.write_bytes(path.read_bytes()[:-20])
    assert await ids(spool) == (["1"], 1)
    await Spool(path, KEY).add(lines(clock, "3"))
    assert await ids(spool) == (["1", "3"], 1)


async def test_a_full_spool_takes_nothing_more_and_keeps_what_it_has(
    path: Path, clock: ManualClock
) -> None:
    await Spool(path, KEY).add(lines(clock, "1"))
    size = path.stat().st_size
    spool = Spool(path, KEY, largest=2 * size)
    await spool.add(lines(clock, "2"))  # fits to the byte
    with pytest.raises(StoreUnavailable, match="spool on this machine is full") as caught:
        await spool.add(lines(clock, "3"))
    assert "brings the store back" in caught.value.hint
    assert await ids(spool) == (["1", "2"], 0)
    await spool.done(damaged=False)
    await spool.add(lines(clock, "3"))
    assert await ids(spool) == (["3"], 0)


async def test_a_directory_that_is_gone_fails_closed_and_says_nothing_of_the_place(
    tmp_path: Path, clock: ManualClock
) -> None:
    spool = Spool(tmp_path / "gone" / "spool.jsonl", KEY)
    with pytest.raises(StoreUnavailable, match="cannot be written") as caught:
        await spool.add(lines(clock, "1"))
    assert str(tmp_path) not in f"{caught.value.message}{caught.value.hint}"
    assert caught.value.executed == "no"


async def test_a_file_that_cannot_be_read_is_said_and_not_taken_for_an_empty_one(
    path: Path,
) -> None:
    path.mkdir()
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        await Spool(path, KEY).take()


async def test_a_batch_that_does_not_fit_on_the_disk_leaves_nothing_to_be_merged_twice(
    path: Path, clock: ManualClock
) -> None:
    """The caller is told that its lines were not kept, and may try with them again."""
    spool = Spool(path, KEY)
    await spool.add(lines(clock, "1"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    room = int(path.stat().st_size * 2.5)  # the second line fits, the third is cut
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(StoreUnavailable, match="cannot be written"):
            await spool.add(lines(clock, "2", "3"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    await spool.add(lines(clock, "2", "3"))
    assert await ids(spool) == (["1", "2", "3"], 0)
