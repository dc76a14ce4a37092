"""Several servers on one Redis and one PostgreSQL: they act as one guard, also when one is away."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from mcp_ops.clock import SystemClock
from mcp_ops.errors import Health, StoreUnavailable, Unreachable
from mcp_ops.lab.redis import Valkey, valkey
from mcp_ops.ports import Mode
from mcp_ops.records import AuditQuery, EntryKind
from mcp_ops.settings import GuardSettings, LimitSettings, PolicyRule
from mcp_ops.stores.opening import ALONE, Place, open_stores
from tests.adapters.redis_lab import free_port
from tests.guard.bench import AGENT, OPEN_LIMITS, OPERATOR, WHY, Bench, bench
from tests.guard.shelf import World
from tests.stores import records
from tests.stores.postgres.server import Running

KEY = "the key of all replicas"
FREE = (PolicyRule(require="none"),)


@dataclass
class Shared:
    """Where the replicas keep what they share; each has a directory of its own."""

    hot: str
    ledger: str
    root: Path

    def place(self, name: str, **more: Any) -> Place:
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        return Place(directory=directory, hot=self.hot, ledger=self.ledger, key=KEY, **more)

    @asynccontextmanager
    async def replica(self, name: str, world: World, **more: Any) -> AsyncIterator[Bench]:
        place = self.place(name)
        clock: Any = SystemClock()
        worlds = {"shelf": world}
        async with bench(place.directory, place=place, clock=clock, worlds=worlds, **more) as b:
            yield b


@dataclass
class Redis:
    """A server of this test's own, in a thread of its own."""

    server: Valkey
    portal: BlockingPortal

    async def run(self, what: str) -> None:
        await anyio.to_thread.run_sync(lambda: self.portal.call(getattr(self.server, what)))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with start_blocking_portal() as portal:
        serving = valkey(tmp_path / "redis", free_port(), "--appendfsync", "no")
        with portal.wrap_async_context_manager(serving) as server:
            yield Redis(server, portal)


@pytest.fixture
def shared(postgresql: Running, redis: Redis, tmp_path: Path) -> Shared:
    backend = postgresql.backend(tmp_path)
    return Shared(hot=redis.server.url, ledger=backend.url, root=tmp_path)


@pytest.fixture
def world() -> World:
    return World()


async def until(true: Callable[[], Any]) -> None:
    with anyio.fail_after(15):
        while not await true():
            await anyio.sleep(0.05)


async def test_two_replicas_share_budgets_keys_and_answers(shared: Shared, world: World) -> None:
    limits = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"writes_per_object": 2}))
    async with (
        shared.replica("a", world, settings=limits, rules=FREE) as a,
        shared.replica("b", world, settings=limits, rules=FREE) as b,
    ):
        first = await a.put(idempotency_key="k1")
        again = await b.put(idempotency_key="k1")
        assert again["replayed"] is True
        assert again["audit_id"] == first["audit_id"]
        await b.put(idempotency_key="k2")
        for each in (a, b):
            code = await each.code("put_item", name="a", reason=WHY, idempotency_key="k3")
            assert code == "budget_exhausted"
        assert world.effects == ["put a", "put a"]
        assert {e.writer for e in await a.entries()} >= {e.writer for e in await b.entries()}
        assert (await a.stores.ledger.verify()).ok


async def test_the_same_write_at_both_at_once_runs_once(shared: Shared, world: World) -> None:
    async with (
        shared.replica("a", world, rules=FREE) as a,
        shared.replica("b", world, rules=FREE) as b,
    ):
        answers: list[dict[str, Any]] = []

        async def call(each: Bench) -> None:
            answers.append(await each.put())

        async with anyio.create_task_group() as tasks:
            for each in (a, b) * 10:
                tasks.start_soon(call, each)
        assert world.effects == ["put a"]
        assert {answer["outcome"] for answer in answers} <= {"verified", "in_progress"}


