"""The embedded stores as one: a file, and the four protocols of the guard on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mcp_ops.clock import Clock
from mcp_ops.ports import ModeEntry
from mcp_ops.stores.sqlite.approvals import Approvals
from mcp_ops.stores.sqlite.database import Database
from mcp_ops.stores.sqlite.failed import FailedOperations
from mcp_ops.stores.sqlite.hot import HotStore
from mcp_ops.stores.sqlite.ledger import Ledger
from mcp_ops.stores.sqlite.retention import DAY_S, Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What the guard needs, open."""

    hot: HotStore
    ledger: Ledger
    approvals: Approvals
    failed: FailedOperations


@asynccontextmanager
async def open_stores(
    path: Path,
    clock: Clock,
    *,
    floor: tuple[ModeEntry, ...] = (),
    replay_s: float = 600,
    operations_s: float = 604_800,
    denied_s: float = 600,
    failed_items: int = 10_000,
    failed_s: float = 604_800,
    ledger_s: float = 90 * DAY_S,
    ledger_bytes: int = 1024 * 1024 * 1024,
) -> AsyncIterator[Stores]:
    """Open the stores in the file `path`; the key of the ledger lies beside it (`.key`).

    `floor` are modes of this process alone.

    Seconds: `replay_s` an ended write answers its repeats, `operations_s` it can be looked up,
    `denied_s` a denied question is not asked again, `failed_s` a failed operation waits (at most
    `failed_items` of them), `ledger_s` a line of the ledger is kept; the oldest go earlier when the
    file is larger than `ledger_bytes`. What waits is written on the way out. Raises
    `StoreUnavailable`.
    """
    async with (
        Database.open(path, clock) as database,
        Ledger.open(
            database,
            path.with_suffix(".key"),
            replay_s=replay_s,
            lookup_s=operations_s,
            bounds=Bounds(keep_s=ledger_s, most_bytes=ledger_bytes),
        ) as ledger,
        HotStore.open(database, floor=floor) as hot,
    ):
        yield Stores(
            hot=hot,
            ledger=ledger,
            approvals=Approvals(database, denied_s=denied_s),
            failed=FailedOperations(database, max_items=failed_items, retention_s=failed_s),
        )
