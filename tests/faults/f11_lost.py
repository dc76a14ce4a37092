"""F11: the target executes, then the connection breaks, anywhere in its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_ops.lab.proxy import Proxy
from tests.faults.agents import WHY
from tests.faults.checker import DONE
from tests.faults.f02_cancel import ALL
from tests.faults.history import History
from tests.faults.items import fill
from tests.faults.later import LocalAgent, local
from tests.faults.lines import cut
from tests.faults.platform_writes import kinds
from tests.faults.row import Run, Size
from tests.faults.stage import Stage, stage
from tests.faults.writes import KINDS, names, writing_of
from tests.faults.writing import LOCAL, PLATFORMS
from tests.kubernetes_lab import Between, Fault, broken, lost

_LOST = ("restart", "restart and look", "bytes")
# What a platform has done shows there by then.
_SHOWS_S = 0.3


async def fault_11(run: Run, size: Size) -> None:
    """It is unknown, then read back; never a blind second run."""
    for _ in run.rounds(short=1, most=10):
        # Each kind in one way, or in every one.
        asked = names({"short": 1, "long": 2 * len(_LOST)}[size] * len(KINDS))
        first = run.random.randrange(len(_LOST))
        ways = [_LOST[(n + n // len(KINDS) + first) % len(_LOST)] for n in range(len(asked))]
        await _writes(run, ("cluster",), dict(zip(asked, ways, strict=True)))
        await _at_platforms(run, every=size == "long")
        await _redrive(run, items={"short": 6, "long": 60}[size])


async def _at_platforms(run: Run, *, every: bool) -> None:
    """Each of their writes loses its answer in one way, or in every one."""
    ways = range(len(_LOST)) if every else (0,)
    first = run.random.randrange(len(_LOST))
    asked = {
        f"{kind}-{way:02}": _LOST[(number + way + first) % len(_LOST)]
        for way in ways
        for number, kind in enumerate(kinds(*PLATFORMS, *LOCAL))
    }
    await _writes(run, (*PLATFORMS, *LOCAL), asked)


async def _writes(run: Run, parts: tuple[str, ...], asked: Mapping[str, str]) -> None:
    """Writes that lose their answers in the way that is told of each."""
    place = run.place()
    history = run.history(place)
    at_once = anyio.CapacityLimiter(8)
    async with stage(place, *parts) as set_up:
        set_up.late()
        await set_up.workloads(*asked)
        async with local(set_up, history, name="s1") as agent:
            # What one gate tells apart, or one connection carries, is lost one after the other.
            locks = {_gate(name, how): anyio.Lock() for name, how in asked.items()}

            async def lose(name: str, how: str) -> None:
                async with at_once, locks[_gate(name, how)]:
                    await _lose(run, set_up, history, agent, name, how)

            for turn in _LOST:
                async with anyio.create_task_group() as tasks:
                    for name, how in asked.items():
                        if how == turn:
                            tasks.start_soon(lose, name, how)
            await anyio.sleep(_SHOWS_S)
            await set_up.settled()
            await run.resolve(agent, history)
        unknown = [
            line
            for line in history.lines
            if line["kind"] == "answer" and line["body"].get("outcome") == "unknown"
        ]
        run.expect(bool(unknown), "nothing was ever unknown: the answers were not lost")
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=2 * len(asked),
            least_effects=len(asked) // 2,
        )


def _gate(name: str, how: str) -> tuple[str, str]:
    writing = writing_of(name)
    return ("bytes", writing.part) if how == "bytes" else writing.requests(name)


async def _lose(
    run: Run, set_up: Stage, history: History, agent: LocalAgent, name: str, how: str
) -> None:
    writing = writing_of(name)
    gate, wire = set_up.between[writing.part], set_up.proxies.get(writing.part)
    fault = f"{how} of {name}"
    history.fault(fault)
    request = writing.requests(name)
    if how == "bytes":
        gate.inject(*request, _cut_from_here(wire, run) if wire else cut(run.random.random()))
    else:
        blind = how == "restart and look"
        gate.inject(*request, _lost_and_blind(gate, writing.looked_at(name)) if blind else lost)
    lost_it = await agent.restart(name, wait_s=0)
    if how != "bytes":  # which may have cut only what came after the answer
        found = how == "restart" and writing.marked
        wanted = DONE if found or writing.asks_again else {writing.blind}
        run.expect(lost_it.outcome in wanted, f"{name}, {how}: {lost_it.body}")
    gate.inject(*writing.looked_at(name))
    if wire is not None:
        wire.cut_to_client_after = None
    history.mended(fault)
    again = await agent.restart(name, wait_s=0)
    run.expect(bool(again.body.get("replayed")), f"{name} was run again after {how}")
    await agent.call(writing.look, **writing.look_arguments(name))
    history.recovered(fault)


def _lost_and_blind(gate: Between, look: tuple[str, str]) -> Fault:
    """Let the target act, lose its answer, and answer no look after it either."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        gate.inject(*look, *[broken] * 8)
        await lost(app, scope, receive, send)

    return fault


def _cut_from_here(wire: Proxy, run: Run) -> Fault:
    """Let the target act, and break the connection after a random number of its bytes."""

    async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        wire.cut_to_client_after = run.random.randint(1, 900)
        await app(scope, receive, send)

    return fault


async def _redrive(run: Run, *, items: int) -> None:
    """The endpoint of a redrive loses every answer; then it is well again."""
    place = run.place()
    history = run.history(place)
    async with stage(place, "coordinator", "queue") as set_up:
        queued = await fill(set_up, items)
        arguments: dict[str, Any] = {
            "target": "orders",
            "since": ALL,
            "max_items": items,
            "rate_per_s": 50,
        }
        async with local(set_up, history, name="s1") as agent:
            set_up.stand_ins["coordinator"].inject("lost-response")
            history.fault("lost-response")
            first = await agent.call("retry_deadletters", reason=WHY, **arguments)
            run.expect(first.body.get("outcome") == "unknown", f"first: {first.body}")
            set_up.stand_ins["coordinator"].mend("lost-response")
            history.mended("lost-response")
            executed = len(set_up.effects())
            with anyio.fail_after(20):
                for attempt in range(3):
                    key = f"again-{attempt}"
                    await agent.call(
                        "retry_deadletters", reason=WHY, idempotency_key=key, **arguments
                    )
            history.recovered("lost-response")
            run.expect(len(set_up.effects()) >= executed, "nothing was driven on")
        places = await queued.places(set_up)
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            items=places,
            least_calls=4,
            least_effects=items,
        )
