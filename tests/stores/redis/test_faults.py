"""What Redis and the network do to the shared hot store, and what a caller is told."""

from __future__ import annotations

import inspect
from pathlib import Path

import anyio
import pytest
import redis.exceptions as vendor

from mcp_ops.clock import ManualClock
from mcp_ops.errors import Health, StoreUnavailable
from mcp_ops.lab.proxy import proxy
from mcp_ops.lab.redis import Valkey, valkey
from mcp_ops.ports import CircuitPolicy, Mode
from mcp_ops.stores.redis.errors import reason, translated
from tests.adapters.redis_lab import free_port
from tests.stores import records
from tests.stores.redis.opened import CLOCK, Opening, ServerTime, command
from tests.stores.redis.test_hot import grant

ASKED = records.request(rates=(records.rate(per_minute=6, burst=9),))


def says_nothing_it_should_not(error: StoreUnavailable) -> None:
    text = f"{error.message} {error.hint}"
    for secret in ("127.0.0.1", "redis://", "secret", "{", "_script"):
        assert secret not in text
    assert error.hint
    assert error.executed == "no"


async def test_nobody_listens(opening: Opening) -> None:
    with anyio.fail_after(5), pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
        async with opening(url=f"redis://:secret@127.0.0.1:{free_port()}/0"):
            pass
    says_nothing_it_should_not(caught.value)


@pytest.mark.parametrize("fault", ["latency", "black_hole", "refuse", "reset"])
async def test_a_broken_network_fails_calls_in_time_and_is_forgotten_once_it_heals(
    opening: Opening, hot_server: Valkey, fault: str
) -> None:
    failed: list[str] = []

    async def call() -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await hot.admit(ASKED)
        says_nothing_it_should_not(caught.value)
        failed.append(caught.value.message)

    async with proxy(hot_server.port) as between:
        url = f"redis://127.0.0.1:{between.port}/0"
        async with opening(url=url) as hot:
            assert (await hot.admit(ASKED)).granted
            if fault == "latency":
                between.latency_s = 2.0
            else:
                between.fault = fault  # type: ignore[assignment]
                if fault == "refuse":
                    await hot._server._connections._lanes[0].close()
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    for _ in range(40):
                        tasks.start_soon(call)
            assert len(failed) == 40
            between.latency_s, between.fault = 0.0, "none"
            with anyio.fail_after(5):
                assert (await hot.admit(ASKED)).rates[0].limit_per_minute == 6
    assert opening.losses == 0


async def test_a_closed_connection_is_noticed_before_it_is_used(
    opening: Opening, hot_server: Valkey
) -> None:
    async with opening() as hot, hot_server.client() as eyes:
        await hot.admit(ASKED)
        for client in await eyes.client_list():
            if client["name"] == "mcp-ops":
                await eyes.client_kill_filter(_id=client["id"])
        # The server has closed it before it answers this; its FIN is here when the answer is.
        await eyes.ping()
        await anyio.wait_all_tasks_blocked()
        assert (await hot.admit(ASKED)).granted


async def test_a_charge_whose_answer_was_lost_stands(opening: Opening, hot_server: Valkey) -> None:
    async with (
        proxy(hot_server.port) as between,
        opening(url=f"redis://127.0.0.1:{between.port}/0") as hot,
    ):
        assert (await hot.admit(ASKED)).rates[0].remaining == 8
        between.cut_to_client_after = 1
        with pytest.raises(StoreUnavailable):
            await hot.admit(ASKED)
        assert between.cuts == 1
        assert (await hot.rates(ASKED.rates))[0].remaining == 7


async def test_a_probe_whose_answer_was_lost_is_given_up_after_a_minute(
    opening: Opening, hot_server: Valkey
) -> None:
    time = ServerTime()
    clock = ManualClock(time())
    asked = records.request()
    policy = CircuitPolicy(consecutive=1, open_s=1)
    async with proxy(hot_server.port) as between:
        url = f"redis://127.0.0.1:{between.port}/0"
        async with opening(clock, url=url, time=time) as hot:
            await hot.record("shop", Health.FAILED, error="x", probe=False, policy=policy)
            time.advance(1)
            between.cut_to_client_after = 1
            with pytest.raises(StoreUnavailable):
                await hot.admit(asked)
            assert not (await hot.admit(asked)).granted
            time.advance(59.9)
            assert not (await hot.admit(asked)).granted
            time.advance(0.1)
            assert (await hot.admit(asked)).probe


@pytest.mark.parametrize(
    ("setting", "broken", "sound", "words"),
    [
        ("maxmemory", "1", "0", "out of memory"),
        ("min-replicas-to-write", "1", "0", "persist or replicate"),
    ],
)
async def test_a_server_that_takes_no_writes_refuses_what_would_be_taken(
    opening: Opening, hot_server: Valkey, setting: str, broken: str, sound: str, words: str
) -> None:
    async with opening() as hot, hot_server.client() as eyes:
        assert (await hot.admit(ASKED)).granted
        await eyes.config_set(setting, broken)
        try:
            for call in (
                hot.admit(ASKED),
                hot.record("shop", Health.FAILED, error="x", probe=False, policy=CircuitPolicy()),
                hot.set_mode(records.mode(CLOCK, mode=Mode.LOCKDOWN)),
                hot.set_grant(grant(ManualClock())),
            ):
                with pytest.raises(StoreUnavailable, match=words) as caught:
                    await call
                says_nothing_it_should_not(caught.value)
        finally:
            await eyes.config_set(setting, sound)
        assert (await hot.admit(ASKED)).rates[0].remaining == 7


