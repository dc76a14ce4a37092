"""Moving items: in exactly one place at every instant, never twice, whatever breaks."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from mcp_ops.capabilities.deadletters import DeadLetterFilter
from mcp_ops.errors import (
    Conflict,
    NotFound,
)
from mcp_ops.lab.redis import Valkey
from tests.adapters.redis_lab import KEY, START, adapter, fill, member
from tests.adapters.test_redis import FORMATS, put

pytest_plugins = ["tests.adapters.redis_fixtures"]

WORK = "work"
HOLDS = f"{KEY}:mcp-ops:holds"
MOVING = {"retry": "requeue", "requeue_key": WORK}


def ids_of(members: Any) -> list[str]:
    return sorted(json.loads(raw)["id"] for raw in members)


async def everywhere(client: Any) -> list[str]:
    """The ids of the source and of the work list together."""
    return ids_of([*await client.zrange(KEY, 0, -1), *await client.lrange(WORK, 0, -1)])


async def raw_members(client: Any, kind: str, key: str) -> list[bytes]:
    if kind == "zset":
        return list(await client.zrange(key, 0, -1))
    if kind == "list":
        return list(await client.lrange(key, 0, -1))
    if kind == "stream":
        return [fields[b"data"] for _, fields in await client.xrange(key)]
    return list((await client.hgetall(key)).values())


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("to", FORMATS)
async def test_an_item_moves_between_all_formats_with_one_more_attempt(
    shared_valkey: Valkey, redis: Any, kind: str, to: str
) -> None:
    await put(redis, kind, [member(n, extra={"kept": True}) for n in range(3)])
    async with adapter(shared_valkey.url, format=kind, requeue_format=to, **MOVING) as opened:
        assert (await opened.requeue("op_1")).done
        with pytest.raises(NotFound):
            await opened.requeue("op_1")
    assert ids_of(await raw_members(redis, kind, KEY)) == ["op_0", "op_2"]
    moved = json.loads((await raw_members(redis, to, WORK))[0])
    assert (moved["id"], moved["retry_count"], moved["extra"]) == ("op_1", 1, {"kept": True})
    assert moved["last_retry"] == "2027-01-15T08:00:00.000"


@pytest.mark.parametrize("kind", FORMATS)
async def test_a_retry_by_call_marks_the_item_resolved_where_it_stands(
    shared_valkey: Valkey, redis: Any, kind: str
) -> None:
    await put(redis, kind, [member(n) for n in range(3)])
    async with adapter(shared_valkey.url, format=kind) as opened:
        held = await opened.begin_retry("op_1")
        assert (held.operation, held.arguments) == ("oci_cost_get_summary", {"days": 30})
        assert len(await raw_members(redis, kind, KEY)) == 3
        await opened.end_retry(held, end="resolved", note="worked")
        page = await opened.list_items(DeadLetterFilter(), limit=9, cursor="")
        assert sorted(item.id for item in page.items) == ["op_0", "op_2"]
        with pytest.raises(Conflict, match="resolved"):
            await opened.begin_retry("op_1")
    stored = [json.loads(raw) for raw in await raw_members(redis, kind, KEY)]
    done = next(item for item in stored if item["id"] == "op_1")
    assert len(stored) == 3
    assert (done["resolved"], done["retry_count"], done["resolution_notes"]) == (True, 1, "worked")
    if kind == "zset":
        assert (await redis.zrange(KEY, 1, 1, withscores=True))[0][1] == START + 1


@pytest.mark.parametrize("kind", FORMATS)
async def test_discarded_items_come_back_as_they_were(
    shared_valkey: Valkey, redis: Any, kind: str
) -> None:
    members = [member(n) for n in range(120)]
    await put(redis, kind, members)
    async with adapter(shared_valkey.url, format=kind) as opened:
        gone = await opened.discard([f"op_{n}" for n in range(110)], export_id="e1")
        assert all(move.done for move in gone.moves)
        assert len(await raw_members(redis, kind, KEY)) == 10
        expiry = await redis.expiretime("mcp-ops:deadletter:export:e1")
        assert expiry == int(gone.restorable_until)
        back = await opened.restore("e1")
        assert sum(move.done for move in back) == 110
        with pytest.raises(NotFound):
            await opened.restore("e1")
    assert sorted(await raw_members(redis, kind, KEY)) == sorted(members)
    if kind == "zset":
        assert await redis.zscore(KEY, members[7]) == START + 7


async def test_restore_skips_what_is_there_already(shared_valkey: Valkey, redis: Any) -> None:
    await fill(redis, [member(1), member(2)])
    async with adapter(shared_valkey.url) as opened:
        await opened.discard(["op_1", "op_2"], export_id="e")
        await redis.zadd(KEY, {member(1): START})
        moves = {move.id: move.done for move in await opened.restore("e")}
    assert moves == {"op_1": False, "op_2": True}
    assert await redis.zcard(KEY) == 2


async def test_two_holders_never_have_one_item_and_a_zombie_is_refused(
    shared_valkey: Valkey, redis: Any
) -> None:
    await fill(redis, [member(1)])
    async with adapter(shared_valkey.url) as one, adapter(shared_valkey.url) as two:
        held = await one.begin_retry("op_1")
        with pytest.raises(Conflict, match="another retry holds it"):
            await two.begin_retry("op_1")
        discarded = await two.discard(["op_1"], export_id="e")
        assert not discarded.moves[0].done
        # The holder stops past its hold: nobody knows whether it made its call.
        await redis.hset(HOLDS, "op_1", f"{held.receipt.token}|1|1")  # type: ignore[attr-defined]
        with pytest.raises(Conflict, match="without an answer"):
            await two.begin_retry("op_1")
        # An operator looked and clears it; now the other one may, and the zombie may not.
        await redis.hdel(HOLDS, "op_1")
        second = await two.begin_retry("op_1")
        with pytest.raises(Conflict, match="does not hold"):
            await one.end_retry(held, end="resolved", note="late")
        await two.end_retry(second, end="failed", note="no")
    stored = json.loads((await redis.zrange(KEY, 0, -1))[0])
    assert (stored["resolved"], stored["retry_count"], stored["resolution_notes"]) == (
        False,
        1,
        "no",
    )


async def test_an_unknown_outcome_is_never_retried_also_not_after_discard_and_restore(
    shared_valkey: Valkey, redis: Any
) -> None:
    await fill(redis, [member(1)])
    async with adapter(shared_valkey.url) as opened:
        held = await opened.begin_retry("op_1")
        await opened.end_retry(held, end="unknown", note="answer lost")
        with pytest.raises(Conflict, match="without an answer") as refused:
            await opened.begin_retry("op_1")
        assert refused.value.details["since"]
        await opened.discard(["op_1"], export_id="e")
        assert await redis.hlen(HOLDS) == 0
        await opened.restore("e")
        with pytest.raises(Conflict, match="without an answer"):
            await opened.begin_retry("op_1")


async def test_a_released_item_keeps_its_count_and_ten_retries_are_the_end(
    shared_valkey: Valkey, redis: Any
) -> None:
    await fill(redis, [member(1), member(2, retry_count=10)])
    async with adapter(shared_valkey.url, **MOVING) as opened:
        held = await opened.begin_retry("op_1")
        await opened.end_retry(held, end="released", note="")
        assert member(1) in await redis.zrange(KEY, 0, -1)
        with pytest.raises(Conflict, match="10 times"):
            await opened.begin_retry("op_2")
        assert not (await opened.requeue("op_2")).done


async def test_an_item_that_was_rewritten_meanwhile_is_not_moved(
    shared_valkey: Valkey, redis: Any
) -> None:
    await fill(redis, [member(1)])
    async with adapter(shared_valkey.url) as opened:
        held = await opened.begin_retry("op_1")
        await redis.delete(KEY)
        await fill(redis, [member(1, error="changed by the coordinator")])
        with pytest.raises(Conflict, match="left the queue"):
            await opened.end_retry(held, end="resolved", note="ok")
    assert await redis.zcard(KEY) == 1


async def test_two_redrivers_move_every_item_once(shared_valkey: Valkey, redis: Any) -> None:
    await fill(redis, [member(n) for n in range(200)])
    ids = [f"op_{n}" for n in range(200)]
    moved: list[str] = []

    async def redrive(opened: Any, order: list[str]) -> None:
        for item_id in order:
            try:
                if (await opened.requeue(item_id)).done:
                    moved.append(item_id)
            except NotFound:
                pass

    with anyio.fail_after(30):
        async with (
            adapter(shared_valkey.url, **MOVING) as one,
            adapter(shared_valkey.url, **MOVING) as two,
            anyio.create_task_group() as both,
        ):
            both.start_soon(redrive, one, ids)
            both.start_soon(redrive, two, list(reversed(ids)))
    assert sorted(moved) == sorted(ids)
    assert ids_of(await redis.lrange(WORK, 0, -1)) == sorted(ids)


async def test_cancellation_at_any_point_keeps_every_item(
    shared_valkey: Valkey, redis: Any
) -> None:
    await fill(redis, [member(n) for n in range(60)])
    rng = random.Random(7)
    async with adapter(shared_valkey.url, **MOVING) as opened:
        for n in range(60):
            # Cancel after a random number of turns of the event loop: at every await, that is.
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(opened.requeue, f"op_{n}")
                    for _ in range(rng.randrange(40)):
                        await asyncio.sleep(0)
                    scope.cancel()
            assert len(await everywhere(redis)) == 60
        assert await everywhere(redis) == sorted(f"op_{n}" for n in range(60))
        with anyio.fail_after(5):
            await opened.ping()


# One process that forks a redriver for every line it reads: a fresh victim without a fresh start.
REDRIVERS = """
import os, sys, anyio
from tests.adapters.redis_lab import adapter
from mcp_ops.capabilities.deadletters import DeadLetterFilter
async def redrive():
    async with adapter(sys.argv[1], retry="requeue", requeue_key="work") as opened:
        while True:
            chosen = await opened.select_ids(DeadLetterFilter(failure_type="timeout"), max_items=50)
            for item_id in chosen.ids:
                await opened.requeue(item_id)
                print(item_id, flush=True)
            if not chosen.ids:
                return
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        anyio.run(redrive)
        os._exit(0)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


async def test_kill_nine_during_a_redrive_keeps_every_item_once(
    shared_valkey: Valkey, redis: Any
) -> None:
    await fill(redis, [member(n) for n in range(500)])
    everything = sorted(f"op_{n}" for n in range(500))
    rng = random.Random(5)
    command = [sys.executable, "-c", REDRIVERS, shared_valkey.url]
    with anyio.fail_after(30):
        async with await anyio.open_process(command, cwd=Path(__file__).parents[2]) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            lines = BufferedByteReceiveStream(process.stdout)

            async def line() -> str:
                return (await lines.receive_until(b"\n", 1_000)).decode("ascii")

            for _ in range(10):
                await process.stdin.send(b"go\n")
                victim = int(await line())
                for _ in range(rng.randrange(1, 40)):
                    await line()
                os.kill(victim, signal.SIGKILL)
                while await line() != "ended":
                    pass
                assert await everywhere(redis) == everything
            await process.stdin.send(b"go\n")
            while await line() != "ended":
                pass
            await process.stdin.aclose()
    assert ids_of(await redis.lrange(WORK, 0, -1)) == everything
    assert await redis.zcard(KEY) == 0
