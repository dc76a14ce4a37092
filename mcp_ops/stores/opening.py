"""Opening the stores that the settings name: a file of this machine, or what replicas share.

The client libraries load only where a URL asks for them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio

from mcp_ops.clock import Clock
from mcp_ops.errors import ConfigurationError, StoreUnavailable
from mcp_ops.failed import FailedOperations
from mcp_ops.ports import HotStore, ModeEntry
from mcp_ops.questions import Approvals
from mcp_ops.records import Ledger
from mcp_ops.stores.signals import LocalSignals
from mcp_ops.stores.sqlite import embedded

SQLITE = "sqlite"
ALONE = "break-glass.db"
_MERGED = "merged|"
_BATCH = 200
_log = logging.getLogger("mcp_ops.stores")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What the guard needs, open. `away` names what is shared and does not answer, since when."""

    hot: HotStore
    ledger: Ledger
    approvals: Approvals
    failed: FailedOperations
    away: Callable[[], dict[str, float]] = dict
    signals: LocalSignals = field(default_factory=LocalSignals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the stores are: the directory of what is local, and "sqlite" or a URL for each half.

    `key` seals a shared ledger and is the same for all replicas.
    `keeping` are the times and numbers of `embedded.open_stores`. `alone` is for an operator with
    break-glass: what is shared and does not answer is replaced by a file of this machine, whose
    lines are merged when it does. `signals` asks for those of other processes.
    """

    directory: Path
    hot: str = SQLITE
    ledger: str = SQLITE
    key: str = ""
    alone: bool = False
    signals: bool = False
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
            kept = await _or_alone(stack, _postgres(place, clock), place, clock)
        hot = local
        if place.hot != SQLITE:
            hot = await _or_alone(stack, _redis(place, clock, kept.ledger, floor), place, clock)
        signals = LocalSignals()
        if place.signals and place.hot != SQLITE:
            from mcp_ops.stores.redis.signals import open_signals

            signals = await stack.enter_async_context(open_signals(place.hot))
        yield Stores(
            hot=hot.hot,
            ledger=kept.ledger,
            approvals=kept.approvals,
            failed=kept.failed,
            away=partial(_away, hot, kept),
            signals=signals,
        )


def _away(hot: Any, kept: Any) -> dict[str, float]:
    since = {"hot store": getattr(hot.hot, "away_since", None)}
    if (asked := getattr(kept, "away_since", None)) is not None:
        since["ledger"] = asked()
    return {name: at for name, at in since.items() if at is not None}


async def _or_alone(
    stack: AsyncExitStack, shared: AbstractAsyncContextManager[Any], place: Place, clock: Clock
) -> Any:
    try:
        return await stack.enter_async_context(shared)
    except StoreUnavailable as error:
        if not place.alone:
            raise
        _log.warning(
            "The shared store is away (%s) This call is recorded on this machine alone; nothing "
            "stops the same write elsewhere.",
            error.message,
        )
        return await stack.enter_async_context(
            embedded.open_stores(place.directory / ALONE, clock, **place.keeping)
        )


@asynccontextmanager
async def _postgres(place: Place, clock: Clock) -> AsyncIterator[Any]:
    _needs("psycopg", "store.ledger", "postgres")
    from mcp_ops.stores.postgres.opening import open_ledger

    key = hashlib.sha256(b"ledger" + place.key.encode()).digest()
    place.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    spool = place.directory
    async with open_ledger(place.ledger, clock, key=key, spool=spool, **place.keeping) as kept:
        await _merge_alone(place.directory / ALONE, clock, kept.ledger)
        yield kept


async def _merge_alone(file: Path, clock: Clock, ledger: Ledger) -> None:
    """Bring the lines of break-glass on this machine into the shared ledger, each once."""
    if not await anyio.Path(file).exists():
        return
    async with embedded.open_stores(file, clock) as alone:
        merged = int((await alone.ledger.facts()).get(_MERGED, 0))
        while lines := await alone.ledger.lines(after=merged, limit=_BATCH):
            for line in lines:
                evidence = {**line.entry.evidence, "merged_from": ALONE}
                await ledger.change(replace(line.entry, evidence=evidence, seq=0, writer=""))
                merged = line.entry.seq
                await alone.ledger.put_fact(_MERGED, str(merged))


@asynccontextmanager
async def _redis(
    place: Place, clock: Clock, ledger: Ledger, floor: tuple[ModeEntry, ...]
) -> AsyncIterator[Any]:
    _needs("redis", "store.hot", "redis")
    from mcp_ops.stores.degraded import SteadyHotStore
    from mcp_ops.stores.redis.opening import open_hot

    async with (
        open_hot(place.hot, clock, floor=floor, facts=ledger) as shared,
        SteadyHotStore.open(shared, clock) as hot,
    ):
        yield _Hot(hot)


@dataclass(frozen=True, slots=True)
class _Hot:
    hot: HotStore


def _needs(library: str, setting: str, extra: str) -> None:
    if find_spec(library) is None:
        raise ConfigurationError(
            f"{setting} needs the library {library}, which is not installed.",
            hint=f"Install it: pip install 'mcp-ops[{extra}]'.",
        )
