"""Limits that several processes share: full load on one Redis, held against the GCRA model.

Each process asks as fast as it can and writes every admission, with the server's time, to a log of
its own before it goes on. Afterwards all logs are replayed through the model: a limit is exceeded
where more was admitted in any window than the burst and what that window refills. Prints JSON;
ends with 1 when a limit was exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from mcp_ops.clock import SystemClock
from mcp_ops.errors import StoreUnavailable
from mcp_ops.lab.redis import valkey
from mcp_ops.ports import AdmitRequest, Mode, Rate
from mcp_ops.stores.redis.opening import open_hot

ROOT = Path(__file__).parent.parent
CALLERS = 16
TARGET = Rate(key="target:shop", name="calls of the target", per_minute=6_000, burst=50)


def principal(number: int) -> Rate:
    """A process's own limit; its interval is no whole number of microseconds."""
    return Rate(key=f"principal:{number}", name="calls", per_minute=2_100, burst=7, cost=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one limit."""

    admitted: int
    possible: float
    exceeded: int


def ask(number: int) -> AdmitRequest:
    """A call that costs its principal one unit and the target one."""
    return AdmitRequest(
        call_id="c",
        target="shop",
        principal=f"agent:{number}",
        take=True,
        modes_allowed=frozenset(Mode),
        rate_factors={},
        rates=(TARGET, principal(number)),
    )


async def load(url: str, number: int, log: Path, seconds: float) -> None:
    """One process: callers that never pause; a line for each admission, in the file at once."""
    request, end = ask(number), time.monotonic() + seconds
    asked = refused = 0
    file = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    async def call() -> None:
        nonlocal asked, refused
        while time.monotonic() < end:
            asked += 1
            try:
                admission = await hot.admit(request)
            except StoreUnavailable:
                refused += 1
                await anyio.sleep(0.01)
                continue
            if admission.granted:
                os.write(file, f"{round(admission.at * 1e6)}\n".encode())

    async with open_hot(url, SystemClock()) as hot:
        print("ready", flush=True)
        async with anyio.create_task_group() as tasks:
            for _ in range(CALLERS):
                tasks.start_soon(call)
    print(json.dumps({"asked": asked, "unavailable": refused}), flush=True)


def judge(rate: Rate, times_us: Iterable[int]) -> Verdict:
    """Replay admissions through the model: a bucket that is full at the first one."""
    interval, tat, exceeded = 60e6 / rate.per_minute, 0.0, 0
    times = sorted(times_us)
    for at in times:
        tat = max(tat, at) + rate.cost * interval
        # Two microseconds: one of the server's clock, one of rounding.
        exceeded += tat - at > rate.burst * interval + 2
    span = times[-1] - times[0] if times else 0
    return Verdict(admitted=len(times), possible=rate.burst + span / interval, exceeded=exceeded)


def judge_all(logs: Mapping[int, Sequence[Path]]) -> dict[str, Verdict]:
    """Every limit, from the logs of each process's number."""
    times: dict[int, list[int]] = defaultdict(list)
    for number, paths in logs.items():
        for path in paths:
            # A killed process may have left half a line: a call that was never told of.
            whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
            times[number] += map(int, whole.split())
    found = {TARGET.key: judge(TARGET, [at for all_ in times.values() for at in all_])}
    for number, all_ in times.items():
        found[principal(number).key] = judge(principal(number), all_)
    return found


def command(url: str, number: int, log: Path, seconds: float) -> list[str]:
    """How a process is started."""
    words = ["worker", url, str(number), str(log), str(seconds)]
    return [sys.executable, "-m", "benchmarks.shared_limits", *words]


async def run(processes: int, seconds: float) -> dict[str, Any]:
    """All processes against one server; the figures."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        async with valkey(directory / "valkey", port, "--appendfsync", "no") as server:
            logs = {number: [directory / f"{number}.log"] for number in range(processes)}
            started = [
                await anyio.open_process(
                    command(server.url, number, logs[number][0], seconds), cwd=ROOT
                )
                for number in range(processes)
            ]
            said: list[dict[str, int]] = []
            for process in started:
                assert process.stdout is not None
                text = b"".join([chunk async for chunk in process.stdout])
                await process.wait()
                said.append(json.loads(text.splitlines()[-1]))
                await process.aclose()
            async with server.client() as client:
                stats = (await client.info("commandstats"))["cmdstat_evalsha"]
        verdicts = judge_all(logs)
    asked = sum(each["asked"] for each in said)
    return {
        "processes": processes,
        "callers": processes * CALLERS,
        "seconds": seconds,
        "calls": asked,
        "calls_per_s": round(asked / seconds),
        "unavailable": sum(each["unavailable"] for each in said),
        "script_us": stats["usec_per_call"],
        "exceeded": sum(verdict.exceeded for verdict in verdicts.values()),
        "limits": {
            key: {"admitted": verdict.admitted, "model": round(verdict.possible, 1)}
            for key, verdict in verdicts.items()
        },
    }


def main() -> int:
    """Measure, print, and answer 1 when a limit was exceeded."""
    if sys.argv[1:2] == ["worker"]:
        url, number, log, seconds = sys.argv[2:]
        anyio.run(load, url, int(number), Path(log), float(seconds))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    figures = anyio.run(run, options.processes, options.seconds)
    print(json.dumps(figures, indent=2))
    return 0 if figures["exceeded"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
