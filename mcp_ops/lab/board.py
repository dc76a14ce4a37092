"""The board of faults: which there are, where they can be, and which are in force."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import anyio

from mcp_ops.clock import rfc3339
from mcp_ops.errors import InvalidInput
from mcp_ops.settings_problems import did_you_mean

# Where a fault that several components can have is put when nobody says where.
_DEFAULT_AT: Final[Mapping[str, str]] = {
    "slow": "salesforce",
    "down": "redis",
    "throttled": "coordinator",
}
# Of these only one can be in force: each sets the same usage.
_ONE_OF: Final = frozenset({"quota", "quota-critical", "quota-exhausted"})


class Component(Protocol):
    """A part of the lab that can have faults."""

    @property
    def name(self) -> str: ...
    @property
    def supported(self) -> tuple[str, ...]: ...
    @property
    def up(self) -> bool: ...
    @property
    def url(self) -> str: ...
    async def inject(self, fault: str) -> None: ...
    async def mend(self, fault: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """A fault at a component, since a Unix time in seconds."""

    fault: str
    at: str
    since: float

    def plain(self) -> dict[str, str]:
        """As JSON shows it."""
        return {"name": self.fault, "at": self.at, "since": rfc3339(self.since)}


class Board:
    """Breaks and mends by name; `healed(fault)` is called after a mend."""

    def __init__(
        self,
        components: Sequence[Component],
        targets: Mapping[str, str],
        *,
        now: Callable[[], float],
        healed: Callable[[str], Awaitable[None]],
    ) -> None:
        self.components = {each.name: each for each in components}
        self._targets = targets
        self._now = now
        self._healed = healed
        self._in_force: dict[tuple[str, str], InForce] = {}
        self._one_at_a_time = anyio.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Every fault that there is."""
        return tuple(dict.fromkeys(f for c in self.components.values() for f in c.supported))

    @property
    def in_force(self) -> list[InForce]:
        """What is broken, in the order in which it was broken."""
        return list(self._in_force.values())

    async def break_fault(self, name: str, at: str = "") -> InForce:
        """Put a fault in force; raises `InvalidInput` for an unknown name or place."""
        async with self._one_at_a_time:
            where = self._where(name, at)
            if name == "deadletters":
                self._needs_up(where)
            if name in _ONE_OF:
                for other in _ONE_OF - {name}:
                    self._in_force.pop((other, where), None)
            await self.components[where].inject(name)
            found = InForce(fault=name, at=where, since=self._now())
            return self._in_force.setdefault((name, where), found)

    async def mend_fault(self, name: str, at: str = "") -> list[InForce]:
        """Undo a fault wherever it is, or `all`; answers what was undone, which may be nothing."""
        async with self._one_at_a_time:
            if name != "all":
                self._known(name)
            place = self._place(at) if at else ""
            chosen = [
                each
                for each in self._in_force.values()
                if name in ("all", each.fault) and place in ("", each.at)
            ]
            # What is down can't be mended otherwise, so that comes first.
            chosen.sort(key=lambda each: each.fault not in ("down", "slow"))
            for each in chosen:
                if each.fault == "deadletters":
                    self._needs_up(each.at)
                await self.components[each.at].mend(each.fault)
                del self._in_force[each.fault, each.at]
                await self._healed(each.fault)
            return chosen

    def status(self) -> list[dict[str, Any]]:
        """Each component as JSON shows it."""
        return [
            {
                "name": each.name,
                "target": self._targets.get(each.name, each.name),
                "url": each.url,
                "state": self._state(each),
                "can_have": list(each.supported),
            }
            for each in self.components.values()
        ]

    def _state(self, component: Component) -> str:
        if not component.up:
            return "down"
        return "slow" if ("slow", component.name) in self._in_force else "up"

    def _known(self, name: str) -> None:
        if name not in self.names:
            raise InvalidInput(
                f"There is no fault of this name.{did_you_mean(name, self.names)}",
                hint=f"Faults: {', '.join(self.names)}.",
            )

    def _place(self, at: str) -> str:
        by_target = {target: component for component, target in self._targets.items()}
        place = by_target.get(at, at)
        if place not in self.components:
            known = sorted({*self.components, *by_target})
            raise InvalidInput(
                f"--at names nothing in this lab.{did_you_mean(at, known)}",
                hint=f"Places: {', '.join(known)}.",
            )
        return place

    def _where(self, name: str, at: str) -> str:
        self._known(name)
        able = [each.name for each in self.components.values() if name in each.supported]
        if at:
            place = self._place(at)
            if place not in able:
                raise InvalidInput(
                    f"{place} cannot have the fault {name}.", hint=f"It can be: {', '.join(able)}."
                )
            return place
        if len(able) == 1:
            return able[0]
        if name not in _DEFAULT_AT:
            raise InvalidInput(
                f"Several components can have the fault {name}.",
                hint=f"Say where: --at {' or '.join(able)}.",
            )
        return _DEFAULT_AT[name]

    def _needs_up(self, name: str) -> None:
        if not self.components[name].up:
            raise InvalidInput(f"{name} is down.", hint=f"First: mcp-ops lab mend down --at {name}")
