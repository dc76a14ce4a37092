"""What happens to the ledger when its PostgreSQL, or the way to it, breaks."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio
import pytest

from mcp_ops.clock import SystemClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.lab.proxy import Proxy, proxy
from mcp_ops.records import AuditQuery
from mcp_ops.stores.postgres.opening import LedgerStores, open_ledger
from tests.stores import records
from tests.stores.backends import KEY, Postgres, line, worker
from tests.stores.postgres.server import Running

CLOCK = SystemClock()
RECOVERY_S = 10


@asynccontextmanager
async def proxied(store: Postgres, server: Running) -> AsyncIterator[tuple[LedgerStores, Proxy]]:
    """A store whose connections can be cut."""
    async with proxy(server.server.port) as between:
        url = store.url.replace(f":{server.server.port}/", f":{between.port}/")
        async with open_ledger(url, CLOCK, key=KEY) as kept:
            await kept.ledger.change(records.entry(CLOCK, "first"))
            yield kept, between


async def begin(kept: LedgerStores, name: str) -> bool:
    mine = records.operation(CLOCK, name, key=name)
    return (await kept.ledger.begin(records.began(CLOCK, name), mine)).claimed


async def kinds(kept: LedgerStores, call_id: str) -> list[str]:
    found = await kept.ledger.search(AuditQuery(call_id=call_id))
    return [entry.kind.value for entry in found[::-1]]


async def recovered(kept: LedgerStores) -> None:
    """Wait until a line can be written again."""
    with anyio.fail_after(RECOVERY_S):
        while True:
            try:
                await kept.ledger.change(records.entry(CLOCK, "again"))
            except StoreUnavailable:
                await anyio.sleep(0.02)
            else:
                return


@pytest.mark.parametrize("direction", ["server", "client"])
async def test_a_connection_that_is_cut_anywhere_loses_nothing_and_writes_nothing_twice(
    store: Postgres, postgresql: Running, direction: str
) -> None:
    with anyio.fail_after(30):
        async with proxied(store, postgresql) as (kept, between):
            for cut in (1, 60, 200, 400, 700, 1_100, 1_600, 2_200, 3_000, 3_400, 3_800):
                setattr(between, f"cut_to_{direction}_after", cut)
                assert await begin(kept, f"o{cut}")
                setattr(between, f"cut_to_{direction}_after", None)
                assert await kinds(kept, f"o{cut}") == ["began"]
            assert between.cuts >= 5
            assert (await kept.ledger.verify()).ok


async def bytes_of_a_begin(kept: LedgerStores, between: Proxy) -> int:
    """How much the server answers to one intent."""
    between.cut_to_client_after = most = 1_000_000
    assert await begin(kept, "measured")
    left, between.cut_to_client_after = between.cut_to_client_after, None
    return most - left


async def begin_cut_off(kept: LedgerStores, between: Proxy, name: str, cut: int) -> bool:
    """Begin while the answer is cut after so many bytes, and nobody can connect after that."""
    between.fault, between.cut_to_client_after = "refuse", cut
    try:
        return await begin(kept, name)
    except StoreUnavailable:
        return False
    finally:
        between.fault, between.cut_to_client_after = "none", None


async def test_an_intent_of_which_nobody_heard_is_ended_and_its_key_is_free(
    store: Postgres, postgresql: Running
) -> None:
    """The cut goes through the answer to the commit, and through what came before it."""
    fates = set()
    with anyio.fail_after(30):
        async with proxied(store, postgresql) as (kept, between):
            whole = await bytes_of_a_begin(kept, between)
            for cut in (100, whole // 2, *range(whole - 400, whole + 500, 60)):
                heard = await begin_cut_off(kept, between, f"o{cut}", cut)
                await kept.ledger.change(records.entry(CLOCK, "look"))
                lines = await kinds(kept, f"o{cut}")
                found = await kept.ledger.find_operation(f"o{cut}")
                assert (found is not None) is heard
                fates.add((heard, *lines))
            assert (await kept.ledger.verify()).ok
    assert fates == {(True, "began"), (False,), (False, "began", "changed")}


async def test_a_commit_whose_answer_is_lost_is_looked_up_at_once(
    store: Postgres, postgresql: Running
) -> None:
    with anyio.fail_after(20):
        async with proxied(store, postgresql) as (kept, between):
            whole = await bytes_of_a_begin(kept, between)
            for cut in range(whole - 90, whole, 30):
                between.cut_to_client_after = cut
                assert await begin(kept, f"o{cut}")
                between.cut_to_client_after = None
                assert await kinds(kept, f"o{cut}") == ["began"]
            assert between.cuts == 3


async def test_a_key_of_which_nobody_heard_is_free_for_the_very_next_call(
    store: Postgres, postgresql: Running
) -> None:
    with anyio.fail_after(30):
        async with proxied(store, postgresql) as (kept, between):
            whole = await bytes_of_a_begin(kept, between)
            assert not await begin_cut_off(kept, between, "o1", whole - 20)
            again = records.operation(CLOCK, "o2", key="o1")
            assert (await kept.ledger.begin(records.began(CLOCK, "o2"), again)).claimed
            assert await kinds(kept, "o1") == ["began", "changed"]


async def test_an_intent_of_which_nobody_heard_is_ended_without_a_further_call(
    store: Postgres, postgresql: Running
) -> None:
    async with proxied(store, postgresql) as (kept, between):
        whole = await bytes_of_a_begin(kept, between)
        async with open_ledger(store.url, CLOCK, key=KEY) as other:
            assert not await begin_cut_off(kept, between, "o1", whole - 20)
            with anyio.fail_after(10):
                while await other.ledger.find_operation("o1") is not None:
                    await anyio.sleep(0.05)
            assert await kinds(other, "o1") == ["began", "changed"]


async def test_noted_lines_are_written_once_however_often_the_way_breaks(
    store: Postgres, postgresql: Running
) -> None:
    unheard = 0
    with anyio.fail_after(30):
        async with proxied(store, postgresql) as (kept, between):
            for number, cut in enumerate(range(100, 3_200, 300)):
                kept.ledger.note(records.entry(CLOCK, f"n{number}"))
                between.fault, between.cut_to_client_after = "refuse", cut
                try:
                    await kept.ledger.flush()
                except StoreUnavailable:
                    unheard += 1
                between.fault, between.cut_to_client_after = "none", None
            for each in range(number + 1):
                assert await kinds(kept, f"n{each}") == ["ended"]
    assert unheard > 5


async def test_a_server_that_swallows_everything_is_given_up_in_time(
    store: Postgres, postgresql: Running
) -> None:
    async with proxied(store, postgresql) as (kept, between):
        between.fault = "black_hole"
        began = time.monotonic()
        with anyio.fail_after(15), pytest.raises(StoreUnavailable):
            await begin(kept, "o1")
        assert time.monotonic() - began < RECOVERY_S
        between.fault = "none"
        await recovered(kept)


@dataclass
class Load:
    """Writes as fast as they go, and what each of them was told last."""

    kept: LedgerStores
    said: dict[str, str] = field(default_factory=dict)
    restarted: anyio.Event = field(default_factory=anyio.Event)

    async def write(self, name: str) -> None:
        for number in range(200):
            try:
                await self._one(f"{name}-{number}")
            except StoreUnavailable:
                await anyio.sleep(0.01)
            if len(self.said) > 400 and self.restarted.is_set():
                return

    async def _one(self, call: str) -> None:
        mine = records.operation(CLOCK, call, key=call)
        self.said[call] = "tried"
        assert (await self.kept.ledger.begin(records.began(CLOCK, call), mine)).claimed
        self.said[call] = "began"
        done = replace(mine, state="done", outcome="succeeded")
        await self.kept.ledger.end(records.entry(CLOCK, call), done, keep=True)
        self.said[call] = "ended"


async def kinds_by_call(kept: LedgerStores) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    after = 0
    while lines := await kept.ledger.lines(after=after, limit=1_000):
        after = lines[-1].entry.seq
        for each in lines:
            found.setdefault(each.entry.call_id, []).append(each.entry.kind.value)
    return found


async def test_a_restart_in_the_middle_of_writes_loses_nothing_and_writes_nothing_twice(
    store: Postgres, postgresql: Running
) -> None:
    with anyio.fail_after(40):
        async with open_ledger(store.url, CLOCK, key=KEY) as kept:
            load = Load(kept)
            async with anyio.create_task_group() as group:
                for number in range(8):
                    group.start_soon(load.write, f"w{number}")
                while len(load.said) < 40:
                    await anyio.sleep(0)
                await postgresql.restart()
                load.restarted.set()
            await recovered(kept)
            found = await kinds_by_call(kept)
            assert (await kept.ledger.verify()).ok
    assert "ended" in load.said.values()
    for call, state in load.said.items():
        kinds = found.get(call, [])
        assert kinds.count("began") == 1 or (state == "tried" and not kinds), call
        assert kinds.count("ended") == 1 or state != "ended", call
        assert kinds.count("ended") <= 1, call


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("down", "it cannot be reached"),
        ("read-only", "it is read-only"),
        ("no-connections", "it has no connection left"),
        ("disk-full", "its disk is full"),
    ],
)
async def test_a_sick_server_fails_closed_in_words_and_comes_back_by_itself(
    store: Postgres, postgresql: Running, fault: str, words: str
) -> None:
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        assert await begin(kept, "before")
        await postgresql.run("inject", fault)
        try:
            with anyio.fail_after(15), pytest.raises(StoreUnavailable) as refused:
                await begin(kept, "during")
            kept.ledger.note(records.entry(CLOCK, "noted"))
        finally:
            await postgresql.run("mend", fault)
        await recovered(kept)
        assert await kinds(kept, "before") == ["began"]
        assert await kinds(kept, "during") == []
        assert await kinds(kept, "noted") == ["ended"]
        assert (await kept.ledger.verify()).ok
    shown = f"{refused.value.message} {refused.value.hint}"
    assert words in shown
    assert refused.value.executed == "no"
    assert not re.search(r"127\.0\.0\.1|mcp_ops|postgresql://", shown)
    assert postgresql.server.password not in shown


async def test_reads_say_that_the_server_is_gone_and_come_back(
    store: Postgres, postgresql: Running
) -> None:
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        await kept.approvals.ask(records.approval(CLOCK), max_pending=3)
        await postgresql.run("stop")
        try:
            for read in (
                kept.approvals.get("a1"),
                kept.ledger.get_operation("o"),
                kept.failed.count(),
            ):
                with anyio.fail_after(5), pytest.raises(StoreUnavailable):
                    await read
        finally:
            await postgresql.run("start")
        assert await kept.approvals.get("a1") is not None
        assert await kept.failed.count() == 0


async def test_more_readers_than_connections_wait_their_turn(store: Postgres) -> None:
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        await kept.ledger.put_fact("modes", "[]")
        seen = []

        async def read() -> None:
            seen.append(await kept.ledger.facts())

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(read)
        assert seen == [{"modes": "[]"}] * 50


async def test_a_cancelled_reader_leaves_no_connection_behind(store: Postgres) -> None:
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        for _ in range(12):
            with anyio.move_on_after(0):
                await kept.ledger.facts()
            async with anyio.create_task_group() as group:
                group.start_soon(kept.ledger.facts)
                await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        with anyio.fail_after(10):
            assert await kept.ledger.facts() == {}


async def test_a_process_that_stops_in_the_middle_holds_nobody_up_for_long(
    store: Postgres,
) -> None:
    """A frozen replica may hold the lock of the batch: PostgreSQL ends its transaction."""
    import os
    import signal

    with anyio.fail_after(40):
        async with (
            worker(store, "write_forever") as process,
            open_ledger(store.url, CLOCK, key=KEY) as kept,
        ):
            for _ in range(10):
                await line(process)
            os.kill(process.pid, signal.SIGSTOP)
            await recovered(kept)
            os.kill(process.pid, signal.SIGCONT)
            process.kill()
            await process.wait()
        async with open_ledger(store.url, CLOCK, key=KEY) as kept:
            assert (await kept.ledger.verify()).ok


def test_an_address_that_cannot_be_read_is_not_repeated() -> None:
    from mcp_ops.errors import ConfigurationError
    from mcp_ops.stores.postgres.connections import Connections

    with pytest.raises(ConfigurationError) as refused:
        Connections("postgresql://secret:pa ss@[bad")
    assert "secret" not in f"{refused.value} {refused.value.hint}"
