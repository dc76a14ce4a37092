"""Measure mcp-ops against the bare SDK in one run, and write docs/performance.md.

Every round starts each server anew, one after the other, so that what the machine does meanwhile
falls on all of them; figures are medians over the rounds, and what is judged are ratios of them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks import http_clients, large_cluster
from benchmarks.raw_client import Call, HttpPeer, StdioPeer, http_peer, rss_mb, stdio_peer
from benchmarks.report import Bar, Figures, Tokens, count_tokens, render

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
KEY = "benchmark-key-0123456789abcdef"
WARM_UP = 400
"""Calls before anything is measured: a process has its first full garbage collection within them,
which lasts as long as a hundred calls."""
NO_OP = Call(tool="look", arguments={"name": "x{n}"})
SAME = Call(tool="look", arguments={"name": "x"})
STORED = Call(tool="list_approvals", arguments={"limit": "{n}"})
WRITE = Call(
    tool="touch",
    arguments={
        "name": "x{n}",
        "reason": "A benchmark of writes.",
        "idempotency_key": "benchmark-{n}",
    },
)
LIMITS = """
[guard.limits]
principal_per_minute = 1000000000
metered_per_minute = 1000000000
writes_per_object = 1000000000
writes_per_hour = 1000000000
destroys_per_hour = 1000000000
concurrent_per_target = 1000

[server]
port = 0
"""
# One target of each kind: nothing of them is opened, and the start has to stay as short.
TARGETS = """
[targets.vault]
kind = "file_secrets"
[targets.crm]
kind = "salesforce"
instance_url = "https://crm.example"
[targets.crm.links]
secrets = "vault"
[targets.sso]
kind = "oauth"
token_url = "https://sso.example/token"
client_id = "benchmark"
[targets.shop]
kind = "kubernetes"
[targets.orders]
kind = "redis"
url = "env:BENCHMARK_REDIS"
[targets.coordinator]
kind = "http"
url = "https://coordinator.example"
"""
KEYS = """
[[server.keys]]
name = "benchmark"
key = "env:BENCHMARK_KEY"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """A figure's name, the call, how many are in flight and how many are made."""

    name: str
    call: Call
    in_flight: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One server: how it is started and what is measured on it."""

    name: str
    command: tuple[str, ...]
    rates: tuple[Rates, ...]
    http: bool = False
    config: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def contenders(scale: float) -> list[Contender]:
    """What is compared; `scale` shortens all of it."""

    def pair(name: str, call: Call, alone: int, together: int) -> tuple[Rates, Rates]:
        one, many = max(20, int(alone * scale)), max(64, int(together * scale))
        return (
            Rates(name=f"{name} 1", call=call, in_flight=1, count=one),
            Rates(name=f"{name} 64", call=call, in_flight=64, count=many),
        )

    bare = (sys.executable, "-m", "benchmarks.bare_sdk")
    ours = (sys.executable, "-m", "mcp_ops", "serve", "--transport")
    guarded = (sys.executable, "-m", "benchmarks.guarded")
    return [
        Contender(
            name="SDK, stdio", command=(*bare, "stdio"), rates=pair("read", NO_OP, 500, 1500)
        ),
        Contender(
            name="SDK, our pipes", command=(*bare, "pipes"), rates=pair("read", NO_OP, 800, 3000)
        ),
        Contender(
            name="mcp-ops, stdio",
            command=(*ours, "stdio"),
            rates=pair("stored read", STORED, 300, 1000),
            config=LIMITS + TARGETS,
            env={"BENCHMARK_REDIS": "redis://127.0.0.1:1/0"},
        ),
        Contender(
            name="guard, stdio",
            command=(*guarded, "stdio"),
            rates=(
                *pair("read", NO_OP, 500, 1500),
                *pair("same read", SAME, 500, 1500),
                *pair("write", WRITE, 150, 1000),
            ),
            config=LIMITS,
        ),
        Contender(
            name="SDK, HTTP",
            command=(*bare, "http"),
            rates=pair("read", NO_OP, 1000, 1500),
            http=True,
        ),
        Contender(
            name="guard, HTTP with a key",
            command=(*guarded, "http"),
            rates=pair("read", NO_OP, 1000, 1500),
            http=True,
            config=LIMITS + KEYS,
            env={"BENCHMARK_KEY": KEY},
        ),
    ]


async def measure(contender: Contender, figures: Figures, tokens: Tokens) -> None:
    """One round of one server."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.toml"
        config.write_text(contender.config, encoding="utf-8")
        env = {**contender.env, "MCP_OPS_STATE_DIR": directory, "HOME": directory}
        command = contender.command
        if contender.config:
            command = (*command, "--config", str(config))
        if contender.http:
            async with http_peer(command, env, key=contender.env.get("BENCHMARK_KEY", "")) as peer:
                await _warm_up(peer, contender)
                for rate in contender.rates:
                    got = await peer.drive(
                        rate.call, count=rate.count, in_flight=rate.in_flight, envelope=True
                    )
                    figures.add(contender.name, rate.name, got)
            return
        await _measure_stdio(contender, command, env, figures, tokens)


