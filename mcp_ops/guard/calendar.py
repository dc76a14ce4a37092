"""Freeze windows out of an iCalendar file: its events, with their recurrences, as moments.

Everything in doubt closes: a local time that a change of the clock leaves out or repeats begins
at its earliest reading and ends at its latest, and what cannot be read makes the whole file
unreadable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import takewhile
from pathlib import Path
from typing import Any

LARGEST_FILE = 1_048_576
MOST_EVENTS = 2_000
# Occurrences that are counted through to reach the present; then the file counts as unreadable.
MOST_STEPS = 200_000
_FREQUENCIES = frozenset({"DAILY", "WEEKLY", "MONTHLY", "YEARLY"})
_DAY = timedelta(days=1)


class Unreadable(Exception):
    """The file cannot be relied on; the text says why, and is for people."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """From a moment to before another, in Unix seconds, and what the event is called."""

    start: float
    end: float
    summary: str = ""


@dataclass(slots=True)
class _Steps:
    left: int = MOST_STEPS

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Unreadable("it has too many recurrences")


def spans_of(path: Path, zone: tzinfo | None, first: float, last: float) -> tuple[Span, ...]:
    """The spans of a file that overlap the time from `first` to `last`, oldest first.

    `zone` is for events that name none; without it the calendar's own, or UTC. It reads and
    computes: not for the event loop. Raises `Unreadable`.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise Unreadable((error.strerror or "it cannot be opened").lower()) from error
    if len(raw) > LARGEST_FILE:
        raise Unreadable("it is larger than 1 MiB")
    try:
        return _spans(raw, zone, first, last)
    except Unreadable:
        raise
    except Exception as error:
        # The edge of two libraries that parse what anybody wrote: whatever they raise, it closes.
        raise Unreadable("it is not a calendar that can be understood") from error


def local_span(start: datetime, end: datetime, zone: tzinfo) -> tuple[float, float]:
    """Local times as moments: the earliest reading of the start, the latest of the end."""
    return min(_readings(start, zone)), max(_readings(end, zone))


