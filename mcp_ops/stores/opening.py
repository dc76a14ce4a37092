"""Opening the stores that the settings name: a file of this machine, or what replicas share.

The client libraries load only where a URL asks for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mcp_ops.clock import Clock
from mcp_ops.errors import ConfigurationError
from mcp_ops.ports import HotStore, ModeEntry
from mcp_ops.records import Approvals, FailedOperations, Ledger
from mcp_ops.stores.sqlite import embedded

SQLITE = "sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What the guard needs, open."""

    hot: HotStore
    ledger: Ledger
    approvals: Approvals
    failed: FailedOperations


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the stores are: the directory of what is local, and "sqlite" or a URL for each half.

    `key` seals a shared ledger and is the same for all replicas.
    `keeping` are the times and numbers of `embedded.open_stores`.
    """

    directory: Path
    hot: str = SQLITE
    ledger: str = SQLITE
    key: str = ""
    keeping: dict[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def open_stores(
    place: Place, clock: Clock, *, floor: tuple[ModeEntry, ...] = ()
) -> AsyncIterator[Stores]:
    """Open the stores; `floor` are modes of this process alone.

    Raises `ConfigurationError` for a library that is not installed, `StoreUnavailable`.
    """
    file = place.directory / "state.db"
    async with AsyncExitStack() as stack:
        local: Any = None
        if SQLITE in (place.hot, place.ledger):
            local = await stack.enter_async_context(
                embedded.open_stores(file, clock, floor=floor, **place.keeping)
            )
        kept = local
        if place.ledger != SQLITE:
            kept = await stack.enter_async_context(_postgres(place, clock))
        hot = local.hot if place.hot == SQLITE else None
        if hot is None:
            hot = await stack.enter_async_context(_redis(place, clock, kept.ledger, floor))
        yield Stores(hot=hot, ledger=kept.ledger, approvals=kept.approvals, failed=kept.failed)


@asynccontextmanager
async def _postgres(place: Place, clock: Clock) -> AsyncIterator[Any]:
    _needs("psycopg", "store.ledger", "postgres")
    from mcp_ops.stores.postgres.opening import open_ledger
    from mcp_ops.stores.spool import Spool

    key = hashlib.sha256(b"ledger" + place.key.encode()).digest()
    place.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    spool = Spool(place.directory / "spool.jsonl", key)
    async with open_ledger(place.ledger, clock, key=key, spool=spool, **place.keeping) as kept:
        yield kept


@asynccontextmanager
async def _redis(
    place: Place, clock: Clock, ledger: Ledger, floor: tuple[ModeEntry, ...]
) -> AsyncIterator[HotStore]:
    _needs("redis", "store.hot", "redis")
    from mcp_ops.stores.degraded import SteadyHotStore
    from mcp_ops.stores.redis.opening import open_hot

    async with (
        open_hot(place.hot, clock, floor=floor, facts=ledger) as shared,
        SteadyHotStore.open(shared, clock) as hot,
    ):
        yield hot


def _needs(library: str, setting: str, extra: str) -> None:
    if find_spec(library) is None:
        raise ConfigurationError(
            f"{setting} needs the library {library}, which is not installed.",
            hint=f"Install it: pip install 'mcp-ops[{extra}]'.",
        )
