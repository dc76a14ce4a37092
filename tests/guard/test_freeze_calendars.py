"""Freeze windows of calendars: what they hold, and what cannot be read is closed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.guard.freeze import Freezes
from mcp_ops.settings import FreezeWindow, GuardSettings
from tests.guard.bench import OPEN_LIMITS, WHY, bench
from tests.guard.test_freeze import FRIDAY, at, one

EVENT = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//test//test//EN
BEGIN:VEVENT
UID:1
{}
END:VEVENT
{}END:VCALENDAR
"""


def calendar(path: Path, *lines: str, more: str = "", **window: Any) -> FreezeWindow:
    file = path / "freeze.ics"
    file.write_text(EVENT.format("\n".join(lines), more), encoding="utf-8")
    return FreezeWindow.model_validate({"calendar": f"file:{file}", **window})


def moved(*lines: str) -> str:
    return "\n".join(["BEGIN:VEVENT", "UID:1", *lines, "END:VEVENT", ""])


NOT_ONE = "it is not a calendar that can be understood"
EVERY_FRIDAY = (
    "DTSTART;TZID=Europe/Berlin:20260102T170000",
    "DTEND;TZID=Europe/Berlin:20260102T200000",
)


@pytest.mark.parametrize(
    ("lines", "moment", "holds"),
    [
        (("DTSTART:20270115T160000Z", "DTEND:20270115T170000Z"), f"{FRIDAY}T17:30", True),
        (("DTSTART:20270115T160000Z", "DTEND:20270115T170000Z"), f"{FRIDAY}T18:00", False),
        (("DTSTART:20270115T170000", "DURATION:PT1H"), f"{FRIDAY}T17:30", True),
        (("DTSTART;VALUE=DATE:20270115",), f"{FRIDAY}T23:59", True),
        (("DTSTART;VALUE=DATE:20270115",), "2027-01-16T00:00", False),
        (("DTSTART;VALUE=DATE:20270115", "DTEND;VALUE=DATE:20270118"), "2027-01-17T23:59", True),
        ((*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY"), f"{FRIDAY}T19:59", True),
        ((*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY"), f"{FRIDAY}T20:00", False),
        ((*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY"), "2027-07-16T17:00", True),
        ((*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY;COUNT=3"), f"{FRIDAY}T18:00", False),
        ((*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY;COUNT=55"), f"{FRIDAY}T18:00", True),
        ((*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY;COUNT=900"), f"{FRIDAY}T18:00", True),
        ((*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY;COUNT=900"), f"{FRIDAY}T20:00", False),
        ((*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY;UNTIL=20270115T160000Z"), f"{FRIDAY}T18:00", True),
        ((*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY;UNTIL=20270115T155959Z"), f"{FRIDAY}T18:00", False),
        ((*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY;UNTIL=20270115"), f"{FRIDAY}T18:00", True),
        (
            (
                *EVERY_FRIDAY,
                "RRULE:FREQ=WEEKLY",
                "EXDATE;TZID=Europe/Berlin:20270115T170000",
            ),
            f"{FRIDAY}T18:00",
            False,
        ),
        ((*EVERY_FRIDAY, "RDATE;TZID=Europe/Berlin:20270115T170000"), f"{FRIDAY}T18:00", True),
        ((*EVERY_FRIDAY, "RDATE:20270115T160000Z"), f"{FRIDAY}T18:00", True),
        (
            (*EVERY_FRIDAY, "RDATE;VALUE=PERIOD:20270115T160000Z/PT30M"),
            f"{FRIDAY}T17:29",
            True,
        ),
        (
            (*EVERY_FRIDAY, "RDATE;VALUE=PERIOD:20270115T160000Z/PT30M"),
            f"{FRIDAY}T17:30",
            False,
        ),
        (
            (
                *EVERY_FRIDAY,
                "RDATE:20270115T160000Z",
                "EXDATE:20270115T160000Z",
            ),
            f"{FRIDAY}T18:00",
            False,
        ),
        ((*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY", "STATUS:CANCELLED"), f"{FRIDAY}T18:00", False),
        # The rule never gives the first day, which counts all the same.
        (
            ("DTSTART;VALUE=DATE:20270115", "RRULE:FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=24"),
            f"{FRIDAY}T12:00",
            True,
        ),
    ],
)
async def test_a_calendar_freezes_while_its_events_last(
    tmp_path: Path, lines: tuple[str, ...], moment: str, holds: bool
) -> None:
    window = calendar(tmp_path, *lines, timezone="Europe/Berlin", reason="busy")
    found = await one(window, at(moment))
    assert (found.active, found.problem) == (holds, "")


async def test_a_moved_occurrence_freezes_at_its_new_time_only(tmp_path: Path) -> None:
    new = moved(
        "RECURRENCE-ID;TZID=Europe/Berlin:20270115T170000",
        "DTSTART;TZID=Europe/Berlin:20270116T100000",
        "DTEND;TZID=Europe/Berlin:20270116T110000",
    )
    window = calendar(tmp_path, *EVERY_FRIDAY, "RRULE:FREQ=WEEKLY", more=new)
    for moment, holds in (
        (f"{FRIDAY}T18:00", False),
        ("2027-01-16T10:30", True),
        ("2027-01-22T18:00", True),
    ):
        assert (await one(window, at(moment))).active is holds


async def test_an_event_over_a_change_of_the_clock_ends_at_the_later_reading(
    tmp_path: Path,
) -> None:
    lines = (
        "DTSTART;TZID=Europe/Berlin:20270103T010000",
        "DTEND;TZID=Europe/Berlin:20270103T040000",
        "RRULE:FREQ=WEEKLY",
    )
    found = await one(calendar(tmp_path, *lines), at("2027-03-28T03:30"))
    assert found.until == at("2027-03-28T05:00")  # three hours, of which the night left one out
    found = await one(calendar(tmp_path, *lines), at("2027-10-31T03:30"))
    assert found.until == at("2027-10-31T04:00")  # four hours by the sun, and four on the wall


async def test_the_zone_of_the_calendar_holds_for_events_without_one(tmp_path: Path) -> None:
    window = calendar(tmp_path, "DTSTART:20270115T170000", "DURATION:PT1H")
    file = tmp_path / "freeze.ics"
    text = file.read_text(encoding="utf-8")
    named = text.replace("VERSION:2.0", "VERSION:2.0\nX-WR-TIMEZONE:America/New_York")
    file.write_text(named, encoding="utf-8")
    new_york = ZoneInfo("America/New_York")
    assert (await one(window, at(f"{FRIDAY}T17:30", new_york))).active
    assert not (await one(window, at(f"{FRIDAY}T17:30"))).active


async def test_an_event_names_the_reason(tmp_path: Path) -> None:
    event = ("DTSTART:20270115T160000Z", "DTEND:20270115T170000Z", "SUMMARY:Year end\\nclosing")
    found = await one(calendar(tmp_path, *event), at(f"{FRIDAY}T17:30"))
    assert found.reason == '"Year end\\nclosing"'


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (("DTSTART:soon",), "an event in it is damaged"),
        (("SUMMARY:no start",), "an event in it is damaged"),
        ((*EVERY_FRIDAY, "RRULE:FREQ=SOMETIMES"), "an event in it is damaged"),
        ((*EVERY_FRIDAY, "RRULE:FREQ=SECONDLY"), "more often than daily"),
        (("DTSTART;TZID=Mars/Base:20270115T170000",), "a time zone that is not known"),
        ((*EVERY_FRIDAY, "RECURRENCE-ID;RANGE=THISANDFUTURE:20270115T160000Z"), "all that follow"),
        (("DTSTART:00010101T000000Z", "RRULE:FREQ=DAILY"), "too many recurrences"),
        (("DTSTART:20270115T160000Z", "DTEND;VALUE=DATE:20270116", "RDATE:x"), "damaged"),
    ],
)
async def test_a_calendar_with_an_event_that_is_not_understood_is_closed(
    tmp_path: Path, lines: tuple[str, ...], says: str
) -> None:
    found = await one(calendar(tmp_path, *lines), at("2027-06-01T12:00"))
    assert found.active
    assert says in found.problem
    assert str(tmp_path) not in found.problem


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "no whole calendar"),
        (b"hello", "understood"),
        (b"\xff\xfe\x00", "understood"),
        (EVENT.format("DTSTART:20270115T160000Z", "").encode()[:90], "no whole calendar"),
        (
            (EVENT.format("DTSTART:20270101T160000Z", "") * 2).encode()[:-20],
            "no whole calendar",
        ),
        (b"BEGIN:VTODO\nEND:VTODO\n", "no whole calendar"),
        (b"x" * 1_048_577, "larger than 1 MiB"),
    ],
)
async def test_a_calendar_that_cannot_be_read_is_closed(
    tmp_path: Path, content: bytes | str | None, says: str
) -> None:
    file = tmp_path / "freeze.ics"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    window = FreezeWindow.model_validate({"calendar": f"file:{file}"})
    found = await one(window, at(f"{FRIDAY}T12:00"))
    assert (found.active, found.since, found.until) == (True, None, None)
    assert says in found.problem
    assert found.problem.startswith("calendar freeze.ics cannot be read: ")


async def test_a_directory_in_the_place_of_a_calendar_is_closed(tmp_path: Path) -> None:
    window = FreezeWindow.model_validate({"calendar": f"file:{tmp_path}"})
    found = await one(window, at(f"{FRIDAY}T12:00"))
    assert found.active
    assert "cannot be read: is a directory" in found.problem


async def test_a_calendar_without_events_freezes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "freeze.ics"
    file.write_text("BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:x\nEND:VCALENDAR\n", encoding="utf-8")
    window = FreezeWindow.model_validate({"calendar": f"file:{file}"})
    assert not (await one(window, at(f"{FRIDAY}T12:00"))).active


async def test_a_calendar_is_read_again_when_it_changed_once_a_minute_and_over_the_days(
    tmp_path: Path,
) -> None:
    window = calendar(tmp_path, "DTSTART:20270115T120000Z", "DTEND:20270115T130000Z")
    clock = ManualClock(at(f"{FRIDAY}T13:30"))
    freezes = Freezes([window], clock)

    async def holds() -> bool:
        (found,) = await freezes.at(clock.now())
        return found.active

    assert await holds()
    calendar(tmp_path, "DTSTART:20270115T140000Z", "DTEND:20270115T170000Z")
    clock.advance(59)
    assert await holds()  # not looked at yet
    clock.advance(1)
    assert not await holds()
    clock.advance(7_200)
    assert await holds()
    os.remove(tmp_path / "freeze.ics")
    clock.advance(60)
    assert await holds()
    clock.advance(7_200)
    assert await holds()  # frozen, because it cannot be read
    calendar(tmp_path, *EVERY_FRIDAY, "RRULE:FREQ=WEEKLY")
    clock.advance(86_400)
    assert not await holds()
    clock.advance(6 * 86_400)
    assert await holds()


async def test_each_moment_asked_about_has_its_own_freezes(tmp_path: Path) -> None:
    series = (*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY")
    freezes = Freezes([calendar(tmp_path, *series)], ManualClock(at(f"{FRIDAY}T12:00")))
    for days in (0, 35, -35, 7, 0):  # no time passes in between
        (found,) = await freezes.at(at(f"{FRIDAY}T18:00") + days * 86_400)
        assert found.active
        assert found.since == at(f"{FRIDAY}T17:00") + days * 86_400


async def test_a_calendar_that_is_back_as_it_was_opens_again(tmp_path: Path) -> None:
    window = calendar(tmp_path, *EVERY_FRIDAY)
    clock = ManualClock(at(f"{FRIDAY}T12:00"))
    freezes = Freezes([window], clock)
    (tmp_path / "freeze.ics").rename(tmp_path / "away.ics")
    assert [found.active for found in await freezes.at()] == [True]
    (tmp_path / "away.ics").rename(tmp_path / "freeze.ics")
    clock.advance(60)
    assert [found.active for found in await freezes.at()] == [False]
    (tmp_path / "freeze.ics").rename(tmp_path / "away.ics")
    clock.advance(60)
    assert [found.active for found in await freezes.at()] == [True]
    (tmp_path / "away.ics").rename(tmp_path / "freeze.ics")
    clock.advance(60)
    assert [found.active for found in await freezes.at()] == [False]


async def test_the_log_says_once_that_a_calendar_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    window = calendar(tmp_path, *EVERY_FRIDAY)
    clock = ManualClock(at(f"{FRIDAY}T12:00"))
    freezes = Freezes([window], clock)
    await freezes.at()
    assert caplog.messages == []
    os.remove(tmp_path / "freeze.ics")
    for _ in range(3):
        clock.advance(60)
        await freezes.at()
    gone = "a freeze calendar cannot be read and closes: no such file or directory"
    assert caplog.messages == [gone]
    calendar(tmp_path, *EVERY_FRIDAY)
    clock.advance(60)
    await freezes.at()
    assert caplog.messages == [gone]
    (tmp_path / "freeze.ics").write_text("hello", encoding="utf-8")
    clock.advance(60)
    await freezes.at()
    assert caplog.messages[1:] == [gone.replace("no such file or directory", NOT_ONE)]


async def test_a_reason_of_the_window_goes_before_the_name_of_the_event(tmp_path: Path) -> None:
    event = ("DTSTART:20270115T160000Z", "DTEND:20270115T170000Z")
    moment = at(f"{FRIDAY}T17:30")
    assert (await one(calendar(tmp_path, *event), moment)).reason == "a calendar says so"
    named = (*event, "SUMMARY:" + "x" * 300)
    assert (await one(calendar(tmp_path, *named, reason="busy"), moment)).reason == "busy"
    long = (await one(calendar(tmp_path, *named), moment)).reason
    assert long == '"' + "x" * 199 + "…[102 characters cut]"
    gone = FreezeWindow(calendar=f"file:{tmp_path}/gone.ics", reason="busy")
    closed = await one(gone, moment)
    assert closed.reason == "busy"
    assert closed.problem == "calendar gone.ics cannot be read: no such file or directory"
    closed = await one(FreezeWindow(calendar=f"file:{tmp_path}/gone.ics"), moment)
    assert closed.reason == closed.problem


async def test_an_event_of_no_length_freezes_nothing(tmp_path: Path) -> None:
    found = await one(calendar(tmp_path, "DTSTART:20270115T160000Z"), at(f"{FRIDAY}T17:00"))
    assert (found.active, found.since) == (False, None)


async def test_one_unreadable_calendar_of_several_closes_its_own_targets(tmp_path: Path) -> None:
    settings = GuardSettings(
        limits=OPEN_LIMITS,
        freeze=(
            calendar(tmp_path, "DTSTART:20200101T000000Z", "DURATION:PT1H", targets=("shelf",)),
            FreezeWindow(calendar=f"file:{tmp_path}/gone.ics", targets=("depot",)),
        ),
    )
    async with bench(tmp_path, settings=settings) as b:
        assert await b.code("put_item", name="a", reason=WHY) == "ok"
        assert await b.code("reset_circuit", target="depot", reason=WHY) == "frozen"
        assert await b.code("isolate_target", target="depot", reason=WHY) == "ok"