async def test_credentials_and_permissions_are_named(opening: Opening, tmp_path: Path) -> None:
    async with valkey(tmp_path, free_port()) as server, server.client() as eyes:
        await command(eyes, "ACL", "SETUSER", "weak", "on", ">secret", "~*", "+@all", "-info")
        address = server.url.removeprefix("redis://")
        for url, words in (
            (f"redis://weak:wrong@{address}", "does not accept the credential"),
            (f"redis://weak:secret@{address}", "lacks a permission"),
        ):
            with pytest.raises(StoreUnavailable, match=words) as caught:
                async with opening(url=url):
                    pass
            says_nothing_it_should_not(caught.value)
        await command(eyes, "ACL", "SETUSER", "default", "resetpass", ">secret")
        with pytest.raises(StoreUnavailable, match="does not accept the credential"):
            async with opening(url=server.url):
                pass
        await command(eyes, "ACL", "SETUSER", "default", "nopass")


async def test_the_documented_permissions_suffice(opening: Opening, hot_server: Valkey) -> None:
    page = (Path(__file__).parents[3] / "docs" / "shared-store.md").read_text(encoding="utf-8")
    rules = page.split("ACL SETUSER mcp-ops on >… ")[1].split("\n")[0].split("`")[0].split()
    rules = [rule.replace("mcp-ops", opening.prefix) for rule in rules]
    async with hot_server.client() as eyes:
        name = "least"
        await command(eyes, "ACL", "SETUSER", name, "reset", "on", ">secret", *rules)
        address = hot_server.url.removeprefix("redis://")
        clock = ManualClock()
        async with opening(clock, url=f"redis://{name}:secret@{address}") as hot:
            await hot.set_mode(records.mode(clock, expires_at=clock.now() + 9))
            await hot.set_grant(grant(clock))
            await hot.clear_grant("g1")
            admission = await hot.admit(ASKED)
            await hot.give_back(ASKED, admission)
            policy = CircuitPolicy(consecutive=1)
            await hot.record("shop", Health.FAILED, error="x", probe=False, policy=policy)
            await hot.rates(ASKED.rates)
            await hot.circuits()
            await eyes.delete(f"{{{opening.prefix}}}:meta")
            await hot.admit(ASKED)
        await command(eyes, "ACL", "DELUSER", name)


async def test_a_node_of_a_cluster_that_does_not_serve_the_keys_says_so(
    opening: Opening, tmp_path: Path
) -> None:
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    async with valkey(tmp_path, free_port(), *cluster) as server:
        with pytest.raises(StoreUnavailable, match="does not serve the store's keys"):
            async with opening(url=server.url):
                pass


async def test_an_evicting_server_is_warned_about(
    opening: Opening, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = ("--maxmemory-policy", "allkeys-lru")
    async with valkey(tmp_path, free_port(), *policy) as server, opening(url=server.url):
        pass
    assert "may evict keys" in caplog.text


async def test_closing_ends_what_waits(opening: Opening, hot_server: Valkey) -> None:
    async def call() -> None:
        with pytest.raises(StoreUnavailable, match="being closed"):
            await hot.admit(ASKED)

    async with (
        proxy(hot_server.port) as between,
        anyio.create_task_group() as tasks,
        opening(url=f"redis://127.0.0.1:{between.port}/0") as hot,
    ):
        between.fault = "black_hole"
        for _ in range(9):
            tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()


async def test_a_caller_that_has_gone_does_not_disturb_those_of_its_batch(
    opening: Opening, hot_server: Valkey
) -> None:
    async with (
        proxy(hot_server.port) as between,
        opening(url=f"redis://127.0.0.1:{between.port}/0") as hot,
    ):
        between.latency_s = 0.1
        with anyio.CancelScope() as gone:
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(hot._server.open)
                for _ in range(5):  # they ask; to wait for all tasks may take longer than an answer
                    await anyio.lowlevel.checkpoint()
                gone.cancel()
        assert gone.cancelled_caught
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(hot.admit, ASKED)


def test_every_error_of_the_library_has_words() -> None:
    for _, kind in inspect.getmembers(vendor, inspect.isclass):
        if not issubclass(kind, Exception) or not kind.__module__.startswith("redis"):
            continue
        error = kind.__new__(kind)
        Exception.__init__(error, "secret text of 127.0.0.1")
        with pytest.raises(StoreUnavailable) as caught, translated():
            raise error
        says_nothing_it_should_not(caught.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("OOM command not allowed. script: x, on @user_script:1.", "out of memory"),
        ("MISCONF Errors writing to the AOF file", "persist"),
        ("MOVED 1 127.0.0.1:6379", "cluster"),
        ("BUSY Redis is busy running a script", "busy"),
        ("something new", "Redis 7 or newer"),
    ],
)
def test_what_a_script_ran_into_is_put_into_words(said: str, words: str) -> None:
    assert words in reason(vendor.ResponseError(said))


def test_what_is_no_error_of_the_library_is_not_explained() -> None:
    assert "in the way it was tried" in reason(KeyError("x"))