def _readings(local: datetime, zone: tzinfo) -> tuple[float, float]:
    first, second = (local.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    return first, second


def _spans(raw: bytes, zone: tzinfo | None, first: float, last: float) -> tuple[Span, ...]:
    from icalendar import Calendar  # only who has such a window pays for it

    calendars = Calendar.from_ical(raw, multiple=True)
    # What breaks off is left out by the library without a word.
    if not calendars or len(calendars) != raw.upper().count(b"BEGIN:VCALENDAR"):
        raise Unreadable("it holds no whole calendar")
    events = [(c, event) for c in calendars for event in c.walk("VEVENT")]
    if len(events) > MOST_EVENTS:
        raise Unreadable(f"it has more than {MOST_EVENTS} events")
    steps = _Steps()
    moved: dict[str, set[float]] = {}
    for calendar, event in events:
        if "RECURRENCE-ID" in event:
            at = _at(event, "RECURRENCE-ID", _zone_of(calendar, zone))
            moved.setdefault(str(event.get("UID", "")), set()).add(at)
    found: list[Span] = []
    for calendar, event in events:
        series = _Series(event, _zone_of(calendar, zone), steps)
        away = set() if "RECURRENCE-ID" in event else moved.get(str(event.get("UID", "")), set())
        found += (s for s in series.between(first, last, away) if s.end > first and s.start < last)
    return tuple(sorted(found))


def _zone_of(calendar: Any, zone: tzinfo | None) -> tzinfo:
    from zoneinfo import ZoneInfo

    named = calendar.get("X-WR-TIMEZONE")
    return zone or (ZoneInfo(str(named)) if named else UTC)


def _at(event: Any, name: str, zone: tzinfo) -> float:
    value = event[name]
    if str(value.params.get("RANGE", "")):
        raise Unreadable("an event changes all that follow it, which is not understood here")
    return min(_readings(*_local(value.dt, zone)))


def _local(value: date | datetime, zone: tzinfo) -> tuple[datetime, tzinfo]:
    """A date or time as the clock on the wall shows it, and where that wall is."""
    if not isinstance(value, datetime):
        return datetime.combine(value, time()), zone
    return value.replace(tzinfo=None), value.tzinfo or zone


class _Series:
    """One event with its recurrences."""

    def __init__(self, event: Any, zone: tzinfo, steps: _Steps) -> None:
        if event.errors or "DTSTART" not in event:
            raise Unreadable("an event in it is damaged")
        for name in ("DTSTART", "DTEND"):
            value = event.get(name)
            if value is not None and "TZID" in value.params and value.dt.tzinfo is None:
                raise Unreadable("an event names a time zone that is not known here")
        self._event = event
        self._steps = steps
        self._start, self._zone = _local(event["DTSTART"].dt, zone)
        self._given = zone
        self._whole_day = not isinstance(event["DTSTART"].dt, datetime)
        self.summary = str(event.get("SUMMARY", ""))
        # Exact, for a series whose first event is as long as this; and nominal, on the wall.
        self._exact, self._nominal = self._length()

    def between(self, first: float, last: float, moved: set[float]) -> Iterator[Span]:
        """Its occurrences around a time, but those that the file has moved elsewhere."""
        if str(self._event.get("STATUS", "")).upper() == "CANCELLED":
            return
        without = moved | {min(_readings(*_local(v, self._given))) for v in self._event.exdates}
        for local in self._starts(last):
            self._steps.count()
            if min(_readings(local, self._zone)) not in without:
                yield self._span(local)
        yield from self._extra(without)

    def _starts(self, last: float) -> Iterator[datetime]:
        yield self._start  # counts even where the rule itself would leave it out
        rules = self._event.rrules
        if not rules:
            return
        from dateutil.rrule import rrulestr  # type: ignore[import-untyped]  # it has no types

        # A day more: what the clock on the wall shows differs from UTC by less.
        until = datetime.fromtimestamp(last, UTC).replace(tzinfo=None) + _DAY
        for rule in rules:
            if str(rule["FREQ"][0]).upper() not in _FREQUENCIES:
                raise Unreadable("an event recurs more often than daily")
            bounded = dict(rule)
            if "UNTIL" in rule:
                bounded["UNTIL"] = [self._until(each) for each in rule["UNTIL"]]
            text = type(rule)(bounded).to_ical().decode()
            yield from takewhile(lambda at: at <= until, rrulestr(text, dtstart=self._start))

    def _until(self, value: date | datetime) -> datetime:
        if not isinstance(value, datetime):
            return datetime.combine(value, time.max)
        return value.astimezone(self._zone).replace(tzinfo=None) if value.tzinfo else value

    def _span(self, local: datetime) -> Span:
        start, end = local_span(local, local + self._nominal, self._zone)
        exact = max(_readings(local, self._zone)) + self._exact
        return Span(start, max(end, exact), self.summary)

    def _length(self) -> tuple[float, timedelta]:
        start, end = self._event["DTSTART"].dt, self._event.get("DTEND")
        if end is None:
            length = self._event.get("DURATION")
            whole: timedelta = length.dt if length is not None else _DAY * self._whole_day
            return (0.0 if self._whole_day else whole.total_seconds()), whole
        ends, zone = _local(end.dt, self._given)
        if self._whole_day:
            return 0.0, ends - self._start
        exact = max(_readings(ends, zone)) - min(_readings(*_local(start, self._given)))
        return exact, ends - self._start if zone == self._zone else timedelta(seconds=exact)

    def _extra(self, without: set[float]) -> Iterator[Span]:
        """RDATE: further starts, some of which bring their own end."""
        for start, end in self._event.rdates:  # as many as the file has room for
            local, zone = _local(start, self._given)
            at = min(_readings(local, zone))
            if at in without:
                continue
            if end is None:
                span = self._span(local) if zone == self._zone else None
                length = max(self._exact, self._nominal.total_seconds())
                yield span or Span(at, at + length, self.summary)
            else:
                yield Span(at, max(_readings(*_local(end, self._given))), self.summary)
