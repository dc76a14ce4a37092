"""Every call has exactly one terminal record, in whatever way it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_ops.errors import (
    ConnectionLost,
    Forbidden,
    RefusalCode,
    StoreUnavailable,
    UnknownTool,
    Unreachable,
)
from mcp_ops.ports import CircuitPhase, Mode
from mcp_ops.records import AuditQuery, Entry
from mcp_ops.settings import GuardSettings
from mcp_ops.stores.floods import closes
from tests.guard.bench import (
    AGENT,
    OPEN_LIMITS,
    WHY,
    Bench,
    answering,
    bench,
    modern,
    shelf_target,
)
from tests.guard.test_order import FOREVER, open_circuit

X = {"name": "x", "reason": WHY}
Ends = list[tuple[str, str]]
Way = Callable[[Bench], Awaitable[Ends]]
OK = ("ok", "")


async def read(b: Bench) -> Ends:
    await b.ok("look_at_item", name="x")
    return [OK]


async def shared_read(b: Bench) -> Ends:
    hold = b.world.hold()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(lambda: b.ok("look_at_item", name="x"))
        await hold.arrived.wait()
        hold.released.set()
    assert b.world.asked == ["look x"]
    return [OK] * 3


async def cached_read(b: Bench) -> Ends:
    await b.ok("look_at_item", name="x")
    await b.set_mode(Mode.RESTRICTIVE)
    await b.ok("look_at_item", name="x")
    return [OK, ("ok", "cached")]


async def failed_read(b: Bench) -> Ends:
    b.world.plans.append(Unreachable("down", retry_after_s=60))
    await b.error("look_at_item", name="x")
    return [("failed", "unreachable")]


async def defect_of_a_read(b: Bench) -> Ends:
    b.world.plans.append(ZeroDivisionError())
    await b.error("look_at_item", name="x")
    return [("error", "internal_error")]


async def write(b: Bench) -> Ends:
    await b.ok("put_item", **X)
    return [OK]


async def plan(b: Bench) -> Ends:
    await b.ok("put_item", **X, dry_run=True)
    return [OK]


async def replayed_write(b: Bench) -> Ends:
    await b.ok("put_item", **X)
    await b.ok("put_item", **X)
    return [OK, ("ok", "replayed")]


async def joined_write(b: Bench) -> Ends:
    hold = b.world.hold()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(lambda: b.ok("put_item", **X))
        await hold.arrived.wait()
        hold.released.set()
    assert b.world.effects == ["put x"]
    return [OK, ("ok", "replayed"), ("ok", "replayed")]


async def failed_write(b: Bench) -> Ends:
    b.world.plans.append(Forbidden("No."))
    await b.error("put_item", **X)
    return [("failed", "forbidden")]


async def unknown_write(b: Bench) -> Ends:
    b.world.after.append(ConnectionLost("gone"))
    await b.reply("put_item", **X)
    return [("unknown", "connection_lost")]


async def defect_of_a_write(b: Bench) -> Ends:
    b.world.after.append(RuntimeError("defect"))
    await b.error("put_item", **X)
    return [("unknown", "internal_error")]


async def write_that_answers_a_handle(b: Bench) -> Ends:
    hold = b.world.hold()
    found = await b.ok("put_item", **X)
    assert found["outcome"] == "in_progress"
    hold.released.set()
    await b.operations.drain(5)
    return [OK]


async def invalid(b: Bench) -> Ends:
    await b.error("look_at_item", nonsense=1)
    await b.error("look_at_item", name="a\ud800")
    return [("invalid", "invalid_input")] * 2


async def unknown_tool(b: Bench) -> Ends:
    with pytest.raises(UnknownTool):
        await b.reply("no_such_tool", anything=1)
    return [("invalid", "unknown_tool")]


async def asked_by_result(b: Bench) -> Ends:
    question = await b.question("put_item", modern(), **X)
    (line,) = await b.entries()
    assert line.approval == question.id
    await b.ok("put_item", modern(answered=(question.id, "accept")), **X)
    return [("asked", ""), OK]


async def cancelled_read(b: Bench) -> Ends:
    hold = b.world.hold()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: b.ok("look_at_item", name="x"))
        await hold.arrived.wait()
        tasks.cancel_scope.cancel()
    return [("failed", "cancelled")]


async def write_whose_client_went_away(b: Bench) -> Ends:
    hold = b.world.hold()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: b.ok("put_item", **X))
        await hold.arrived.wait()
        tasks.cancel_scope.cancel()
    hold.released.set()
    await b.operations.drain(5)
    return [OK]


async def client_that_goes_away_while_it_is_asked(b: Bench) -> Ends:
    asked = anyio.Event()

    async def ask(_question: Any) -> Any:
        asked.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: b.ok("put_item", replace(AGENT, ask=ask), **X))
        await asked.wait()
        tasks.cancel_scope.cancel()
    return [("failed", "cancelled")]


async def read_at_shutdown(b: Bench) -> Ends:
    hold = b.world.hold()
    b.tasks.start_soon(lambda: b.ok("look_at_item", name="x"))
    await hold.arrived.wait()
    return [("failed", "cancelled")]


async def write_at_shutdown(b: Bench) -> Ends:
    hold = b.world.hold()
    b.tasks.start_soon(lambda: b.ok("put_item", **X))
    await hold.arrived.wait()
    return [("unknown", "cancelled")]


async def timer_at_shutdown(b: Bench) -> Ends:
    """The server's own calls have their record too."""
    hold = b.world.hold()
    b.tasks.start_soon(b.inside.read_usage, "shelf")
    await hold.arrived.wait()
    return [("failed", "cancelled")]


