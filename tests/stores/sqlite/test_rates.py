"""The rate table against a model that replays every charge."""

from __future__ import annotations

import math
import random

import pytest

from mcp_ops.ports import Rate
from mcp_ops.stores.rates import RateTable

CALLS = Rate(key="k", name="calls", per_minute=60.0, burst=5)


class Model:
    """A bucket that is refilled unit by unit, replayed from its charges each time it is asked."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.charges: list[tuple[float, int]] = []

    def left(self, now: float) -> float:
        units, at = float(self.rate.burst), -math.inf
        for when, cost in self.charges:
            units = min(self.rate.burst, units + (when - at) * self.rate.per_minute / 60) - cost
            at = when
        return min(self.rate.burst, units + (now - at) * self.rate.per_minute / 60)


@pytest.mark.parametrize("seed", range(6))
def test_random_arrivals_are_admitted_as_the_model_says(seed: int) -> None:
    random_ = random.Random(seed)
    per_minute = random_.choice([6.0, 60.0, 600.0])
    burst = random_.randint(1, 8)
    model, table, now, admitted = Model(CALLS), RateTable(), 1_000.0, 0
    for _ in range(300):
        rate = Rate(
            key="k",
            name="calls",
            per_minute=per_minute,
            burst=burst,
            cost=random_.randint(1, min(3, burst)),
        )
        model.rate = rate
        now += random_.expovariate(per_minute / 60) * random_.choice([0.1, 1, 3])
        left = model.left(now)
        state = table.look(rate, 1.0, now)
        assert state.allowed is (left >= rate.cost - 1e-6)
        assert state.remaining == math.floor(left + 1e-6)
        assert state.retry_after_s == pytest.approx(
            max(0.0, (rate.cost - left) * 60 / per_minute), abs=1e-5
        )
        if state.allowed:
            table.take(rate, state, now)
            model.charges.append((now, rate.cost))
            admitted += 1
        else:
            assert table.look(rate, 1.0, now + state.retry_after_s).allowed
    assert 10 < admitted < 300


@pytest.mark.parametrize("seed", range(6))
def test_giving_back_never_lets_more_through_than_calls_that_stayed(seed: int) -> None:
    random_ = random.Random(seed)
    model, table, now = Model(CALLS), RateTable(), 1_000.0
    out: list[tuple[float, float]] = []
    for _ in range(400):
        now += random_.expovariate(1.5)
        if out and random_.random() < 0.4:
            when, mark = out.pop(random_.randrange(len(out)))
            table.give_back(CALLS, table.look(CALLS, 1.0, now), mark, now)
            model.charges.remove((when, 1))
            assert table.look(CALLS, 1.0, now).remaining <= model.left(now) + 1e-6
        state = table.look(CALLS, 1.0, now)
        if state.allowed:
            assert model.left(now) >= 1 - 1e-6
            out.append((now, table.take(CALLS, state, now)))
            model.charges.append((now, 1))


def test_a_slower_rate_owes_the_same_units() -> None:
    scaled = Rate(key="k", name="calls", per_minute=60.0, burst=4, scaled=True)
    table = RateTable()
    for _ in range(4):
        table.take(scaled, table.look(scaled, 1.0, 0.0), 0.0)
    assert table.look(scaled, 0.25, 0.0).remaining == 0
    assert table.look(scaled, 0.25, 0.0).retry_after_s == pytest.approx(4)
    assert table.look(scaled, 0.25, 8.0).remaining == 4
    slow = table.look(scaled, 0.25, 8.0)
    mark = table.take(scaled, slow, 8.0)
    assert table.look(scaled, 1.0, 8.0).remaining == 3
    table.give_back(scaled, slow, mark, 8.0)
    assert table.look(scaled, 1.0, 8.0).remaining == 4


def test_what_can_never_be_allowed_says_so() -> None:
    table = RateTable()
    for rate, factor in (
        (Rate(key="k", name="calls", per_minute=60.0, burst=2, cost=3), 1.0),
        (Rate(key="k", name="calls", per_minute=60.0, burst=2, scaled=True), 0.0),
    ):
        state = table.look(rate, factor, 0.0)
        assert not state.allowed
        assert math.isinf(state.retry_after_s)


def test_the_table_is_bounded_and_forgets_the_least_indebted() -> None:
    table = RateTable(most_keys=10)
    busy = Rate(key="busy", name="calls", per_minute=1.0, burst=1)
    mark = table.take(busy, table.look(busy, 1.0, 0.0), 0.0)
    for index in range(30):
        brief = Rate(key=f"k{index}", name="calls", per_minute=60.0, burst=1)
        table.take(brief, table.look(brief, 1.0, index / 10), index / 10)
        assert len(table._buckets) <= 10
    assert not table.look(busy, 1.0, 3.0).allowed
    for index in range(30):
        heavy = Rate(key=f"h{index}", name="calls", per_minute=0.1, burst=1)
        table.take(heavy, table.look(heavy, 1.0, 4.0), 4.0)
        assert len(table._buckets) <= 10
    assert table.look(busy, 1.0, 5.0).allowed
    table.give_back(busy, table.look(busy, 1.0, 5.0), mark, 5.0)


def test_a_rate_that_a_mode_stopped_has_nothing_left_and_no_time_to_come_back() -> None:
    stopped = Rate(key="k", name="calls", per_minute=60.0, burst=5, scaled=True)
    state = RateTable().look(stopped, 0.0, 1.0)
    assert (state.allowed, state.remaining, state.limit_per_minute) == (False, 0, 0.0)
    assert state.retry_after_s == math.inf


def charged(table: RateTable, key: str, now: float, *, cost: int = 1, burst: int = 1) -> float:
    """Take from a limit of one a second; answers the mark for giving it back."""
    rate = Rate(key=key, name="calls", per_minute=60.0, burst=burst, cost=cost)
    return table.take(rate, table.look(rate, 1.0, now), now)


def test_a_limit_of_less_than_one_a_minute_admits_one_when_it_is_due() -> None:
    table = RateTable()
    rare = Rate(key="k", name="calls", per_minute=0.5, burst=1)
    table.take(rare, table.look(rare, 1.0, 0.0), 0.0)
    state = table.look(rare, 1.0, 119.5)
    assert (state.allowed, state.remaining, state.limit_per_minute) == (False, 0, 0.5)
    assert state.retry_after_s == pytest.approx(0.5)
    state = table.look(rare, 1.0, 120.0)
    assert (state.allowed, state.remaining, state.retry_after_s) == (True, 1, 0.0)


def test_a_call_may_cost_as_much_as_the_whole_burst() -> None:
    whole = Rate(key="k", name="calls", per_minute=60.0, burst=3, cost=3)
    assert RateTable().look(whole, 1.0, 0.0).allowed


def test_what_time_has_returned_is_not_given_back_again() -> None:
    table = RateTable()
    mark = charged(table, "k", 0.0)
    charged(table, "k", 5.0)  # the first was returned by time long before
    one = Rate(key="k", name="calls", per_minute=60.0, burst=1)
    table.give_back(one, table.look(one, 1.0, 5.0), mark, 5.0)
    assert not table.look(one, 1.0, 5.0).allowed


def test_of_a_large_charge_the_part_that_time_has_not_returned_is_given_back() -> None:
    table = RateTable()
    four = Rate(key="k", name="calls", per_minute=60.0, burst=4, cost=4)
    mark = charged(table, "k", 0.0, cost=4, burst=4)
    assert table.look(four, 1.0, 1.0).retry_after_s == pytest.approx(3)
    table.give_back(four, table.look(four, 1.0, 1.0), mark, 1.0)
    state = table.look(four, 1.0, 1.0)
    assert (state.allowed, state.remaining) == (True, 4)
    charged(table, "k", 1.0, cost=4, burst=4)
    assert table.look(four, 1.0, 1.0).retry_after_s == pytest.approx(4)


def test_a_full_table_forgets_a_tenth_and_those_that_owe_least() -> None:
    table = RateTable(most_keys=20)
    for owed in range(20, 0, -1):
        charged(table, f"k{owed}", 0.0, cost=owed, burst=owed)
    charged(table, "one more", 0.0)
    one = [Rate(key=f"k{owed}", name="", per_minute=60.0, burst=1) for owed in range(1, 21)]
    assert [table.look(each, 1.0, 0.0).allowed for each in one] == [True] * 2 + [False] * 18
