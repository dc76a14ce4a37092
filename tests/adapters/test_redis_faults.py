"""What breaks under a move, what it is called, and that nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
import redis.exceptions as vendor

from mcp_ops.adapters.redis.errors import connecting, translated
from mcp_ops.capabilities.deadletters import DeadLetterFilter
from mcp_ops.errors import (
    Conflict,
    ConnectionLost,
    Failed,
    Forbidden,
    Internal,
    OpsError,
    Rejected,
    Unauthenticated,
    Unreachable,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mcp_ops.lab.proxy import proxy
from mcp_ops.lab.redis import Valkey, valkey
from tests.adapters.redis_lab import KEY, adapter, fill, free_port, member
from tests.adapters.test_redis_moves import MOVING, WORK, everywhere

pytest_plugins = ["tests.adapters.redis_fixtures"]


async def test_out_of_memory_changes_nothing_and_says_so(shared_valkey: Valkey, redis: Any) -> None:
    await fill(redis, [member(n) for n in range(5)])
    async with adapter(shared_valkey.url, **MOVING) as opened:
        held = await opened.begin_retry("op_0")
        await redis.config_set("maxmemory", "1")
        try:
            for action in (
                opened.requeue("op_1"),
                opened.begin_retry("op_1"),
                opened.discard(["op_1"], export_id="e"),
                opened.end_retry(held, end="resolved", note=""),
            ):
                with pytest.raises(UpstreamUnavailable, match="out of memory"):
                    await action
            assert (await opened.list_items(DeadLetterFilter(), limit=9, cursor="")).items
        finally:
            await redis.config_set("maxmemory", "0")
    assert sorted(await redis.zrange(KEY, 0, -1)) == sorted(member(n) for n in range(5))
    assert await redis.llen(WORK) == 0


async def test_a_wrong_type_of_the_requeue_key_changes_nothing(
    shared_valkey: Valkey, redis: Any
) -> None:
    await fill(redis, [member(1)])
    await redis.set(WORK, "a string")
    async with adapter(shared_valkey.url, **MOVING) as opened:
        with pytest.raises(Rejected, match="format"):
            await opened.requeue("op_1")
    assert await redis.zrange(KEY, 0, -1) == [member(1)]


async def test_a_read_only_replica_serves_reads_and_refuses_moves(
    shared_valkey: Valkey, redis: Any, tmp_path: Path
) -> None:
    await fill(redis, [member(1)])
    await redis.config_set("repl-diskless-sync-delay", "0")
    with anyio.fail_after(20):
        replica_of = ("--replicaof", "127.0.0.1", str(shared_valkey.port))
        async with valkey(tmp_path, free_port(), *replica_of) as replica:
            async with replica.client() as eyes:
                while await eyes.zcard(KEY) != 1:
                    await anyio.sleep(0.05)
            async with adapter(replica.url, **MOVING) as opened:
                assert (await opened.get_item("op_1")).item.id == "op_1"
                with pytest.raises(Conflict, match="read-only replica"):
                    await opened.requeue("op_1")


async def test_credentials_and_permissions_have_their_own_errors(
    shared_valkey: Valkey, redis: Any
) -> None:
    await fill(redis, [member(1)])
    await redis.acl_setuser(
        "reader",
        enabled=True,
        passwords=["+pass-word-1"],
        keys=["*"],
        categories=["+@read", "+@scripting", "+@connection"],
        commands=["+time"],
    )
    url = f"redis://reader:{{}}@127.0.0.1:{shared_valkey.port}/0"
    async with adapter(url.format("wrong-secret"), **MOVING) as opened:
        with pytest.raises(Unauthenticated) as refused:
            await opened.ping()
        assert "wrong-secret" not in f"{refused.value.message} {refused.value.hint}"
        assert refused.value.executed == "no"
    async with adapter(url.format("pass-word-1"), **MOVING) as opened:
        assert (await opened.get_item("op_1")).item.id == "op_1"
        with pytest.raises(Forbidden):
            await opened.requeue("op_1")
    assert await redis.zrange(KEY, 0, -1) == [member(1)]
    await redis.acl_deluser("reader")


async def test_nobody_listening_is_unreachable_and_nothing_was_executed() -> None:
    async with adapter(f"redis://user:topsecret@127.0.0.1:{free_port()}") as opened:
        with pytest.raises(Unreachable) as failed:
            await opened.ping()
    assert failed.value.executed == "no"
    assert "127.0.0.1" not in f"{failed.value.message} {failed.value.hint}"


@pytest.mark.parametrize("direction", ["cut_to_server_after", "cut_to_client_after"])
async def test_a_connection_cut_in_the_middle_is_unknown_and_moves_whole_items_only(
    shared_valkey: Valkey, redis: Any, direction: str
) -> None:
    await fill(redis, [member(n) for n in range(12)])
    outcomes = set()
    with anyio.fail_after(20):
        async with (
            proxy(shared_valkey.port) as between,
            adapter(f"redis://127.0.0.1:{between.port}/0", **MOVING) as opened,
        ):
            for n in range(12):
                await opened.ping()
                setattr(between, direction, 1 + n * 61)
                try:
                    await opened.requeue(f"op_{n}")
                except Failed as exc:
                    outcomes.add((type(exc), exc.executed))
                setattr(between, direction, None)
                assert await everywhere(redis) == sorted(f"op_{i}" for i in range(12))
            assert between.cuts > 0
    assert (ConnectionLost, "unknown") in outcomes
    assert outcomes <= {(ConnectionLost, "unknown"), (Unreachable, "no")}


async def test_a_black_hole_ends_in_a_timeout(shared_valkey: Valkey, redis: Any) -> None:
    with anyio.fail_after(5):
        async with (
            proxy(shared_valkey.port) as between,
            adapter(f"redis://127.0.0.1:{between.port}/0", timeout_s=0.2) as opened,
        ):
            await opened.ping()
            between.fault = "black_hole"
            with pytest.raises(UpstreamTimeout) as failed:
                await opened.ping()
            assert failed.value.executed == "unknown"
            between.fault = "refuse"
            with pytest.raises(Unreachable):
                await opened.ping()


async def test_a_restart_of_the_server_during_a_redrive_loses_nothing(tmp_path: Path) -> None:
    ids = [f"op_{n}" for n in range(30)]
    with anyio.fail_after(30):
        async with valkey(tmp_path, free_port(), "--appendfsync", "always") as server:
            async with server.client() as eyes:
                await fill(eyes, [member(n) for n in range(30)])
            async with adapter(server.url, **MOVING) as opened:
                for n, item_id in enumerate(ids):
                    if n == 10:
                        await server.stop()
                        with pytest.raises(Unreachable):
                            await opened.requeue(item_id)
                        await server.start()
                    if n == 20:
                        await server.crash()
                        await server.start()
                    assert (await opened.requeue(item_id)).done
            async with server.client() as eyes:
                assert await everywhere(eyes) == sorted(ids)
                assert await eyes.zcard(KEY) == 0


def test_every_exception_of_the_client_library_has_a_place_in_the_table() -> None:
    kinds = [
        kind
        for kind in vars(vendor).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    programming = {
        "DataError",
        "PubSubError",
        "WatchError",
        "LockError",
        "LockNotOwnedError",
        "ChildDeadlockedError",
        "IncorrectPolicyType",
        "RedisError",
    }
    assert len(kinds) > 30
    for kind in kinds:
        if kind.__module__ == "builtins":
            continue
        for phase in (translated, connecting):
            error = kind.__new__(kind)
            error.args = ("secret-host:6379 refused",)
            if phase is connecting and not isinstance(error, vendor.RedisError):
                continue
            with pytest.raises(OpsError) as caught, phase():
                raise error
            assert "secret-host" not in f"{caught.value.message} {caught.value.hint}"
            if phase is translated:
                assert isinstance(caught.value, Internal) == (kind.__name__ in programming), kind
