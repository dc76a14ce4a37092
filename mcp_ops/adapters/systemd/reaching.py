"""Which other units a change of one reaches: its other names, and what systemd changes with it."""

from __future__ import annotations

from typing import Final

from mcp_ops.adapters.systemd.commands import Commands
from mcp_ops.adapters.systemd.units import Unit, parse_show

# systemd.unit(5): what is stopped, or restarted, with a unit; and what its start stops.
STOPS: Final = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")
STARTS: Final = ("Conflicts", "ConflictedBy")
_MOST: Final = 200
_ROUNDS: Final = 10


async def reached(commands: Commands, unit: Unit, relations: tuple[str, ...]) -> list[str] | None:
    """The units by name in lower case, over all steps; None where they are too many to tell."""
    found = {unit.name, unit.id} - {""}
    asked: set[str] = set()
    wanted = f"--property=Names,{','.join(relations)}"
    for _ in range(_ROUNDS):
        following = sorted(found - asked)
        if not following:
            return sorted({each.lower() for each in found} - {unit.name.lower()})
        if len(found) > _MOST:
            return None
        asked.update(following)
        out = await commands.control("show", wanted, "--", *following)
        for block in parse_show(out.decode("utf-8", "replace")):
            for key in ("Names", *relations):
                found.update(block.get(key, "").split())
    return None
