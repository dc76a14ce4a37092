"""Listing and triage of 10,000 pods in 500 deployments: time, memory and bytes.

mcp-ops lists all pages with restarts and problems and explains each workload in trouble. Beside it
stand `kubectl get deployments,pods -o json`, where there is a kubectl, and the bare client library,
which both read the same objects whole and explain nothing. The API server is the lab's, a process
of its own; each reader is a new process, and its memory counts from when it was ready to ask.

    python -m benchmarks.large_cluster --rounds 3

Prints the section of docs/performance.md that `make bench` writes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.large_reader import LIBRARY, OURS
from benchmarks.raw_client import BenchmarkError
from mcp_ops.lab.kubernetes.api import kubeconfig
from mcp_ops.lab.kubernetes.fleet import FLEET

PODS: Final = 10_000
KUBECTL: Final = "kubectl get -o json"


class LargeFigures:
    """What was measured, by reader; looked up as medians. `wire` is in bytes."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[float]] = {}
        self.wire = 0
        self.told: dict[str, int] = {}

    def add(self, reader: str, **values: float) -> None:
        """One more round."""
        for name, value in values.items():
            self._values.setdefault((reader, name), []).append(value)

    def __getitem__(self, key: tuple[str, str]) -> float:
        return statistics.median(self._values[key])

    def readers(self) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(reader for reader, _ in self._values))

    def ratio(self, name: str) -> float:
        """Ours to that of kubectl, or of the client library where there is none."""
        return self[OURS, name] / self[READERS[0], name]

    def of_wire(self) -> float:
        """The bytes that we read, to those of the lists themselves."""
        return self[OURS, "bytes"] / self.wire

    def lines(self) -> list[str]:
        """The section of the page."""
        explained = self.told.get("explained", 0)
        lines = [
            "## A large cluster",
            "",
            f"{PODS:,} pods in 500 deployments of a namespace. mcp-ops lists all of them by pages,",
            f"with restarts and problems, and explains the {explained} that are in trouble, as its",
            "tools do; the others read the two lists whole and explain nothing. Memory is what a",
            "process takes at most beyond what it had before it asked.",
            f"The two lists are {self.wire / 1e6:.1f} MB on the wire; nothing is compressed here.",
        ]
        if KUBECTL not in self.readers():
            lines.append("There was no kubectl to measure.")
        lines += [
            "",
            "| reader | seconds | MiB of memory | MB read | of the wire's size |",
            "|---|---|---|---|---|",
        ]
        for reader in self.readers():
            read = self[reader, "bytes"]
            lines.append(
                f"| {reader} | {self[reader, 'seconds']:.1f} | {self[reader, 'mib']:.0f} "
                f"| {read / 1e6:.1f} | {read / self.wire:.2f} |"
            )
        return lines


class Counting:
    """Forwards connections to the API server, and counts what it answers."""

    def __init__(self, url: str) -> None:
        self._port = urlsplit(url).port
        self.answered = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """The URL to ask in its place."""
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(
            self._copy(reader, downstream, counts=False), self._copy(upstream, writer, counts=True)
        )

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counts: bool
    ) -> None:
        try:
            while data := await source.read(256 * 1024):
                self.answered += len(data) * counts
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            return
        finally:
            sink.close()


@asynccontextmanager
async def api_server(directory: Path) -> AsyncIterator[str]:
    """The lab's Kubernetes with the fleet, as a process; its URL."""
    command = ["-m", "mcp_ops.lab.kubernetes.serve", "--directory", str(directory)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        *("--fleet", str(PODS), "--token", ""),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        if process.stdout is None:
            raise RuntimeError("no pipe")
        yield json.loads(await process.stdout.readline())["url"]
    finally:
        process.terminate()
        await process.wait()


async def _kubectl(kubeconfig: Path) -> tuple[float, float]:
    """Seconds, and MiB beyond what kubectl takes to answer from its configuration."""
    command = ["kubectl", "--kubeconfig", str(kubeconfig)]
    began = time.perf_counter()
    peak = await asyncio.to_thread(_peak, [*command, "get", "deployments,pods", "-o", "json"])
    seconds = time.perf_counter() - began
    return seconds, peak - await asyncio.to_thread(_peak, [*command, "config", "current-context"])


def _peak(command: list[str]) -> float:
    """Run a command to its end, and answer the most memory that it took, in MiB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchmarkError(f"{command[0]} ended with {process.returncode}")
    return used.ru_maxrss / 1024


async def _reader(which: str, kubeconfig: Path) -> dict[str, Any]:
    """What a reader of ours tells of its work, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.large_reader", which, str(kubeconfig)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _kubeconfig(directory: Path, url: str) -> Path:
    path = directory / "reader"
    path.write_text(kubeconfig(url, None, FLEET), encoding="utf-8")
    return path


async def _bytes(figures: LargeFigures, url: str, directory: Path) -> None:
    """What each reader is answered, through a forwarder and so not timed."""
    for reader in READERS:
        counting = Counting(url)
        async with counting.serving() as counted:
            config = _kubeconfig(directory, counted)
            if reader == KUBECTL:
                await _kubectl(config)
            else:
                await _reader(reader, config)
        figures.add(reader, bytes=counting.answered)
    counting = Counting(url)
    async with counting.serving() as counted:
        for path in ("/apis/apps/v1/namespaces/fleet/deployments", "/api/v1/namespaces/fleet/pods"):
            await asyncio.to_thread(_drain, f"{counted}{path}")
    figures.wire = counting.answered


def _drain(url: str) -> None:
    with urllib.request.urlopen(url) as answer:
        while answer.read(1024 * 1024):
            continue


async def measure_all(figures: LargeFigures, rounds: int) -> None:
    """All rounds, each with a new API server and new readers."""
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            async with api_server(directory) as url:
                if number == 1:
                    await _bytes(figures, url, directory)
                config = _kubeconfig(directory, url)
                for reader in READERS:
                    if reader == KUBECTL:
                        seconds, mib = await _kubectl(config)
                    else:
                        told = await _reader(reader, config)
                        seconds, mib = told["seconds"], told["mib"]
                        figures.told |= told.get("told", {})
                    figures.add(reader, seconds=seconds, mib=mib)
        print(f"round {number} of {rounds}: a large cluster", file=sys.stderr)


READERS: Final = (*((KUBECTL,) if shutil.which("kubectl") else ()), LIBRARY, OURS)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figures = LargeFigures()
    asyncio.run(measure_all(figures, options.rounds))
    print("\n".join(figures.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
