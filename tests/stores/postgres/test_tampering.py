"""Whatever is done to the lines of several writers behind their back, `verify` finds it."""

from __future__ import annotations

import pytest

from mcp_ops.clock import SystemClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.lab.postgres import DATABASE
from mcp_ops.records import Verification
from mcp_ops.stores.postgres.opening import open_ledger
from tests.stores import records
from tests.stores.backends import KEY, Postgres
from tests.stores.postgres.server import Running

CLOCK = SystemClock()
LINES = 9

# name: (what is done, the first bad line, words of the problem)
TAMPERINGS = {
    "flip": (
        (
            "UPDATE mcp_ops.entries SET body = convert_to(replace(convert_from(body, 'UTF8'), "
            "'restart', 'restarT'), 'UTF8') WHERE seq = 5"
        ),
        *(5, "the content of line 2 was changed"),
    ),
    "flipped hash": (
        "UPDATE mcp_ops.entries SET hash = sha256('x') WHERE seq = 5",
        *(5, "the content of line 2 was changed"),
    ),
    "delete": ("DELETE FROM mcp_ops.entries WHERE seq = 5", 5, "line 5 is missing"),
    "delete first": ("DELETE FROM mcp_ops.entries WHERE seq = 1", 1, "line 1 is missing"),
    "delete and close the gap": (
        (
            "DELETE FROM mcp_ops.entries WHERE seq = 5; "
            "UPDATE mcp_ops.entries SET seq = seq - 1 WHERE seq > 5; "
            "UPDATE mcp_ops.head SET seq = seq - 1"
        ),
        *(1, "the ends of the ledger were not sealed"),
    ),
    "reorder in a chain": (
        "UPDATE mcp_ops.entries SET seq = CASE seq WHEN 5 THEN 6 ELSE 5 END WHERE seq IN (5, 6)",
        *(5, "line 2 is missing"),
    ),
    "reorder between writers": (
        "UPDATE mcp_ops.entries SET seq = CASE seq WHEN 3 THEN 4 ELSE 3 END WHERE seq IN (3, 4)",
        *(3, "was moved"),
    ),
    "splice from another writer": (
        (
            "UPDATE mcp_ops.entries AS to_line SET body = other.body, "
            "hash = sha256(to_line.prev_hash || other.body) "
            "FROM mcp_ops.entries AS other WHERE to_line.seq = 5 AND other.seq = 2"
        ),
        *(5, "was not sealed with this ledger's key"),
    ),
    "given to another writer": (
        (
            "UPDATE mcp_ops.entries SET writer = "
            "(SELECT writer FROM mcp_ops.entries WHERE seq = 1), number = 4 WHERE seq = 4"
        ),
        *(4, "does not follow"),
    ),
    "truncate": ("DELETE FROM mcp_ops.entries WHERE seq > 7", 8, "the tail was cut"),
    "truncate and forge": (
        (
            "DELETE FROM mcp_ops.entries WHERE seq > 7; UPDATE mcp_ops.head SET seq = 7; "
            "UPDATE mcp_ops.writers SET number = last.number, hash = last.hash "
            "FROM (SELECT DISTINCT ON (writer) * FROM mcp_ops.entries ORDER BY writer, seq DESC) "
            "AS last WHERE last.writer = writers.writer"
        ),
        *(1, "the ends of the ledger were not sealed"),
    ),
    "a writer removed": (
        (
            "DELETE FROM mcp_ops.entries WHERE writer = (SELECT writer FROM mcp_ops.entries "
            "WHERE seq = 4); DELETE FROM mcp_ops.writers WHERE writer NOT IN "
            "(SELECT writer FROM mcp_ops.entries)"
        ),
        *(4, "line 4 is missing"),
    ),
    "a writer forgotten": (
        (
            "DELETE FROM mcp_ops.writers WHERE writer = (SELECT writer FROM mcp_ops.entries "
            "WHERE seq = 4)"
        ),
        *(4, "a writer that the ledger does not know"),
    ),
    "a chain's end forged": (
        "UPDATE mcp_ops.writers SET mac = sha256('x')",
        *(LINES + 1, "the end of the chain of writer"),
    ),
    "a chain's start forged": (
        "UPDATE mcp_ops.writers SET start_number = 1",
        *(1, "the start of the chain of writer"),
    ),
    "added": (
        (
            "INSERT INTO mcp_ops.entries SELECT seq + 1, written, writer, number + 1, kind, at, "
            "tool, principal, target, verdict, trace_id, call_id, upstream_calls, body, hash, "
            f"hash, tag, place FROM mcp_ops.entries WHERE seq = {LINES}"
        ),
        *(LINES + 1, f"line {LINES + 1} was added"),
    ),
    "hidden from search": (
        "UPDATE mcp_ops.entries SET tool = 'innocent' WHERE seq = 5",
        *(5, "search fields of line 2"),
    ),
    "all deleted": ("TRUNCATE mcp_ops.entries", 1, "the tail was cut"),
    "everything but the ends deleted": (
        "TRUNCATE mcp_ops.entries, mcp_ops.writers",
        *(1, "the tail was cut"),
    ),
}


