"""F21: a circuit that opens again right after a reset, and one that an operator isolated."""

from __future__ import annotations

from mcp_ops.call import Caller
from tests.faults.agents import WHY
from tests.faults.later import SCOPES, LocalAgent, local
from tests.faults.row import Run, Size
from tests.faults.stage import Stage, stage
from tests.kubernetes_lab import answering

_OPEN_S = 3_600
_RESETS = 6
_OPERATOR = Caller(
    principal="operator:ann", scopes=SCOPES | {"ops:approve", "ops:admin"}, channel="cli"
)


async def fault_21(run: Run, size: Size) -> None:
    """The reset of an isolated circuit is refused to an agent; resets make no loop of calls."""
    for _ in run.rounds(short=1, most=30):
        place = run.place()
        history = run.history(place)
        circuit = {"threshold": 3, "open_s": _OPEN_S}
        async with stage(place, "cluster", circuit=circuit) as set_up:
            await set_up.workloads("w-1", "w-2")
            async with local(set_up, history, name="s1") as agent:
                await agent.restart("w-1", wait_s=0)
                history.fault("503")
                await _reset_again_and_again(run, set_up, agent)
                set_up.between["cluster"].inject("GET", "/deployments/web")
                history.mended("503")
                await _reset(agent)
                answer = await agent.call("get_deployment", name="web")
                run.expect(answer.code == "ok", f"after the last reset: {answer.code}")
                history.recovered("503")
                await _isolated(run, agent)
            await run.judge(
                history, place, effects=set_up.effects(), least_calls=20, least_effects=2
            )


async def _reset(agent: LocalAgent) -> str:
    answer = await agent.call("reset_circuit", target="shop", reason=WHY)
    return answer.code


async def _reset_again_and_again(run: Run, set_up: Stage, agent: LocalAgent) -> None:
    """The target still fails: each reset costs it a bounded number of requests."""
    gate = set_up.between["cluster"]
    fault = answering(503, {"kind": "Status", "code": 503})
    gate.inject("GET", "/deployments/web", *[fault] * 10_000)
    for number in range(_RESETS):
        seen = len(gate.seen)
        codes = [(await agent.call("get_deployment", name="web")).code for _ in range(8)]
        asked = len(gate.seen) - seen
        run.expect(codes[-1] == "circuit_open", f"round {number}: {codes}")
        run.expect(asked <= 12, f"round {number}: {asked} requests at a broken target")
        await _reset(agent)


async def _isolated(run: Run, agent: LocalAgent) -> None:
    """What an operator shut stays shut for the agent, and opens for the operator."""
    control = agent.app.control(_OPERATOR)
    await control.isolate("shop", reason="it does harm")
    for _ in range(3):
        run.expect(await _reset(agent) == "permission_denied", "an agent lifted an isolation")
        refused = await agent.restart("w-2", wait_s=0)
        run.expect(refused.code == "circuit_open", f"isolated, and it said {refused.code}")
    await control.reset_circuit("shop", reason="it is well again")
    again = await agent.restart("w-2", wait_s=0)
    run.expect(again.code == "ok", f"after the operator's reset: {again.code}")
