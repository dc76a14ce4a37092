"""Throughput and latency by clients over HTTP, two replicas, and the memory of clients that wait.

mcp-ops with a key, the guard and the ledger against the bare SDK, both on uvicorn with uvloop and
httptools. One process makes the load (`load_client`). Rounds start the servers anew.

    python -m benchmarks.http_clients --rounds 3

Prints the section of docs/performance.md that `make bench` writes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from benchmarks.load_client import Kind, Load, LoadClient
from benchmarks.raw_client import Call, http_server, rss_mb

KEYS = tuple(f"benchmark-key-{number:02}-0123456789abcdef" for number in range(24))
CLIENTS = (1, 8, 64, 256)
WARM_UP = 400
KINDS: dict[Kind, str] = {
    "2026": "Streamable HTTP, 2026-07-28",
    "session": "Streamable HTTP, sessions",
    "sse": "SSE",
}
NO_OP = Call(tool="look", arguments={"name": "x{n}"})
CONFIG = """
[guard.limits]
principal_per_minute = 1000000000
metered_per_minute = 1000000000
concurrent_per_target = 1000

[server]
port = 0
"""
_FEW, _MANY = 50, 450

T = TypeVar("T")


class HttpFigures:
    """What was measured, by transport, clients and server; looked up as medians."""

    def __init__(self) -> None:
        self._loads: dict[tuple[Kind, int, str], list[Load]] = {}
        self._replicas: dict[int, list[float]] = {}
        self._memory: dict[tuple[str, str], list[float]] = {}

    def load(self, kind: Kind, clients: int, server: str, found: Load) -> None:
        """One more round's load."""
        self._loads.setdefault((kind, clients, server), []).append(found)

    def replicas(self, servers: int, rate: float) -> None:
        """One more round's rate of so many replicas."""
        self._replicas.setdefault(servers, []).append(rate)

    def memory(self, what: str, server: str, kib: float) -> None:
        """One more round's KiB a waiting client."""
        self._memory.setdefault((what, server), []).append(kib)

    def median(self, kind: Kind, clients: int, server: str) -> Load:
        """The median of each figure."""
        loads = self._loads[kind, clients, server]
        return Load(
            rate=statistics.median(load.rate for load in loads),
            p50=statistics.median(load.p50 for load in loads),
            p99=statistics.median(load.p99 for load in loads),
        )

    def ratio(self, kind: Kind, clients: int) -> float:
        """Our rate to that of the bare SDK."""
        ours, bare = self.median(kind, clients, "guard"), self.median(kind, clients, "SDK")
        return ours.rate / bare.rate

    def least(self, kind: Kind) -> float:
        """The lowest of the ratios."""
        return min(self.ratio(kind, clients) for clients in CLIENTS)

    def replicas_ratio(self) -> float:
        """Two replicas to one."""
        return statistics.median(self._replicas[2]) / statistics.median(self._replicas[1])

    def lines(self) -> list[str]:
        """The section of the page."""
        lines = [
            "## Clients over HTTP",
            "",
            "Calls a second, and the milliseconds that half of them and 99 % of them stay under:",
            "the no-op read of the bare SDK, and with a key, guard and ledger on (`guard`).",
            "",
            "| transport | clients | SDK | p50 | p99 | guard | p50 | p99 | ratio |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for kind, title in KINDS.items():
            for clients in CLIENTS:
                cells = []
                for server in ("SDK", "guard"):
                    found = self.median(kind, clients, server)
                    cells += [f"{found.rate:,.0f}", f"{found.p50:.1f}", f"{found.p99:.1f}"]
                ratio = f"{self.ratio(kind, clients):.2f}"
                lines.append(f"| {title} | {clients} | {' | '.join(cells)} | {ratio} |")
        one, two = (statistics.median(self._replicas[number]) for number in (1, 2))
        lines += [
            "",
            f"With 64 clients two replicas on one state directory answered {two:,.0f} calls a",
            f"second, one {one:,.0f}: {two / one:.2f} times as many.",
            "",
            "| a client that waits | KiB, SDK | KiB, mcp-ops |",
            "|---|---|---|",
        ]
        for what in dict.fromkeys(what for what, _ in self._memory):
            cells = [
                f"{statistics.median(self._memory[what, server]):.0f}"
                for server in ("SDK", "guard")
            ]
            lines.append(f"| {what} | {' | '.join(cells)} |")
        return lines


@asynccontextmanager
async def serving(name: str, directory: Path) -> AsyncIterator[tuple[str, int]]:
    """A server of that name; its base URL and its process."""
    command = [sys.executable, "-m", "benchmarks.bare_sdk", "http"]
    if name == "guard":
        config = directory / "config.toml"
        keys = [
            f'[[server.keys]]\nname = "key-{number}"\nkey = "env:BENCHMARK_KEY_{number}"\n'
            for number in range(len(KEYS))
        ]
        config.write_text("".join([CONFIG, *keys]), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.guarded", "http", "--config", str(config)]
    secrets = {f"BENCHMARK_KEY_{number}": key for number, key in enumerate(KEYS)}
    env = {**secrets, "MCP_OPS_STATE_DIR": str(directory), "HOME": str(directory)}
    async with http_server(command, env) as (url, pid):
        yield url.removesuffix("/mcp"), pid


async def _loads(figures: HttpFigures, scale: float) -> None:
    for kind in KINDS:
        for name in ("SDK", "guard"):
            with tempfile.TemporaryDirectory() as directory:
                async with serving(name, Path(directory)) as (url, _):
                    client = LoadClient([url], kind, KEYS if name == "guard" else ())
                    await client.drive(NO_OP, clients=8, count=WARM_UP)
                    for clients in CLIENTS:
                        # Seconds, not moments: lines of the ledger are written in batches.
                        count = int(max(16 * clients, 2_000 if clients == 1 else 6_000) * scale)
                        found = await client.drive(
                            NO_OP, clients=clients, count=max(count, clients)
                        )
                        figures.load(kind, clients, name, found)


async def _replicas(figures: HttpFigures, scale: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            serving("guard", Path(directory)) as (one, _),
            serving("guard", Path(directory)) as (two, _),
        ):
            for urls in ([one], [one, two]):
                client = LoadClient(urls, "2026", KEYS)
                await client.drive(NO_OP, clients=8, count=WARM_UP)
                found = await client.drive(NO_OP, clients=64, count=int(3000 * scale))
                figures.replicas(len(urls), found.rate)


async def _memory(figures: HttpFigures) -> None:
    for kind, what in (("sse", "SSE, an open stream"), ("session", "session, an open stream")):
        for name in ("SDK", "guard"):
            with tempfile.TemporaryDirectory() as directory:
                async with serving(name, Path(directory)) as (url, pid):
                    client = LoadClient([url], kind, KEYS if name == "guard" else ())  # type: ignore[arg-type]
                    await client.idle(_FEW)
                    before = rss_mb(pid)
                    await client.idle(_MANY)
                    figures.memory(what, name, (rss_mb(pid) - before) * 1024 / _MANY)
                    client.close()


async def measure_all(figures: HttpFigures, rounds: int, scale: float) -> None:
    """All rounds."""
    for number in range(1, rounds + 1):
        await _loads(figures, scale)
        await _replicas(figures, scale)
        await _memory(figures)
        print(f"round {number} of {rounds}: clients over HTTP", file=sys.stderr)


def run(work: Coroutine[Any, Any, T]) -> T:
    """On uvloop: what the clients cost is taken from the servers."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="shortens every measurement")
    options = parser.parse_args()
    figures = HttpFigures()
    run(measure_all(figures, options.rounds, options.scale))
    print("\n".join(figures.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
