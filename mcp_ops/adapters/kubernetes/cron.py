"""The period of a schedule in cron's words: how far two of its starts are apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

_NAMED: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_BOUNDS: Final = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_MONTHS: Final = (
    *("jan", "feb", "mar", "apr", "may", "jun"),
    *("jul", "aug", "sep", "oct", "nov", "dec"),
)
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART: Final = re.compile(r"(\*|\?|[a-z0-9]{1,3})(?:-([a-z0-9]{1,3}))?(?:/([0-9]{1,3}))?")
_EVERY: Final = re.compile(r"@every ((?:[0-9]{1,6}[hms])+)")
_DAYS_AHEAD: Final = 366 * 5
_Fields = tuple[frozenset[int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a job starts. `days_either` is cron's rule where both kinds of day are named."""

    fields: _Fields
    days_either: bool
    zone: tzinfo
    every_s: int = 0

    def after(self, at: float) -> float | None:
        """The next start after a moment, both in Unix seconds; None where there is none in
        sight."""
        if self.every_s:
            return at + self.every_s
        try:
            return self._search(at)
        except (ValueError, OverflowError, OSError):  # a time that no calendar has
            return None

    def _search(self, at: float) -> float | None:
        moment = datetime.fromtimestamp(at, self.zone).replace(second=0, microsecond=0)
        moment += timedelta(minutes=1)
        for ahead in range(_DAYS_AHEAD):
            day = moment if ahead == 0 else _midnight(moment, ahead)
            if self._day(day) and (found := self._on(day)) is not None:
                return found.timestamp()
        return None

    def period_s(self, at: float) -> float | None:
        """Seconds between the next two starts after a moment."""
        first = self.after(at)
        second = None if first is None else self.after(first)
        return None if first is None or second is None else second - first

    def _day(self, day: datetime) -> bool:
        if day.month not in self.fields[3]:
            return False
        of_month = day.day in self.fields[2]
        of_week = (day.weekday() + 1) % 7 in self.fields[4]
        return of_month or of_week if self.days_either else of_month and of_week

    def _on(self, day: datetime) -> datetime | None:
        """The first start of that day, at or after its time."""
        for hour in sorted(self.fields[1]):
            for minute in sorted(self.fields[0]):
                if (hour, minute) >= (day.hour, day.minute):
                    return day.replace(hour=hour, minute=minute)
        return None


def parse_schedule(written: str, zone: str = "") -> Schedule | None:
    """The schedule, or None for one that can't be read."""
    place = _zone(zone)
    text = written.strip().lower()
    if place is None:
        return None
    if found := _EVERY.fullmatch(text):
        return Schedule(fields=(), days_either=False, zone=place, every_s=_seconds(found[1]))
    parts = _NAMED.get(text, text).split()
    if len(parts) != len(_BOUNDS):
        return None
    fields = [_field(part, index) for index, part in enumerate(parts)]
    if not all(fields):
        return None
    fields[4] = frozenset(day % 7 for day in fields[4])
    either = not any(parts[index].startswith(("*", "?")) for index in (2, 4))
    return Schedule(fields=tuple(fields), days_either=either, zone=place)


def _zone(name: str) -> tzinfo | None:
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return None


def _seconds(written: str) -> int:
    units = {"h": 3600, "m": 60, "s": 1}
    pairs = re.findall(r"([0-9]+)([hms])", written)
    return max(sum(int(number) * units[unit] for number, unit in pairs), 1)


def _midnight(moment: datetime, ahead: int) -> datetime:
    return (moment + timedelta(days=ahead)).replace(hour=0, minute=0)


def _field(written: str, index: int) -> frozenset[int]:
    """The numbers that a field means; an empty set for one that can't be read."""
    found: set[int] = set()
    for part in written.split(","):
        numbers = _numbers(part, index)
        if not numbers:
            return frozenset()
        found |= numbers
    return frozenset(found)


def _numbers(part: str, index: int) -> set[int]:
    low, high = _BOUNDS[index]
    match = _PART.fullmatch(part)
    if not match:
        return set()
    first, last, step = match.groups()
    if first in ("*", "?"):
        start, end = low, high
    else:
        start = _number(first, index)
        end = _number(last, index) if last else (high if step else start)
    if not low <= start <= end <= high or step == "0":
        return set()
    return set(range(start, end + 1, int(step or 1)))


def _number(written: str, index: int) -> int:
    """A number, or a month or day by its name; -1 for neither."""
    names = {3: _MONTHS, 4: _DAYS}.get(index, ())
    if written in names:
        return names.index(written) + (index == 3)
    return int(written) if written.isdigit() else -1
