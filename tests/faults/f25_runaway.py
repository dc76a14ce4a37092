"""F25: a runaway agent: the same destructive call in a loop, and a thousand at once."""

from __future__ import annotations

from collections import Counter

import anyio

from mcp_ops.clock import SystemClock
from tests.faults.agents import HttpAgent
from tests.faults.checker import DONE
from tests.faults.f09_clock import by_call
from tests.faults.later import LocalAgent, local
from tests.faults.row import Run, Size
from tests.faults.stage import stage

_ON_ONE = 3  # the default budget: writes on one object in 30 minutes
_AN_HOUR = 20  # and an hour a principal
_NAMES = 12


async def fault_25(run: Run, size: Size) -> None:
    """The cap is reached and then everything is refused: a person is needed."""
    place = run.place()
    history = run.history(place)
    at_once = {"short": 60, "long": 1_000}[size]
    limits = {"writes_per_object": _ON_ONE, "writes_per_hour": _AN_HOUR}
    names = [f"w-{number}" for number in range(_NAMES)]
    async with stage(place, "cluster", limits=limits) as set_up:
        await set_up.workloads(*names)
        async with (
            run.served(set_up, history) as (_, one),
            local(set_up, history, clock=SystemClock(), name="s2") as other,
        ):
            codes: Counter[str] = Counter()
            history.fault("runaway")
            for number in range(10):
                codes[await _again(one, names[0], f"loop-{number}")] += 1
            run.expect(codes["done"] <= _ON_ONE, f"{codes['done']} in a loop on one object")
            run.expect(codes["done"] >= 1, f"nothing was allowed: {codes}")

            async def once(number: int) -> None:
                agent = other if number % 2 else one
                name = names[number % len(names)]
                codes[await _again(agent, name, f"at-once-{number}")] += 1

            async with anyio.create_task_group() as tasks:
                for number in range(at_once):
                    tasks.start_soon(once, number)
            # Calls that met in flight may have given their share back: now one after the other.
            for number in range(2 * _AN_HOUR):
                codes[await _again(one, names[number % len(names)], f"then-{number}")] += 1
            history.mended("runaway")
            answer = await one.must("get_deployment", name="web")
            run.expect(answer.code == "ok", f"reads are refused as well: {answer.code}")
            history.recovered("runaway")
            # The loop may be stopped as one before its budget is used up: it needs a person, too.
            stopped = codes["read_only"] > 0 and codes["done"] <= _AN_HOUR
            capped = codes["done"] == _AN_HOUR
            run.expect(capped or stopped, f"{codes['done']} writes, {_AN_HOUR} an hour: {codes}")
            allowed = {"done", "budget_exhausted", "circuit_open", "read_only", "conflict"}
            allowed |= {"restricted", "bulkhead_full", "approval_required"}
            run.expect(set(codes) <= allowed, f"refused as {dict(codes)}")
            last = await one.restart(names[1], wait_s=0, idempotency_key="one more", intent="more")
            run.expect(last is not None and last.error, "the cap was reached, and it went on")
        effects = Counter(effect.intent for effect in set_up.effects())
        most = max(effects.values())
        run.expect(most <= _ON_ONE, f"{most} effects on one object")
        await run.judge(
            history,
            place,
            effects=by_call(history, set_up),
            least_calls=at_once + 10,
            least_effects=_ON_ONE,
        )


async def _again(agent: HttpAgent | LocalAgent, name: str, key: str) -> str:
    answer = await agent.restart(name, wait_s=0, idempotency_key=key, intent=key)
    if answer is None:
        return "lost"
    return "done" if answer.outcome in DONE else answer.code
