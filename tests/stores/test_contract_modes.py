"""What a hot store must do about modes that are stacked, principals' modes, and elevations."""

from __future__ import annotations

import anyio

from mcp_ops.clock import ManualClock, SystemClock
from mcp_ops.ports import Grant, Mode
from tests.stores import records
from tests.stores.backends import Backend, line, worker


def grant(clock: ManualClock, grant_id: str = "g1", **fields: object) -> Grant:
    values = {
        "id": grant_id,
        "principal": "agent:*",
        "tool": "restart_*",
        "target": "shop",
        "require": "confirm",
        "incident": "INC-7",
        "reason": "rollout is stuck",
        "author": "operator:z",
        "since": clock.now(),
        "expires_at": clock.now() + 600,
        **fields,
    }
    return Grant(**values)  # type: ignore[arg-type]


async def test_the_earlier_mode_returns_when_the_later_one_expires(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        hot = stores.hot
        base = records.mode(clock, mode=Mode.LOCKDOWN)
        hour = records.mode(clock, mode=Mode.READ_ONLY, expires_at=clock.now() + 3_600)
        minute = records.mode(clock, mode=Mode.NORMAL, expires_at=clock.now() + 60)
        for entry in (base, hour, minute):
            await hot.set_mode(entry)
        seen = []
        for seconds in (0, 60, 3_540):
            clock.advance(seconds)
            admission = await hot.admit(records.request())
            assert await hot.modes() == admission.modes
            seen.append(admission.modes)
        assert seen == [(minute,), (hour,), (base,)]


async def test_an_entry_that_cannot_return_is_gone(backend: Backend, clock: ManualClock) -> None:
    async with backend.open(clock) as stores:
        hot = stores.hot
        await hot.set_mode(records.mode(clock, mode=Mode.LOCKDOWN, expires_at=clock.now() + 60))
        longer = records.mode(clock, mode=Mode.READ_ONLY, expires_at=clock.now() + 120)
        await hot.set_mode(longer)
        assert await hot.modes() == (longer,)
        clock.advance(120)
        assert await hot.modes() == ()
        await hot.set_mode(records.mode(clock, mode=Mode.LOCKDOWN, expires_at=clock.now() + 900))
        forever = records.mode(clock, mode=Mode.RESTRICTIVE)
        await hot.set_mode(forever)
        await hot.set_mode(records.mode(clock, mode=Mode.CRITICAL, expires_at=clock.now() + 1))
        clock.advance(1)
        assert await hot.modes() == (forever,)


async def test_clearing_a_scope_removes_all_that_lies_beneath(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        await stores.hot.set_mode(records.mode(clock, mode=Mode.LOCKDOWN))
        await stores.hot.set_mode(records.mode(clock, expires_at=clock.now() + 60))
        await stores.hot.clear_modes("shop", frozenset({"operator"}))
        assert await stores.hot.modes() == ()
        clock.advance(60)
        assert await stores.hot.modes() == ()


async def test_of_many_stacked_modes_the_newest_and_the_lowest_stay(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        base = records.mode(clock, mode=Mode.LOCKDOWN)
        await stores.hot.set_mode(base)
        for number in range(20):
            newest = records.mode(clock, reason=str(number), expires_at=clock.now() + 100 - number)
            await stores.hot.set_mode(newest)
        assert await stores.hot.modes() == (newest,)
        clock.advance(101)
        assert await stores.hot.modes() == (base,)


async def test_a_mode_of_a_principal_holds_for_its_calls_alone_on_every_target(
    backend: Backend, clock: ManualClock
) -> None:
    scope = "principal:agent:x@y"
    mine = records.mode(clock, scope=scope, mode=Mode.READ_ONLY, source="runaway")
    async with backend.open(clock) as stores:
        await stores.hot.set_mode(mine)
        for target in ("shop", "db"):
            refused = await stores.hot.admit(records.request(target=target))
            assert not refused.granted
            assert refused.modes == (mine,)
        other = await stores.hot.admit(records.request(principal="agent:other"))
        assert (other.granted, other.modes) == (True, ())
        await stores.hot.clear_modes(scope, frozenset({"runaway"}))
        assert (await stores.hot.admit(records.request())).granted


async def test_a_lockdown_by_another_process_outlives_that_process_and_ours(
    backend: Backend,
) -> None:
    real = SystemClock()
    async with backend.open(real) as ours, worker(backend, "lockdown") as process:
        with anyio.fail_after(20):
            assert await line(process) == "set"
        process.kill()
        with anyio.fail_after(5):
            while not (seen := await ours.hot.admit(records.request(take=False))).modes:
                await anyio.sleep(0.01)
        assert seen.modes[0].mode is Mode.LOCKDOWN
    async with backend.open(real) as restarted:
        again = await restarted.hot.admit(records.request())
        assert (again.granted, again.modes) == (False, seen.modes)


async def test_elevations_are_kept_until_they_expire_or_are_ended(
    backend: Backend, clock: ManualClock
) -> None:
    first, second = grant(clock), grant(clock, "g2", require="none", expires_at=clock.now() + 60)
    async with backend.open(clock) as ours, backend.open(clock) as theirs:
        assert await ours.hot.grants() == ()
        await ours.hot.set_grant(first)
        await theirs.hot.set_grant(second)
        assert set(await ours.hot.grants()) == {first, second}
        clock.advance(60)
        assert await theirs.hot.grants() == (first,)
        assert not await theirs.hot.clear_grant("g2")
        assert await theirs.hot.clear_grant("g1")
        assert not await ours.hot.clear_grant("g1")
        assert await ours.hot.grants() == ()


async def test_an_elevation_never_outlives_its_time_over_a_jump_of_the_clock(
    backend: Backend, clock: ManualClock
) -> None:
    async with backend.open(clock) as stores:
        await stores.hot.set_grant(grant(clock))
        clock.jump(-3_600)
        await stores.hot.admit(records.request(fresh=True))  # notices the jump
        (held,) = await stores.hot.grants()
        assert held.expires_at - clock.now() <= 600
        clock.advance(600)
        assert await stores.hot.grants() == ()