async def test_a_lockdown_holds_at_the_other_replica_for_its_next_call(
    shared: Shared, world: World
) -> None:
    async with shared.replica("a", world) as a, shared.replica("b", world) as b:
        assert await b.code("look_at_item", name="x") == "ok"
        await a.control(OPERATOR).set_mode("all", Mode.LOCKDOWN, minutes=0, reason="stop")
        assert await b.code("look_at_item", name="x") == "locked_down"
        await b.control(OPERATOR).clear_modes("*", reason="done")
        assert await a.code("look_at_item", name="x") == "ok"


async def test_what_is_asked_here_is_approved_there_and_used_once(
    shared: Shared, world: World
) -> None:
    async with shared.replica("a", world) as a, shared.replica("b", world) as b:
        asked = await a.error("drop_item", name="a", reason=WHY)
        await b.approve(asked["details"]["approval_id"])
        codes: list[str] = []

        async def call(each: Bench) -> None:
            codes.append(await each.code("drop_item", name="a", reason=WHY))

        async with anyio.create_task_group() as tasks:
            for each in (a, b) * 5:
                tasks.start_soon(call, each)
        assert world.effects == ["drop a"]
        assert codes.count("ok") >= 1
        assert set(codes) <= {"ok", "approval_required"}


async def test_rates_and_circuits_are_counted_together(shared: Shared, world: World) -> None:
    limits = LimitSettings(principal_per_minute=6)
    async with (
        shared.replica("a", world, settings=GuardSettings(limits=limits)) as a,
        shared.replica("b", world, settings=GuardSettings(limits=limits)) as b,
    ):
        codes = [await each.code("look_at_item", name=str(n)) for n in range(5) for each in (a, b)]
        assert codes == ["ok"] * 6 + ["rate_limited"] * 4
        policy = a.guard.circuit_policy
        for each in (a, b, a):
            await each.stores.hot.record(
                "depot", Health.FAILED, error="x", probe=False, policy=policy
            )
        phases = {c.target: c.phase.value for c in await b.stores.hot.circuits()}
        assert phases["depot"] == "open"


async def test_a_read_costs_one_command_at_redis_and_none_at_postgresql(
    shared: Shared, redis: Redis, world: World
) -> None:
    async with shared.replica("a", world) as a:
        await a.ok("look_at_item", name="warm")
        async with redis.server.client() as client:
            await client.config_resetstat()
            for number in range(20):
                await a.ok("look_at_item", name=str(number))
            stats: Any = await client.info("commandstats")
    scripts = stats["cmdstat_evalsha"]["calls"]
    assert 20 <= scripts <= 24  # and what the copy of the modes and the health of targets cost


async def test_without_redis_reads_go_on_restricted_and_writes_are_refused(
    shared: Shared, redis: Redis, world: World
) -> None:
    async with shared.replica("a", world, rules=FREE) as a:
        await a.ok("look_at_item", name="x")
        await redis.run("crash")
        try:
            assert await a.code("look_at_item", name="y") == "ok"
            assert await a.code("put_item", name="a", reason=WHY) == "store_unavailable"
            status = await a.ok("get_guard_status")
            assert [each["name"] for each in status["away"]] == ["hot store"]
            assert ("restrictive", "store") in {
                (mode["mode"], mode["source"]) for mode in status["modes"]
            }
            health = await a.ok("get_health")
            assert health["overall"] != "healthy"
        finally:
            await redis.run("start")

        async def back() -> bool:
            return await a.code("put_item", name="a", reason=WHY) == "ok"

        await until(back)  # limits begin with no credit
        assert world.effects == ["put a"]
        assert (await a.ok("get_guard_status"))["away"] == []


