"""Ledger writes a second with every record durable, and whether memory and speed stay flat.

Each of so many callers makes a write's two lines, one after the other: the intent (`begin`, with
its operation) and its end, each on the disk before the next. A line counts once its call came back.
This is the ledger alone: no guard, no transport.

    python -m benchmarks.ledger_writes --seconds 600 --callers 64

Prints JSON: lines a second in all and by tenth of the run, latency, memory at its samples and how
flat it is (the slope over the second half, in KiB a minute), and that the chain verifies.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import tempfile
import time
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from mcp_ops.clock import SystemClock
from mcp_ops.records import Entry, EntryKind, Operation
from mcp_ops.stores.sqlite.embedded import Stores, open_stores
from mcp_ops.stores.sqlite.retention import DAY_S

_PARTS = 10
_LATENCIES = 100_000


@dataclass
class Run:
    """What is counted while it runs."""

    began: float
    seconds: float
    lines: int = 0
    parts: list[int] = field(default_factory=lambda: [0] * _PARTS)
    # Allocated at once, and every so-manyth of a long run: it must not be what grows.
    latencies: array[float] = field(default_factory=lambda: array("d", bytes(8 * _LATENCIES)))
    memory: list[tuple[float, float]] = field(default_factory=list)

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def count(self, took: float) -> None:
        """One more durable line."""
        self.latencies[self.lines % _LATENCIES] = took
        self.lines += 1
        self.parts[min(_PARTS - 1, int(self.elapsed / self.seconds * _PARTS))] += 1


def entry(kind: EntryKind, call_id: str, at: float) -> Entry:
    """A line as large as one of a restart."""
    ended = kind is EntryKind.ENDED
    return Entry(
        kind=kind,
        call_id=call_id,
        at=at,
        tool="restart_deployment",
        target="shop",
        object="checkout/api",
        principal="agent:bench",
        client="bench 1",
        channel="stdio",
        era="2026-07-28",
        effect="write",
        digest="d" * 64,
        arguments={"namespace": "checkout", "name": "api", "reason": "it hangs since 10:40"},
        reason="it hangs since 10:40",
        policy="solo[2]",
        verdict="ok" if ended else "",
        outcome="verified" if ended else "",
        evidence={"before": {"ready": 1}, "after": {"ready": 3}} if ended else {},
        upstream_calls=4 if ended else 0,
        duration_ms=812.5 if ended else None,
    )


def operation(call_id: str, at: float, state: Any) -> Operation:
    """The operation of a write, under a key of its own."""
    return Operation(
        id=call_id,
        key=f"agent:bench|key|{call_id}",
        digest="d" * 64,
        principal="agent:bench",
        tool="restart_deployment",
        target="shop",
        state=state,
        started_at=at,
        lease_until=at + 60,
        outcome="verified" if state == "done" else "",
    )


async def caller(stores: Stores, run: Run, number: int) -> None:
    """Write after write until the time is over."""
    clock, count = SystemClock(), 0
    while run.elapsed < run.seconds:
        count += 1
        call_id, now = f"c{number}-{count}", clock.now()
        started = time.monotonic()
        begun = await stores.ledger.begin(
            entry(EntryKind.BEGAN, call_id, now), operation(call_id, now, "running")
        )
        assert begun.claimed
        between = time.monotonic()
        run.count(between - started)
        await stores.ledger.end(
            entry(EntryKind.ENDED, call_id, now), operation(call_id, now, "done"), keep=True
        )
        run.count(time.monotonic() - between)


async def sample(run: Run, every_s: float) -> None:
    """Look at the memory of the process now and then."""
    while True:
        await anyio.sleep(every_s)
        gc.collect()
        run.memory.append((round(run.elapsed, 1), round(resident_mib(), 2)))


def resident_mib() -> float:
    """Memory of this process in MiB; its peak where the system does not say the present one."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def slope(points: list[tuple[float, float]]) -> float:
    """Least squares: MiB a second."""
    count = len(points)
    if count < 2:
        return 0.0
    x_mean = sum(x for x, _ in points) / count
    y_mean = sum(y for _, y in points) / count
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0


def report(run: Run, verified: bool, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """The figures."""
    took = sorted(run.latencies[: run.lines])
    settled = run.memory[len(run.memory) // 2 :]
    by_part = [round(lines / (run.seconds / _PARTS)) for lines in run.parts]
    return {
        "seconds": run.seconds,
        "callers": options.callers,
        "durable_lines": run.lines,
        "lines_per_second": round(run.lines / run.seconds),
        "lines_per_second_by_tenth": by_part,
        "slowest_tenth_of_mean": round(min(by_part) / max(1, run.lines / run.seconds), 3),
        "latency_ms": {
            name: round(took[int(len(took) * share)] * 1000, 2)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 0.999_999))
        },
        "memory_mib": run.memory,
        "memory_slope_kib_per_minute": round(slope(settled) * 60 * 1024, 1),
        "memory_growth_of_second_half_mib": round(settled[-1][1] - settled[0][1], 2)
        if settled
        else 0.0,
        "file_mib": round(size / 2**20, 1),
        "verified": verified,
    }


async def main(options: argparse.Namespace) -> dict[str, Any]:
    """Run it in a directory of its own."""
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        path = Path(directory) / "state.db"
        # Retention at work too: what a long run leaves is bounded as it is in production.
        async with open_stores(
            path,
            SystemClock(),
            operations_s=options.keep_operations_s,
            replay_s=min(600, options.keep_operations_s),
            ledger_s=options.keep_s,
        ) as stores:
            run = Run(began=time.monotonic(), seconds=options.seconds)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sample, run, max(0.2, options.seconds / 60))
                async with anyio.create_task_group() as callers:
                    for number in range(options.callers):
                        callers.start_soon(caller, stores, run, number)
                tasks.cancel_scope.cancel()
            run.seconds = run.elapsed
            verified = (await stores.ledger.verify()).ok if options.verify else False
        return report(run, verified, path.stat().st_size, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Durable ledger writes a second, sustained.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--callers", type=int, default=64, help="writes in flight at once")
    parser.add_argument("--directory", default=None, help="on the disk that is to be measured")
    parser.add_argument("--keep-s", type=float, default=DAY_S, help="retention of lines")
    parser.add_argument("--keep-operations-s", type=float, default=60)
    parser.add_argument("--no-verify", dest="verify", action="store_false")
    return parser.parse_args()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(anyio.run(main, _options())) + "\n")
