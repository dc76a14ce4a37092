"""Redis restarts, fails over or loses everything: nothing that people set is forgotten."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from mcp_ops.errors import Health, StoreUnavailable
from mcp_ops.lab.redis import Valkey, valkey
from mcp_ops.ports import CircuitPhase, CircuitPolicy, CircuitState, Mode
from mcp_ops.stores.redis.facts import MemoryFacts
from mcp_ops.stores.redis.hot import RedisHotStore
from tests.adapters.redis_lab import free_port
from tests.stores import records
from tests.stores.redis.opened import CLOCK, Opening, command
from tests.stores.redis.test_hot import grant, partition

ISOLATED = CircuitState(
    target="db", phase=CircuitPhase.ISOLATED, opened_at=1.5, by="operator:z", reason="r"
)
ASKED = records.request(target="web", rates=(records.rate(per_minute=6, burst=9),))


async def flush(hot_server: Valkey, opening: Opening) -> None:
    """Lose this test's data, as FLUSHALL would that of all."""
    async with hot_server.client() as eyes:
        keys = [key async for key in eyes.scan_iter(match="*", count=1_000)]
        await eyes.unlink(*[key for key in keys if f"{{{opening.prefix}}}".encode() in key])


async def set_everything(hot: RedisHotStore) -> None:
    await hot.set_mode(records.mode(CLOCK, mode=Mode.CRITICAL))
    await hot.set_mode(
        records.mode(CLOCK, mode=Mode.LOCKDOWN, reason="short", expires_at=CLOCK.now() + 900)
    )
    await hot.set_mode(records.mode(CLOCK, source="usage"))
    await hot.set_mode(records.mode(CLOCK, scope="principal:a", source="runaway"))
    await hot.set_circuit(ISOLATED, expected_version=0)
    await hot.set_grant(grant(CLOCK))
    await hot.set_partition(partition(CLOCK))


async def everything(hot: RedisHotStore) -> tuple[object, ...]:
    return (
        [(e.scope, e.source, e.mode) for e in await hot.modes() if e.source != "usage"],
        [(c.target, c.phase, c.reason) for c in await hot.circuits() if c.target == "db"],
        [(g.id, g.expires_at) for g in await hot.grants()],
        [(p.target, p.size) for p in await hot.partitions()],
    )


