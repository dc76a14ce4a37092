"""Usage moves modes: every reading of the limit that drives a target may tighten or relax it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from mcp_ops.call import new_id
from mcp_ops.capabilities.usage import GuardModeChange, UsageReading
from mcp_ops.clock import Clock
from mcp_ops.errors import OpsError
from mcp_ops.guard.modes import effective, mode_for_usage
from mcp_ops.ports import HotStore, Mode, ModeEntry
from mcp_ops.records import Entry, EntryKind, Ledger
from mcp_ops.settings import UsageSettings

_log = logging.getLogger("mcp_ops.guard")
AUTHOR = "guard:usage"


class UsageWatch:
    """Takes readings from answers' headers, from check_api_usage and, while restricted, by timer.

    `report` may be called from an adapter at any time: it only notes the newest reading, which a
    task of the server applies.
    """

    def __init__(
        self, *, hot: HotStore, ledger: Ledger, clock: Clock, settings: UsageSettings
    ) -> None:
        self._hot = hot
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._newest: dict[str, tuple[str, float]] = {}
        self.last: dict[str, float] = {}  # the newest reading of each target, in percent
        self._news = anyio.Event()
        self._applying = anyio.Lock()

    def report(self, target: str, name: str, used_percent: float) -> None:
        """Note a reading of the limit that drives a target; cheap."""
        if used_percent == used_percent and used_percent >= 0:  # refuses NaN
            self._newest[target] = (name, used_percent)
            self.last[target] = used_percent
            self._news.set()

    async def read(self, target: str, reading: UsageReading) -> GuardModeChange:
        """Apply a full reading now, and say what it did."""
        before = effective(await self._hot.modes(), target)
        for limit in reading.limits:
            if limit.name == reading.drives:
                self._newest.pop(target, None)
                self.last[target] = limit.used_percent
                await self.apply(target, limit.name, limit.used_percent)
        after = effective(await self._hot.modes(), target)
        return GuardModeChange(mode=after.value, changed=after is not before)

    async def apply(self, target: str, name: str, used_percent: float) -> None:
        """Set, change or lift the target's mode by usage."""
        async with self._applying:
            entries = await self._hot.modes()
            own = [e for e in entries if e.scope == target and e.source == "usage"]
            current = own[0].mode if own else Mode.NORMAL
            wanted = mode_for_usage(used_percent, current, self._settings)
            if wanted is current:
                return
            reason = f"{name} is used up to {used_percent:.1f} %"
            if wanted is Mode.NORMAL:
                await self._hot.clear_modes(target, frozenset({"usage"}))
            else:
                await self._hot.set_mode(
                    ModeEntry(
                        scope=target,
                        mode=wanted,
                        source="usage",
                        reason=reason,
                        author=AUTHOR,
                        since=self._clock.now(),
                    )
                )
            await self._ledger.change(
                Entry(
                    kind=EntryKind.CHANGED,
                    call_id=new_id(),
                    at=self._clock.now(),
                    tool="set_guard_mode",
                    target=target,
                    principal=AUTHOR,
                    reason=reason,
                    evidence={"from": current.value, "to": wanted.value},
                )
            )

    async def follow(self) -> None:
        """Apply what adapters report, for as long as the server runs."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            while self._newest:
                target, (name, used_percent) = self._newest.popitem()
                try:
                    await self.apply(target, name, used_percent)
                except OpsError as error:
                    _log.warning("a usage reading of %s was not applied: %s", target, error.code)

    async def poll(self, check: Callable[[str], Awaitable[None]]) -> None:
        """Read the usage of restricted targets on a timer, so that they come back by themselves."""
        while True:
            await anyio.sleep(self._settings.poll_s)
            for entry in await self._hot.modes():
                if entry.source != "usage":
                    continue
                try:
                    await check(entry.scope)
                except OpsError as error:
                    _log.info("usage of %s could not be read: %s", entry.scope, error.code)
