"""What the guard keeps in PostgreSQL, opened. Loads psycopg only then."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from mcp_ops.clock import Clock
from mcp_ops.stores.background import running

DAY_S = 86_400.0

if TYPE_CHECKING:
    from mcp_ops.stores.postgres.approvals import Approvals
    from mcp_ops.stores.postgres.failed import FailedOperations
    from mcp_ops.stores.postgres.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStores:
    """What the guard keeps, open."""

    ledger: Ledger
    approvals: Approvals
    failed: FailedOperations
    away_since: Callable[[], float | None] = lambda: None


@asynccontextmanager
async def open_ledger(
    url: str,
    clock: Clock,
    *,
    key: bytes,
    replay_s: float = 600,
    operations_s: float = 604_800,
    denied_s: float = 600,
    failed_items: int = 10_000,
    failed_s: float = 604_800,
    ledger_s: float = 90 * DAY_S,
    ledger_bytes: int = 1024 * 1024 * 1024,
    spool: Path | None = None,
) -> AsyncIterator[LedgerStores]:
    """Open the ledger in the database at `url`; its tables are in the schema `mcp_ops`.

    `key` seals the lines: the same one in every server that shares the ledger. `clock` is this
    process's; what is compared with a time is compared with the database's.

    Seconds: `replay_s` an ended write answers its repeats, `operations_s` it can be looked up,
    `denied_s` a denied question is not asked again, `failed_s` a failed operation waits (at most
    `failed_items` of them), `ledger_s` a line of the ledger is kept; the oldest go earlier when
    the lines take more than `ledger_bytes`. What waits is written on the way out. While PostgreSQL
    is away, lines on reads and refusals wait in the folder `spool`; without one, in memory. Raises
    `StoreUnavailable`, or `ConfigurationError` for an address that cannot be read.
    """
    from mcp_ops.stores.postgres import approvals, batch, connections, failed, schema
    from mcp_ops.stores.postgres.ledger import Ledger
    from mcp_ops.stores.postgres.retention import Bounds, Retention
    from mcp_ops.stores.postgres.sealing import Sealing
    from mcp_ops.stores.postgres.spooling import Spooling
    from mcp_ops.stores.postgres.time import StoreTime
    from mcp_ops.stores.postgres.writer import Writer

    # The writer has connections of its own: it never waits behind those who read.
    writing, reading = connections.Connections(url, most=2), connections.Connections(url)
    time = StoreTime(clock)
    keeping = batch.Keeping(replay_s=replay_s, lookup_s=operations_s)
    try:
        await schema.migrate(writing)
        async with Writer.open(writing, key, keeping=keeping, time=time) as writer:
            bounds = Bounds(keep_s=ledger_s, most_bytes=ledger_bytes)
            retention = Retention(reading, writer, key, bounds=bounds, time=time)
            sealing = Sealing(reading, key)
            ledger = Ledger(reading, writer, sealing, retention, keeping=keeping, time=time)
            await writer.recover()
            kept = LedgerStores(
                ledger=ledger,
                approvals=approvals.Approvals(reading, time, denied_s=denied_s),
                failed=failed.FailedOperations(
                    reading, time, max_items=failed_items, retention_s=failed_s
                ),
                away_since=lambda: writer.away_since,
            )
            async with AsyncExitStack() as stack:
                if spool is not None:
                    await stack.enter_async_context(Spooling.open(writer, ledger, spool, key))
                await stack.enter_async_context(running(lambda: retention.follow(ledger.lock)))
                yield kept
    finally:
        with anyio.CancelScope(shield=True):
            await reading.close()
            await writing.close()
