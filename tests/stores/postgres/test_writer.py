"""The writer of a ledger, as what keeps lines elsewhere while PostgreSQL is away uses it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import anyio
import pytest
from anyio.abc import TaskGroup

from mcp_ops.errors import StoreUnavailable
from mcp_ops.lab.postgres import DATABASE, ROLE
from mcp_ops.lab.proxy import Proxy, proxy
from mcp_ops.records import AuditQuery, Begun, EntryKind, Operation
from mcp_ops.stores.postgres.connections import Connections
from mcp_ops.stores.postgres.jobs import Begin, Change, End, Notes
from mcp_ops.stores.postgres.opening import open_ledger
from mcp_ops.stores.postgres.writer import MOST_NOTED, Writer
from tests.stores import records
from tests.stores.backends import KEY, Postgres
from tests.stores.postgres.server import Running
from tests.stores.postgres.writers import CLOCK, writing, written


async def test_lines_kept_elsewhere_are_written_once_however_often_they_are_given(
    store: Postgres,
) -> None:
    kept = [records.entry(CLOCK, f"s{number}") for number in range(3)]
    with anyio.fail_after(10):
        async with writing(store) as one, writing(store) as other:
            assert await one.do(Notes(kept[:2])) == 2
            assert await one.do(Notes(kept)) == 1
            assert await other.do(Notes([*kept, kept[0]])) == 0
    assert await written(store) == ["s0", "s1", "s2"]


async def test_noted_lines_can_be_taken_away_while_the_server_is_gone_and_given_back(
    store: Postgres, postgresql: Running
) -> None:
    with anyio.fail_after(20):
        async with writing(store) as writer:
            assert writer.away_since is None
            await postgresql.run("stop")
            try:
                before = CLOCK.now()
                for number in range(3):
                    writer.note(records.entry(CLOCK, f"n{number}"))
                for _ in range(2):
                    with pytest.raises(StoreUnavailable):
                        await writer.flush()
                    since = writer.away_since
                    assert since is not None
                    assert before - 1 <= since <= CLOCK.now() + 1
                taken = writer.take_noted()
                assert [line.call_id for line in taken] == ["n0", "n1", "n2"]
                assert writer.take_noted() == ()
            finally:
                await postgresql.run("start")
            assert writer.away_since == since
            await writer.do(Notes(taken))
            assert writer.away_since is None
            await writer.do(Change(records.entry(CLOCK, "after")))
    assert await written(store) == ["n0", "n1", "n2", "after"]


def intent(name: str, **changed: object) -> Begin:
    mine: Operation = replace(records.operation(CLOCK, name, key=name), **changed)  # type: ignore[arg-type]
    return Begin(entry=records.began(CLOCK, name), operation=mine, budgets=(), approval=None)


async def test_a_job_that_the_database_refuses_takes_no_other_with_it(store: Postgres) -> None:
    told: dict[str, object] = {}

    async def ask(writer: Writer, name: str, **changed: object) -> None:
        try:
            told[name] = await writer.do(intent(name, **changed))
        except StoreUnavailable as error:
            told[name] = error.message

    with anyio.fail_after(10):
        async with writing(store) as writer:
            writer.note(records.entry(CLOCK, "before"))
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: ask(writer, "bad", fence=2**70))
                group.start_soon(lambda: ask(writer, "good"))
            assert writer.away_since is None
            with pytest.raises(StoreUnavailable, match="it takes no such value"):
                await writer.do(intent("bad too", fence=2**70))
            assert writer.away_since is None
    assert "it takes no such value" in str(told["bad"])
    assert told["good"] == Begun(claimed=True)
    assert sorted(await written(store)) == ["before", "good"]


async def test_an_id_is_given_once(store: Postgres) -> None:
    async with writing(store) as writer:
        await writer.do(intent("o1"))
        with pytest.raises(StoreUnavailable, match="an operation of this id already"):
            await writer.do(intent("o1", key="another"))


async def test_an_end_that_is_said_twice_is_one_end_and_a_correction(store: Postgres) -> None:
    async with writing(store) as writer:
        await writer.do(begun := intent("o1"))
        done = replace(begun.operation, state="done", outcome="succeeded")
        for _ in range(2):
            await writer.do(End(entry=records.entry(CLOCK, "o1"), operation=done, keep=True))
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        lines = await kept.ledger.search(AuditQuery())
    assert [each.kind for each in lines] == [EntryKind.CHANGED, EntryKind.ENDED, EntryKind.BEGAN]


async def test_a_server_that_ends_a_transaction_gets_it_again(
    store: Postgres, postgresql: Running
) -> None:
    """The batch waits for the head that somebody holds; its session is ended meanwhile."""
    holder = Connections(store.url)

    async def end_those_who_wait() -> None:
        async with postgresql.server.admin(DATABASE) as admin:
            found = None
            while found is None:
                cursor = await admin.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE usename = %s AND wait_event_type = 'Lock'",
                    (ROLE,),
                )
                found = await cursor.fetchone()

    with anyio.fail_after(10):
        async with (
            writing(store) as writer,
            anyio.create_task_group() as group,
            holder.transaction() as connection,
        ):
            await connection.execute(b"SELECT 1 FROM mcp_ops.head FOR UPDATE")
            group.start_soon(writer.do, Change(records.entry(CLOCK, "c1")))
            await postgresql.call(end_those_who_wait)
        await holder.close()
    assert await written(store) == ["c1"]


async def test_more_jobs_than_one_commit_takes_are_all_done_in_their_order(
    store: Postgres,
) -> None:
    asked = [f"c{number}" for number in range(600)]
    with anyio.fail_after(20):
        async with writing(store) as writer, anyio.create_task_group() as group:
            for name in asked:
                group.start_soon(writer.do, Change(records.entry(CLOCK, name)))
    assert await written(store) == asked


async def test_ten_thousand_lines_are_the_most_that_wait(
    store: Postgres, postgresql: Running
) -> None:
    async with writing(store) as writer:
        await postgresql.run("stop")
        try:
            for _ in range(MOST_NOTED):
                writer.note(records.entry(CLOCK, "n"))
            with pytest.raises(StoreUnavailable, match="takes no more"):
                writer.note(records.entry(CLOCK, "n"))
            assert len(writer.take_noted()) > 500
        finally:
            await postgresql.run("start")


async def test_what_cannot_be_written_in_time_is_given_up_and_said(store: Postgres) -> None:
    told: list[str] = []
    asked: list[bool] = []
    opened: list[Writer] = []
    holder = Connections(store.url)

    async def ask() -> None:
        asked.append(True)
        with pytest.raises(StoreUnavailable) as refused:
            await opened[0].do(Change(records.entry(CLOCK, "c1")))
        told.append(refused.value.message)

    async def close_while_it_waits(group: TaskGroup) -> None:
        async with writing(store, close_s=0.05) as writer:
            opened.append(writer)
            group.start_soon(ask)
            while not asked:
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(10):
        async with writing(store):
            pass  # makes the head
        async with anyio.create_task_group() as group, holder.transaction() as connection:
            await connection.execute(b"SELECT 1 FROM mcp_ops.head FOR UPDATE")
            with pytest.raises(StoreUnavailable, match="could not be written in time"):
                await close_while_it_waits(group)
        with pytest.raises(StoreUnavailable, match="it is closed"):
            await opened[0].do(Change(records.entry(CLOCK, "c2")))
        await holder.close()
    assert len(told) == 1
    assert await written(store) == []


async def test_months_are_made_before_they_are_needed_and_when_they_are_missing(
    store: Postgres, postgresql: Running
) -> None:
    day = 86_400
    with anyio.fail_after(20):
        async with writing(store) as writer:
            for number, days in enumerate((0, 62, 93, 124, 400)):
                postgresql.set_clock(repr(CLOCK.now() + days * day))
                await writer.do(Change(records.entry(CLOCK, f"c{number}")))
    assert await written(store) == [f"c{number}" for number in range(5)]
    postgresql.set_clock("")


async def cut_off(writer: Writer, between: Proxy, name: str, cut: int) -> bool:
    """Begin while the way to the server breaks after so many bytes, and stays broken."""
    between.fault, between.cut_to_server_after = "refuse", cut
    try:
        return bool((await writer.do(intent(name))).claimed)
    except StoreUnavailable:
        return False
    finally:
        between.fault, between.cut_to_server_after = "none", None


async def test_what_never_reached_the_server_is_not_written_but_its_noted_lines_are(
    store: Postgres, postgresql: Running
) -> None:
    with anyio.fail_after(30):
        async with proxy(postgresql.server.port) as between:
            url = store.url.replace(f":{postgresql.server.port}/", f":{between.port}/")
            async with writing(store, url=url) as writer:
                await writer.do(intent("o"))
                between.cut_to_server_after = 1_000_000
                await writer.do(intent("measured"))
                whole = 1_000_000 - between.cut_to_server_after
                claimed = []
                for number, cut in enumerate(range(whole - 300, whole + 200, 50)):
                    writer.note(records.entry(CLOCK, f"n{number}"))
                    if await cut_off(writer, between, f"o{number}", cut):
                        claimed.append(f"o{number}")
                    await writer.flush()
    found = await written(store)
    assert [each for each in found if each[0] == "n"] == [f"n{n}" for n in range(number + 1)]
    assert [each for each in found if each[0] == "o"] == ["o", *claimed]


async def test_an_unheard_intent_is_ended_however_often_the_way_breaks(
    store: Postgres, postgresql: Running
) -> None:
    with anyio.fail_after(30):
        async with proxy(postgresql.server.port) as between:
            url = store.url.replace(f":{postgresql.server.port}/", f":{between.port}/")
            async with writing(store, url=url) as writer:
                await writer.do(intent("o"))
                between.cut_to_client_after = 1_000_000
                await writer.do(intent("measured"))
                whole = 1_000_000 - between.cut_to_client_after
                for number, more in enumerate(range(0, 4_800, 600)):
                    between.fault, between.cut_to_client_after = "refuse", whole - 20
                    with pytest.raises(StoreUnavailable):
                        await writer.do(intent(f"o{number}"))
                    # The next connection breaks too, in the middle, and then nobody can connect.
                    connections = between.connections
                    between.fault, between.cut_to_client_after = "none", 1_200 + more
                    while between.connections == connections:
                        await anyio.sleep(0.005)
                    between.fault = "refuse"
                    with suppress(StoreUnavailable):
                        await writer.do(Change(records.entry(CLOCK, "look")))
                    between.fault, between.cut_to_client_after = "none", None
                    await writer.do(Change(records.entry(CLOCK, "look")))
    found = await written(store)
    for each in range(number + 1):
        assert found.count(f"o{each}") == 2


async def test_a_transaction_that_had_to_give_way_is_tried_again(
    store: Postgres, postgresql: Running
) -> None:
    async def run(sql: str) -> None:
        async def work() -> None:
            async with postgresql.server.admin(DATABASE) as admin:
                await admin.execute(sql.encode())

        await postgresql.call(work)

    await run(
        "CREATE SEQUENCE public.lab_once; CREATE FUNCTION public.lab_once() RETURNS trigger "
        "LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN IF nextval('public.lab_once') = 1 THEN "
        "RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END IF; RETURN NULL; END $$; "
        "CREATE TRIGGER lab_once BEFORE INSERT ON mcp_ops.entries FOR EACH STATEMENT "
        "EXECUTE FUNCTION public.lab_once()"
    )
    try:
        async with writing(store) as writer:
            await writer.do(Change(records.entry(CLOCK, "c1")))
    finally:
        await run("DROP FUNCTION public.lab_once() CASCADE; DROP SEQUENCE public.lab_once")
    assert await written(store) == ["c1"]


async def test_a_flush_waits_for_lines_that_are_on_their_way(store: Postgres) -> None:
    """Another server holds the end of the ledger while this one writes what was noted."""
    other = Connections(store.url)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    flushed: list[bool] = []
    with anyio.fail_after(20):
        async with writing(store) as writer, anyio.create_task_group() as tasks:

            async def flush() -> None:
                await writer.flush()
                flushed.append(True)

            async with other.transaction() as holder:
                await holder.execute(b"SELECT * FROM mcp_ops.head FOR UPDATE")
                writer.note(records.entry(CLOCK, "noted"))
                while not await other.fetch(waiting):
                    await anyio.sleep(0.01)
                tasks.start_soon(flush)
                await anyio.wait_all_tasks_blocked()
                assert not flushed
        await other.close()
    assert await written(store) == ["noted"]
