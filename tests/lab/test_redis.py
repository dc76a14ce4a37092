"""The lab's Valkey: it starts, keeps its data, breaks on demand and never outlives the lab."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from redis.exceptions import ConnectionError as RedisConnectionError

from mcp_ops.lab.proxy import proxy
from mcp_ops.lab.redis import FLOOD_ITEMS, QUEUE_KEY, deadletters, valkey


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_data_survives_a_stop_a_start_and_a_crash(tmp_path: Path) -> None:
    with anyio.fail_after(20):
        async with valkey(tmp_path, free_port(), "--appendfsync", "always") as server:
            await server.inject("deadletters")
            await server.inject("down")
            async with server.client() as client:
                with pytest.raises(RedisConnectionError):
                    await client.ping()
            await server.mend("down")
            await server.crash()
            await server.start()
            async with server.client() as client:
                assert await client.zcard(QUEUE_KEY) == FLOOD_ITEMS


async def test_slow_holds_answers_back_until_it_is_mended(tmp_path: Path) -> None:
    with anyio.fail_after(20):
        async with valkey(tmp_path, free_port()) as server, server.client() as client:
            await client.ping()
            await server.inject("slow")
            with anyio.move_on_after(0.3) as waited:
                while True:  # the first pause may begin a moment after `inject`
                    await client.ping()
            assert waited.cancelled_caught
            await server.mend("slow")
            async with server.client() as fresh:
                assert await fresh.ping()
            with pytest.raises(KeyError):
                await server.inject("no such fault")


LAB = """
import sys, anyio
from contextlib import suppress
from pathlib import Path
from mcp_ops.lab.redis import FLOOD_ITEMS, valkey
async def main():
    async with valkey(Path(sys.argv[1]), int(sys.argv[2])) as server:
        print(server.pid, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


async def test_the_server_ends_when_the_lab_is_killed(tmp_path: Path) -> None:
    port = free_port()
    with anyio.fail_after(20):
        command = [sys.executable, "-c", LAB, str(tmp_path), str(port)]
        async with await anyio.open_process(command, cwd=Path(__file__).parents[2]) as lab:
            assert lab.stdout is not None
            pid = int(await BufferedByteReceiveStream(lab.stdout).receive_until(b"\n", 100))
            os.kill(pid, 0)
            lab.send_signal(signal.SIGKILL)
            await lab.wait()
        while True:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:
                break
            await stream.aclose()
            await anyio.lowlevel.checkpoint()


def test_seeded_items_are_the_same_for_a_seed_and_some_are_malformed() -> None:
    one, two = deadletters(200, seed=4, now=1.8e9), deadletters(200, seed=4, now=1.8e9)
    assert one == two
    assert len({raw for raw, _ in one}) == 200
    assert sum(b"retry_count" not in raw for raw, _ in one) == 10


async def test_the_proxy_forwards_cuts_resets_and_refuses() -> None:
    async def echo(stream: anyio.abc.SocketStream) -> None:
        with suppress(anyio.BrokenResourceError):
            async with stream:
                async for chunk in stream:
                    await stream.send(chunk)

    with anyio.fail_after(10):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks, proxy(port) as between:
            tasks.start_soon(listener.serve, echo)

            async def ask(text: bytes) -> bytes:
                got = b""
                async with await anyio.connect_tcp("127.0.0.1", between.port) as stream:
                    await stream.send(text)
                    while len(got) < len(text):
                        try:
                            got += await stream.receive()
                        except (anyio.EndOfStream, anyio.BrokenResourceError):
                            break
                return got

            assert await ask(b"hello") == b"hello"
            assert between.passed_to_server.is_set()
            between.cut_to_client_after = 2
            assert await ask(b"hello") == b"he"
            between.cut_to_server_after = 3
            assert await ask(b"hello") in (b"", b"hel")
            between.latency_s = 0.01
            assert await ask(b"hello") == b"hello"
            for fault in ("reset", "refuse"):
                between.fault = fault
                assert await ask(b"hello") == b""
            assert between.cuts == 2
            tasks.cancel_scope.cancel()
