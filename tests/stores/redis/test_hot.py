"""The shared hot store on a real server: round trips, keys, clocks, what people set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_ops.clock import Clock, ManualClock
from mcp_ops.errors import ConfigurationError, Health
from mcp_ops.lab.redis import Valkey, valkey
from mcp_ops.ports import CircuitPhase, CircuitPolicy, CircuitState, Grant, Mode, Partition
from tests.adapters.redis_lab import free_port
from tests.stores import records
from tests.stores.redis.opened import Opening, ServerTime, command

PATIENT = CircuitPolicy(consecutive=99, ratio=0.1, minimum_calls=10)


def grant(clock: Clock, **fields: object) -> Grant:
    made = Grant(
        id="g1",
        principal="agent:*",
        tool="*",
        target="shop",
        require="none",
        incident="INC-1",
        reason="r",
        author="operator:z",
        since=clock.now(),
        expires_at=clock.now() + 60,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def partition(clock: Clock, size: int = 3, seconds: float = 60) -> Partition:
    return Partition(
        target="shop",
        size=size,
        reason="r",
        author="operator:z",
        since=clock.now(),
        expires_at=clock.now() + seconds,
    )


async def test_a_read_costs_one_command(opening: Opening, hot_server: Valkey) -> None:
    asked = records.request(rates=(records.rate(burst=99), records.rate(key="t", burst=99)))
    commands: list[str] = []
    async with opening(ManualClock()) as hot, hot_server.client() as eyes:
        await hot.admit(asked)
        async with eyes.monitor() as monitor, hot_server.client() as marks:
            for _ in range(5):
                assert (await hot.admit(asked)).granted
                await hot.record("shop", Health.ANSWERED, error="", probe=False, policy=PATIENT)
            await marks.echo("end")
            with anyio.fail_after(5):
                async for seen in monitor.listen():
                    if seen["client_type"] != "lua":
                        commands.append(seen["command"].split()[0])
                    if commands[-1:] == ["ECHO"]:
                        break
    assert [word for word in commands if word in ("EVALSHA", "EVAL")] == ["EVALSHA"] * 5
    assert set(commands) <= {"EVALSHA", "ECHO", "MONITOR", "CLIENT", "HELLO"}


async def test_callers_that_come_together_are_answered_each_with_its_own(opening: Opening) -> None:
    granted: dict[int, str] = {}

    async def call(number: int) -> None:
        rate = records.rate(key=f"k{number}", name=f"n{number}", burst=number + 1)
        admission = await hot.admit(records.request(target=f"t{number}", rates=(rate,)))
        assert admission.rates[0].remaining == number
        granted[number] = admission.circuit.target + admission.rates[0].name

    async with opening() as hot, anyio.create_task_group() as tasks:
        for number in range(300):
            tasks.start_soon(call, number)
    assert granted == {number: f"t{number}n{number}" for number in range(300)}


async def test_all_keys_lie_in_one_slot_and_those_of_clients_expire(
    opening: Opening, hot_server: Valkey
) -> None:
    clock = ManualClock()
    async with opening(clock) as hot, hot_server.client() as eyes:
        await hot.set_mode(records.mode(clock, expires_at=clock.now() + 60))
        await hot.set_grant(grant(clock))
        await hot.set_partition(partition(clock))
        for _ in range(3):
            await hot.record("shop", Health.FAILED, error="x", probe=False, policy=PATIENT)
        for number in range(200):
            rate = records.rate(key=f"principal:{{{number}}}", per_minute=6_000, burst=10)
            await hot.admit(records.request(principal=f"agent:{number}", rates=(rate,)))
        tag = f"{{{opening.prefix}}}:"
        keys = [key.decode() async for key in eyes.scan_iter(match=f"*{tag[1:12]}*", count=1000)]
        mine = [key for key in keys if opening.prefix in key]
        assert all(key.startswith(tag) for key in mine)
        lasting = {key.removeprefix(tag) for key in mine if await eyes.pttl(key) == -1}
        assert lasting == {"meta", "modes", "circuits", "grants", "partitions"}
        for key in mine:
            if ":rate:" in key:  # gone already, or full again and a second
                assert await eyes.pttl(key) <= 1_010


async def test_the_scripts_run_on_a_node_of_a_cluster(opening: Opening, tmp_path: Path) -> None:
    clock = ManualClock()
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    async with valkey(tmp_path, free_port(), *cluster) as server:
        async with server.client() as eyes:
            await command(eyes, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            with anyio.fail_after(5):
                while b"cluster_state:ok" not in await command(eyes, "CLUSTER", "INFO"):
                    await anyio.sleep(0.01)
        async with opening(clock, url=server.url) as hot:
            await hot.set_mode(records.mode(clock))
            asked = records.request(rates=(records.rate(), records.rate(key="other")))
            admission = await hot.admit(asked)
            assert admission.granted
            await hot.give_back(asked, admission)
            assert [s.remaining for s in await hot.rates(asked.rates)] == [3, 3]
            await hot.record("shop", Health.FAILED, error="x", probe=False, policy=PATIENT)


async def test_answers_that_cost_no_round_trip_are_counted_with_a_later_call(
    opening: Opening,
) -> None:
    clock = ManualClock()
    async with opening(clock) as ours, opening(clock) as theirs:
        for _ in range(9):
            await ours.record("shop", Health.ANSWERED, error="", probe=False, policy=PATIENT)
        failed = await ours.record("shop", Health.FAILED, error="x", probe=False, policy=PATIENT)
        assert failed.reason == "1 of 10 calls failed in 60 s"
        for _ in range(9):
            await ours.record("db", Health.ANSWERED, error="", probe=False, policy=PATIENT)
        asked = records.request(target="db", circuit=PATIENT)
        await ours.admit(asked)  # too early
        clock.advance(1)
        await ours.admit(asked)
        seen = await theirs.record("db", Health.FAILED, error="x", probe=False, policy=PATIENT)
        assert seen.reason == "1 of 10 calls failed in 60 s"


async def test_an_answer_forgets_the_failures_that_other_processes_saw(opening: Opening) -> None:
    async with opening() as ours, opening() as theirs:
        await theirs.record("shop", Health.FAILED, error="x", probe=False, policy=PATIENT)
        assert (await ours.admit(records.request())).circuit.failures == 1
        healed = await ours.record("shop", Health.ANSWERED, error="", probe=False, policy=PATIENT)
        assert healed.failures == 0
        assert (await theirs.circuits())[0].failures == 0


async def test_a_lockdown_of_another_process_holds_for_the_next_call(opening: Opening) -> None:
    clock = ManualClock()
    async with opening() as ours, opening() as theirs:
        for scope in ("shop", "*", "principal:agent:x@y"):
            assert (await ours.admit(records.request())).granted
            await theirs.set_mode(records.mode(clock, scope=scope, mode=Mode.LOCKDOWN))
            refused = await ours.admit(records.request())
            assert not refused.granted
            assert [entry.scope for entry in refused.modes] == [scope]
            await theirs.clear_modes(scope, frozenset({"operator"}))


async def test_a_floor_of_a_principal_slows_its_calls(opening: Opening) -> None:
    clock = ManualClock()
    floor = records.mode(clock, scope="principal:agent:x@y", source="environment")
    over = replace(floor, mode=Mode.LOCKDOWN, expires_at=clock.now())
    asked = records.request(rates=(records.rate(scaled=True),))
    async with opening(clock, floor=(floor, over)) as hot:
        mine = await hot.admit(asked)
        theirs = await hot.admit(replace(asked, principal="agent:other", take=False))
    assert (mine.modes, mine.rates[0].limit_per_minute) == ((floor,), 15)
    assert (theirs.modes, theirs.rates[0].limit_per_minute) == ((), 60)


async def test_elevations_and_partitions_last_until_they_expire_or_are_ended(
    opening: Opening,
) -> None:
    time = ServerTime()
    clock = ManualClock(time())
    async with opening(clock, time=time) as hot:
        first, second = grant(clock), grant(clock, id="g2", expires_at=clock.now() + 90)
        await hot.set_grant(first)
        await hot.set_grant(second)
        await hot.set_partition(partition(clock, size=7))
        await hot.set_partition(partition(clock))
        assert await hot.grants() == (first, second)
        assert await hot.partitions() == (partition(clock),)
        assert (await hot.admit(records.request())).concurrent == 3
        time.advance(60)
        clock.advance(60)
        assert await hot.grants() == (second,)
        assert await hot.partitions() == ()
        assert (await hot.admit(records.request())).concurrent is None
        assert not await hot.clear_partition("shop")
        assert await hot.clear_grant("g2")
        assert not await hot.clear_grant("g2")
        await hot.set_partition(partition(clock))
        assert await hot.clear_partition("shop")
        assert await hot.grants() == ()
        assert (await hot.admit(records.request())).concurrent is None


async def test_a_process_whose_clock_is_wrong_sets_what_lasts_as_long_as_it_meant(
    opening: Opening,
) -> None:
    time = ServerTime()
    right, wrong = ManualClock(time()), ManualClock(time() + 3_600)
    async with opening(right, time=time) as ours, opening(wrong, time=time) as theirs:
        meant = records.mode(wrong, expires_at=wrong.now() + 60)
        await theirs.set_mode(meant)
        (seen,) = await ours.modes()
        assert (seen.since, seen.expires_at) == (time(), time() + 60)
        assert await theirs.modes() == (meant,)
        assert (await theirs.admit(records.request())).at == wrong.now()
        time.advance(60)
        assert await ours.modes() == ()


async def test_a_server_whose_clock_is_set_back_neither_frees_nor_locks_out(
    opening: Opening,
) -> None:
    time = ServerTime()
    clock = ManualClock(time())
    asked = records.request(target="db", rates=(records.rate(burst=1),))
    async with opening(clock, time=time) as hot:
        for _ in range(3):
            await hot.record("shop", Health.FAILED, error="x", probe=False, policy=CircuitPolicy())
        await hot.set_mode(
            records.mode(clock, scope="*", mode=Mode.NORMAL, expires_at=clock.now() + 60)
        )
        await hot.set_grant(grant(clock))
        assert (await hot.admit(asked)).granted
        for moved in (0.6, -3_600):
            time.advance(moved)
            clock.advance(moved)
            refused = await hot.admit(asked)
            assert not refused.granted
            assert refused.rates[0].retry_after_s == pytest.approx(0.4)
        assert not (await hot.admit(records.request())).granted
        assert len(await hot.grants()) == len(await hot.modes()) == 1
        time.advance(59.5)
        clock.advance(59.5)
        assert (await hot.admit(asked)).granted
        assert (await hot.grants(), await hot.modes()) == ((), ())
        assert (await hot.admit(records.request())).probe


async def test_text_that_is_no_unicode_is_kept_as_far_as_it_goes(opening: Opening) -> None:
    clock = ManualClock()
    strange = 'a\ud800"\\\x00\N{SNOWMAN}/'
    async with opening(clock) as hot:
        await hot.set_mode(records.mode(clock, reason=strange))
        assert [entry.reason for entry in await hot.modes()] == ['a?"\\\x00\N{SNOWMAN}/']
        state = await hot.record(
            "shop", Health.FAILED, error=strange, probe=False, policy=CircuitPolicy()
        )
        assert state.last_error == 'a?"\\\x00\N{SNOWMAN}/'
        asked = records.request(principal=strange, rates=(records.rate(key=strange),))
        assert (await hot.admit(asked)).rates[0].remaining == 2


async def test_stores_with_different_prefixes_do_not_meet(
    opening: Opening, hot_server: Valkey
) -> None:
    other = Opening(hot_server.url, prefix=opening.prefix + "-other")
    async with opening() as ours, other() as theirs:
        await ours.set_circuit(
            CircuitState(target="shop", phase=CircuitPhase.ISOLATED), expected_version=0
        )
        assert await theirs.circuits() == ()
        assert (await theirs.admit(records.request())).granted


@pytest.mark.parametrize("prefix", ["", "a{b}"])
async def test_a_prefix_that_would_spread_the_keys_is_refused(
    hot_server: Valkey, prefix: str
) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        async with Opening(hot_server.url, prefix=prefix)():
            pass


@pytest.mark.parametrize("url", ["http://x", "redis://h:port/0", "redis://h/0?socket_nonsense=1"])
async def test_a_url_that_cannot_be_read_is_a_mistake_of_the_configuration(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        async with Opening(url, prefix="p")():
            pass
    assert "socket_nonsense" not in caught.value.message
