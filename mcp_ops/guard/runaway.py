"""Runaway: an agent that repeats a change that it is refused is stopped until a person looks.

The action budgets cap what such a loop can do; this ends the loop. The same tool on one object,
refused again and again for its budget or for a person's no, makes its principal read-only. A
person ends that: `mcp-ops mode clear principal:NAME`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque

from mcp_ops.call import Call, new_id
from mcp_ops.capabilities.base import Effect
from mcp_ops.clock import Clock
from mcp_ops.errors import RefusalCode, Refused
from mcp_ops.ports import PRINCIPAL_SCOPE, HotStore, Mode, ModeEntry
from mcp_ops.records import Entry, EntryKind, Ledger

WINDOW_S = 600.0
_MOST_KEYS = 1_000
_LOOPING = frozenset({RefusalCode.BUDGET_EXHAUSTED, RefusalCode.APPROVAL_DENIED})
_log = logging.getLogger("mcp_ops.guard")


class Runaway:
    """Counts refusals of changes by principal, tool and object, in this process."""

    def __init__(self, *, hot: HotStore, ledger: Ledger, clock: Clock, most: int) -> None:
        self._hot = hot
        self._ledger = ledger
        self._clock = clock
        self._most = most
        self._seen: OrderedDict[tuple[str, ...], deque[float]] = OrderedDict()

    async def refused(self, call: Call, refusal: Refused) -> None:
        """Count a refusal; the last one of too many makes the principal read-only.

        Raises `StoreUnavailable`.
        """
        if call.effect is Effect.READ or call.caller.channel == "cli":
            return
        if refusal.reason not in _LOOPING:
            return
        if self._counted(call) == self._most:
            await self._stop(call)

    def _counted(self, call: Call) -> int:
        key = (call.caller.principal, call.tool.name, call.target or call.about, call.object)
        now = self._clock.monotonic()
        times = self._seen.setdefault(key, deque(maxlen=self._most))
        self._seen.move_to_end(key)
        if len(self._seen) > _MOST_KEYS:
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
