"""Log lines of this machine: filtered and cut the same way for every kind that has them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mcp_ops.capabilities.deployments import DeploymentLogs, LogLevel, LogLine
from mcp_ops.clock import rfc3339

PAGE_CHARS: Final = 12_000
_LINE_CHARS: Final = 300
_LINE_COST: Final = 90
_LEVELS: Final = {
    **dict.fromkeys(("trace", "debug", "verbose"), 0),
    **dict.fromkeys(("info", "notice"), 1),
    **dict.fromkeys(("warn", "warning"), 2),
    **dict.fromkeys(
        ("error", "err", "fatal", "critical", "panic", "severe", "alert", "emerg", "exception"), 3
    ),
}
LOWEST: Final[dict[str, int]] = {"": 0, "debug": 0, "info": 1, "warn": 2, "error": 3}
_NAMED: Final = re.compile(r"(?i)\b(?:level|lvl|severity)[\"']?\s?[=:]\s?[\"']?([a-z]{3,9})")
_BARE: Final = re.compile(rf"(?i)\b({'|'.join(_LEVELS)})\b")
_KLOG: Final = re.compile(r"([IWEF])\d{4} ")
_KLOG_LEVELS: Final = {"I": 1, "W": 2, "E": 3, "F": 3}
_TRACEBACK: Final = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line as it was written: Unix seconds, who wrote it, 0 (debug) to 3 (error)."""

    at: float | None
    instance: str
    text: str
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines. `grep` is a literal, or several with | between; case does not matter."""

    tail: int
    grep: str
    level: LogLevel

    @property
    def filters(self) -> bool:
        """Whether lines are chosen here, so that more must be read than are shown."""
        return bool(self.grep or self.level)


def page(lines: Iterable[Line], wanted: Wanted, *, searched: str, cut: bool) -> DeploymentLogs:
    """The newest lines that match, oldest first, of lines that come newest first.

    `cut` says that there may be older ones that were not read.
    """
    literals = [part.lower() for part in wanted.grep.split("|") if part]
    lowest = LOWEST[wanted.level]
    shown: list[LogLine] = []
    matched, room = 0, PAGE_CHARS
    for line in lines:
        if line.level < lowest or (
            literals and not any(part in line.text.lower() for part in literals)
        ):
            continue
        matched += 1
        room -= min(len(line.text), _LINE_CHARS) + len(line.instance) + _LINE_COST
        if len(shown) < wanted.tail and room >= 0:
            at = rfc3339(line.at) if line.at is not None else None
            shown.append(LogLine(at=at, instance=line.instance, text=line.text))
    shown.reverse()
    return DeploymentLogs(
        items=shown, matched=matched, truncated=cut or len(shown) < matched, searched=searched
    )


def level_of(line: str, inherited: int) -> int:
    """The level that a line names, 0 (debug) to 3 (error); one that names none belongs to the
    line before it, as a stack trace does."""
    named = named_level(line)
    return inherited if named is None else named


def named_level(line: str) -> int | None:
    """The level that a line names at its beginning, 0 (debug) to 3 (error)."""
    head = line[:300]
    if _TRACEBACK in head:
        return 3
    if klog := _KLOG.match(head):
        return _KLOG_LEVELS[klog[1]]
    if (named := _NAMED.search(head)) and named[1].lower() in _LEVELS:
        return _LEVELS[named[1].lower()]
    bare = _BARE.search(head[:100])
    return _LEVELS[bare[1].lower()] if bare else None
