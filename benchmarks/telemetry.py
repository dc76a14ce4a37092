"""What telemetry costs a guarded read over stdio: off, metrics, a tenth of the traces, all traces.

    python -m benchmarks.telemetry [--rounds N]

All servers run, and take turns of some hundred calls, so that a machine that gets busier meanwhile
is so for all of them; figures are medians of the turns. The collector is a socket of this process
that takes everything and throws it away. Processor time is that of the whole server (Linux only),
with its exporters' threads.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any

import anyio

from benchmarks.guarded import serving
from benchmarks.raw_client import Call, StdioPeer, stdio_peer
from mcp_ops.app import open_app
from mcp_ops.redact import Redactor
from mcp_ops.settings_file import load_settings, process_environment
from mcp_ops.transport import bind_caller, seal
from mcp_ops.transport_stdio import serve_stdio

CALLS = 400
WARM = 300
LOOK = Call(tool="look", arguments={"name": "thing-{n}", "limit": 5})
LIMITS = "[guard.limits]\nprincipal_per_minute = 10_000_000\n"
KINDS = {
    "off": "",
    "metrics": "[telemetry]\nprometheus = true\nhealth_s = 0\n",
    "a tenth of the traces": '[telemetry]\nexporters = ["otlp"]\nsample_ratio = 0.1\n',
    "all traces": '[telemetry]\nexporters = ["otlp"]\n',
}
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


async def main(config: Path) -> None:
    """Serve until the client leaves."""
    environ = process_environment()
    settings = load_settings(config, environ, {"server.transport": "stdio"})
    telemetry: Any = nullcontext()
    if settings.telemetry.on:
        from mcp_ops.app_telemetry import exporting

        telemetry = exporting(settings.telemetry, Redactor())
    async with telemetry, open_app(settings, environ=environ) as app:
        server = serving(app)
        seal(server.mcp, [b"benchmark" * 4], bind_caller("benchmark"))
        await serve_stdio(server.mcp, stop=anyio.Event())


async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take one request after the other."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            await reader.readexactly(length)
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def prepared(place: Path, kind: str) -> Path:
    """A configuration."""
    place.mkdir()
    config = place / "config.toml"
    config.write_text(LIMITS + KINDS[kind], encoding="utf-8")
    return config


def processor_s(pid: int) -> float:
    """Processor time that a process has used; 0 where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def started(stack: AsyncExitStack, kind: str, place: Path, collector: str) -> StdioPeer:
    """A server that has answered."""
    config = prepared(place, kind)
    env = {"MCP_OPS_STATE_DIR": str(place / "state")}
    if "exporters" in KINDS[kind]:
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector
    command = [sys.executable, "-m", "benchmarks.telemetry", "--serve", str(config)]
    peer = await stack.enter_async_context(stdio_peer(command, env))
    await peer.open(envelope=True)
    await peer.drive(LOOK, count=WARM, in_flight=8, envelope=True)
    return peer


async def turn(peer: StdioPeer) -> tuple[float, float, float]:
    """Calls a second with 1 and 64 in flight, and microseconds of processor time a call."""
    before = processor_s(peer.process.pid)
    alone = await peer.drive(LOOK, count=CALLS, in_flight=1, envelope=True)
    together = await peer.drive(LOOK, count=CALLS, in_flight=64, envelope=True)
    used = processor_s(peer.process.pid) - before
    return alone, together, used / (2 * CALLS) * 1e6


async def compare(rounds: int) -> None:
    """Print the figures, and their ratio to telemetry off."""
    collector = await asyncio.start_server(collect, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{collector.sockets[0].getsockname()[1]}"
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            peers = {
                kind: await started(stack, kind, Path(folder) / kind.replace(" ", "-"), url)
                for kind in KINDS
            }
            for number in range(rounds):
                for kind in list(KINDS) if number % 2 else reversed(KINDS):
                    found[kind].append(await turn(peers[kind]))
    medians = {
        kind: [statistics.median(part) for part in zip(*found[kind], strict=True)] for kind in KINDS
    }
    print("| telemetry | 1 in flight, calls/s | 64 in flight, calls/s | processor, µs a call |")
    print("|---|---|---|---|")
    for kind, figures in medians.items():
        ratios = zip(figures, medians["off"], strict=True)
        shown = " | ".join(f"{figure:.0f} ({figure / off:.2f} x)" for figure, off in ratios)
        print(f"| {kind} | {shown} |")
    collector.close()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--serve", type=Path)
    chosen = arguments.parse_args()
    anyio.run(main, chosen.serve) if chosen.serve else asyncio.run(compare(chosen.rounds))
