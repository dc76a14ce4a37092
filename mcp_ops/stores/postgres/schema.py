"""The tables of the ledger in PostgreSQL: made, brought up to date, divided by months.

`mcp_ops.now()` is the store's clock: whatever is compared with a time asks it, never a process.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from mcp_ops.errors import StoreUnavailable
from mcp_ops.stores.postgres.connections import Connection, Connections, rows

# One script a version, forward only. Scripts that were released never change.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE FUNCTION mcp_ops.now() RETURNS float8 LANGUAGE sql VOLATILE
        AS 'SELECT extract(epoch FROM clock_timestamp())::float8';

    CREATE TABLE mcp_ops.head (
        id boolean PRIMARY KEY DEFAULT true CHECK (id),
        seq bigint NOT NULL, start bigint NOT NULL, seal bytea NOT NULL
    );
    CREATE TABLE mcp_ops.writers (
        writer text PRIMARY KEY, created_at float8 NOT NULL,
        number bigint NOT NULL, hash bytea NOT NULL, mac bytea NOT NULL,
        start_number bigint NOT NULL, start_hash bytea NOT NULL, start_mac bytea NOT NULL,
        pruned bigint NOT NULL, start_seal bytea NOT NULL
    );
    CREATE TABLE mcp_ops.entries (
        seq bigint NOT NULL, written timestamptz NOT NULL,
        writer text NOT NULL, number bigint NOT NULL,
        kind text NOT NULL, at float8 NOT NULL, tool text NOT NULL, principal text NOT NULL,
        target text NOT NULL, verdict text NOT NULL, trace_id text NOT NULL,
        call_id text NOT NULL, upstream_calls bigint NOT NULL,
        body bytea NOT NULL, prev_hash bytea NOT NULL, hash bytea NOT NULL, tag bytea NOT NULL,
        place bytea NOT NULL,
        PRIMARY KEY (seq, written)
    ) PARTITION BY RANGE (written);
    CREATE INDEX entries_at ON mcp_ops.entries (at);
    CREATE INDEX entries_call ON mcp_ops.entries (call_id);
    CREATE INDEX entries_trace ON mcp_ops.entries (trace_id) WHERE trace_id <> '';

    CREATE TABLE mcp_ops.operations (
        id text PRIMARY KEY, key text NOT NULL, digest text NOT NULL, principal text NOT NULL,
        tool text NOT NULL, target text NOT NULL, state text NOT NULL,
        started_at float8 NOT NULL, lease_until float8 NOT NULL, ended_at float8,
        outcome text NOT NULL, answer text NOT NULL, progress text NOT NULL,
        fence bigint NOT NULL, owner text NOT NULL, resume text NOT NULL,
        checkpoint text NOT NULL, cancel_by text NOT NULL, call_id text NOT NULL
    );
    CREATE INDEX operations_key ON mcp_ops.operations (key);
    CREATE INDEX operations_ended ON mcp_ops.operations (ended_at);
    CREATE INDEX operations_lease ON mcp_ops.operations (lease_until) WHERE state = 'running';
    CREATE INDEX operations_call ON mcp_ops.operations (call_id) WHERE ended_at IS NULL;
    CREATE UNIQUE INDEX operations_holder ON mcp_ops.operations (key)
        WHERE state IN ('running', 'waiting');

    CREATE TABLE mcp_ops.budget_events (
        key text NOT NULL, at float8 NOT NULL, expires_at float8 NOT NULL, operation text NOT NULL
    );
    CREATE INDEX budget_events_key ON mcp_ops.budget_events (key, at);
    CREATE INDEX budget_events_operation ON mcp_ops.budget_events (operation);
    CREATE INDEX budget_events_expiry ON mcp_ops.budget_events (expires_at);

    CREATE TABLE mcp_ops.leases (
        name text PRIMARY KEY, holder text NOT NULL, fence bigint NOT NULL, until float8 NOT NULL
    );
    CREATE TABLE mcp_ops.facts (name text PRIMARY KEY, value text NOT NULL);

    CREATE TABLE mcp_ops.approvals (
        counter bigint GENERATED ALWAYS AS IDENTITY, id text PRIMARY KEY,
        kind text NOT NULL, state text NOT NULL, principal text NOT NULL, tool text NOT NULL,
        target text NOT NULL, digest text NOT NULL, policy text NOT NULL, message text NOT NULL,
        arguments text NOT NULL, reason text NOT NULL, created_at float8 NOT NULL,
        expires_at float8 NOT NULL, decided_by text NOT NULL, decided_at float8,
        note text NOT NULL, needed bigint NOT NULL, votes text NOT NULL,
        execute_s float8 NOT NULL, execute_by float8, seen text NOT NULL, seen_shown text NOT NULL
    );
    CREATE INDEX approvals_binding ON mcp_ops.approvals (principal, digest, kind);
    CREATE INDEX approvals_state ON mcp_ops.approvals (state);
    CREATE INDEX approvals_expiry ON mcp_ops.approvals (expires_at);
    CREATE INDEX approvals_counter ON mcp_ops.approvals (counter);

    CREATE TABLE mcp_ops.failed (
        counter bigint GENERATED ALWAYS AS IDENTITY, id text PRIMARY KEY,
        operation text NOT NULL, failure_type text NOT NULL, error text NOT NULL,
        target text NOT NULL, principal text NOT NULL, arguments text NOT NULL,
        failed_at float8 NOT NULL, attempts bigint NOT NULL, last_retry float8,
        notes text NOT NULL, place text NOT NULL, holder text NOT NULL, held_until float8,
        export_id text NOT NULL, keep_until float8
    );
    CREATE INDEX failed_place ON mcp_ops.failed (place, counter);
    CREATE INDEX failed_export ON mcp_ops.failed (export_id) WHERE export_id <> '';
    """,
    """
    CREATE SEQUENCE mcp_ops.fences;
    SELECT setval('mcp_ops.fences', coalesce(max(fence), 0) + 1) FROM mcp_ops.leases;
    """,
)
MONTHS_AHEAD = 2
# Any number that nobody else locks: schema changes of all processes wait for each other here.
_LOCK = 0x6D63705F6F7073


