"""What the lines of the ledger say of calls that ended in odd ways."""

from __future__ import annotations

from pathlib import Path

from mcp_ops.records import EntryKind
from mcp_ops.settings import GuardSettings, PolicyRule
from mcp_ops.stores.floods import closes
from tests.guard.bench import (
    OPEN_LIMITS,
    OPERATOR,
    bench,
)
from tests.guard.test_approval_people import people
from tests.guard.test_endings import X


async def test_a_flood_of_refused_calls_is_recorded_call_by_call_in_few_lines(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        ids = [(await b.error("look_at_item", nonsense=1))["audit_id"] for _ in range(900)]
        await b.ok("look_at_item", name="x")
        lines = [e for e in await b.entries() if e.verdict == "invalid"]
    assert len(lines) < 650
    assert sorted(call for line in lines for call in closes(line)) == sorted(ids)


async def test_an_invalid_call_says_where_it_went_and_is_told_apart(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.redactor.add("hunter2hunter2")
        for more in ({"pin": "1234"}, {"pin": "1234"}, {"pin": "1235"}, {"pin": 2**70}):
            await b.error("look_at_item", target="shelf", **more)
        await b.error("look_at_item", target="hunter2hunter2")
        lines = await b.entries()
    first, same, other, _, hidden = (line.digest for line in lines)
    assert first == same != other
    assert hidden.startswith("raw:")
    assert [line.target for line in lines] == ["shelf"] * 4 + ["?"]
    assert "1234" not in str(lines)


async def test_a_person_at_the_command_line_is_recorded_as_one(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.ok("look_at_item", OPERATOR, name="x")
        (line,) = await b.entries()
    assert (line.principal, line.channel, line.policy) == ("operator:ada", "cli", line.policy)
    assert line.policy


async def test_the_end_of_a_lost_write_says_all_that_its_intent_said(tmp_path: Path) -> None:
    hurried = GuardSettings(
        limits=OPEN_LIMITS.model_copy(update={"write_wait_s": 0.02}),
    )
    rules = (PolicyRule(require="none", effect="write"),)
    async with bench(tmp_path, settings=hurried, rules=rules) as b:
        b.world.hold()
        handle = await b.ok("put_item", **X, code="4711")
        b.clock.advance(60)
        async with bench(tmp_path, clock=b.clock) as other:
            await other.ok("get_operation", operation_id=handle["operation_id"])
            began, ended = await other.entries(call_id=handle["operation_id"])
        said = ("tool", "target", "object", "principal", "client", "channel", "reason", "policy")
        assert [getattr(ended, n) for n in said] == [getattr(began, n) for n in said]
        assert (ended.digest, ended.arguments) == (began.digest, began.arguments)
        assert (ended.verdict, ended.outcome) == ("unknown", "unknown")


async def test_no_line_has_a_plain_digest_of_a_sensitive_value(tmp_path: Path) -> None:
    """A question about it, its answer, the call and its end: nobody can try all of four digits."""
    ask = (PolicyRule(require="approve", effect="write"),)
    async with bench(tmp_path, rules=ask) as b:
        await b.reply("put_item", **X, code="4711")
        (question,) = await b.stores.approvals.recent(10)
        await people(b).decide(question.id, OPERATOR, approved=True, note="")
        await b.ok("put_item", **X, code="4711")
        lines = await b.entries()
    assert {line.kind for line in lines} == set(EntryKind)
    assert question.digest
    assert not any(question.digest in line.digest for line in lines)
    writes = {line.digest for line in lines if line.tool == "put_item" and line.kind != "changed"}
    assert len(writes) == 1
    assert writes != {""}
