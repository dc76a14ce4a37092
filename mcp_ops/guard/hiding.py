"""Which tools the modes in force leave no use for: with `guard.hide_disabled_tools` not listed.

A list that changes is lost on hosts that read it once, so this is off unless it is asked for, and
a call of a hidden tool is refused as it would be anyway.
"""

from __future__ import annotations

from collections.abc import Mapping

from mcp_ops.errors import StoreUnavailable
from mcp_ops.guard.modes import allowed_of, effective
from mcp_ops.guard.targets import Targets
from mcp_ops.ports import HotStore
from mcp_ops.tool import Tool

Shown = Mapping[str, tuple[Tool, tuple[str, ...]]]


class Hiding:
    """Looks at the modes. Tools on the server itself are always shown: some lift a mode."""

    def __init__(self, hot: HotStore, targets: Targets) -> None:
        self._hot = hot
        self._targets = targets

    async def hidden(self, tools: Shown, principal: str) -> frozenset[str]:
        """The names of those that no target lets this principal call now.

        Nothing is hidden while the store is away: a refused call explains itself.
        """
        try:
            entries = await self._hot.modes()
        except StoreUnavailable:
            return frozenset()

        def usable(tool: Tool, target: str) -> bool:
            allowed = allowed_of(tool, tool.effect, self._targets.info(target))
            return effective(entries, target, principal) in allowed

        return frozenset(
            name
            for name, (tool, targets) in tools.items()
            if not tool.own and not any(usable(tool, target) for target in targets)
        )

    async def state(self) -> object:
        """Something that is equal as long as the same tools are hidden; None when nobody knows."""
        try:
            return frozenset((entry.scope, entry.mode) for entry in await self._hot.modes())
        except StoreUnavailable:
            return None