async def migrate(connections: Connections, scripts: Sequence[str] = MIGRATIONS) -> None:
    """Bring the database to the newest schema, in one transaction that excludes other processes.

    Raises `StoreUnavailable`, also for a schema that a newer version of mcp-ops has made.
    """
    async with connections.one() as connection:
        if await _version(connection) == len(scripts):
            return
    async with connections.transaction() as connection:
        await rows(connection, "SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        version = await _version(connection)
        if version > len(scripts):
            raise StoreUnavailable(
                "The ledger's PostgreSQL was set up by a newer version of mcp-ops.",
                hint="Install that version again, or give this one a database of its own.",
            )
        if version == 0:
            found = await rows(connection, "SELECT to_regnamespace('mcp_ops') AS made")
            if found[0]["made"] is None:  # IF NOT EXISTS would need the right all the same
                await rows(connection, "CREATE SCHEMA mcp_ops")
            await rows(connection, "CREATE TABLE mcp_ops.schema_version (version int NOT NULL)")
            await rows(connection, "INSERT INTO mcp_ops.schema_version VALUES (0)")
        for script in scripts[version:]:
            await rows(connection, script)
        await rows(connection, "UPDATE mcp_ops.schema_version SET version = %s", (len(scripts),))


async def make_partitions(connections: Connections) -> frozenset[str]:
    """Make the partitions of this month and the next ones; answers the months that have one."""
    async with connections.one() as connection:
        (clock,) = await rows(connection, "SELECT mcp_ops.now() AS now")
        wanted = months(clock["now"], MONTHS_AHEAD)
        if not wanted - await _partitions(connection):
            return wanted
    async with connections.transaction() as connection:
        await rows(connection, "SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        for month in sorted(wanted - await _partitions(connection)):
            # Attached, not made as a partition: that would wait for everyone who reads, and they
            # behind it.
            table = f"mcp_ops.entries_{month}"
            await rows(connection, f"CREATE TABLE {table} (LIKE mcp_ops.entries INCLUDING ALL)")
            await rows(
                connection,
                f"ALTER TABLE mcp_ops.entries ATTACH PARTITION {table} "
                f"FOR VALUES FROM ('{_first(month)}') TO ('{_first(following(month))}')",
            )
    return wanted


async def drop_partitions(connections: Connections) -> int:
    """Drop the partitions of past months that retention has emptied; answers how many."""
    async with connections.one() as connection:
        past = await past_months(connection)
    dropped = 0
    for month in past:
        async with connections.transaction() as connection:
            name = f"mcp_ops.entries_{month}"
            await rows(connection, "SET LOCAL lock_timeout = 300")  # all others wait behind this
            await rows(connection, f"LOCK TABLE {name} IN SHARE MODE")
            if await rows(connection, f"SELECT 1 FROM {name} LIMIT 1"):  # noqa: S608 - a month
                break
            await rows(connection, f"DROP TABLE {name}")
            dropped += 1
    return dropped


async def past_months(connection: Connection) -> list[str]:
    """The past months that have a partition, oldest first."""
    (clock,) = await rows(connection, "SELECT mcp_ops.now() AS now")
    return sorted(m for m in await _partitions(connection) if m < month_of(clock["now"]))


def month_of(at: float) -> str:
    """The month of a Unix time, in UTC, as partitions are named: `2027_01`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y_%m")


def months(at: float, ahead: int) -> frozenset[str]:
    """The month of a time and so many after it."""
    found = [month_of(at)]
    for _ in range(ahead):
        found.append(following(found[-1]))
    return frozenset(found)


def following(month: str) -> str:
    """The month after."""
    year, number = (int(part) for part in month.split("_"))
    return f"{year + number // 12}_{number % 12 + 1:02d}"


def _first(month: str) -> str:
    return f"{month.replace('_', '-')}-01 00:00:00+00"


async def _version(connection: Connection) -> int:
    # Not to_regclass: a session that looked before another one made the table still remembers
    # that there is none.
    made = await rows(
        connection,
        "SELECT 1 FROM pg_catalog.pg_tables "
        "WHERE schemaname = 'mcp_ops' AND tablename = 'schema_version'",
    )
    if not made:
        return 0
    found = await rows(connection, "SELECT version FROM mcp_ops.schema_version")
    return int(found[0]["version"])


async def _partitions(connection: Connection) -> frozenset[str]:
    found = await rows(
        connection,
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits "
        "WHERE inhparent = 'mcp_ops.entries'::regclass",
    )
    return frozenset(row["name"].rpartition("entries_")[2] for row in found)
