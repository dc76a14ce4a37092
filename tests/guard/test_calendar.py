"""What the events of a calendar file are as spans of time, over zones and changes of the clock."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mcp_ops.guard.calendar import LARGEST_FILE, MOST_EVENTS, Span, Unreadable, spans_of
from tests.guard.test_freeze import BERLIN, FRIDAY, at
from tests.guard.test_freeze_calendars import EVENT, EVERY_FRIDAY, moved

DAY_S = 86_400
NEW_YORK = ZoneInfo("America/New_York")


def spans(
    path: Path, moment: str, *lines: str, more: str = "", zone: ZoneInfo | None = BERLIN
) -> tuple[Span, ...]:
    """The spans of an event on the day of a moment: from 12 hours before it to 12 after."""
    file = path / "some.ics"
    file.write_text(EVENT.format("\n".join(lines), more), encoding="utf-8")
    return spans_of(file, zone, at(moment) - DAY_S / 2, at(moment) + DAY_S / 2)


def span(start: float, end: float, summary: str = "") -> tuple[Span, ...]:
    return (Span(start, end, summary),)


def test_times_without_a_zone_are_in_the_zone_of_the_window(tmp_path: Path) -> None:
    days = ("DTSTART:20270101T170000", "DTEND:20270101T180000")
    rules = ("RRULE:FREQ=DAILY;COUNT=20", "EXDATE:20270115T170000", "RDATE:20270115T190000")
    found = spans(tmp_path, f"{FRIDAY}T12:00", *days, *rules)
    assert found == span(at(f"{FRIDAY}T19:00"), at(f"{FRIDAY}T20:00"))


def test_the_zone_of_the_window_goes_before_the_calendars_own(tmp_path: Path) -> None:
    file = tmp_path / "some.ics"
    text = EVENT.format("DTSTART:20270115T170000\nDURATION:PT1H", "")
    file.write_text(text.replace("VERSION:2.0", "VERSION:2.0\nX-WR-TIMEZONE:America/New_York"))
    found = spans_of(file, BERLIN, at(FRIDAY), at(FRIDAY) + DAY_S)
    assert found == span(at(f"{FRIDAY}T17:00"), at(f"{FRIDAY}T18:00"))


def test_only_what_overlaps_the_time_asked_for_is_found(tmp_path: Path) -> None:
    file = tmp_path / "some.ics"
    lines = "DTSTART:20270115T160000Z\nDTEND:20270115T170000Z\nSUMMARY:Closing"
    file.write_text(EVENT.format(lines, ""), encoding="utf-8")
    start, end = at(f"{FRIDAY}T17:00"), at(f"{FRIDAY}T18:00")
    assert spans_of(file, None, end - 1, end + DAY_S) == span(start, end, "Closing")
    assert spans_of(file, None, end, end + DAY_S) == ()
    assert spans_of(file, None, start - DAY_S, start + 1) == span(start, end, "Closing")
    assert spans_of(file, None, start - DAY_S, start) == ()


@pytest.mark.parametrize("often", ["DAILY", "WEEKLY", "MONTHLY", "YEARLY"])
def test_each_frequency_from_daily_on_recurs(tmp_path: Path, often: str) -> None:
    first = ("DTSTART:20260115T160000Z", "DURATION:PT1H")
    moment = "2027-01-14" if often == "WEEKLY" else FRIDAY
    found = spans(tmp_path, f"{moment}T12:00", *first, f"RRULE:FREQ={often}")
    assert found == span(at(f"{moment}T17:00"), at(f"{moment}T18:00"))


def test_occurrences_up_to_the_end_of_the_time_asked_for_are_found(tmp_path: Path) -> None:
    file = tmp_path / "some.ics"
    lines = "DTSTART:20270101T230000\nDURATION:PT1H\nRRULE:FREQ=DAILY"
    file.write_text(EVENT.format(lines, ""), encoding="utf-8")
    for zone in (NEW_YORK, ZoneInfo("Pacific/Auckland")):
        last = at("2027-01-15T23:00", zone) + 1
        assert len(spans_of(file, zone, last - 9 * DAY_S - 3_700, last)) == 10


def test_a_rule_that_ends_at_a_time_without_a_zone_ends_where_its_event_is(tmp_path: Path) -> None:
    rule = "RRULE:FREQ=WEEKLY;UNTIL=20270115T1{}"
    assert spans(tmp_path, f"{FRIDAY}T12:00", *EVERY_FRIDAY, rule.format("65959")) == ()
    assert len(spans(tmp_path, f"{FRIDAY}T12:00", *EVERY_FRIDAY, rule.format("70000"))) == 1


def test_an_occurrence_that_keeps_its_start_has_its_new_length_only(tmp_path: Path) -> None:
    short = moved(
        "RECURRENCE-ID;TZID=Europe/Berlin:20270115T170000",
        "DTSTART;TZID=Europe/Berlin:20270115T170000",
        "DTEND;TZID=Europe/Berlin:20270115T173000",
    )
    series = (*EVERY_FRIDAY, "RRULE:FREQ=WEEKLY")
    found = spans(tmp_path, f"{FRIDAY}T12:00", *series, more=short)
    assert found == span(at(f"{FRIDAY}T17:00"), at(f"{FRIDAY}T17:30"))


# ---- over changes of the clock


SPRING, AUTUMN = "2027-03-28", "2027-10-31"
NIGHT = "DTSTART;TZID=Europe/Berlin:20270103T0{}0000"


def test_a_series_that_began_in_a_short_night_is_as_long_on_the_wall_as_in_it(
    tmp_path: Path,
) -> None:
    lines = (
        "DTSTART;TZID=Europe/Berlin:20260329T010000",
        "DTEND;TZID=Europe/Berlin:20260329T040000",
        "RRULE:FREQ=WEEKLY",
    )
    found = spans(tmp_path, "2027-01-17T12:00", *lines)
    assert found == span(at("2027-01-17T01:00"), at("2027-01-17T04:00"))


@pytest.mark.parametrize(
    ("begins", "ends", "hours"), [("023000", "040000", 2.5), ("010000", "023000", 2.5)]
)
def test_a_series_that_began_in_a_long_night_lasts_as_long_as_it_may_have(
    tmp_path: Path, begins: str, ends: str, hours: float
) -> None:
    lines = (
        f"DTSTART;TZID=Europe/Berlin:20261025T{begins}",
        f"DTEND;TZID=Europe/Berlin:20261025T{ends}",
        "RRULE:FREQ=WEEKLY",
    )
    (found,) = spans(tmp_path, "2027-01-17T12:00", *lines)
    assert found.end - found.start == hours * 3_600


def test_an_end_in_another_zone_is_the_moment_it_names(tmp_path: Path) -> None:
    start = "DTSTART;TZID=America/New_York:20270115T100000"
    found = spans(tmp_path, f"{FRIDAY}T12:00", start, "DTEND;TZID=Europe/Berlin:20270115T163000")
    assert found == span(at(f"{FRIDAY}T16:00"), at(f"{FRIDAY}T16:30"))


def test_a_duration_lasts_at_least_its_hours_in_a_short_night(tmp_path: Path) -> None:
    series = (NIGHT.format(1), "DURATION:PT3H", "RRULE:FREQ=WEEKLY")
    found = spans(tmp_path, f"{SPRING}T03:30", *series)
    assert found == span(at(f"{SPRING}T01:00"), at(f"{SPRING}T05:00"))


def test_a_start_that_the_clock_leaves_out_lasts_from_its_later_reading(tmp_path: Path) -> None:
    series = ("DTSTART;TZID=Europe/Berlin:20270103T023000", "DURATION:PT1H", "RRULE:FREQ=WEEKLY")
    (found,) = spans(tmp_path, f"{SPRING}T03:30", *series)
    assert found.start == at(f"{SPRING}T01:30")
    assert found.end == at(f"{SPRING}T04:30")


@pytest.mark.parametrize(
    ("lines", "days"),
    [
        (("DTSTART;VALUE=DATE:20260328", "DTEND;VALUE=DATE:20260329"), 1),
        (("DTSTART;VALUE=DATE:20260328",), 1),
        (("DTSTART;VALUE=DATE:20260328", "DURATION:P1D"), 1),
        (("DTSTART;VALUE=DATE:20260328", "DTEND;VALUE=DATE:20260328"), 0),
        (("DTSTART;VALUE=DATE:20260328", "DURATION:P0D"), 0),
    ],
)
def test_whole_days_end_at_midnight_however_long_they_are(
    tmp_path: Path, lines: tuple[str, ...], days: int
) -> None:
    found = spans(tmp_path, f"{SPRING}T12:00", *lines, "RRULE:FREQ=DAILY;UNTIL=20270328")
    begins = at(f"{SPRING}T00:00")
    assert found[-1] == Span(begins, begins + 23 * 3_600 * days)  # an hour is missing


def test_an_exception_at_a_time_that_the_clock_repeats_is_one(tmp_path: Path) -> None:
    series = (
        "DTSTART;TZID=Europe/Berlin:20270103T023000",
        "DURATION:PT1H",
        "RRULE:FREQ=WEEKLY",
        "EXDATE;TZID=Europe/Berlin:20271031T023000",
    )
    assert spans(tmp_path, f"{AUTUMN}T12:00", *series) == ()


def test_an_occurrence_is_moved_away_from_a_time_that_the_clock_repeats(tmp_path: Path) -> None:
    away = moved(
        "RECURRENCE-ID;TZID=Europe/Berlin:20271031T023000",
        "DTSTART;TZID=Europe/Berlin:20271031T120000",
        "DURATION:PT1H",
    )
    series = ("DTSTART;TZID=Europe/Berlin:20270103T023000", "DURATION:PT1H", "RRULE:FREQ=WEEKLY")
    found = spans(tmp_path, f"{AUTUMN}T12:00", *series, more=away)
    assert found == span(at(f"{AUTUMN}T12:00"), at(f"{AUTUMN}T13:00"))


# ---- further dates


def test_a_further_date_in_the_zone_of_its_event_is_as_long_on_the_wall(tmp_path: Path) -> None:
    lines = (
        NIGHT.format(1),
        "DTEND;TZID=Europe/Berlin:20270103T040000",
        "RDATE;TZID=Europe/Berlin:20271031T010000",
        "SUMMARY:Closing",
    )
    found = spans(tmp_path, f"{AUTUMN}T12:00", *lines)
    assert found == span(at(f"{AUTUMN}T01:00"), at(f"{AUTUMN}T04:00"), "Closing")


def test_a_further_date_in_another_zone_is_as_long_as_its_event(tmp_path: Path) -> None:
    day = ("DTSTART;VALUE=DATE:20270101", "RDATE:20270115T080000Z", "SUMMARY:Closing")
    found = spans(tmp_path, f"{FRIDAY}T12:00", *day)
    assert found == span(at(f"{FRIDAY}T09:00"), at("2027-01-16T09:00"), "Closing")


def test_an_exception_to_one_further_date_leaves_the_next_one(tmp_path: Path) -> None:
    lines = (
        *EVERY_FRIDAY,
        "RDATE;TZID=Europe/Berlin:20270115T100000,20270115T120000",
        "EXDATE;TZID=Europe/Berlin:20270115T100000",
    )
    found = spans(tmp_path, f"{FRIDAY}T12:00", *lines)
    assert found == span(at(f"{FRIDAY}T12:00"), at(f"{FRIDAY}T15:00"))


def test_an_exception_to_a_further_date_that_the_clock_repeats_is_one(tmp_path: Path) -> None:
    lines = (
        *EVERY_FRIDAY,
        "RDATE;TZID=Europe/Berlin:20271031T023000",
        "EXDATE;TZID=Europe/Berlin:20271031T023000",
    )
    assert spans(tmp_path, f"{AUTUMN}T12:00", *lines) == ()


def test_a_further_period_ends_at_the_later_reading_of_its_end(tmp_path: Path) -> None:
    lines = (*EVERY_FRIDAY, "RDATE;VALUE=PERIOD:20271031T000000/20271031T023000")
    found = spans(tmp_path, f"{AUTUMN}T12:00", *lines)
    assert found == span(at(f"{AUTUMN}T00:00"), at(f"{AUTUMN}T02:30", fold=1))


# ---- bounds, and what is not understood


def test_a_file_of_the_largest_size_with_the_most_events_is_read_and_none_with_more(
    tmp_path: Path,
) -> None:
    file = tmp_path / "some.ics"
    one = moved("DTSTART:20270101T160000Z")
    text = EVENT.format("DTSTART:20270115T160000Z", one * (MOST_EVENTS - 1)).encode()
    file.write_bytes(text + b"\n" * (LARGEST_FILE - len(text)))
    (found,) = spans_of(file, None, at(f"{FRIDAY}T00:00"), at(f"{FRIDAY}T23:59"))
    assert found.start == at(f"{FRIDAY}T17:00")
    file.write_text(EVENT.format("DTSTART:20270115T160000Z", one * MOST_EVENTS), encoding="utf-8")
    with pytest.raises(Unreadable, match="it has more than 2000 events"):
        spans_of(file, None, 0, 1)


def test_a_file_that_is_gone_says_what_the_system_says(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"^no such file or directory$"):
        spans_of(tmp_path / "gone.ics", None, 0, 1)


@pytest.mark.parametrize(
    "lines",
    [
        ("DTSTART:20270115T160000Z", "DTEND;TZID=Mars/Base:20270115T170000"),
    ],
)
def test_a_zone_that_is_not_known_makes_the_file_unreadable(
    tmp_path: Path, lines: tuple[str, ...]
) -> None:
    with pytest.raises(Unreadable, match="a time zone that is not known"):
        spans(tmp_path, f"{FRIDAY}T12:00", *lines)
