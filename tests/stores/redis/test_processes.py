"""Several processes on one server: never more than the limits say, whatever happens to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process

from benchmarks.shared_limits import TARGET, command, judge, judge_all, principal
from mcp_ops.errors import Health
from mcp_ops.lab.redis import Valkey, valkey
from mcp_ops.ports import CircuitPolicy, Mode
from tests.adapters.redis_lab import free_port
from tests.stores import records
from tests.stores.backends import ROOT, Redis, line, race, worker
from tests.stores.redis.opened import CLOCK


@asynccontextmanager
async def loading(
    server: Valkey, directory: Path, seconds: float
) -> AsyncIterator[tuple[list[Process], dict[int, list[Path]]]]:
    """Four processes at full load, all of them asking when this is entered."""
    logs = {number: [directory / f"{number}.log"] for number in range(4)}
    processes: list[Process] = []
    try:
        for number, (log,) in logs.items():
            words = command(server.url, number, log, seconds)
            processes.append(await anyio.open_process(words, cwd=ROOT, stderr=None))
        yield processes, logs
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.aclose()


async def admitted(log: Path, more: int) -> None:
    """Wait until a process has so many admissions more in its log."""
    start = log.stat().st_size if log.exists() else 0
    while not log.exists() or log.stat().st_size < start + 17 * more:
        await anyio.sleep(0.02)


async def test_four_processes_at_full_load_never_exceed_the_model(tmp_path: Path) -> None:
    """Through a killed process, lost data, a killed server that kept some, and a restart."""
    with anyio.fail_after(60):
        async with (
            valkey(tmp_path / "valkey", free_port()) as server,
            loading(server, tmp_path, seconds=120) as (processes, logs),
        ):
            for (log,) in logs.values():
                await admitted(log, 20)
            processes[0].kill()
            await processes[0].wait()
            async with server.client() as eyes:
                await eyes.flushall()
            await admitted(logs[1][0], 20)
            await server.crash()
            await server.start()
            await admitted(logs[2][0], 20)
            await server.stop()
            await server.start()
            await admitted(logs[3][0], 20)
        verdicts = judge_all(logs)
    assert {key: verdict.exceeded for key, verdict in verdicts.items()} == dict.fromkeys(
        verdicts, 0
    )
    shared = verdicts.pop(TARGET.key)
    assert shared.admitted == sum(verdict.admitted for verdict in verdicts.values()) >= 160


def test_the_model_sees_one_too_many() -> None:
    rate = principal(0)
    interval = round(60e6 / rate.per_minute)
    full = [0] * rate.burst
    assert judge(rate, full).exceeded == 0
    assert judge(rate, [*full, interval]).exceeded == 0
    assert judge(rate, [*full, 0]).exceeded == 1
    assert judge(rate, [*full, interval - 9]).exceeded == 1


async def test_one_of_all_processes_gets_the_probe(redis_backend: Redis) -> None:
    async with redis_backend.open(CLOCK) as stores:
        policy = CircuitPolicy(consecutive=1, open_s=0.001)
        await stores.hot.record("shop", Health.FAILED, error="x", probe=False, policy=policy)
        with anyio.fail_after(60):
            assert sum(await race(redis_backend, 4, "probe")) == 1


async def test_a_lockdown_by_another_process_is_in_force_when_it_says_so(
    redis_backend: Redis,
) -> None:
    async with redis_backend.open(CLOCK) as stores, worker(redis_backend, "lockdown") as process:
        with anyio.fail_after(20):
            assert await line(process) == "set"
        refused = await stores.hot.admit(records.request())
    assert [entry.mode for entry in refused.modes] == [Mode.LOCKDOWN]
    assert not refused.granted


@pytest.mark.parametrize("written", [b"", b"17\n", b"17\n1"])
def test_half_a_line_of_a_killed_process_is_not_counted(tmp_path: Path, written: bytes) -> None:
    log = tmp_path / "log"
    log.write_bytes(written)
    assert judge_all({0: [log]})[TARGET.key].admitted == written.count(b"\n")
