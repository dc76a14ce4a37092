"""Times as people and clients read them."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from mcp_ops.clock import rfc3339

ODD = (0.0, 0.0005, 0.9999994, 0.9999995, 1.5, -0.0000006, -1.25, 253402300799.0, -62135596800.0)


def test_a_time_is_what_the_library_makes_of_it() -> None:
    chance = random.Random(7)
    times = [*ODD, *(chance.uniform(-1e9, 4e9) for _ in range(2_000))]
    times += [chance.randrange(2 * 10**9) + chance.randrange(1_000) / 1_000 for _ in range(2_000)]
    for each in times:
        made = datetime.fromtimestamp(each, UTC).isoformat(timespec="milliseconds")
        assert rfc3339(each) == made.replace("+00:00", "Z"), each


@pytest.mark.parametrize("never", [float("inf"), float("nan"), 1e18])
def test_what_is_no_time_is_refused(never: float) -> None:
    with pytest.raises((OverflowError, ValueError, OSError)):
        rfc3339(never)
