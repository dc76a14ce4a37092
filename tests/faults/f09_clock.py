"""F9: the machine's clock jumps by an hour, both ways, as at a wrong daylight-saving change."""

from __future__ import annotations

from tests.faults.checker import DONE, Effect
from tests.faults.history import History
from tests.faults.items import fill
from tests.faults.later import LocalAgent, ShiftedClock, local
from tests.faults.row import Run, Size
from tests.faults.stage import Stage, stage

_HOUR = 3_600.0
_LIMIT = 3  # writes on one object in 30 minutes
_APPROVAL_S = 900.0
_POLICY = """
[[policy]]
tool = "discard_*"
require = "approve"
[[policy]]
require = "none"
"""


async def fault_09(run: Run, size: Size) -> None:
    """No early approval, no immortal one, and no window admits more than it should.

    Processes on the embedded store share a machine and so its clock: it jumps for all of them,
    and each may be the first to meet the store after it.
    """
    await _once(run, (_HOUR,))
    await _once(run, (-_HOUR,))
    if size == "long":
        for _ in run.rounds(short=1, most=50):
            many = run.random.randint(1, 4)
            await _once(run, tuple(run.random.choice((-1, 1)) * _HOUR for _ in range(many)))


async def _once(run: Run, jumps: tuple[float, ...]) -> None:
    place = run.place()
    history = run.history(place)
    one, other = ShiftedClock(), ShiftedClock()
    limits = {"writes_per_object": _LIMIT}
    async with stage(place, "cluster", "coordinator", "queue", limits=limits, policy=_POLICY) as up:
        await up.workloads("budget", "lease")
        await fill(up, 1)  # nobody is asked about nothing
        async with (
            local(up, history, clock=one, name="s1") as first,
            local(up, history, clock=other, name="s2") as second,
        ):
            done = await _spend(first, _LIMIT)
            asked = await first.discard()
            for jump in jumps:
                history.fault("jump", seconds=jump)
                agent = run.random.choice((first, second))
                one.ahead_s += jump
                other.ahead_s += jump
                done += await _spend(agent, 2)
                done += await _spend(second if agent is first else first, 2)
                history.mended("jump")
                again = await agent.discard()
                history.recovered("jump")
                # A jump ahead may end a question, as sleep does; it never answers one.
                run.expect(again not in ("ok", ""), "a jump approved what nobody approved")
                run.expect(jump > 0 or again == asked, "a jump back lost an open question")
                asked = again
            run.expect(done == _LIMIT, f"{done} writes in a window for {_LIMIT}, jumps {jumps}")
            await _passes(run, history, first, second, (one, other), asked)
        effects = by_call(history, up)
        await run.judge(
            history, place, effects=effects, least_calls=8, least_effects=_LIMIT, clock=one
        )


async def _spend(agent: LocalAgent, writes: int) -> int:
    """Ask for writes on one object under fresh keys; how many were done."""
    done = 0
    for _ in range(writes):
        key = f"key-{len(agent.history.lines)}"
        answer = await agent.restart("budget", wait_s=0, idempotency_key=key, intent=key)
        done += answer.outcome in DONE
    return done


async def _passes(
    run: Run,
    history: History,
    first: LocalAgent,
    second: LocalAgent,
    clocks: tuple[ShiftedClock, ShiftedClock],
    asked: str,
) -> None:
    """Time that really passes ends both the question and the window."""
    await first.decide(asked)
    for clock in clocks:
        clock.later_s += _APPROVAL_S + 60
    run.expect(await second.discard() != asked, "an approval outlived its time")
    for clock in clocks:
        clock.later_s += 1_800
    run.expect(await _spend(second, 1) == 1, "a window never ends")


def by_call(history: History, up: Stage) -> list[Effect]:
    """The effects under the intents that the clients had: here several on one object."""
    calls = {line["number"]: line for line in history.lines if line["kind"] == "call"}
    intents = {
        line["body"].get("audit_id"): calls[line["number"]]["intent"]
        for line in history.lines
        if line["kind"] == "answer"
    }
    return [
        Effect(intent=intents.get(effect.call, effect.intent), call=effect.call)
        for effect in up.effects()
    ]