async def test_what_people_set_is_restored_and_limits_begin_with_no_credit(
    opening: Opening, hot_server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with opening() as hot:
        await set_everything(hot)
        before = await everything(hot)
        assert all(before)
        assert (await hot.admit(ASKED)).granted
        await flush(hot_server, opening)
        with caplog.at_level(logging.WARNING):
            empty = await hot.admit(ASKED)
        assert not empty.granted
        assert empty.rates[0].remaining == 0
        assert 5 < empty.rates[0].retry_after_s <= 10
        assert "lost its data: what people set was restored" in caplog.text
        assert await everything(hot) == before
        assert [e.source for e in await hot.modes() if e.scope == "shop"] == ["operator"]
        assert hot.losses == opening.losses == 1
        await hot.clear_modes("shop", frozenset({"operator"}))
        await flush(hot_server, opening)
        assert [e.scope for e in await hot.modes()] == ["principal:a"]
        assert hot.losses == 2


async def test_no_call_of_many_gets_through_on_the_empty_store(
    opening: Opening, hot_server: Valkey
) -> None:
    granted: list[bool] = []

    async def call(hot: RedisHotStore) -> None:
        granted.append((await hot.admit(records.request(target="web"))).granted)

    async with opening() as ours, opening() as theirs:
        await ours.set_mode(records.mode(CLOCK, scope="*", mode=Mode.LOCKDOWN))
        for _ in range(3):
            await flush(hot_server, opening)
            async with anyio.create_task_group() as tasks:
                for number in range(60):
                    tasks.start_soon(call, theirs if number % 2 else ours)
        assert granted == [False] * 180
        assert len(await ours.modes()) == 1
        assert 3 <= opening.losses <= 6


async def test_what_was_ended_is_not_restored(opening: Opening, hot_server: Valkey) -> None:
    async with opening() as hot:
        await set_everything(hot)
        await hot.set_partition(partition(CLOCK, size=9))
        await hot.set_mode(records.mode(CLOCK))
        for scope in ("shop", "principal:a"):
            await hot.clear_modes(scope, frozenset({"operator", "usage", "runaway"}))
        assert await hot.clear_grant("g1")
        assert await hot.clear_partition("shop")
        assert await hot.set_circuit(CircuitState(target="db"), expected_version=1)
        assert list(await opening.facts.facts()) == [f"hot:{opening.prefix}:incarnation"]
        await flush(hot_server, opening)
        assert await everything(hot) == ([], [], [], [])


async def test_what_expired_is_neither_restored_nor_kept(
    opening: Opening, hot_server: Valkey
) -> None:
    async with opening() as hot:
        past = CLOCK.now() - 1
        await hot.set_grant(grant(CLOCK, expires_at=past))
        await hot.set_partition(partition(CLOCK, seconds=-1))
        await hot.set_mode(records.mode(CLOCK, expires_at=past))
        await flush(hot_server, opening)
        assert await everything(hot) == ([], [], [], [])
    assert len(await opening.facts.facts()) == 1


async def test_a_compare_and_set_that_lost_leaves_no_fact(
    opening: Opening, hot_server: Valkey
) -> None:
    async with opening() as hot:
        assert await hot.set_circuit(ISOLATED, expected_version=7) is None
        await flush(hot_server, opening)
        assert await hot.circuits() == ()


async def test_a_new_process_finds_what_an_empty_server_has_lost(
    opening: Opening, tmp_path: Path
) -> None:
    async with valkey(tmp_path, free_port(), "--appendonly", "no") as server:
        async with opening(url=server.url) as hot:
            assert (await hot.admit(ASKED)).granted
            await set_everything(hot)
            before = await everything(hot)
        await server.crash()
        await server.start()
        async with opening(url=server.url) as hot:
            assert opening.losses == 1
            assert await everything(hot) == before
            assert not (await hot.admit(ASKED)).granted


async def test_a_restart_that_kept_the_data_is_a_loss_too_for_who_knows_what_it_kept(
    opening: Opening, tmp_path: Path
) -> None:
    policy = CircuitPolicy(consecutive=1)
    async with valkey(tmp_path, free_port()) as server, opening(url=server.url) as hot:
        await set_everything(hot)
        before = await everything(hot)
        await hot.record("web", Health.FAILED, error="x", probe=False, policy=policy)
        looked = records.request(target="web", rates=ASKED.rates, take=False)
        assert (await hot.admit(looked)).rates[0].remaining == 9
        await server.stop()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await hot.admit(ASKED)
        await server.start()
        admission = await hot.admit(looked)
        assert admission.rates[0].remaining == 0
        assert admission.circuit.phase is CircuitPhase.OPEN
        assert await everything(hot) == before
        assert "usage" in [entry.source for entry in await hot.modes()]
        assert opening.losses == 1


async def test_a_promoted_replica_is_not_trusted_with_what_it_may_lack(
    opening: Opening, hot_server: Valkey, tmp_path: Path
) -> None:
    async with hot_server.client() as eyes:
        await eyes.config_set("repl-diskless-sync-delay", "0")
    async with opening() as hot:
        await hot.set_mode(records.mode(CLOCK, scope="*", mode=Mode.LOCKDOWN))
        replica_of = ("--replicaof", "127.0.0.1", str(hot_server.port))
        async with valkey(tmp_path, free_port(), *replica_of) as replica:
            async with replica.client() as eyes:
                with anyio.fail_after(20):
                    while not await eyes.exists(f"{{{opening.prefix}}}:modes"):
                        await anyio.sleep(0.02)
                for _ in range(2):  # it knows the script the second time
                    with pytest.raises(StoreUnavailable, match="read-only replica"):
                        async with opening(url=replica.url):
                            pass
                await hot.clear_modes("*", frozenset({"operator"}))
                await hot.set_mode(records.mode(CLOCK, scope="*", mode=Mode.READ_ONLY))
                await command(eyes, "REPLICAOF", "NO", "ONE")
            async with opening(url=replica.url) as promoted:
                assert opening.losses == 1
                assert Mode.READ_ONLY in [entry.mode for entry in await promoted.modes()]
                assert not (await promoted.admit(ASKED)).granted


async def test_without_facts_a_process_restores_what_it_set_itself(
    opening: Opening, hot_server: Valkey
) -> None:
    async with opening(facts=None) as hot:
        await hot.set_mode(records.mode(CLOCK))
        await flush(hot_server, opening)
        assert len(await hot.modes()) == 1


async def test_a_process_with_a_ledger_of_its_own_learns_which_data_it_uses(
    opening: Opening, hot_server: Valkey
) -> None:
    other = Opening(hot_server.url, prefix=opening.prefix)
    async with opening(), other():
        assert await other.facts.facts() == await opening.facts.facts()
    await flush(hot_server, opening)
    async with other():
        assert other.losses == 1


class FullLedger(MemoryFacts):
    """A ledger that cannot be written."""

    full = False

    async def put_fact(self, name: str, value: str) -> None:
        if self.full:
            raise StoreUnavailable("The ledger's disk is full.")
        await super().put_fact(name, value)

    async def facts(self) -> Mapping[str, str]:
        if self.full:
            raise StoreUnavailable("The ledger's disk is full.")
        return await super().facts()


async def test_a_change_that_is_not_durable_is_not_made(
    opening: Opening, hot_server: Valkey
) -> None:
    ledger = FullLedger()
    async with opening(facts=ledger) as hot:
        await hot.set_grant(grant(CLOCK))
        ledger.full = True
        for change in (
            hot.set_mode(records.mode(CLOCK)),
            hot.set_partition(partition(CLOCK)),
            hot.set_grant(grant(CLOCK, id="g2")),
            hot.clear_grant("g1"),
            hot.set_circuit(ISOLATED, expected_version=0),
        ):
            with pytest.raises(StoreUnavailable):
                await change
        assert (await everything(hot))[:2] == ([], [])
        assert [held.id for held in await hot.grants()] == ["g1"]
        await flush(hot_server, opening)
        with pytest.raises(StoreUnavailable):
            await hot.admit(ASKED)
        ledger.full = False
        await hot.admit(ASKED)
        assert [held.id for held in await hot.grants()] == ["g1"]


async def test_a_change_that_redis_did_not_take_returns_only_where_it_is_stricter(
    opening: Opening, hot_server: Valkey
) -> None:
    async with opening() as hot, hot_server.client() as eyes:
        await eyes.config_set("maxmemory", "1")
        try:
            for change in (
                hot.set_grant(grant(CLOCK)),
                hot.set_partition(partition(CLOCK)),
                hot.set_mode(records.mode(CLOCK, mode=Mode.LOCKDOWN)),
            ):
                with pytest.raises(StoreUnavailable, match="out of memory"):
                    await change
        finally:
            await eyes.config_set("maxmemory", "0")
        assert await everything(hot) == ([], [], [], [])
        await flush(hot_server, opening)
        assert await everything(hot) == ([("shop", "operator", Mode.LOCKDOWN)], [], [], [])


async def test_a_change_while_redis_is_down_leaves_nothing(
    opening: Opening, tmp_path: Path
) -> None:
    async with (
        valkey(tmp_path, free_port(), "--appendonly", "no") as server,
        opening(url=server.url) as hot,
    ):
        await server.crash()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await hot.set_mode(records.mode(CLOCK, mode=Mode.LOCKDOWN))
        await server.start()
        assert await everything(hot) == ([], [], [], [])


class Forgetful(MemoryFacts):
    """Takes the data away again as soon as it was restored."""

    def __init__(self, hot_server: Valkey, key: str) -> None:
        super().__init__()
        self._server = hot_server
        self._key = key
        self.forgets = False

    async def put_fact(self, name: str, value: str) -> None:
        await super().put_fact(name, value)
        if self.forgets:
            async with self._server.client() as eyes:
                await eyes.hdel(self._key, "incarnation")


async def test_a_server_that_forgets_on_and_on_is_not_used(
    opening: Opening, hot_server: Valkey
) -> None:
    facts = Forgetful(hot_server, f"{{{opening.prefix}}}:meta")
    async with opening(facts=facts) as hot:
        await flush(hot_server, opening)
        facts.forgets = True
        with pytest.raises(StoreUnavailable, match="again and again"):
            await hot.admit(ASKED)
