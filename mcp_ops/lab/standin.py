"""What every stand-in of the lab shares: an effect log of its own and the faults in force."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp


class EffectLog:
    """Append-only JSON lines of what really happened at a stand-in.

    Only tests read it: it is the independent witness against which the server's own claims are
    held. One line is one effect; a read leaves no line.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, effect: str, /, **fields: Any) -> None:
        """Write one effect; it is on disk (page cache) when this returns."""
        line = json.dumps({"at": self._now(), "effect": effect, **fields}, separators=(",", ":"))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All effects so far, oldest first."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line]


@dataclass(slots=True)
class Faults:
    """The faults in force at one stand-in; the supervisor changes them while it serves."""

    active: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.active


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """One stand-in, ready to be served on a socket.

    `inject` and `mend` apply a fault by name; they raise `KeyError` for a name that is not in
    `supported`. `slow` and `down` are the supervisor's and work for every stand-in.
    """

    name: str
    app: ASGIApp
    log: EffectLog
    supported: tuple[str, ...]
    inject: Callable[[str], None]
    mend: Callable[[str], None]
