"""F23: the client's list of tools is old: a tool was renamed or taken away, or a scope removed."""

from __future__ import annotations

from tests.faults.agents import WHY
from tests.faults.later import local
from tests.faults.row import Run, Size
from tests.faults.stage import OTHER_KEY, stage

_LESS = """
exclude = ["restart_*"]
"""
_WORDS = ("restart", "deployment", "get", "discard", "deadletters", "set", "guard", "mode", "all")
_LEAST = 40


async def fault_23(run: Run, size: Size) -> None:
    """A clear error, and no other tool runs."""
    place = run.place()
    history = run.history(place)
    async with stage(place, "cluster") as set_up:
        await set_up.workloads("w-1", "w-2")
        async with local(set_up, history, name="s1") as agent:
            await agent.restart("w-1", wait_s=0)
            known = set(agent.app.tools)
        text = set_up.config.read_text(encoding="utf-8")
        fewer = text.replace('profile = "full"\n', 'profile = "full"\n' + _LESS.strip() + "\n")
        fewer = fewer.replace(
            'key = "env:FAULTS_OTHER_KEY"', 'key = "env:FAULTS_OTHER_KEY"\nscopes = ["ops:read"]'
        )
        set_up.config.write_text(fewer, encoding="utf-8")
        history.fault("fewer tools")
        async with run.served(set_up, history, "s2") as (_, agent):
            gone = await agent.restart("w-2", wait_s=0)
            run.expect(gone is not None and gone.body["code"] == -32602, f"a tool gone: {gone}")
            said = str(gone.body.get("message", "")) if gone else ""
            run.expect("tools/list" in said, f"it says {said!r}, not where to look")
            for number in run.rounds(short=_LEAST, most=5_000):
                name = "_".join(run.random.sample(_WORDS, run.random.randint(1, 4)))
                name += run.random.choice(("", "s", "_", "-", "2"))
                if name in known:
                    continue
                answer = await agent.must(name, name="w-2", reason=WHY)
                run.expect(answer.body["code"] == -32602, f"{number} {name!r}: {answer.body}")
            agent.key = OTHER_KEY
            for tool in ("set_guard_mode", "isolate_target"):
                arguments = {"target": "shop", "reason": WHY}
                if tool == "set_guard_mode":
                    arguments["mode"] = "read_only"
                answer = await agent.must(tool, **arguments)
                run.expect(answer.code == "permission_denied", f"{tool}: {answer.body}")
            read = await agent.must("get_deployment", name="web")
            run.expect(read.code == "ok", f"what is left does not work: {read.body}")
        await run.judge(
            history, place, effects=set_up.effects(), least_calls=_LEAST // 2, least_effects=1
        )
    run.expect(len(set_up.effects()) == 1, "another tool ran")
