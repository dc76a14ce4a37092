"""Floods: what bounds the lines of calls that cost their caller nothing.

A refused or invalid call takes nothing from a rate, so that one client can make hundreds of lines a
second, of a kilobyte each. Beyond so many a minute of one principal, those of one batch that say
the same share a line, which names every call that it closes: no call is without its record, and a
call costs some twenty bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mcp_ops.records import Entry, EntryKind

PER_MINUTE = 600
_MOST_CALLS = 1_000
_MOST_PRINCIPALS = 10_000
_FREE_VERDICTS = frozenset({"refused", "invalid", "asked"})
_FREE_CODES = frozenset({"cached", "replayed", "cancelled"})

_Group = tuple[str, str, str, str, str]


class Floods:
    """Counts a principal's free lines in each minute, and joins what is too much.

    `per_minute` lines of a principal have a line each; the minute is that of the lines' own times.
    """

    def __init__(self, per_minute: int = PER_MINUTE) -> None:
        self._per_minute = per_minute
        self._seen: dict[str, tuple[int, int]] = {}

    def joined(self, lines: Iterable[Entry]) -> tuple[Entry, ...]:
        """A batch of noted lines in their order, repeats beyond the bound in the line of the
        first of them."""
        kept: list[list[Entry]] = []
        groups: dict[_Group, list[Entry]] = {}
        for line in lines:
            # A batch that was not written comes again: what was joined stays so.
            if not _free(line) or "repeats" in line.evidence or not self._beyond(line):
                kept.append([line])
                continue
            same = groups.get(_group(line))
            if same is not None and len(same) < _MOST_CALLS:
                same.append(line)
            else:
                groups[_group(line)] = fresh = [line]
                kept.append(fresh)
        return tuple(_join(each) for each in kept)

    def _beyond(self, line: Entry) -> bool:
        minute = int(line.at // 60)
        if len(self._seen) >= _MOST_PRINCIPALS and line.principal not in self._seen:
            self._seen = {who: seen for who, seen in self._seen.items() if seen[0] == minute}
        before, count = self._seen.get(line.principal, (minute, 0))
        count = count + 1 if before == minute else 1
        self._seen[line.principal] = (minute, count)
        return count > self._per_minute


def closes(line: Entry) -> tuple[str, ...]:
    """The ids of the calls whose terminal record a line is: one, or all that it was joined from."""
    return (line.call_id, *(line.evidence.get("calls", ()) if _free(line) else ()))


def _free(line: Entry) -> bool:
    """Whether the line is of a call that took nothing: none of these has evidence of a target."""
    free = line.verdict in _FREE_VERDICTS or line.code in _FREE_CODES
    return free and line.kind is EntryKind.ENDED and not line.upstream_calls


def _group(line: Entry) -> _Group:
    # The names of unknown tools are the caller's: there is no end of them.
    tool = line.tool if line.code != "unknown_tool" else ""
    return line.principal, tool, line.target, line.verdict, line.code


def _join(lines: list[Entry]) -> Entry:
    first, *more = lines
    if not more:
        return first
    said = {"repeats": len(lines), "last_at": more[-1].at, "calls": [line.call_id for line in more]}
    return replace(first, evidence={**first.evidence, **said})
