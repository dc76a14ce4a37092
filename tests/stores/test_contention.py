"""Several processes on one store: exactly one winner, never more than the limit."""

from __future__ import annotations

import anyio
import pytest

from mcp_ops.clock import SystemClock
from mcp_ops.errors import Health
from mcp_ops.ports import CircuitPolicy, Mode
from mcp_ops.records import AuditQuery
from tests.stores import records
from tests.stores.backends import Backend, line, race, worker
from tests.stores.worker import ATTEMPTS

CLOCK = SystemClock()


async def test_a_key_is_claimed_once_whoever_claims_it(backend: Backend) -> None:
    with anyio.fail_after(60):
        won = await race(backend, 4, "claim")
        won_one = await race(backend, 4, "one_key")
    assert sum(won) == ATTEMPTS
    assert sum(won_one) == 1
    async with backend.open(CLOCK) as stores:
        found = await stores.ledger.verify()
    assert found.ok
    assert found.entries == ATTEMPTS + 1


async def test_fifty_redemptions_at_once_have_one_winner(backend: Backend) -> None:
    async with backend.open(CLOCK) as stores:
        await stores.approvals.ask(records.approval(CLOCK), max_pending=3)
        await stores.approvals.decide("a1", approved=True, by="z", note="", at=CLOCK.now())
        with anyio.fail_after(60):
            assert sum(await race(backend, 4, "redeem")) == 1


async def test_fifty_writes_at_once_use_one_approval_once(backend: Backend) -> None:
    async with backend.open(CLOCK) as stores:
        await stores.approvals.ask(records.approval(CLOCK), max_pending=3)
        await stores.approvals.decide("a1", approved=True, by="z", note="", at=CLOCK.now())
        with anyio.fail_after(60):
            assert sum(await race(backend, 4, "use")) == 1


async def test_a_budget_never_lets_more_through_than_it_holds(backend: Backend) -> None:
    with anyio.fail_after(60):
        assert sum(await race(backend, 4, "spend")) == 7


async def test_one_of_all_processes_gets_the_probe(backend: Backend) -> None:
    async with backend.open(CLOCK) as stores:
        policy = CircuitPolicy(consecutive=1, open_s=0.001)
        await stores.hot.record("shop", Health.FAILED, error="x", probe=False, policy=policy)
        with anyio.fail_after(60):
            assert sum(await race(backend, 4, "probe")) == 1


async def test_a_mode_set_by_another_process_is_seen(backend: Backend) -> None:
    async with backend.open(CLOCK) as stores, worker(backend, "lockdown") as process:
        with anyio.fail_after(20):
            assert await line(process) == "set"
        with anyio.fail_after(5):
            while not (seen := await stores.hot.admit(records.request())).modes:
                await anyio.sleep(0.01)
    assert seen.modes[0].mode is Mode.LOCKDOWN
    assert not seen.granted


@pytest.mark.parametrize("lines", [1, 7, 20])
async def test_a_killed_process_leaves_a_ledger_that_verifies(backend: Backend, lines: int) -> None:
    began, ended = set(), set()
    with anyio.fail_after(60):
        async with worker(backend, "write_forever") as process:
            for _ in range(lines):
                said = await line(process)
                began |= {said["began"]} if "began" in said else set()
                ended |= {said["ended"]} if "ended" in said else set()
            process.kill()
            await process.wait()
        async with backend.open(CLOCK) as stores:
            assert (await stores.ledger.verify()).ok
            states = {}
            for operation_id in began:
                found = await stores.ledger.get_operation(operation_id)
                assert found is not None
                states[operation_id] = found.state
                of_call = await stores.ledger.search(AuditQuery(call_id=operation_id))
                assert [entry.kind.value for entry in of_call] == ["ended", "began"]
    assert {name for name, state in states.items() if state == "done"} >= ended
    assert set(states.values()) <= {"done", "unknown"}


async def test_a_full_disk_fails_closed_and_the_chain_verifies_after(backend: Backend) -> None:
    with anyio.fail_after(60):
        async with worker(backend, "fill", "200000") as process:
            said = await line(process)
            await process.wait()
        async with backend.open(CLOCK) as stores:
            found = await stores.ledger.verify()
    assert (said["code"], said["executed"]) == ("store_unavailable", "no")
    assert said["durable"] > 0
    assert found.ok
    assert found.entries == said["durable"]