WAYS: tuple[Way, ...] = (
    read, shared_read, cached_read, failed_read, defect_of_a_read, write, plan, replayed_write,
    joined_write, failed_write, unknown_write, defect_of_a_write, write_that_answers_a_handle,
    invalid, unknown_tool, asked_by_result, cancelled_read, write_whose_client_went_away,
    client_that_goes_away_while_it_is_asked, read_at_shutdown, write_at_shutdown,
    timer_at_shutdown,
)  # fmt: skip
METERED = (shelf_target(metered=True, links={"endpoint": "depot"}), shelf_target("depot"))
QUICK = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"write_wait_s": 0.02}))


async def check(b: Bench, expected: Ends) -> None:
    """One terminal record a call, as expected, and no intent without one."""
    lines: list[Entry] = await b.stores.ledger.search(AuditQuery(limit=1_000))
    ended = [line for line in lines if line.kind == "ended"]
    assert sorted((line.verdict, line.code) for line in ended) == sorted(expected)
    calls = [call for line in ended for call in closes(line)]
    assert len(set(calls)) == len(calls) == len(expected)
    assert {line.call_id for line in lines if line.kind == "began"} <= set(calls)
    assert all(line.principal and line.channel for line in ended)
    assert (await b.stores.ledger.verify()).ok


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_call_has_one_terminal_record_however_it_ends(tmp_path: Path, way: Way) -> None:
    settings = QUICK if way is write_that_answers_a_handle else GuardSettings(limits=OPEN_LIMITS)
    with anyio.fail_after(10):
        async with bench(tmp_path, infos=METERED, settings=settings) as b:
            expected = await way(b)
        async with bench(tmp_path) as b:
            await check(b, expected)


def settings(**more: Any) -> GuardSettings:
    return GuardSettings.model_validate({"limits": OPEN_LIMITS.model_dump(), **more})


async def twice(b: Bench, tool: str, **arguments: Any) -> None:
    for name in ("x", "y"):
        await b.reply(tool, name=name, **arguments)


async def behind_a_mode(b: Bench, mode: Mode) -> None:
    await b.set_mode(mode)
    bulk = mode is Mode.CRITICAL
    await b.reply("list_items" if bulk else "put_item", **({} if bulk else X))


