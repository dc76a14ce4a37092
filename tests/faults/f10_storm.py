"""F10: a storm of 429 with odd Retry-After headers, 503, and a target that flaps."""

from __future__ import annotations

import time
from typing import Any, Final

import anyio

from tests.faults.f10_platforms import at_platforms, odd_wait
from tests.faults.history import History
from tests.faults.later import LocalAgent, local
from tests.faults.row import Run, Size
from tests.faults.stage import Stage, stage
from tests.faults.units import failing
from tests.faults.writes import KINDS, names, writing_of
from tests.faults.writing import LOCAL
from tests.kubernetes_lab import Fault, answering

_READ_S = 5
# A read that is told to wait answers in this time: nothing a target says holds a call for longer.
_LONGEST_S = _READ_S + 2.0
_RETRY_SHARE = 0.2
_FREE_RETRIES = 10


async def fault_10(run: Run, size: Size) -> None:
    """Waits are honoured and capped, retries stay within their budget, the circuit opens."""
    for _ in run.rounds(short=1, most=20):
        place = run.place()
        history = run.history(place)
        circuit = {"threshold": 3, "minimum_calls": 10, "open_s": 1}
        limits = {"read_timeout_s": _READ_S}
        async with stage(place, "cluster", *LOCAL, circuit=circuit, limits=limits) as set_up:
            await set_up.workloads(*_refused_names(size), *_FLAPPING)
            async with local(set_up, history, name="s1") as agent:
                await _storm(run, set_up, history, agent, calls={"short": 60, "long": 300}[size])
                await _refused_writes(run, set_up, agent, _refused_names(size))
                async with anyio.create_task_group() as tasks:
                    for name, fault in _FLAPPING.items():
                        tasks.start_soon(_flapping, run, set_up, history, agent, name, fault)
            await run.judge(
                history,
                place,
                effects=set_up.effects(),
                least_calls=80,
                least_effects=len(_refused_names(size)),
            )
        await at_platforms(run, every=size == "long")


async def _storm(
    run: Run, set_up: Stage, history: History, agent: LocalAgent, *, calls: int
) -> None:
    """Reads against a target that throttles each of them, with all kinds of headers."""
    gate = set_up.between["cluster"]
    headers = [odd_wait(run) for _ in range(calls * 2)]
    faults = [answering(429, _status(429), {"retry-after": each}) for each in headers]
    gate.inject("GET", "/deployments/web", *faults)
    seen = len(gate.seen)
    history.fault("429 storm")
    took: list[float] = []

    web: dict[str, Any] = {"target": "shop", "name": "web"}

    async def one(number: int) -> None:
        begun = time.monotonic()
        # One after the other: identical reads in flight would share one call.
        answer = await agent.call("get_deployment", deadline_s=_LONGEST_S * 4, **web)
        took.append(time.monotonic() - begun)
        run.expect(answer.code == "upstream_rate_limited", f"call {number} said {answer.code}")
        wait = answer.body.get("retry_after_s")
        run.expect(wait is None or 0 <= wait <= 3600, f"it passed on a wait of {wait} s")

    for number in range(calls):
        await one(number)
    asked = len(gate.seen) - seen
    most = calls * (1 + _RETRY_SHARE) + _FREE_RETRIES
    run.expect(asked <= most, f"{asked} requests for {calls} calls, at most {most:.0f}")
    run.expect(max(took) <= _LONGEST_S, f"a throttled read took {max(took):.1f} s")
    gate.inject("GET", "/deployments/web")
    history.mended("429 storm")
    answer = await agent.call("get_deployment", **web)
    # 429 is an answer: a circuit that had opened would refuse this read.
    run.expect(answer.code == "ok", f"after the storm: {answer.code}")
    history.recovered("429 storm")


async def _refused_writes(run: Run, set_up: Stage, agent: LocalAgent, asked: list[str]) -> None:
    """A write that the target did not take is free to be sent again, and then runs once."""
    first = run.random.randrange(2)
    for number, name in enumerate(asked, first):
        status = 503 if number % 2 else 429
        fault = answering(status, _status(status), {"retry-after": "1"})
        set_up.between["cluster"].inject(*writing_of(name).requests(name), fault)
        refused = await agent.restart(name, wait_s=0)
        run.expect(refused.body.get("executed") == "no", f"a {status} counts as executed")
        again = await agent.restart(name, wait_s=0)
        run.expect(again.code == "ok", f"after a {status}: {again.code}")


def _refused_names(size: Size) -> list[str]:
    """Each kind meets one of the two answers, or each of them."""
    return names({"short": 1, "long": 2}[size] * len(KINDS))


async def _flapping(
    run: Run, set_up: Stage, history: History, agent: LocalAgent, name: str, fault: Fault
) -> None:
    """Failures in a row open the circuit: then the target is left alone, and probed once a
    second."""
    writing = writing_of(name)
    gate, request = set_up.between[writing.part], writing.looked_at(name)
    gate.inject(*request, *[fault] * 500)
    history.fault(f"failures at {writing.part}")

    async def look() -> str:
        return (await agent.call(writing.look, **writing.look_arguments(name))).code

    codes = [await look() for _ in range(8)]
    run.expect("circuit_open" in codes, f"the circuit of {name} stayed closed: {codes}")
    seen = gate.count(*request)
    while_open = [await look() for _ in range(5)]
    probes = gate.count(*request) - seen
    run.expect(probes <= 2, f"{probes} requests reached {name}, whose circuit is open")
    run.expect("circuit_open" in while_open, f"while it is open: {while_open}")
    gate.inject(*request)
    history.mended(f"failures at {writing.part}")
    with anyio.fail_after(10):
        while await look() != "ok":
            await anyio.sleep(0.1)
    history.recovered(f"failures at {writing.part}")


def _status(code: int) -> dict[str, object]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}


# What is looked at there, and how each fails.
_FLAPPING: Final = {
    "w-web": answering(503, _status(503)),
    "unit-stop-00": answering(200, failing("Failed to connect to bus: Connection refused")),
    "cmd-stop-00": answering(200, b"no answer of a keeper\n"),
}
