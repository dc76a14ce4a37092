"""Which other units a change of one reaches: its other names, and what systemd starts or stops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mcp_ops.adapters.systemd.commands import Commands
from mcp_ops.adapters.systemd.units import Unit, parse_show
from mcp_ops.errors import BadAnswer

# systemd.unit(5). What is stopped with a unit; what its start starts, and what that stops; and what
# an end starts, however it comes.
_STOPPED: Final = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")
_STARTED: Final = ("Requires", "BindsTo", "Wants", "Upholds")
_RIVALS: Final = ("Conflicts", "ConflictedBy")
_FOLLOWS: Final = ("OnSuccess", "OnFailure")
_RELATIONS: Final = (*_STOPPED, *_STARTED, *_RIVALS, *_FOLLOWS)
_MOST: Final = 200
_MOST_LOOKED_AT: Final = 2_000
_ROUNDS: Final = 20
_LOADED: Final = frozenset({"loaded", ""})
_IDLE: Final = frozenset({"inactive", "failed", ""})


class TooMany(Exception):
    """There are more units than can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Other units, by name in lower case: those that systemd would start, and those that it would
    stop or start again."""

    started: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()

    @property
    def all(self) -> list[str]:
        """Both, sorted."""
        return sorted(self.started | self.stopped)

    def lines(self) -> list[str]:
        """What a person should know of it before they agree."""
        found = []
        if self.stopped:
            found.append(f"It takes with it, or is the same as: {_names(self.stopped)}.")
        if self.started:
            found.append(f"It may also start: {_names(self.started)}.")
        return found


async def reached(
    commands: Commands, unit: Unit, *, stops: bool = False, starts: bool = False
) -> Reach | None:
    """What a change that stops the unit, starts it, or both has to do with; None where it is too
    much to tell."""
    systemd = _Systemd(commands)
    own = {unit.name, unit.id} - {""}
    try:
        stopped = await systemd.stopped_with(own) if stops else await systemd.names(own)
        started: set[str] = set()
        if starts:
            started, rivals = await systemd.started_with(own)
            stopped |= await systemd.stopped_with(rivals)
        started |= await systemd.related(started | stopped, _FOLLOWS)
    except TooMany:
        return None
    others = frozenset(each.lower() for each in stopped) - {unit.name.lower()}
    more = frozenset(each.lower() for each in started) - others - {unit.name.lower()}
    return Reach(started=more, stopped=others) if len(others | more) <= _MOST else None


class _Systemd:
    """What systemd says of units, each asked for once."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._known: dict[str, dict[str, str]] = {}

    async def stopped_with(self, units: Iterable[str]) -> set[str]:
        """All names of these units and of what is stopped with them, over all steps."""
        found, coming = set[str](), set(units)
        for _ in range(_ROUNDS):
            found |= await self.names(coming)
            coming = await self.related(coming, _STOPPED) - found
            if not coming:
                return found
            if len(found) > _MOST:
                break
        raise TooMany

    async def started_with(self, units: Iterable[str]) -> tuple[set[str], set[str]]:
        """What the start of these units starts, too, over all steps; and what runs that may not
        run beside any of it."""
        own = await self.names(units)
        found, coming = set[str](), set(units)
        rivals: set[str] = set()
        for _ in range(_ROUNDS):
            found |= await self.names(coming)
            rivals |= await self.related(coming, _RIVALS)
            nearby = await self.related(coming, _STARTED) - found
            # What runs already stays as it is.
            coming = {each for each, told in (await self._look(nearby)).items() if _waits(told)}
            if not coming:
                beside = (await self._look(rivals - found)).items()
                return found - own, {each for each, told in beside if _runs(told)}
        raise TooMany

    async def names(self, units: Iterable[str]) -> set[str]:
        """All names that these units have."""
        told = await self._look(units)
        return {*told, *(name for each in told.values() for name in each.get("Names", "").split())}

    async def related(self, units: Iterable[str], relations: Iterable[str]) -> set[str]:
        """What is in these relations to any of the units."""
        told = await self._look(units)
        return {
            name
            for each in told.values()
            for key in relations
            for name in each.get(key, "").split()
        }

    async def _look(self, units: Iterable[str]) -> dict[str, dict[str, str]]:
        wanted = sorted(set(units))
        if missing := [each for each in wanted if each not in self._known]:
            if len(self._known) + len(missing) > _MOST_LOOKED_AT:
                raise TooMany
            properties = f"--property=Names,LoadState,ActiveState,{','.join(_RELATIONS)}"
            out = await self._commands.control("show", properties, "--", *missing)
            blocks = parse_show(out.decode("utf-8", "replace"))
            if len(blocks) != len(missing):
                raise BadAnswer("systemctl told of other units than it was asked for.")
            self._known.update(zip(missing, blocks, strict=True))
        return {each: self._known[each] for each in wanted}


def _runs(told: dict[str, str]) -> bool:
    return told.get("ActiveState", "") not in _IDLE


def _waits(told: dict[str, str]) -> bool:
    """Whether it could be started."""
    return not _runs(told) and told.get("LoadState", "") in _LOADED


def _names(units: frozenset[str]) -> str:
    return ", ".join(sorted(units)[:20])
