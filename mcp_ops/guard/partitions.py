"""Partition sizes that people change for a while: who may, for how long, and how it is shown.

Making a partition smaller is tightening: an agent does it by itself. Making it larger than it is
at this moment is loosening, which a person decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from mcp_ops.call import Call, Caller
from mcp_ops.capabilities.guard import BulkheadInfo
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import RefusalCode, Refused
from mcp_ops.guard.act import allowed_by_a_person
from mcp_ops.guard.bulkhead import Bulkheads
from mcp_ops.guard.circuits import Changed
from mcp_ops.guard.targets import TargetInfo, Targets
from mcp_ops.ports import OWN_TARGET, HotStore, Partition
from mcp_ops.reach import held

TOOL = "set_bulkhead_limit"
# The second scope is what a command line without a terminal lacks: an agent may have one.
_AT_A_TERMINAL = frozenset({"ops:admin", "ops:approve"})


class Sizes(Protocol):
    """Where the sizes are that people set."""

    async def partitions(self) -> tuple[Partition, ...]:
        """Those in force."""


async def enlarges(call: Call, hot: Sizes, targets: Targets) -> bool:
    """Whether a call of `set_bulkhead_limit` asks for more places than there are now."""
    info = targets.info(call.about)
    asked: int = call.arguments.max_concurrent  # type: ignore[attr-defined]
    return asked > _size(info, _of(await hot.partitions(), info.name), Bulkheads(targets))


def _size(info: TargetInfo, override: Partition | None, bulkheads: Bulkheads) -> int:
    return override.size if override is not None else bulkheads.configured(info)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resized:
    """A change of a partition's size. `expires_at` is None where the configured size holds."""

    previous: int
    size: int
    targets: list[str]
    expires_at: float | None


class Partitions:
    """The sizes of partitions, for one caller: changes carry the caller's name."""

    def __init__(
        self,
        *,
        hot: HotStore,
        targets: Targets,
        bulkheads: Bulkheads,
        caller: Caller,
        clock: Clock,
        changed: Changed,
    ) -> None:
        self._hot = hot
        self._targets = targets
        self._bulkheads = bulkheads
        self._caller = caller
        self._clock = clock
        self._changed = changed

    async def plan(self, target: str, size: int, *, minutes: int) -> Resized:
        """What `resize` would do now."""
        info = self._targets.info(target)
        override = await self._override(target)
        configured = self._bulkheads.configured(info)
        asked = self._clock.now() + minutes * 60
        expires_at: float | None = None
        if not self._free(target):
            expires_at = _expiry(asked, size, override, configured)
        elif size != configured:
            expires_at = asked
        return Resized(
            previous=_size(info, override, self._bulkheads),
            size=size,
            targets=self._bulkheads.sharing(info),
            expires_at=expires_at,
        )

    async def resize(self, target: str, size: int, *, minutes: int, reason: str) -> Resized:
        """Give a target's partition another size, for all targets that share it.

        Running calls finish. Raises `Refused` when more is asked for than there is, and nobody
        allowed it.
        """
        planned = await self.plan(target, size, minutes=minutes)
        if size > planned.previous and not self._free(target):
            raise Refused(
                RefusalCode.APPROVAL_REQUIRED,
                f"The places at {target} were changed at this moment; what was asked is more than "
                "there are now.",
                hint="Look at get_guard_status and call again.",
            )
        for name in planned.targets:
            if planned.expires_at is None:
                await self._hot.clear_partition(name)
                continue
            await self._hot.set_partition(
                Partition(
                    target=name,
                    size=size,
                    reason=reason,
                    author=self._caller.principal,
                    since=self._clock.now(),
                    expires_at=planned.expires_at,
                )
            )
        self._bulkheads.of(self._targets.info(target), size)
        until = rfc3339(planned.expires_at) if planned.expires_at else "as configured"
        await self._changed(TOOL, target, reason, {"max_concurrent": str(size), "until": until})
        return planned

    async def shown(self) -> list[BulkheadInfo]:
        """Every partition that was used in this process, or has another size than configured."""
        overrides = {each.target: each for each in await self._hot.partitions()}
        found: dict[str, BulkheadInfo] = {}
        for name in self._targets.names():
            info = self._targets.info(name)
            used = self._bulkheads.find(info.partition)
            override = overrides.get(name)
            if name == OWN_TARGET or info.partition in found or not (used or override):
                continue
            found[info.partition] = BulkheadInfo(
                target=info.partition,
                targets=self._bulkheads.sharing(info),
                active=used.active if used else 0,
                waiting=len(used.queue) if used else 0,
                max_concurrent=_size(info, override, self._bulkheads),
                timed_out=used.timed_out if used else 0,
                turned_away=used.turned_away if used else 0,
                configured=self._bulkheads.configured(info),
                by=override.author if override else None,
                reason=override.reason if override else None,
                expires_at=rfc3339(override.expires_at) if override else None,
            )
        return list(found.values())

    async def _override(self, target: str) -> Partition | None:
        return _of(await self._hot.partitions(), target)

    def _free(self, target: str) -> bool:
        """Whether the caller may also loosen: an operator, or a call that a person allowed."""
        where = self._targets.info(target).environment
        scopes = held(self._caller.scopes, self._caller.reach, target, where)
        return scopes >= _AT_A_TERMINAL or allowed_by_a_person()


def _of(overrides: Iterable[Partition], target: str) -> Partition | None:
    return next((each for each in overrides if each.target == target), None)


def _expiry(asked: float, size: int, present: Partition | None, configured: int) -> float:
    """Until when an agent's own change holds. It must not make the partition larger at any later
    moment, by ending a smaller size earlier or by keeping a larger one longer."""
    if present is None:
        return asked
    if present.size < configured:
        return max(asked, present.expires_at)
    return min(asked, present.expires_at) if size > configured else asked
