"""A process that logs from several threads before, while and after its lines are exported.

It waits for a line on stdin before it closes the exporters. Its arguments are the collector's
address and how many lines each thread logs.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable

import anyio
import anyio.to_thread

from mcp_ops import log
from mcp_ops.settings_telemetry import TelemetrySettings
from mcp_ops.telemetry.sdk import Sdk

QUEUE = 64
THREADS = 4
_log = logging.getLogger("mcp_ops.peer")


class Unspeakable:
    """A value whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def in_threads(work: Callable[[int], None]) -> list[threading.Thread]:
    """Started, one with each number."""
    found = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for each in found:
        each.start()
    return found


async def main(url: str, count: int) -> None:
    log.to_stderr("DEBUG")
    _log.warning("before")
    sdk = Sdk(TelemetrySettings(exporters=("otlp",), otlp_endpoint=url, queue=QUEUE), version="0")

    def many(thread: int) -> None:
        for number in range(count):
            _log.info("line %d of %d", number, thread, extra={"call_id": f"c{thread}"})

    for each in in_threads(many):
        await anyio.to_thread.run_sync(each.join)
    _log.warning(Unspeakable())
    print("logged", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)

    closed = threading.Event()
    on = threading.Barrier(THREADS + 1)

    def go_on(thread: int) -> None:
        _log.info("while it closes")
        on.wait()
        while not closed.is_set():
            _log.info("while it closes")

    going = in_threads(go_on)
    await anyio.to_thread.run_sync(on.wait)
    await sdk.close()
    closed.set()
    for each in going:
        await anyio.to_thread.run_sync(each.join)
    _log.warning("after")
    print(logging.getLogger("mcp_ops").handlers, flush=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
