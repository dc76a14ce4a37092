"""Freeze windows: once, weekly, by calendars; in every doubt closed."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mcp_ops.clock import ManualClock
from mcp_ops.errors import ConfigurationError
from mcp_ops.guard.freeze import Freeze, Freezes, installed
from mcp_ops.settings import FreezeWindow, GuardSettings
from tests.guard.bench import OPEN_LIMITS, WHY, bench

BERLIN = ZoneInfo("Europe/Berlin")
# A Friday; the clocks of Berlin go forward on 2027-03-28 and back on 2027-10-31, both at night.
FRIDAY = "2027-01-15"


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def weekly(days: list[str], begins: str, to: str, **more: Any) -> FreezeWindow:
    raw = {"days": days, "from": begins, "to": to, "timezone": "Europe/Berlin", "reason": "rest"}
    return FreezeWindow.model_validate({**raw, **more})


async def one(window: FreezeWindow, moment: float) -> Freeze:
    (found,) = await Freezes([window], ManualClock(moment)).at(moment)
    return found


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        (f"{FRIDAY}T16:59", False),
        (f"{FRIDAY}T17:00", True),
        ("2027-01-16T08:59", True),
        ("2027-01-16T09:00", False),
        ("2027-01-14T18:00", False),
    ],
)
async def test_a_weekly_window_over_midnight_holds_from_its_day_to_the_next_morning(
    moment: str, holds: bool
) -> None:
    found = await one(weekly(["fri"], "17:00", "09:00"), at(moment))
    assert found.active is holds
    if holds:
        assert (found.since, found.until) == (at(f"{FRIDAY}T17:00"), at("2027-01-16T09:00"))


@pytest.mark.parametrize(
    ("day", "date"),
    [
        ("mon", "2027-01-18"),
        ("tue", "2027-01-19"),
        ("wed", "2027-01-20"),
        ("thu", "2027-01-21"),
        ("fri", "2027-01-22"),
        ("sat", "2027-01-23"),
        ("sun", "2027-01-24"),
    ],
)
async def test_a_weekly_window_holds_on_its_day(day: str, date: str) -> None:
    found = await one(weekly([day], "09:00", "10:00"), at("2027-01-18T00:00"))
    assert (found.since, found.until) == (at(f"{date}T09:00"), at(f"{date}T10:00"))


async def test_windows_that_touch_end_together() -> None:
    weekend = weekly(["fri", "sat", "sun"], "17:00", "17:00")
    found = await one(weekend, at(f"{FRIDAY}T20:00"))
    assert (found.active, found.until) == (True, at("2027-01-18T17:00"))


async def test_a_freeze_without_an_end_is_shown_for_the_ten_days_after_this_one() -> None:
    always = weekly(["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "00:00", "24:00")
    found = await one(always, at(f"{FRIDAY}T20:00"))
    assert (found.active, found.until) == (True, at("2027-01-26T00:00"))


async def test_a_window_may_end_at_midnight() -> None:
    window = weekly(["fri"], "00:00", "24:00")
    assert (await one(window, at(f"{FRIDAY}T23:59"))).active
    assert not (await one(window, at("2027-01-16T00:00"))).active


@pytest.mark.parametrize(
    ("begins", "to", "first", "last"),
    [
        # 02:30 does not exist on this day: it closes at the earlier reading, opens at the later.
        ("02:30", "06:00", 1806193800, at("2027-03-28T06:00")),
        ("01:00", "02:30", at("2027-03-28T01:00"), 1806197400),
    ],
)
async def test_a_local_time_that_is_left_out_closes(
    begins: str, to: str, first: float, last: float
) -> None:
    window = weekly(["sun"], begins, to)
    assert not (await one(window, first - 1)).active
    assert (await one(window, first)).active
    assert (await one(window, last - 1)).active
    assert not (await one(window, last)).active


async def test_a_local_time_that_is_repeated_closes_from_its_first_to_its_last_reading() -> None:
    window = weekly(["sun"], "02:00", "02:30")
    first, last = at("2027-10-31T02:00"), at("2027-10-31T02:30", fold=1)
    assert last - first == 5_400
    for moment, holds in ((first - 1, False), (first, True), (last - 1, True), (last, False)):
        assert (await one(window, moment)).active is holds


async def test_the_next_freeze_is_shown_ahead() -> None:
    found = await one(weekly(["fri"], "17:00", "18:00"), at("2027-01-13T12:00"))
    assert (found.active, found.since) == (False, at(f"{FRIDAY}T17:00"))
    assert found.when == "fri 17:00-18:00 Europe/Berlin"


async def test_a_freeze_is_shown_up_to_ten_days_ahead() -> None:
    raw = {"start": "2027-01-25T12:00:00+01:00", "end": "2027-01-25T13:00:00+01:00"}
    window = FreezeWindow.model_validate({**raw, "reason": "the move"})
    start = at("2027-01-25T12:00")
    found = await one(window, start - 864_000)
    assert (found.active, found.since, found.until) == (False, start, start + 3_600)
    assert found.reason == "the move"
    assert found.when == "2027-01-25T12:00:00+01:00 to 2027-01-25T13:00:00+01:00"
    found = await one(window, start - 864_001)
    assert (found.active, found.since, found.until) == (False, None, None)


async def test_without_a_moment_it_is_the_clocks() -> None:
    freezes = Freezes([weekly(["fri"], "17:00", "18:00")], ManualClock(at(f"{FRIDAY}T17:30")))
    (found,) = await freezes.at()
    assert found.active


async def test_a_frozen_write_is_told_since_when_until_when_and_who_can_lift_it(
    tmp_path: Path,
) -> None:
    settings = GuardSettings(
        limits=OPEN_LIMITS,
        freeze=(weekly(["fri"], "08:00", "12:00", timezone="UTC", reason="the audit"),),
    )
    async with bench(tmp_path, settings=settings) as b:
        refusal = await b.error("put_item", name="a", reason=WHY)
        assert refusal["code"] == "frozen"
        assert refusal["message"] == (
            "Changes are frozen since 2027-01-15T08:00:00.000Z until 2027-01-15T12:00:00.000Z: "
            "the audit."
        )
        assert refusal["retry_after_s"] == 4 * 3_600
        assert "[[guard.freeze]]" in refusal["hint"]
        assert await b.code("look_at_item", name="a") == "ok"
        assert await b.code("put_item", name="a", reason=WHY, dry_run=True) == "ok"
        (shown,) = (await b.ok("get_guard_status"))["freeze_windows"]
        assert (shown["active"], shown["when"]) == (True, "fri 08:00-12:00 UTC")
        b.clock.advance(4 * 3_600)
        assert await b.code("put_item", name="a", reason=WHY) == "ok"


async def test_a_write_frozen_by_an_unreadable_calendar_is_told_so(tmp_path: Path) -> None:
    settings = GuardSettings(
        limits=OPEN_LIMITS, freeze=(FreezeWindow(calendar=f"file:{tmp_path}/gone.ics"),)
    )
    async with bench(tmp_path, settings=settings) as b:
        refusal = await b.error("put_item", name="a", reason=WHY)
        assert refusal["code"] == "frozen"
        assert refusal["message"] == (
            "Changes are frozen: calendar gone.ics cannot be read: no such file or directory, and "
            "what cannot be read counts as frozen."
        )
        assert str(tmp_path) not in str(refusal)
        (shown,) = (await b.ok("get_guard_status"))["freeze_windows"]
        assert shown["problem"] == "calendar gone.ics cannot be read: no such file or directory"


@pytest.mark.parametrize(
    "raw",
    [
        {"start": "2027-01-01T00:00:00Z", "reason": "r"},
        {"days": ["fri"], "from": "17:00", "to": "18:00", "reason": "r"},
        {"days": ["fri"], "timezone": "UTC", "reason": "r"},
        {"days": ["fri"], "from": "5pm", "to": "18:00", "timezone": "UTC", "reason": "r"},
        {"days": ["fri"], "from": "24:00", "to": "18:00", "timezone": "UTC", "reason": "r"},
        {"days": ["fri"], "from": "17:00", "to": "18:00", "timezone": "Mars/Base", "reason": "r"},
        {"days": ["fri"], "from": "17:00", "to": "18:00", "timezone": "UTC"},
        {"days": ["today"], "from": "17:00", "to": "18:00", "timezone": "UTC", "reason": "r"},
        {"calendar": "freeze.ics"},
        {"calendar": "file:a.ics", "days": ["fri"]},
        {"reason": "r"},
    ],
)
def test_half_a_window_is_none(raw: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        FreezeWindow.model_validate(raw)


@pytest.mark.parametrize(
    ("window", "moment", "holds"),
    [
        ({"start": "nonsense", "end": "never"}, 0.0, True),
        ({"start": "2020-01-01", "end": "nonsense"}, 0.0, True),
        ({"start": "2020-01-01T00:00:00Z"}, 0.0, True),
        ({"end": "2020-01-01T00:00:00Z"}, 1_700_000_000.0, True),
        # What the settings insist on is the whole day, in UTC, where it is left out.
        ({"days": ("thu",)}, 0.0, True),
        ({"days": ("thu",)}, 86_399.0, True),
        ({"days": ("thu",)}, 86_400.0, False),
        ({"days": ("thu",)}, -1.0, False),
        ({"days": ("fri",), "begins": "nonsense", "timezone": "UTC"}, 0.0, True),
        ({"days": ("thu",), "begins": "00:00", "to": "00:30", "timezone": "gone"}, 0.0, True),
        # Times without an offset are UTC.
        ({"start": "1970-01-01T00:00:00", "end": "1970-01-01T00:30:00"}, 0.0, True),
        ({"start": "1970-01-01T00:00:00", "end": "1970-01-01T00:30:00"}, 1_800.0, False),
    ],
)
async def test_a_window_that_got_past_the_settings_unreadable_holds(
    window: dict[str, Any], moment: float, holds: bool
) -> None:
    odd = FreezeWindow.model_construct(targets=("*",), reason="odd", **window)
    assert (await one(odd, moment)).active is holds


def test_a_calendar_without_its_library_is_a_mistake_at_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed("icalendar")
    monkeypatch.setitem(sys.modules, "icalendar", None)  # as where it is not installed
    with pytest.raises(ConfigurationError):
        Freezes([FreezeWindow(calendar="file:/a.ics")], ManualClock())
    with pytest.raises(ConfigurationError) as caught:
        installed("nocalendar")
    assert "mcp-ops[calendar]" in caught.value.hint
