"""Lines of logs: chosen by words and level, the newest kept, and a page of them.

What adapters share that read text logs of a platform.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from mcp_ops.capabilities.deployments import LogLevel, LogLine
from mcp_ops.clock import rfc3339
from mcp_ops.redact import tame

PAGE_CHARS: Final = 12_000
_LINE_CHARS: Final = 300
_LINE_COST: Final = 90
_MATCHED_CHARS: Final = 4_000
_LEVELS: Final = {
    **dict.fromkeys(("trace", "debug", "verbose"), 0),
    **dict.fromkeys(("info", "notice", "information"), 1),
    **dict.fromkeys(("warn", "warning"), 2),
    **dict.fromkeys(("error", "err", "fatal", "critical", "panic", "severe", "exception"), 3),
}
_LOWEST: Final[dict[str, int]] = {"": 0, "debug": 0, "info": 1, "warn": 2, "error": 3}
_NAMED: Final = re.compile(r"(?i)\b(?:level|lvl|severity)[\"']?\s?[=:]\s?[\"']?([a-z]{3,11})")
_BARE: Final = re.compile(rf"(?i)\b({'|'.join(_LEVELS)})\b")
_TRACEBACK: Final = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines: from `since` on (Unix seconds). `grep` is a literal, or several with | between;
    case does not matter. `level` is the lowest wanted, `tail` how many at most."""

    since: float
    tail: int
    grep: str = ""
    level: LogLevel = ""


@dataclass(slots=True)
class Newest:
    """The newest lines that matched, over all sources."""

    wanted: Wanted
    matched: int = 0
    _heap: list[tuple[float, int, str, str]] = field(default_factory=list)
    _count: int = 0

    def read(self, source: str, lines: Iterable[tuple[float | None, str]]) -> None:
        """Choose from the lines of one source, each with its time; one without a time belongs to
        the line before it, and so does one that names no level."""
        literals = [part.lower() for part in self.wanted.grep.split("|") if part]
        lowest, inherited, last = _LOWEST[self.wanted.level], 1, 0.0
        for at, raw in lines:
            last = last if at is None else at
            line = _readable(raw)
            if lowest:
                inherited = level_of(line, inherited)
            if last < self.wanted.since or inherited < lowest:
                continue
            if literals and not any(part in line.lower() for part in literals):
                continue
            self._add(last, source, line)

    def _add(self, at: float, source: str, line: str) -> None:
        self.matched += 1
        self._count += 1
        entry = (at, self._count, source, line)
        push = heapq.heappush if len(self._heap) < self.wanted.tail else heapq.heappushpop
        push(self._heap, entry)

    def page(self) -> list[LogLine]:
        """The newest of them, oldest first, 12,000 characters in all."""
        found: list[LogLine] = []
        room = PAGE_CHARS
        for at, _, source, line in sorted(self._heap, reverse=True):
            room -= min(len(line), _LINE_CHARS) + len(source) + _LINE_COST
            if room < 0:
                break
            found.append(LogLine(at=rfc3339(at) if at else None, instance=source, text=line))
        found.reverse()
        return found


def level_of(line: str, inherited: int) -> int:
    """The level that a line names, 0 (debug) to 3 (error), else the one before it."""
    head = line[:300]
    if _TRACEBACK in head:
        return 3
    if (named := _NAMED.search(head)) and named[1].lower() in _LEVELS:
        return _LEVELS[named[1].lower()]
    bare = _BARE.search(head[:100])
    return _LEVELS[bare[1].lower()] if bare else inherited


def _readable(line: str) -> str:
    """Without colours and the like, so that a filter meets the words that a person reads."""
    if line.isascii() and line.isprintable():
        return line[:_MATCHED_CHARS]
    return tame(line, _MATCHED_CHARS)