async def write(store: Postgres) -> None:
    """Nine lines: three of one writer, three of another, three of the first again."""
    async with (
        open_ledger(store.url, CLOCK, key=KEY) as one,
        open_ledger(store.url, CLOCK, key=KEY) as other,
    ):
        for number in range(LINES):
            writer = other if number in (3, 4, 5) else one
            await writer.ledger.change(records.entry(CLOCK, f"c{number + 1}"))


async def tamper(server: Running, sql: str) -> None:
    async def run() -> None:
        async with server.server.admin(DATABASE) as admin:
            await admin.execute(sql.encode())

    await server.call(run)


async def verify(store: Postgres) -> Verification:
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        return await kept.ledger.verify()


async def test_an_untouched_ledger_of_several_writers_verifies(store: Postgres) -> None:
    assert await verify(store) == Verification(ok=True, entries=0)
    await write(store)
    assert await verify(store) == Verification(ok=True, entries=LINES)


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_tampering_is_found_where_it_happened(
    store: Postgres, postgresql: Running, name: str
) -> None:
    sql, line, words = TAMPERINGS[name]
    await write(store)
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        await tamper(postgresql, sql)
        found = await kept.ledger.verify()
    assert not found.ok
    assert words in found.problem
    assert (found.first_bad_seq, found.entries) == (line, line - 1)


async def test_lines_that_were_tampered_with_are_not_cleaned_away(
    store: Postgres, postgresql: Running
) -> None:
    await write(store)
    await tamper(postgresql, TAMPERINGS["flip"][0])
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        with pytest.raises(StoreUnavailable, match="not as they were sealed: line 5"):
            await kept.ledger.prune(CLOCK.now() + 60)
        assert len(await kept.ledger.lines(after=0, limit=100)) == LINES


async def test_lost_ends_stop_writes_and_are_found(store: Postgres, postgresql: Running) -> None:
    await write(store)
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        await tamper(postgresql, "DELETE FROM mcp_ops.head")
        with pytest.raises(StoreUnavailable, match="lost its ends"):
            await kept.ledger.change(records.entry(CLOCK))
        assert (await kept.ledger.verify()).problem == "the ends of the ledger are missing"


async def test_another_key_is_refused_at_the_start(store: Postgres) -> None:
    await write(store)
    with pytest.raises(StoreUnavailable, match="sealed with another key") as refused:
        async with open_ledger(store.url, CLOCK, key=b"z" * 32):
            pass
    assert "store.key" in refused.value.hint


async def test_what_is_left_after_pruning_verifies_with_every_writer(store: Postgres) -> None:
    await write(store)
    async with open_ledger(store.url, CLOCK, key=KEY) as kept:
        middle = (await kept.ledger.lines(after=4, limit=1))[0].entry.at
        assert await kept.ledger.prune(middle) == 4
        assert await kept.ledger.verify() == Verification(ok=True, entries=LINES - 4 + 1)
        first = (await kept.ledger.lines(after=0, limit=1))[0]
    assert first.entry.call_id == "c5"
