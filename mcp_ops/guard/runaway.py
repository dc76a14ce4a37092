"""Runaway: an agent that repeats a change that it is refused is stopped until a person looks.

The action budgets cap what such a loop can do; this ends the loop. The same tool on one object,
refused again and again for its budget or for a person's no, makes its principal read-only. A
person ends that: `mcp-ops mode clear principal:NAME`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp_ops.call import Call, new_id
from mcp_ops.clock import Clock
from mcp_ops.errors import RefusalCode, Refused, StoreUnavailable
from mcp_ops.ports import PRINCIPAL_SCOPE, HotStore, Mode, ModeEntry
from mcp_ops.records import Entry, EntryKind, Ledger

WINDOW_S = 600.0
_MOST_KEYS = 1_000
_LOOPING = frozenset({RefusalCode.BUDGET_EXHAUSTED, RefusalCode.APPROVAL_DENIED})
_log = logging.getLogger("mcp_ops.guard")


class Runaway:
    """Counts refusals of changes by principal, tool and object, in this process; of at most
    `most_keys` of these, the newest."""

    def __init__(self, *, hot: HotStore, ledger: Ledger, clock: Clock, most: int) -> None:
        self._hot = hot
        self._ledger = ledger
        self._clock = clock
        self._most = most
        self.most_keys = _MOST_KEYS
        self._seen: OrderedDict[tuple[str, ...], deque[float]] = OrderedDict()

    @asynccontextmanager
    async def watching(self, call: Call) -> AsyncIterator[None]:
        """Count the refusal that ends a change; the last one of too many makes its principal
        read-only. The refusal goes on as it is, also when that cannot be stored."""
        try:
            yield
        except Refused as refusal:
            loops = refusal.reason in _LOOPING and call.caller.channel != "cli"
            if loops and self._counted(call) == self._most:
                try:
                    await self._stop(call)
                except StoreUnavailable as error:
                    _log.error("a runaway agent could not be stopped: %s", error.message)
            raise

    def _counted(self, call: Call) -> int:
        key = (call.caller.principal, call.tool.name, call.target or call.about, call.object)
        now = self._clock.monotonic()
        times = self._seen.setdefault(key, deque(maxlen=self._most))
        self._seen.move_to_end(key)
        if len(self._seen) > self.most_keys:
            self._seen.popitem(last=False)
        while times and times[0] <= now - WINDOW_S:
            times.popleft()
        if len(times) == self._most:
            return 0  # it was stopped for these already
        times.append(now)
        return len(times)

    async def _stop(self, call: Call) -> None:
        principal = call.caller.principal
        why = f"{call.tool.name} was refused {self._most} times in {WINDOW_S / 60:g} minutes"
        _log.warning("%s is read-only from now on: %s", principal, why)
        now = self._clock.now()
        await self._hot.set_mode(
            ModeEntry(
                scope=f"{PRINCIPAL_SCOPE}{principal}",
                mode=Mode.READ_ONLY,
                source="runaway",
                reason=why,
                author="server:mcp-ops",
                since=now,
            )
        )
        await self._ledger.change(
            Entry(
                kind=EntryKind.CHANGED,
                call_id=new_id(),
                at=now,
                tool="set_guard_mode",
                target=call.target or call.about,
                object=call.object,
                principal="server:mcp-ops",
                reason=why,
                evidence={"mode": Mode.READ_ONLY.value, "principal": principal},
                parent=call.id,
            )
        )
