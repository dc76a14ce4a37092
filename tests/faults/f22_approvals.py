"""F22: races about an approval: yes and no at once, yes and revoke, fifty who want to use it."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import anyio

from mcp_ops.clock import SystemClock
from mcp_ops.errors import Conflict, OpsError
from mcp_ops.records import AuditQuery
from tests.faults.agents import Answer
from tests.faults.checker import DONE
from tests.faults.history import History
from tests.faults.later import LocalAgent, local
from tests.faults.row import Run, Size
from tests.faults.stage import stage

_POLICY = '[[policy]]\neffect = "write"\nrequire = "approve"\n'
_AT_ONCE = 50
_RACES = ("approve and deny", "approve and approve", "deny and approve")
_ASKED = "approval_required"
_PEOPLE = ("operator:ann", "operator:bob")


async def fault_22(run: Run, size: Size) -> None:
    """Exactly one wins, in the ledger as well; fifty redemptions are one write."""
    place = run.place()
    history = run.history(place)
    rounds = {"short": 3, "long": 30}[size]
    # Fifty calls after a no are a runaway agent, who would be stopped: that is F25.
    limits = {"runaway_refusals": 1_000}
    async with stage(place, "cluster", policy=_POLICY, limits=limits) as set_up:
        names = [f"w-{number}" for number in range(rounds)]
        await set_up.workloads(*names)
        async with (
            local(set_up, history, clock=SystemClock(), name="s1") as first,
            local(set_up, history, clock=SystemClock(), name="s2") as second,
        ):
            done = 0
            for number, name in enumerate(names):
                done += await _race(run, first, second, name, _RACES[number % len(_RACES)])
            await _told_in_order(run, first, history)
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=rounds * _AT_ONCE,
            least_effects=rounds // 3,
        )
    run.expect(len(set_up.effects()) == done, f"{len(set_up.effects())} effects, {done} won")


async def _race(run: Run, first: LocalAgent, second: LocalAgent, name: str, which: str) -> int:
    """One question, people who disagree about it, then fifty calls at once; 1 if it was done."""
    asked = await first.restart(name, wait_s=0)
    run.expect(asked.code == _ASKED, f"{name}: {asked.code}")
    question = asked.body["details"]["approval_id"]
    said: list[str] = []

    async def decide(agent: LocalAgent, by: str, how: str) -> None:
        with suppress(OpsError):
            await agent.decide(question, by=by, approved=how == "approve")
            said.append(how)

    async with anyio.create_task_group() as tasks:
        for agent, by, how in zip((first, second), _PEOPLE, which.split(" and "), strict=True):
            tasks.start_soon(decide, agent, by, how)
    found = await first.app.stores.approvals.get(question)
    assert found is not None
    run.expect(len(said) == 1, f"{which}: {said}")
    answers: list[Answer] = []

    async def use(agent: LocalAgent) -> None:
        answers.append(await agent.restart(name, wait_s=0))

    async with anyio.create_task_group() as tasks:
        for number in range(_AT_ONCE):
            tasks.start_soon(use, (first, second)[number % 2])
    fresh = [one for one in answers if one.outcome in DONE and not one.body["replayed"]]
    # What was taken back is asked for again: open questions of one principal are bounded.
    for left in {one.body["details"]["approval_id"] for one in answers if one.code == _ASKED}:
        with suppress(Conflict):  # or it was taken back by a look that saw the restart
            await first.decide(left, by=_PEOPLE[0], approved=False)
    wanted = int(found.state == "approved")
    run.expect(len(fresh) == wanted, f"{which}: {len(fresh)} ran, the question is {found.state}")
    return len(fresh)


async def _told_in_order(run: Run, agent: LocalAgent, history: History) -> None:
    """Each question was decided once in the ledger."""
    entries = await agent.app.stores.ledger.search(AuditQuery(limit=1_000))
    decided = Counter(entry.approval for entry in entries if entry.kind == "changed")
    twice = [question for question, count in decided.items() if question and count > 1]
    run.expect(not twice, f"decided twice in the ledger: {twice}")
