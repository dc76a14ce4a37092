"""F18: SIGTERM with fifty operations in flight, and a deployment that rolls to new state keys.

The old server seals with the old key, its sibling with the new one and opens both, the last one
knows the new one only.
"""

from __future__ import annotations

import anyio

from tests.faults.agents import Answer, HttpAgent
from tests.faults.checker import DONE
from tests.faults.gates import hold_restart
from tests.faults.row import Run, Size
from tests.faults.stage import NEW_SEAL_KEY, OLD_SEAL_KEY, Stage, stage

_POLICY = """
[[policy]]
principal = "key:agent"
require = "none"
[[policy]]
effect = "write"
require = "confirm"
"""


async def fault_18(run: Run, size: Size) -> None:
    """Drained in time; a call that is sent again at the sibling gets the recorded outcome."""
    for _ in run.rounds(short=1, most=20):
        await _once(run, in_flight={"short": 6, "long": 50}[size])


async def _once(run: Run, *, in_flight: int) -> None:
    place = run.place()
    history = run.history(place)
    names = [f"w-{number:02}" for number in range(in_flight)]  # none is part of another
    async with stage(place, "cluster", policy=_POLICY) as set_up:
        await set_up.workloads("question", "late", *names)
        async with run.served(set_up, history, environment=_keys("OLD")) as (old, agent):
            asked, late = await agent.ask("question"), await agent.ask("late")
            both = _keys("NEW", "OLD")
            async with run.served(set_up, history, "s2", environment=both) as (_, sibling):
                gates = [
                    hold_restart(set_up, name, after=run.random.random() < 0.5) for name in names
                ]
                answers: list[Answer | None] = []

                async def restart(name: str) -> None:
                    answers.append(await agent.restart(name, wait_s=0))

                async with anyio.create_task_group() as tasks:
                    for name in names:
                        tasks.start_soon(restart, name)
                    for gate in gates:
                        await gate.reached()
                    history.fault("SIGTERM")
                    old.terminate()
                    for gate in gates:
                        gate.released.set()
                history.mended("SIGTERM")
                run.expect(await old.ended() == 0, "the old server did not exit with 0")
                drained = [one for one in answers if one is not None and one.outcome in DONE]
                run.expect(len(drained) == in_flight, f"{len(drained)} of {in_flight} drained")
                await _at_the_sibling(run, set_up, sibling, names)
                history.recovered("SIGTERM")
                answer = await sibling.confirm("question", asked)
                run.expect(answer.outcome in DONE, f"the old question: {answer.body}")
        async with run.served(set_up, history, "s3", environment=_keys("NEW")) as (_, last):
            await _other_key(run, last, late)
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=2 * in_flight,
            least_effects=in_flight + 2,
        )


async def _at_the_sibling(run: Run, set_up: Stage, sibling: HttpAgent, names: list[str]) -> None:
    for name in names:
        again = await sibling.restart(name, wait_s=0)
        ok = again is not None and again.outcome in DONE and again.body["replayed"]
        run.expect(ok, f"{name} at the sibling: {again}")


def _keys(*names: str) -> dict[str, str]:
    """The environment with which a server seals by the first of these keys and opens by all."""
    secrets = {"FAULTS_SEAL_OLD": OLD_SEAL_KEY, "FAULTS_SEAL_NEW": NEW_SEAL_KEY}
    references = ",".join(f"env:FAULTS_SEAL_{name}" for name in names)
    return {**secrets, "MCP_OPS_QUESTION_KEYS": references}


async def _other_key(run: Run, last: HttpAgent, asked: str) -> None:
    """A question that the old key sealed is no answer here; asked anew, it works."""
    early = len(run.verdicts)
    refused = await last.confirm("late", asked)
    run.expect(refused.error or refused.outcome not in DONE, f"an old seal opened: {refused}")
    fresh = await last.ask("late")
    answer = await last.confirm("late", fresh)
    run.expect(answer.outcome in DONE, f"the question asked anew: {answer.body}")
    assert early == len(run.verdicts)
