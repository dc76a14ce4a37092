"""A runaway agent: capped by its budgets, then stopped until a person looks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from mcp_ops.capabilities.base import Effect
from mcp_ops.ports import Mode
from mcp_ops.settings import GuardSettings, PolicyRule
from mcp_ops.tool import Write, tool
from tests.guard.bench import AGENT, OPEN_LIMITS, OPERATOR, WHY, Bench, bench
from tests.guard.shelf import ItemPut, Name, Shelf

CAPPED = GuardSettings(
    limits=OPEN_LIMITS.model_copy(update={"writes_per_object": 3, "runaway_refusals": 5})
)
FREE = (PolicyRule(require="none"),)
OTHER = replace(AGENT, principal="agent:other@host")


async def drop(b: Bench, key: str, caller: Any = AGENT, name: str = "a") -> str:
    return await b.code("drop_item", caller, name=name, reason=WHY, idempotency_key=key)


async def loop(b: Bench, times: int) -> list[str]:
    return [await drop(b, f"k{number}") for number in range(times)]


async def test_the_same_change_in_a_loop_is_capped_and_then_stopped(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CAPPED, rules=FREE) as b:
        codes = await loop(b, 12)
        assert codes == ["ok"] * 3 + ["budget_exhausted"] * 5 + ["read_only"] * 4
        assert b.world.effects == ["drop a"] * 3
        error = await b.error("put_item", name="b", reason=WHY)
        assert error["code"] == "read_only"
        assert "mcp-ops mode clear principal:agent:test@host" in error["hint"]
        assert await b.code("look_at_item", name="a") == "ok"
        assert await drop(b, "mine", OTHER, name="b") == "ok"


async def test_a_person_ends_it_and_the_ledger_says_what_happened(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CAPPED, rules=FREE) as b:
        await loop(b, 9)
        (line,) = [e for e in await b.entries(tool="set_guard_mode") if e.kind == "changed"]
        assert line.principal == "server:mcp-ops"
        assert line.reason == "drop_item was refused 5 times in 10 minutes"
        assert line.evidence == {"mode": "read_only", "principal": AGENT.principal}
        assert (line.target, line.object) == ("shelf", "a")
        (mode,) = await b.stores.hot.modes()
        assert (mode.source, mode.author) == ("runaway", "server:mcp-ops")
        (last,) = [e for e in await b.entries(call_id=line.parent) if e.kind == "ended"]
        assert (last.tool, last.code) == ("drop_item", "budget_exhausted")
        await b.control(OPERATOR).clear_modes(f"principal:{AGENT.principal}", reason="looked")
        assert await b.code("put_item", name="b", reason=WHY) == "ok"


async def test_a_loop_about_one_target_is_not_mixed_with_that_about_another(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, settings=CAPPED, rules=FREE) as b:

        async def reset(target: str, times: int) -> list[str]:
            keyed = [{"idempotency_key": f"{target}-{number}"} for number in range(times)]
            about = {"target": target, "reason": WHY}
            return [await b.code("reset_circuit", **about, **key) for key in keyed]

        assert await reset("shelf", 7) == ["ok"] * 3 + ["budget_exhausted"] * 4
        assert await reset("depot", 9) == ["ok"] * 3 + ["budget_exhausted"] * 5 + ["read_only"]
        (line,) = [e for e in await b.entries(tool="set_guard_mode") if e.kind == "changed"]
        assert line.target == "depot"


@tool(effect=Effect.DESTROY)
async def sink_item(shelf: Shelf, name: Name, write: Write) -> ItemPut:
    """Sink an item, on any shelf."""
    return ItemPut(outcome="verified", name=name, evidence=await shelf.drop(name))


async def test_a_loop_at_one_target_is_not_mixed_with_that_at_another(tmp_path: Path) -> None:
    extra = {"sink_item": sink_item}
    async with bench(tmp_path, settings=CAPPED, rules=FREE, extra_tools=extra) as b:

        async def sink(target: str, times: int) -> list[str]:
            what: dict[str, Any] = {"name": "a", "target": target, "reason": WHY}
            keys = [f"{target}-{number}" for number in range(times)]
            return [await b.code("sink_item", **what, idempotency_key=key) for key in keys]

        assert await sink("shelf", 7) == ["ok"] * 3 + ["budget_exhausted"] * 4
        assert await sink("depot", 9) == ["ok"] * 3 + ["budget_exhausted"] * 5 + ["read_only"]


async def test_denied_modes_of_several_targets_are_no_loop(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CAPPED) as b:
        for target in ("shelf", "depot"):
            await b.set_mode(Mode.RESTRICTIVE, scope=target)
            looser: dict[str, Any] = {"mode": "normal", "target": target, "reason": WHY}
            asked = await b.error("set_guard_mode", **looser)
            await b.approve(asked["details"]["approval_id"], approved=False)
            codes = [await b.code("set_guard_mode", **looser) for _ in range(4)]
            assert codes == ["approval_denied"] * 4
        assert {entry.source for entry in await b.stores.hot.modes()} == {"operator"}


async def test_an_agent_does_not_lift_it_by_itself(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CAPPED, rules=FREE) as b:
        await loop(b, 9)
        for scope in ("all", "shelf"):
            code = await b.code("set_guard_mode", mode="normal", target=scope, reason=WHY)
            assert code in ("approval_required", "ok")
        assert await b.code("put_item", name="b", reason=WHY) == "read_only"


async def test_refusals_that_are_far_apart_or_of_other_changes_are_no_loop(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CAPPED, rules=FREE) as b:
        await loop(b, 7)
        b.clock.advance(600)
        assert [await drop(b, f"later{number}") for number in range(4)] == ["budget_exhausted"] * 4
        b.clock.advance(1_201)
        assert await drop(b, "free") == "ok"
        codes = {await drop(b, f"n{number}", name=f"n{number}") for number in range(10)}
        assert codes == {"ok"}


async def test_what_a_person_denied_is_not_asked_in_a_loop(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CAPPED) as b:
        asked = await b.error("drop_item", name="a", reason=WHY)
        await b.approve(asked["details"]["approval_id"], approved=False)
        codes = [await b.code("drop_item", name="a", reason=WHY) for _ in range(8)]
        assert codes == ["approval_denied"] * 5 + ["read_only"] * 3
        assert b.world.effects == []


async def test_an_operator_is_not_stopped(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CAPPED, rules=FREE) as b:
        codes = [await drop(b, f"k{number}", OPERATOR) for number in range(12)]
        assert codes == ["ok"] * 3 + ["budget_exhausted"] * 9


async def test_a_thousand_at_once_run_as_often_as_the_budget_says(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=CAPPED, rules=FREE) as b:
        codes: list[str] = []

        async def one(number: int) -> None:
            codes.append(await drop(b, f"p{number}"))

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(one, number)
        assert codes.count("ok") == 3
        assert b.world.effects == ["drop a"] * 3
        assert set(codes) <= {"ok", "budget_exhausted", "bulkhead_full", "read_only"}


async def test_the_refusal_stays_what_it_is_when_the_stop_cannot_be_stored(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, settings=CAPPED, rules=FREE) as b:
        await loop(b, 7)
        database = b.stores.ledger._database
        await database.write(lambda c: c.execute("PRAGMA query_only = ON"))
        assert await drop(b, "last") == "budget_exhausted"
        database._connection.execute("PRAGMA query_only = OFF")


async def test_what_many_other_objects_were_refused_since_is_not_counted_any_more(
    tmp_path: Path,
) -> None:
    """What is counted is bounded: the objects that were refused the longest ago are forgotten."""
    limits = OPEN_LIMITS.model_copy(update={"destroys_per_hour": 1, "runaway_refusals": 3})
    async with bench(tmp_path, settings=GuardSettings(limits=limits), rules=FREE) as b:
        assert b.guard._runaway.most_keys == 1_000
        b.guard._runaway.most_keys = 20
        assert await drop(b, "k") == "ok"
        refused = {await drop(b, f"a{number}", name="b") for number in range(2)}
        refused |= {await drop(b, f"n{number}", name=f"n{number}") for number in range(20)}
        refused |= {await drop(b, f"b{number}", name="b") for number in range(2)}
        assert refused == {"budget_exhausted"}
        assert await drop(b, "c", name="b") == "budget_exhausted"
        assert await drop(b, "d", name="b") == "read_only"


async def test_what_was_refused_just_now_is_not_what_is_forgotten(tmp_path: Path) -> None:
    limits = OPEN_LIMITS.model_copy(update={"destroys_per_hour": 1, "runaway_refusals": 3})
    async with bench(tmp_path, settings=GuardSettings(limits=limits), rules=FREE) as b:
        b.guard._runaway.most_keys = 2
        assert await drop(b, "k") == "ok"
        names = ["b", "other", "b", "another", "b"]
        codes = [await drop(b, f"k{number}", name=name) for number, name in enumerate(names)]
        assert codes == ["budget_exhausted"] * 5
        assert await drop(b, "end", name="b") == "read_only"
