"""F13: slow, endless, huge, compressed and mislabelled answers of a target."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.faults.agents import HttpAgent
from tests.faults.history import History
from tests.faults.row import Run, Size
from tests.faults.servers import Server
from tests.faults.stage import Stage, stage
from tests.kubernetes_lab import Fault, answering, silent

_DEADLINE_S = 1
# A machine under load is late; a deadline that does not hold would be late by the fault itself.
_SLACK_S = 5
_MOST_GROWTH_MB = 96
_PIECE = b"x" * 65_536
_PIECES = 1_600  # a hundred megabytes, of which nobody should take more than a few
_BOMB = gzip.compress(gzip.compress(b"0" * 200_000_000, 9), 9)


async def fault_13(run: Run, size: Size) -> None:
    """Deadline and byte cap hold, memory is bounded, and the next read is answered."""
    place = run.place()
    history = run.history(place)
    limits = {"read_timeout_s": _DEADLINE_S, "bulk_timeout_s": _DEADLINE_S}
    async with stage(place, "cluster", limits=limits) as set_up:
        await set_up.workloads("w-1")
        async with run.served(set_up, history) as (server, agent):
            await agent.restart("w-1", wait_s=0)
            before = memory_mb(server)
            for _ in run.rounds(short=1, most=12):
                for number, name in enumerate(FAULTS):
                    reads = _READS if size == "long" else _READS[number % 2 :][:1]
                    for read in reads:
                        await _one(run, set_up, history, agent, name, read)
            grown = memory_mb(server) - before
            run.expect(grown < _MOST_GROWTH_MB, f"memory grew by {grown:.0f} MB")
        least = 2 * len(FAULTS)
        await run.judge(history, place, effects=set_up.effects(), least_calls=least)


async def _one(
    run: Run, set_up: Stage, history: History, agent: HttpAgent, name: str, read: Read
) -> None:
    part, tool, arguments = read
    history.fault(name)
    gate = set_up.between["cluster"]
    gate.inject("GET", part, *[FAULTS[name]()] * 3)
    begun = time.monotonic()
    answer = await agent.must(tool, **arguments)
    took = time.monotonic() - begun
    gate.inject("GET", part)
    history.mended(name)
    said = f"{tool} with {name}"
    run.expect(took < _DEADLINE_S + _SLACK_S, f"{said} took {took:.1f} s")
    run.expect(len(str(answer.body)) < 40_000, f"{said} is too long")
    run.expect(answer.code != "internal_error", f"{said}: {answer.body}")
    again = await agent.must(tool, **arguments)
    run.expect(again.code == "ok", f"after {said}: {again.body}")
    history.recovered(name)


Read = tuple[str, str, dict[str, Any]]
_READS: tuple[Read, ...] = (
    ("/deployments/web", "get_deployment", {"name": "web"}),
    ("/log", "get_deployment_logs", {"name": "web", "tail": 5}),
)


def memory_mb(server: Server) -> float:
    """The most memory that the process ever had, in MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _streaming(*, pause_s: float, headers: Mapping[str, str], piece: bytes = _PIECE) -> Fault:
    """Many pieces, until the client goes."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        raw = [(k.encode(), v.encode()) for k, v in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        with anyio.move_on_after(30):
            for _ in range(_PIECES):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await anyio.sleep(pause_s)

    return fault


_JSON = {"content-type": "application/json"}
FAULTS: Mapping[str, Callable[[], Fault]] = {
    "silence": lambda: silent,
    "a byte now and then": lambda: _streaming(pause_s=0.05, headers=_JSON, piece=b" "),
    "a huge body": lambda: _streaming(pause_s=0, headers=_JSON),
    "a bomb": lambda: answering(200, _BOMB, {**_JSON, "content-encoding": "gzip"}),
    "HTML with 200": lambda: answering(200, b"<html>sign in</html>", {"content-type": "text/html"}),
    "a list": lambda: answering(200, b"[1, 2, 3]", _JSON),
    "half an object": lambda: answering(200, b'{"kind": "Deployment", "meta', _JSON),
    "UTF-16 called UTF-8": lambda: answering(200, '{"kind": "x"}'.encode("utf-16"), _JSON),
    "gzip that is none": lambda: answering(200, b"{}", {**_JSON, "content-encoding": "gzip"}),
}