async def test_without_postgresql_reads_go_on_and_their_record_is_merged_once(
    shared: Shared, postgresql: Running, world: World
) -> None:
    async with shared.replica("a", world, rules=FREE) as a:
        await a.put()
        await postgresql.run("crash")
        try:
            for number in range(5):
                assert await a.code("look_at_item", name=f"away{number}") == "ok"
            assert await a.code("put_item", name="b", reason=WHY) == "store_unavailable"

            async def spooled() -> bool:
                lines = "".join(p.read_text() for p in (shared.root / "a").glob("spool-*.jsonl"))
                return lines.count("look_at_item") == 5

            await until(spooled)
            status = await a.ok("get_guard_status")
            assert [each["name"] for each in status["away"]] == ["ledger"]
        finally:
            await postgresql.run("start")

        async def merged() -> bool:
            try:
                lines = await a.stores.ledger.search(AuditQuery(tool="look_at_item", limit=50))
            except StoreUnavailable:
                return False
            return len(lines) >= 5

        await until(merged)
        lines = await a.entries(tool="look_at_item")
        assert [line.object for line in lines] == [f"away{number}" for number in range(5)]
        assert (await a.stores.ledger.verify()).ok
        assert world.effects == ["put a"]
        assert not list((shared.root / "a").glob("spool-*.jsonl"))


async def test_what_a_killed_process_left_in_its_spool_is_merged_by_the_next(
    shared: Shared,
) -> None:
    clock = SystemClock()
    async with open_stores(shared.place("a"), clock) as stores:
        stores.ledger.note(records.entry(clock, "there"))
    line = {"kind": "ended", "call_id": "left", "at": clock.now(), "tool": "look_at_item"}
    key = hashlib.sha256(b"ledger" + KEY.encode()).digest()
    body = json.dumps(line).encode()
    mac = hmac.new(key, b"spool" + body, hashlib.sha256).hexdigest().encode()
    (shared.root / "a" / "spool-0badcafe.jsonl").write_bytes(mac + b" " + body + b"\n")
    for _ in range(2):
        async with open_stores(shared.place("a"), clock) as stores:
            found = await stores.ledger.search(AuditQuery(call_id="left"))
            assert [(e.kind, e.tool) for e in found] == [(EntryKind.ENDED, "look_at_item")]
            assert (await stores.ledger.verify()).ok


async def test_break_glass_acts_alone_and_its_record_is_merged(
    shared: Shared, postgresql: Running
) -> None:
    clock = SystemClock()
    await postgresql.run("crash")
    try:
        with pytest.raises(StoreUnavailable):
            async with open_stores(shared.place("a"), clock):
                raise AssertionError("never")
        async with open_stores(shared.place("a", alone=True), clock) as alone:
            mine = records.operation(clock, "glass", key="glass")
            assert (await alone.ledger.begin(records.began(clock, "glass"), mine)).claimed
            await alone.ledger.end(records.entry(clock, "glass"), mine, keep=True)
            twice = records.operation(clock, "again", key="glass")
            held = await alone.ledger.begin(records.began(clock, "again"), twice)
            assert held.holder is not None
    finally:
        await postgresql.run("start")
    assert (shared.root / "a" / ALONE).exists()
    for _ in range(2):
        async with open_stores(shared.place("a"), clock) as stores:
            found = await stores.ledger.search(AuditQuery(call_id="glass"))
            assert [entry.kind for entry in found] == [EntryKind.ENDED, EntryKind.BEGAN]
            assert all(entry.evidence["merged_from"] == ALONE for entry in found)


async def test_a_failing_target_opens_one_circuit_for_both(shared: Shared, world: World) -> None:
    async with shared.replica("a", world) as a, shared.replica("b", world) as b:
        for each in (a, b, a):
            world.plans.append(Unreachable("down"))
            world.plans.extend([Unreachable("down")] * 2)
            await each.code("look_at_item", name="x")
            world.plans.clear()
        assert await b.code("look_at_item", name="y") == "circuit_open"
        assert AGENT.principal in {e.principal for e in await a.entries()}
