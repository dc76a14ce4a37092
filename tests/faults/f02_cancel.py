"""F2: a redrive is asked to stop at a random moment."""

from __future__ import annotations

from typing import Any

import anyio

from mcp_ops.clock import SystemClock
from mcp_ops.records import AuditQuery
from mcp_ops.stores.sqlite.embedded import open_stores
from tests.faults.agents import WHY, Answer
from tests.faults.items import Queued, fill
from tests.faults.row import Run, Size
from tests.faults.stage import Stage, stage

_LAST = AuditQuery(limit=20, tool="retry_deadletters")
ALL = "2000-01-01T00:00:00Z"


async def fault_02(run: Run, size: Size) -> None:
    """It stops between items, its counts are exact, and what is left can be driven on."""
    for _ in run.rounds(short=1, most=30):
        await _once(run, items={"short": 300, "long": 500}[size])


async def _once(run: Run, *, items: int) -> None:
    place = run.place()
    history = run.history(place)
    async with stage(place, "coordinator", "queue") as set_up:
        queued = await fill(set_up, items)
        async with run.served(set_up, history) as (_, agent):
            answers: list[Answer | None] = []

            async def redrive() -> None:
                arguments: dict[str, Any] = {
                    "since": ALL,
                    "max_items": items,
                    "rate_per_s": 50,
                    "reason": WHY,
                }
                answers.append(await agent.call("retry_deadletters", target="orders", **arguments))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(redrive)
                await _begun(set_up)
                await anyio.sleep(run.random.uniform(0, 1))
                history.fault("cancelled")
                await _cancel(set_up)
            await _counted(run, set_up, queued, answers[0])
        await run.judge(
            history,
            place,
            effects=set_up.effects(),
            items=await queued.places(set_up),
            least_calls=1,
            least_effects=5,
        )


async def _begun(set_up: Stage) -> None:
    with anyio.fail_after(30):
        while len(set_up.effects()) < 5:
            await anyio.sleep(0.02)


async def _cancel(set_up: Stage) -> None:
    """Ask every running operation to stop, as another process of the server does."""
    path = set_up.directory / "state" / "state.db"
    async with open_stores(path, SystemClock()) as stores:
        running = [
            operation
            for entry in await stores.ledger.search(_LAST)
            if (operation := await stores.ledger.get_operation(entry.call_id)) is not None
        ]
        for operation in running:
            await stores.ledger.cancel(operation.id, by="operator:ann")


async def _counted(run: Run, set_up: Stage, queued: Queued, answer: Answer | None) -> None:
    assert answer is not None
    body: dict[str, Any] = answer.body
    done = len(set_up.effects())
    run.expect(body.get("problem") == "cancelled", f"it said {body.get('problem')}")
    run.expect(body.get("retried") == done, f"{body.get('retried')} counted, {done} done")
    run.expect(0 < body.get("remaining", 0) < len(queued.ids), "it did not stop in the middle")
    total = sum(body.get(part, 0) for part in ("retried", "failed", "skipped", "remaining"))
    run.expect(total == len(queued.ids), f"{total} of {len(queued.ids)} items are accounted for")