async def bulk_in_restrictive_mode(b: Bench) -> None:
    await b.set_mode(Mode.RESTRICTIVE)
    await b.reply("list_items")


async def with_an_open_circuit(b: Bench) -> None:
    await open_circuit(b, CircuitPhase.OPEN)
    await b.reply("look_at_item", name="x")


async def denied(b: Bench) -> None:
    await b.reply("put_item", replace(AGENT, ask=answering("decline")), **X)


async def with_another_call_under_its_key(b: Bench) -> None:
    await b.ok("put_item", **X, idempotency_key="one-key")
    await b.reply("put_item", name="y", reason=WHY, idempotency_key="one-key")


async def full(b: Bench) -> None:
    hold = b.world.hold()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: b.ok("look_at_item", name="x"))
        await hold.arrived.wait()
        await b.reply("look_at_item", name="y")
        hold.released.set()


async def late(b: Bench) -> None:
    b.world.hold()
    await b.reply("look_at_item", name="x")


async def without_a_store(b: Bench) -> None:
    b.world.plans.append(StoreUnavailable("The guard's own store did not answer."))
    await b.reply("look_at_item", name="x")


LIMITS = OPEN_LIMITS.model_dump()
REFUSALS: dict[str, tuple[GuardSettings, Callable[[Bench], Awaitable[Any]]]] = {
    "permission_denied": (
        settings(),
        lambda b: b.reply("put_item", replace(AGENT, scopes=frozenset({"ops:read"})), **X),
    ),
    "frozen": (settings(freeze=[FOREVER]), lambda b: b.reply("put_item", **X)),
    "protected": (settings(protected=[{"object": "x"}]), lambda b: b.reply("put_item", **X)),
    "locked_down": (settings(), lambda b: behind_a_mode(b, Mode.LOCKDOWN)),
    "read_only": (settings(), lambda b: behind_a_mode(b, Mode.READ_ONLY)),
    "critical": (settings(), lambda b: behind_a_mode(b, Mode.CRITICAL)),
    "restricted": (settings(), bulk_in_restrictive_mode),
    "budget_exhausted": (
        settings(limits={**LIMITS, "writes_per_hour": 1}),
        lambda b: twice(b, "put_item", reason=WHY),
    ),
    "rate_limited": (
        settings(limits={**LIMITS, "principal_per_minute": 1}),
        lambda b: twice(b, "look_at_item"),
    ),
    "circuit_open": (settings(), with_an_open_circuit),
    "approval_required": (settings(), lambda b: b.reply("drop_item", **X)),
    "approval_denied": (settings(), denied),
    "bulkhead_full": (settings(limits={**LIMITS, "bulkhead_wait_s": 0}), full),
    "timeout": (settings(limits={**LIMITS, "read_timeout_s": 0.02}), late),
    "store_unavailable": (settings(), without_a_store),
    "idempotency_conflict": (settings(), with_another_call_under_its_key),
}


def test_every_refusal_is_looked_at() -> None:
    assert set(REFUSALS) == {code.value for code in RefusalCode}


@pytest.mark.parametrize("code", REFUSALS)
async def test_a_refused_call_has_one_terminal_record_that_says_why(
    tmp_path: Path, code: str
) -> None:
    held, provoke = REFUSALS[code]
    one = (shelf_target(concurrent=1, metered=True),)
    with anyio.fail_after(10):
        async with bench(tmp_path, settings=held, infos=one) as b:
            await provoke(b)
        async with bench(tmp_path) as b:
            ends = await b.ends()
            verdict = "failed" if code in ("timeout", "store_unavailable") else "refused"
            assert [end for end in ends if end != OK] == [(verdict, code)]
            await check(b, ends)
            (line,) = [e for e in await b.entries() if e.code == code]
            assert (line.tool, line.target) != ("", "")
            if code == "approval_required":
                (question,) = await b.stores.approvals.recent(10)
                assert line.approval == question.id
