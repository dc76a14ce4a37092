"""What the guard knows of a target, and the only way from a tool to an adapter.

A tool never gets the adapter itself: it gets a `View` that offers the capability's methods and no
other, counts the calls that reach the system, and on a read refuses the methods that change
something. So a tool that is published as a read cannot write, whatever its code says.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mcp_ops.capabilities.base import Effect, effect_of
from mcp_ops.errors import Internal, OpsError
from mcp_ops.spans import recording, traced


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetInfo:
    """A configured target as the guard's rules see it.

    `partition` names the bulkhead partition, which targets may share; the target's own by default.
    """

    name: str
    kind: str
    environment: str
    metered: bool
    per_minute: float | None
    concurrent: int
    links: Mapping[str, str] = field(default_factory=dict)
    capabilities: frozenset[type] = frozenset()
    partition: str = ""

    def __post_init__(self) -> None:
        if not self.partition:
            object.__setattr__(self, "partition", self.name)


class Targets(Protocol):
    """The configured targets; opening one loads its client library."""

    def names(self) -> tuple[str, ...]:
        """All targets, the server's own first."""
        ...

    def info(self, name: str) -> TargetInfo:
        """What is known without opening it; raises `KeyError`."""
        ...

    async def adapter(self, name: str) -> Any:
        """The open adapter; raises `OpsError` when it cannot be opened."""
        ...


class Counting(Protocol):
    """What a call's record is told of its uses of adapters."""

    def reached(self) -> None:
        """A system is asked."""
        ...

    def changed(self) -> None:
        """A change at a system came back as done, or nobody knows: the call may have had an
        effect."""
        ...


class View:
    """One capability of one adapter, for one call."""

    __slots__ = ("_adapter", "_capability", "_effect", "_record")

    def __init__(self, adapter: Any, capability: type, effect: Effect, record: Counting) -> None:
        self._adapter = adapter
        self._capability = capability
        self._effect = effect
        self._record = record

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not _declares(self._capability, name):
            raise Internal(f"{self._capability.__name__} has no {name}.")
        effect = effect_of(self._capability, name)
        if _RANK[effect] > _RANK[self._effect]:
            raise Internal(f"A {self._effect} call may not use {name}: it changes the target.")
        member = getattr(self._adapter, name)
        if not inspect.iscoroutinefunction(member):
            return member  # what is not awaited reaches no system
        self._record.reached()
        if recording():
            kind = getattr(self._adapter, "kind", "")
            member = traced(member, f"{kind} {name}".strip(), mcp_ops__kind=kind)
        return member if effect is Effect.READ else self._changing(member)

    def _changing(self, member: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def change(*args: Any, **named: Any) -> Any:
            try:
                done = await member(*args, **named)
            except OpsError as error:
                if error.executed != "no":
                    self._record.changed()
                raise
            self._record.changed()
            return done

        return change


_RANK = {Effect.READ: 0, Effect.WRITE: 1, Effect.DESTROY: 2}


def _declares(capability: type, name: str) -> bool:
    return any(name in vars(cls) for cls in capability.__mro__ if cls is not object)
