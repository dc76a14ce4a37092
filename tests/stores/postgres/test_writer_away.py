"""What becomes of a writer's lines while PostgreSQL is away: at its end, and in the spool."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup

from mcp_ops.errors import StoreUnavailable
from mcp_ops.lab.proxy import Proxy
from mcp_ops.records import Entry
from mcp_ops.stores.postgres.connections import Connections, rows
from mcp_ops.stores.postgres.jobs import Change
from mcp_ops.stores.postgres.spooling import Spooling
from mcp_ops.stores.postgres.writer import Writer
from mcp_ops.stores.spool import Spool
from tests.stores import records
from tests.stores.backends import KEY, Postgres
from tests.stores.postgres.server import Running
from tests.stores.postgres.writers import CLOCK, between, writing, written

# So that only what the test asks for happens.
NEVER_S = 3_600.0


def line(name: str) -> Entry:
    return records.entry(CLOCK, name)


async def break_the_way(way: Proxy, writer: Writer, *names: str) -> None:
    """Let the writer find out that its server is gone, with lines that wait."""
    way.fault = "reset"
    for name in names:
        writer.note(line(name))
    with pytest.raises(StoreUnavailable):
        await writer.flush()
    assert writer.away_since is not None


async def test_a_writer_that_ends_while_its_server_is_gone_says_that_lines_are_lost(
    store: Postgres, postgresql: Running
) -> None:
    async def end_with_lines(way: Proxy, url: str) -> None:
        async with writing(store, url=url) as writer:
            writer.note(line("noted"))
            way.fault = "reset"

    with anyio.fail_after(20):
        async with between(store, postgresql) as (way, url):
            with pytest.raises(StoreUnavailable, match="did not answer"):
                await end_with_lines(way, url)
    assert await written(store) == []


async def test_what_is_cut_off_while_it_is_given_up_is_not_tried_again(
    store: Postgres, postgresql: Running
) -> None:
    """Its time is over, and then the connection breaks: a second try would hold up the end."""
    holder = Connections(store.url)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    told: list[str] = []

    async def ask(writer: Writer) -> None:
        with pytest.raises(StoreUnavailable) as refused:
            await writer.do(Change(line("c1")))
        told.append(refused.value.message)

    async def end_while_it_waits(group: TaskGroup, way: Proxy, url: str) -> None:
        async with writing(store, url=url, close_s=0.05) as writer:
            group.start_soon(ask, writer)
            while not await holder.fetch(waiting):
                await anyio.sleep(0.01)
            # The request to cancel the query passes (8 and 16 bytes), the end of its transaction
            # does not.
            way.cut_to_server_after = 32

    with anyio.fail_after(20):
        async with between(store, postgresql) as (way, url):
            async with writing(store):
                pass  # makes the head
            async with (
                anyio.create_task_group() as group,
                holder.transaction() as connection,
            ):
                await rows(connection, "SELECT 1 FROM mcp_ops.head FOR UPDATE")
                with pytest.raises(StoreUnavailable, match="could not be written in time"):
                    await end_while_it_waits(group, way, url)
            assert way.cuts == 1
    await holder.close()
    (message,) = told
    assert "the connection to it was lost" in message
    assert await written(store) == []


def spooled(folder: Path) -> str:
    return "".join(each.read_text(encoding="utf-8") for each in folder.glob("spool-*.jsonl"))


async def test_lines_that_cannot_be_spooled_stay_and_are_spooled_and_merged_later(
    store: Postgres, postgresql: Running, tmp_path: Path
) -> None:
    folder, aside = tmp_path / "spool", tmp_path / "aside"
    folder.mkdir()
    with anyio.fail_after(20):
        async with (
            between(store, postgresql) as (way, url),
            writing(store, url=url, flush_s=NEVER_S) as writer,
            Spooling.open(writer, folder, KEY, every_s=NEVER_S) as spooling,
        ):
            await break_the_way(way, writer, "n0", "n1")
            folder.rename(aside)
            with pytest.raises(StoreUnavailable, match="cannot be written"):
                await spooling.step()
            assert writer.unwritten == 2
            aside.rename(folder)
            for _ in range(2):  # the second time nothing is new
                await spooling.step()
                assert writer.unwritten == 0
                assert spooled(folder).count("\n") == 2
            way.fault = "none"
            await spooling.step()
            assert spooled(folder) == ""
    assert await written(store) == ["n0", "n1"]


async def test_what_follows_the_writer_says_that_lines_wait_and_goes_on(
    store: Postgres, postgresql: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, aside = tmp_path / "spool", tmp_path / "aside"
    folder.mkdir()
    with anyio.fail_after(20), caplog.at_level(logging.ERROR):
        async with (
            between(store, postgresql) as (way, url),
            writing(store, url=url) as writer,
            Spooling.open(writer, folder, KEY, every_s=0.01),
        ):
            folder.rename(aside)
            await break_the_way(way, writer, "n0")
            while "lines of the ledger wait in memory" not in caplog.text:
                await anyio.sleep(0.01)
            aside.rename(folder)
            while "n0" not in spooled(folder):
                await anyio.sleep(0.01)
            way.fault = "none"
            while spooled(folder):
                await anyio.sleep(0.01)
    assert await written(store) == ["n0"]


async def test_a_damaged_line_of_a_spool_is_said_and_kept_aside_and_the_others_are_merged(
    store: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = tmp_path / "spool-0badcafe.jsonl"
    await Spool(left, KEY).add([line("n0"), line("n1"), line("n2")])
    left.write_bytes(left.read_bytes().replace(b'"n1"', b'"n9"'))
    with anyio.fail_after(20), caplog.at_level(logging.ERROR):
        async with writing(store) as writer, Spooling.open(writer, tmp_path, KEY):
            assert not left.exists()
    assert "1 spooled lines were damaged and are not in the ledger" in caplog.text
    assert b'"n9"' in left.with_suffix(".damaged-1").read_bytes()
    assert await written(store) == ["n0", "n2"]
