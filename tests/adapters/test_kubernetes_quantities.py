"""Quantities as Kubernetes writes them, and the periods of schedules."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from mcp_ops.adapters.kubernetes.cron import parse_schedule
from mcp_ops.adapters.kubernetes.quantities import parse_quantity, positive


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("0", 0),
        ("1", 1),
        ("250m", "0.25"),
        ("1.5", "1.5"),
        (".5", "0.5"),
        ("1.", 1),
        ("512Mi", 512 * 1024**2),
        ("1.5Gi", 3 * 512 * 1024**2),
        ("1k", 1000),
        ("2M", 2_000_000),
        ("1G", 10**9),
        ("1E", 10**18),
        ("1E3", 1000),
        ("1e-3", "0.001"),
        ("100n", "0.0000001"),
        ("-1", -1),
    ],
)
def test_quantities_mean_numbers(written: str, means: int | str) -> None:
    assert parse_quantity(written) == Decimal(means)


@pytest.mark.parametrize(
    "written", ["", "x", "1KiB", "1mi", "1 Gi", "1e", "1K", "--1", "1_0", "٣", "1Gi\n", "9" * 30]
)
def test_what_is_no_quantity_is_none(written: str) -> None:
    assert parse_quantity(written) is None
    with pytest.raises(ValueError, match="quantity"):
        positive(written)


MONDAY = datetime(2026, 3, 2, 10, 30, tzinfo=UTC).timestamp()
HOUR = 3600.0


@pytest.mark.parametrize(
    ("written", "next_in_h", "period_h"),
    [
        ("0 2 * * *", 15.5, 24),
        ("*/15 * * * *", 0.25, 0.25),
        ("15 */6 * * *", 1.75, 6),
        ("30 6 * * 1", 164, 168),
        ("30 6 * * MON", 164, 168),
        ("0 0 1 jan *", 7309.5, 8760),
        ("0 0 13 * 5", 85.5, 168),
        ("0 9-17/4 * * 1-5", 2.5, 4),
        ("@hourly", 0.5, 1),
        ("@every 1h30m", 1.5, 1.5),
        ("0 0 * * 7", 133.5, 168),
    ],
)
def test_schedules_tell_their_next_start_and_their_period(
    written: str, next_in_h: float, period_h: float
) -> None:
    schedule = parse_schedule(written)
    assert schedule is not None
    assert schedule.after(MONDAY) == MONDAY + next_in_h * HOUR
    assert schedule.period_s(MONDAY) == period_h * HOUR


def test_a_schedule_follows_its_own_zone() -> None:
    schedule = parse_schedule("0 2 * * *", "America/New_York")
    assert schedule is not None
    assert schedule.after(MONDAY) == datetime(2026, 3, 3, 7, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "written",
    ["", "* * * *", "60 * * * *", "* * * * * *", "a b c d e", "*/0 * * * *", "5-1 * * * *", "@x"],
)
def test_what_is_no_schedule_is_none(written: str) -> None:
    assert parse_schedule(written) is None
    assert parse_schedule("0 2 * * *", "Nowhere/At-All") is None


def test_a_schedule_that_never_comes_ends_the_search() -> None:
    schedule = parse_schedule("0 0 31 2 *")
    assert schedule is not None
    assert schedule.after(MONDAY) is None
    assert schedule.period_s(MONDAY) is None
