"""Failed operations that are tried again enter the guard as their own tool."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_ops.errors import ConnectionLost, NotFound, Unreachable
from mcp_ops.failed import FailedOperation
from mcp_ops.guard.operations import LEASE_S
from mcp_ops.ports import Mode
from mcp_ops.settings import PolicyRule
from tests.guard.bench import (
    AGENT,
    WHY,
    Bench,
    answering,
    bench,
    modern,
)
from tests.guard.test_resume import ended


async def fail_once(b: Bench, tool: str = "put_one", **arguments: str) -> str:
    b.world.plans.append(Unreachable("down"))
    assert await b.code(tool, name="x", reason=WHY, **arguments) == "unreachable"
    (item,) = (await b.ok("list_deadletters", target="mcp-ops"))["items"]
    return str(item["id"])


async def retry(b: Bench, *ids: str, caller: object = AGENT, **more: object) -> dict[str, object]:
    return await b.ok(
        "retry_deadletters",
        caller,  # type: ignore[arg-type]
        target="mcp-ops",
        ids=list(ids),
        reason=WHY,
        **more,
    )


async def test_a_retry_enters_the_guard_as_its_own_tool(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        item = await fail_once(b)
        found = await retry(b, item)
        assert found["retried"] == 1
        assert b.world.effects == ["put x"]
        ends = [e for e in await b.entries(tool="put_one") if e.kind == "ended"]
        assert [e.verdict for e in ends] == ["failed", "ok"]
        (parent,) = [e for e in await b.entries(tool="retry_deadletters") if e.kind == "began"]
        assert ends[1].parent == parent.call_id
        began = [e for e in await b.entries(call_id=ends[1].call_id) if e.kind == "began"]
        assert began[0].approval == f"covered by {parent.call_id}"
        assert await b.stores.failed.count() == 0


async def test_a_retry_is_refused_by_what_refuses_its_tool(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        item = await fail_once(b)
        await b.set_mode(Mode.READ_ONLY, scope="shelf")
        found = await retry(b, item)
        assert found["retried"] == 0
        assert "read_only" in str(found["problems"])
        assert b.world.effects == []
        assert await b.stores.failed.count() == 1


@pytest.mark.parametrize(
    "caller",
    [
        modern(),
        replace(AGENT, ask=answering("accept")),
        replace(AGENT, client_confirms=False),
    ],
)
async def test_a_retry_that_needs_more_than_its_consent_waits_for_a_person(
    tmp_path: Path, caller: object
) -> None:
    rules = (PolicyRule(tool="retry_deadletters", require="none"),)
    async with bench(tmp_path, rules=rules) as b:
        item = await fail_once(b)
        found = await retry(b, item, caller=caller)
        assert found["retried"] == 0
        assert "approval_required" in str(found["problems"])
        assert b.world.effects == []
        (asked,) = await b.stores.approvals.recent(5)
        assert (asked.kind, asked.tool) == ("approve", "put_one")


async def test_consent_to_a_retry_never_covers_a_destroy(tmp_path: Path) -> None:
    rules = (PolicyRule(tool="retry_deadletters", require="approve"),)
    async with bench(tmp_path, rules=(*rules, PolicyRule(require="none"))) as b:
        item = await fail_once(b, "drop_item")
    async with bench(tmp_path, rules=rules) as b:
        asked = await b.error("retry_deadletters", target="mcp-ops", ids=[item], reason=WHY)
        await b.approve(asked["details"]["approval_id"])
        found = await retry(b, item)
        assert "approval_required" in str(found["problems"])
        assert b.world.effects == []


async def test_a_retry_whose_answer_is_lost_is_unknown_and_not_repeated(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        item = await fail_once(b)
        b.world.after.append(ConnectionLost("lost"))
        found = await retry(b, item)
        assert found["outcome"] == "unknown"
        again = await retry(b, item, idempotency_key="again")
        assert again["retried"] == 0
        assert b.world.effects == ["put x"]


async def test_a_retry_that_fails_again_stays_in_the_queue_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        item = await fail_once(b)
        b.world.plans.append(NotFound("gone"))
        found = await retry(b, item)
        assert (found["retried"], found["failed"]) == (0, 1)
        b.world.plans.append(Unreachable("down again"))
        await retry(b, item, idempotency_key="again")
        assert await b.stores.failed.count() == 1


async def test_a_retry_that_the_end_of_the_server_cuts_off_is_settled_by_the_next_one(
    tmp_path: Path,
) -> None:
    """What became of the item is not known, and it is not tried again."""
    async with bench(tmp_path) as b:
        item = await fail_once(b)
        hold = b.world.hold()
        b.tasks.start_soon(retry, b, item)
        with anyio.fail_after(20):
            await hold.arrived.wait()
    async with bench(tmp_path, clock=b.clock) as b:
        (operation,) = [e.call_id for e in await b.entries(tool="retry_deadletters")]
        assert (await b.entries(tool="put_one"))[-1].code == "cancelled"
        b.clock.advance(LEASE_S + 1)
        assert await b.resumer.take() == 1
        status = await ended(b, operation)
        assert (status["outcome"], status["answer"]["retried"]) == ("unknown", 0)
        with anyio.fail_after(20):
            while b.operations.count:
                await anyio.lowlevel.checkpoint()
        again = await retry(b, item, idempotency_key="again")
        assert again["retried"] == 0
        assert b.world.effects == []


async def test_a_target_that_stays_away_ends_the_retries(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        ids = [f"{number}123456789abcdef" for number in range(4)]
        for item_id in ids:
            await b.stores.failed.add(
                FailedOperation(
                    id=item_id,
                    operation="put_one",
                    failure_type="unreachable",
                    error="down",
                    target="shelf",
                    principal=AGENT.principal,
                    arguments={"name": item_id, "reason": WHY},
                    failed_at=b.clock.now(),
                )
            )
        b.world.plans += [Unreachable("down")] * 4
        found = await retry(b, *ids, rate_per_s=50)
        assert (found["failed"], found["remaining"]) == (3, 1)
        assert "in a row" in str(found["problem"])
        assert await b.stores.failed.count() == 4


@pytest.mark.parametrize(("operation", "target"), [("gone_tool", "shelf"), ("put_one", "gone")])
async def test_an_item_whose_tool_or_target_is_gone_is_not_run(
    tmp_path: Path, operation: str, target: str
) -> None:
    async with bench(tmp_path) as b:
        await b.stores.failed.add(
            FailedOperation(
                id="0123456789abcdef",
                operation=operation,
                failure_type="unreachable",
                error="down",
                target=target,
                principal=AGENT.principal,
                arguments={"name": "x", "reason": WHY},
                failed_at=b.clock.now(),
            )
        )
        found = await retry(b, "0123456789abcdef")
        assert found["retried"] == 0
        assert "not here any more" in str(found["problems"])


async def test_an_item_with_arguments_of_another_version_is_not_run(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.stores.failed.add(
            FailedOperation(
                id="0123456789abcdef",
                operation="put_one",
                failure_type="unreachable",
                error="down",
                target="shelf",
                principal=AGENT.principal,
                arguments={"nom": "x"},
                failed_at=b.clock.now(),
            )
        )
        found = await retry(b, "0123456789abcdef")
        assert "invalid_input" in str(found["problems"])
        assert ("invalid", "invalid_input") in await b.ends(tool="put_one")