async def _warm_up(peer: StdioPeer | HttpPeer, contender: Contender) -> None:
    await peer.drive(contender.rates[0].call, count=WARM_UP, in_flight=8, envelope=True)


async def _measure_stdio(
    contender: Contender,
    command: Sequence[str],
    env: Mapping[str, str],
    figures: Figures,
    tokens: Tokens,
) -> None:
    async with stdio_peer(command, env) as peer:
        listed = await peer.open(envelope=True)
        figures.add(contender.name, "start s", time.perf_counter() - peer.started)
        figures.add(contender.name, "RSS MB", rss_mb(peer.process.pid))
        if "mcp_ops" in command:
            tokens.update(count_tokens(listed["tools"]))
        await _warm_up(peer, contender)
        for rate in contender.rates:
            got = await peer.drive(
                rate.call, count=rate.count, in_flight=rate.in_flight, envelope=True
            )
            figures.add(contender.name, rate.name, got)


def bars(
    figures: Figures,
    tokens: Tokens,
    http: http_clients.HttpFigures,
    large: large_cluster.LargeFigures,
) -> list[Bar]:
    """What we hold ourselves to: ratios to the bare SDK in the same run, and tokens."""
    ours, guard, bare = "mcp-ops, stdio", "guard, stdio", "SDK, stdio"
    web, bare_web = "guard, HTTP with a key", "SDK, HTTP"

    def at_least(name: str, figure: tuple[str, str], base: tuple[str, str], limit: float) -> Bar:
        return Bar(name=name, value=figures[figure] / figures[base], limit=limit, upper=False)

    def at_most(name: str, value: float, limit: float, unit: str = "x") -> Bar:
        return Bar(name=name, value=value, limit=limit, upper=True, unit=unit)

    return [
        at_most(
            "Start to the answered tools/list",
            figures[ours, "start s"] / figures[bare, "start s"],
            1.25,
        ),
        at_most("RSS after it", figures[ours, "RSS MB"] / figures[bare, "RSS MB"], 1.25),
        at_least("Guarded read, 1 in flight", (guard, "read 1"), (bare, "read 1"), 1.0),
        at_least("Guarded read, 64 in flight", (guard, "read 64"), (bare, "read 64"), 1.5),
        at_least("Guarded write, 1 in flight", (guard, "write 1"), (bare, "read 1"), 0.4),
        at_least("Guarded write, 64 in flight", (guard, "write 64"), (bare, "read 64"), 1.0),
        at_least("HTTP with a key, 1 in flight", (web, "read 1"), (bare_web, "read 1"), 1.0),
        at_least("HTTP with a key, 64 in flight", (web, "read 64"), (bare_web, "read 64"), 1.0),
        *(
            Bar(name=f"{title}, 1 to 256 clients", value=http.least(kind), limit=1.0, upper=False)
            for kind, title in http_clients.KINDS.items()
        ),
        Bar(name="Two replicas on two cores", value=http.replicas_ratio(), limit=1.7, upper=False),
        at_most("10,000 pods: time to that of the lists read whole", large.ratio("seconds"), 1.0),
        at_most("10,000 pods: memory to the same", large.ratio("mib"), 0.1),
        at_most("10,000 pods: bytes to the wire's own", large.of_wire(), 1.25),
        at_most("Tokens of the dearest read tool", tokens.dearest(reads=True), 180, "tokens"),
        at_most("Tokens of the dearest write tool", tokens.dearest(reads=False), 260, "tokens"),
        at_most("Tokens of all published tools", tokens.total(), 4_500, "tokens"),
    ]


def machine() -> list[tuple[str, str]]:
    """What it was measured on."""
    packages = ("mcp", "pydantic", "anyio", "orjson", "uvicorn", "uvloop", "httptools")
    return [
        ("machine", f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"),
        ("load average", f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""),
        ("Python", platform.python_version()),
        *((name, version(name)) for name in packages),
    ]


async def run(rounds: int, scale: float) -> tuple[Figures, Tokens]:
    """All rounds."""
    figures, tokens = Figures(), Tokens()
    for number in range(1, rounds + 1):
        for contender in contenders(scale):
            await measure(contender, figures, tokens)
            print(f"round {number} of {rounds}: {contender.name}", file=sys.stderr)
    return figures, tokens


def main() -> int:
    """Measure, write the page, and answer 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="shortens every measurement")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    figures, tokens = asyncio.run(run(options.rounds, options.scale))
    http = http_clients.HttpFigures()
    http_clients.run(http_clients.measure_all(http, options.rounds, options.scale))
    large = large_cluster.LargeFigures()
    asyncio.run(large_cluster.measure_all(large, min(options.rounds, 3)))
    judged = bars(figures, tokens, http, large)
    page = render(
        figures=figures,
        tokens=tokens,
        bars=judged,
        machine=machine(),
        rounds=options.rounds,
        more=[*http.lines(), "", *large.lines()],
    )
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(page, encoding="utf-8")
    print(page)
    return 0 if all(bar.met for bar in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
