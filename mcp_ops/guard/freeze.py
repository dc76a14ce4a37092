"""Freeze windows: the times in which nothing is changed, once, weekly or by a calendar.

Whatever cannot be read counts as frozen, and says so. A calendar file is read off the event loop,
again when it has changed, which is looked at no more than once a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from importlib.util import find_spec
from pathlib import Path
from zoneinfo import ZoneInfo

import anyio
import anyio.to_thread

from mcp_ops.clock import Clock
from mcp_ops.errors import ConfigurationError
from mcp_ops.guard.calendar import Span, Unreadable, local_span, spans_of
from mcp_ops.redact import quoted
from mcp_ops.settings import FreezeWindow

CHECK_S = 60.0
DAY_S = 86_400.0
AHEAD_S = 10 * DAY_S
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_log = logging.getLogger("mcp_ops.guard")


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """A window at a moment. `since` and `until` are of the freeze that holds, or of the next one
    within ten days if it does not; `problem` says why an unreadable window counts as holding."""

    targets: tuple[str, ...]
    when: str
    reason: str
    active: bool
    since: float | None = None
    until: float | None = None
    problem: str = ""


class Freezes:
    """All configured windows."""

    def __init__(self, windows: Sequence[FreezeWindow], clock: Clock) -> None:
        self._clock = clock
        self._windows = [(window, _source(window, clock)) for window in windows]

    async def at(self, moment: float | None = None) -> tuple[Freeze, ...]:
        """Every window, as it is now or at another moment."""
        moment = self._clock.now() if moment is None else moment
        found = []
        for window, source in self._windows:
            try:
                found.append(_freeze(window, await source.spans(moment), moment))
            except Unreadable as why:
                found.append(_closed(window, str(why)))
        return tuple(found)


class _Fixed:
    """A window that is computed from its settings alone."""

    def __init__(self, window: FreezeWindow) -> None:
        self._window = window

    async def spans(self, at: float) -> tuple[Span, ...]:
        window = self._window
        try:
            if window.days:
                return tuple(_weekly(window, at))
            return (Span(_moment(window.start or ""), _moment(window.end or "")),)
        except (ValueError, KeyError, OSError) as error:
            raise Unreadable("its times cannot be read") from error


class _Calendar:
    """A window that follows a file."""

    def __init__(self, window: FreezeWindow, clock: Clock) -> None:
        self._path = Path((window.calendar or "").removeprefix("file:"))
        self._zone = ZoneInfo(window.timezone) if window.timezone else None
        self._clock = clock
        self._looking = anyio.Lock()
        self._looked = float("-inf")
        self._seen: tuple[int, int, int] | None = None
        self._from = self._to = 0.0
        self._found: tuple[Span, ...] = ()
        self._problem = ""

    async def spans(self, at: float) -> tuple[Span, ...]:
        """The spans around a moment; raises `Unreadable`."""
        async with self._looking:
            now = self._clock.monotonic()
            if now - self._looked >= CHECK_S or not self._covers(at):
                before = self._problem
                # A cancelled caller waits for the thread, too: the next one would start it again.
                await anyio.to_thread.run_sync(self._look, at)
                self._looked = now
                if self._problem and self._problem != before:
                    _log.warning("a freeze calendar cannot be read and closes: %s", self._problem)
        if self._problem:
            raise Unreadable(self._problem)
        return self._found

    def _covers(self, at: float) -> bool:
        return self._from <= at <= self._to

    def _look(self, at: float) -> None:
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen and self._covers(at) and not self._problem:
                return
            first = at - DAY_S
            self._found = spans_of(self._path, self._zone, first, at + AHEAD_S)
            self._seen, self._from, self._to = seen, first, at + DAY_S
            self._problem = ""
        except OSError as error:
            self._problem = (error.strerror or "it cannot be opened").lower()
        except Unreadable as why:
            self._problem = str(why)


def _source(window: FreezeWindow, clock: Clock) -> _Fixed | _Calendar:
    if not window.calendar:
        return _Fixed(window)
    installed("icalendar")
    return _Calendar(window, clock)


def installed(library: str) -> None:
    """Raise `ConfigurationError` where the library that reads calendars is not installed."""
    if find_spec(library) is None:
        raise ConfigurationError(
            f"A freeze calendar needs the library {library}, which is not installed.",
            hint="Install it: pip install 'mcp-ops[calendar]'.",
        )


def _freeze(window: FreezeWindow, spans: Iterable[Span], at: float) -> Freeze:
    ordered = sorted(spans)
    holding = [span for span in ordered if span.start <= at < span.end]
    ahead = [span for span in ordered if at < span.start <= at + AHEAD_S]
    shown = next(iter(holding or ahead), None)
    summary = quoted(shown.summary, 200) if shown is not None and shown.summary else ""
    return Freeze(
        targets=window.targets,
        when=when(window),
        reason=window.reason or summary or "a calendar says so",
        active=bool(holding),
        since=shown.start if shown else None,
        until=_until(ordered, shown) if shown else None,
    )


def _until(ordered: list[Span], shown: Span) -> float:
    """When it ends: what begins before the end goes on with it."""
    end = shown.end
    for span in ordered:
        if span.start <= end:
            end = max(end, span.end)
    return end


def _closed(window: FreezeWindow, problem: str) -> Freeze:
    problem = f"{when(window)} cannot be read: {problem}"
    return Freeze(
        targets=window.targets,
        when=when(window),
        reason=window.reason or problem,
        active=True,
        problem=problem,
    )


def when(window: FreezeWindow) -> str:
    """The window in words, for people."""
    if window.calendar:
        return f"calendar {Path(window.calendar.removeprefix('file:')).name}"
    if window.days:
        return f"{', '.join(window.days)} {window.begins}-{window.to} {window.timezone}"
    return f"{window.start} to {window.end}"


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def _weekly(window: FreezeWindow, at: float) -> Iterable[Span]:
    zone = ZoneInfo(window.timezone or "UTC")
    begins, to = _of_day(window.begins or "00:00"), _of_day(window.to or "24:00")
    ends = to if to > begins else to + timedelta(days=1)
    today = datetime.fromtimestamp(at, UTC).astimezone(zone).date()
    for offset in range(-2, 11):
        day = today + timedelta(days=offset)
        if _DAYS[day.weekday()] in window.days:
            midnight = datetime.combine(day, time())
            yield Span(*local_span(midnight + begins, midnight + ends, zone))


def _of_day(text: str) -> timedelta:
    hours, minutes = text.split(":")
    return timedelta(hours=int(hours), minutes=int(minutes))
