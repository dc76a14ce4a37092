"""F10 at all platforms but Kubernetes: writes that are told to wait, or meet 503.

On the server's own machine nobody says 429. Its programs end with an error, and keepers refuse what
they can't write down, or go without a word.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Final

import anyio

from tests.faults.checker import DONE
from tests.faults.later import LocalAgent, local
from tests.faults.platform_writes import kinds
from tests.faults.row import Run
from tests.faults.stage import Stage, stage
from tests.faults.units import failing
from tests.faults.writes import writing_of
from tests.faults.writing import LOCAL, PLATFORMS
from tests.kubernetes_lab import answering

_ODD = (
    "",
    "0",
    "-5",
    "1",
    "999999999999",
    "1e400",
    "NaN",
    "soon",
    "٣",
    formatdate(time.time() + 3600, usegmt=True),
    formatdate(0, usegmt=True),
)
_LONGEST_WAIT_S = 3600
# A 503 of these may be of something before them, which had passed the request on.
_BEHIND = ("azure", "railway", "units")
# The first of its two requests; what is told when the second is refused, and the number was saved,
# stands in tests/adapters/test_railway_faults.py.
_FIRST: Final = {"railway-scale": "/SetRegions/{name}"}
# What the programs and keepers of this machine say in the place of the two.
_LOCAL: Final = {
    ("units", 429): failing("Failed to connect to bus: Connection refused"),
    ("units", 503): failing("Failed to start a job: Connection reset by peer"),
    ("commands", 429): b'{"ok": false, "why": "disk"}\n',
    ("commands", 503): b"",
}


def odd_wait(run: Run) -> str:
    """A `Retry-After` of any kind."""
    return run.random.choice(_ODD).encode().decode("latin-1")


async def at_platforms(run: Run, *, every: bool) -> None:
    """Each write meets one of the two, or each of them."""
    place = run.place()
    history = run.history(place)
    first = run.random.randrange(2)
    asked = {
        f"{kind}-{turn:02}": (429, 503)[(number + turn + first) % 2]
        for turn in range(2 if every else 1)
        for number, kind in enumerate(kinds(*PLATFORMS, *LOCAL))
    }
    async with stage(place, *PLATFORMS, *LOCAL) as set_up:
        set_up.late()
        await set_up.workloads(*asked)
        async with local(set_up, history, name="s1") as agent:
            async with anyio.create_task_group() as tasks:
                for name, status in asked.items():
                    tasks.start_soon(_refused, run, set_up, agent, name, status)
            await set_up.settled()
            await run.resolve(agent, history)
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            least_calls=2 * len(asked),
            least_effects=len(asked) // 2,
        )


async def _refused(run: Run, set_up: Stage, agent: LocalAgent, name: str, status: int) -> None:
    """What was not taken is free to be sent again, and then runs once; what may have been is not
    sent again."""
    writing = writing_of(name)
    said = {"error": {"code": "Wait", "message": "later"}, "errors": [{"message": "later"}]}
    fault = answering(status, said, {"retry-after": odd_wait(run)})
    if (writing.part, status) in _LOCAL:
        fault = answering(200, _LOCAL[writing.part, status])
    method, part = writing.requests(name)
    part = _FIRST.get(name.rpartition("-")[0], part).format(name=name)
    set_up.between[writing.part].inject(method, part, fault)
    refused = await agent.restart(name, wait_s=0)
    again = await agent.restart(name, wait_s=0)
    told = f"{name}, {status}: {refused.body}"
    if status == 503 and writing.part in _BEHIND:
        run.expect(refused.outcome == "unknown", told)
        run.expect(bool(again.body.get("replayed")), f"{name} was sent again after {status}")
        return
    if status == 503 and writing.asks_again:
        run.expect(refused.outcome in DONE, told)
        run.expect(bool(again.body.get("replayed")), f"{name} was done again after {status}")
        return
    run.expect(refused.body.get("executed") == "no", told)
    wait = refused.body.get("retry_after_s")
    run.expect(wait is None or 0 <= wait <= _LONGEST_WAIT_S, told)
    run.expect(again.outcome in DONE, f"{name} after {status}: {again.body}")
