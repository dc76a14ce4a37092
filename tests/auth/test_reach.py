"""Scopes narrowed by target and environment: what is seen, what is refused, what is approved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.call import Caller
from mcp_ops.errors import NotFound, RefusalCode, Refused
from mcp_ops.guard.people import People
from mcp_ops.ports import Mode
from mcp_ops.reach import Reach
from mcp_ops.records import AuditQuery
from mcp_ops.settings import GuardSettings
from tests.auth.standing import ALICE, BOB, Standing, key, standing
from tests.guard.bench import AGENT, OPEN_LIMITS, SCOPES, WHY, bench, shelf_target
from tests.stores.records import began, operation

SOLO = GuardSettings(profile="solo", limits=OPEN_LIMITS)
# One that the tools of the shelf are published for, and one that is linked to it.
INFOS = (
    shelf_target(environment="staging", links={"endpoint": "depot"}),
    shelf_target("depot", environment="prod"),
)
CONFIRMS: Any = {"host_confirms": True}


def grant(principal: str, *scopes: str, **more: Any) -> dict[str, Any]:
    return {"principal": principal, "scopes": scopes, **more}


def _reach(grants: list[dict[str, Any]]) -> tuple[Reach, ...]:
    return tuple(
        Reach(scopes=frozenset(each["scopes"]), targets=tuple(each.get("targets", ("*",))))
        for each in grants
    )


async def names(s: Standing, token: str) -> set[str]:
    return set(await s.tools(token))


async def test_a_principal_sees_the_tools_that_its_scopes_may_use(tmp_path: Path) -> None:
    keys = [
        key("reader", ALICE, "ops:read"),
        key("all", BOB),
        key("approver", "approver-0123456789", "ops:approve"),
    ]
    async with standing(tmp_path, infos=INFOS, keys=keys) as s:
        everything, reading = await names(s, BOB), await names(s, ALICE)
        assert {"look_at_item", "put_item", "drop_item", "isolate_target"} <= everything
        assert {"look_at_item", "get_health", "search_audit"} <= reading
        assert reading.isdisjoint({"put_item", "drop_item", "isolate_target", "set_guard_mode"})
        assert await names(s, "approver-0123456789") == set()
        # A list is made once for each set of scopes.
        first = s.b.server.tools_for(frozenset({"ops:read"}))
        assert s.b.server.tools_for(frozenset({"ops:read"})) is first
        for number in range(1_000):
            s.b.server.tools_for(frozenset({f"x{number}"}))
        assert len(s.b.server._lists) < 1_000


async def test_targets_are_narrowed_to_those_that_a_grant_names(tmp_path: Path) -> None:
    grants = [
        grant("key:alice", "ops:read"),
        grant("key:alice", "ops:write", targets=["shelf"]),
    ]
    async with standing(
        tmp_path, infos=INFOS, keys=[key("alice", ALICE), key("bob", BOB)], grants=grants
    ) as s:
        mine, others = await s.tools(ALICE), await s.tools(BOB)
        assert mine["isolate_target"]["properties"]["target"]["enum"] == ["shelf"]
        assert others["isolate_target"]["properties"]["target"]["enum"] == ["shelf", "depot"]
        assert mine["search_audit"]["properties"]["target"]["enum"] == ["shelf", "depot", ""]
        # What acts on everything by default has no such default for who may not.
        mode = mine["set_guard_mode"]
        assert mode["properties"]["target"]["enum"] == ["shelf"]
        assert "default" not in mode["properties"]["target"]
        assert mode["required"][0] == "target"
        assert others["set_guard_mode"]["properties"]["target"]["enum"][-1] == "all"
        assert "drop_item" not in mine  # the grants give no ops:destroy, whatever the key has


async def test_what_is_out_of_reach_is_refused_and_recorded(tmp_path: Path) -> None:
    grants = [grant("key:alice", "ops:read", "ops:write", targets=["shelf"])]
    keys = [key("alice", ALICE, **CONFIRMS), key("bob", BOB, **CONFIRMS)]
    async with standing(tmp_path, infos=INFOS, guard=SOLO, keys=keys, grants=grants) as s:
        done = await s.call("put_item", ALICE, name="x", reason=WHY)
        assert done.json()["result"]["structuredContent"]["outcome"] == "verified"
        for tool, arguments in (
            ("isolate_target", {"target": "depot"}),
            ("set_guard_mode", {"mode": "lockdown"}),
            ("set_guard_mode", {"mode": "lockdown", "target": "all"}),
        ):
            error = await s.refused(tool, ALICE, reason=WHY, **arguments)
            assert error["code"] in ("permission_denied", "invalid_input"), tool
        error = await s.refused("isolate_target", ALICE, reason=WHY, target="nothing")
        assert "depot" not in str(error)  # nor what there is elsewhere
        error = await s.refused("drop_item", ALICE, name="x", reason=WHY)
        assert "lacks the scope ops:destroy" in error["message"]
        assert (await s.b.stores.hot.modes(), await s.b.stores.hot.circuits()) == ((), ())
        lines = await s.b.stores.ledger.search(AuditQuery(tool="isolate_target", verdict="refused"))
    assert [line.code for line in lines] == ["permission_denied"]


async def test_an_operator_of_one_target_is_none_of_another(tmp_path: Path) -> None:
    grants = [
        grant("key:alice", "ops:read", "ops:write"),
        grant("key:alice", "ops:admin", "ops:approve", targets=["shelf"]),
    ]
    scopes = ("ops:read", "ops:write", "ops:admin", "ops:approve")
    keys = [key("alice", ALICE, *scopes, **CONFIRMS), key("bob", BOB, *scopes, **CONFIRMS)]
    async with standing(tmp_path, infos=INFOS, guard=SOLO, keys=keys, grants=grants) as s:
        for target in ("shelf", "depot"):
            done = await s.call("isolate_target", BOB, target=target, reason=WHY)
            assert not done.json()["result"]["isError"], done.text
        error = await s.refused("reset_circuit", ALICE, target="depot", reason=WHY)
        assert error["code"] == "permission_denied"
        assert "isolated by operator:key:bob" in error["message"]
        done = await s.call("reset_circuit", ALICE, target="shelf", reason=WHY)
        assert not done.json()["result"]["isError"], done.text
        # Nor is the answer to what others asked for there hers to see, and to stop.
        await s.call("reset_circuit", BOB, target="depot", reason=WHY)
        for target, there in (("shelf", True), ("depot", False)):
            asked = operation(s.b.clock, f"asked-{target}", key=target, target=target)
            await s.b.stores.ledger.begin(began(s.b.clock, asked.id), asked)
            seen = await s.call("get_operation", ALICE, operation_id=asked.id)
            assert seen.json()["result"]["isError"] is not there, seen.text
            stopped = await s.call("cancel_operation", ALICE, operation_id=asked.id, reason=WHY)
            assert ("permission_denied" in stopped.text) is not there, stopped.text


async def test_an_operator_of_one_target_sets_modes_elsewhere_as_an_agent_does(
    tmp_path: Path,
) -> None:
    grants = [
        grant("key:alice", "ops:read", "ops:write"),
        grant("key:alice", "ops:admin", "ops:approve", targets=["shelf"]),
    ]
    scopes = ("ops:read", "ops:write", "ops:admin", "ops:approve")
    keys = [key("alice", ALICE, *scopes, **CONFIRMS)]
    async with standing(tmp_path, infos=INFOS, guard=SOLO, keys=keys, grants=grants) as s:
        for target, whose in (("shelf", ["operator"]), ("depot", ["agent", "operator"])):
            await s.b.set_mode(Mode.READ_ONLY, scope=target)
            asked = {"mode": "read_only", "minutes": 1, "target": target, "reason": WHY}
            done = await s.call("set_guard_mode", ALICE, **asked)
            assert not done.json()["result"]["isError"], done.text
            held = [each for each in await s.b.stores.hot.modes() if each.scope == target]
            assert sorted(each.source for each in held) == whose
        # All targets together are not hers either.
        near = replace(AGENT, scopes=frozenset(scopes), reach=_reach(grants))
        there = await s.b.control(near).set_mode("all", Mode.READ_ONLY, minutes=1, reason=WHY)
        assert there is Mode.READ_ONLY
        modes = await s.b.stores.hot.modes()
        assert [each.source for each in modes if each.scope == "*"] == ["agent"]


async def test_environments_narrow_as_targets_do(tmp_path: Path) -> None:
    grants = [
        grant("key:alice", "ops:read"),
        grant("key:alice", "ops:write", environments=["dev", "staging"]),
    ]
    async with standing(tmp_path, infos=INFOS, keys=[key("alice", ALICE)], grants=grants) as s:
        tools = await s.tools(ALICE)
        assert tools["isolate_target"]["properties"]["target"]["enum"] == ["shelf"]
        error = await s.refused("isolate_target", ALICE, reason=WHY, target="depot")
        assert error["code"] == "permission_denied"
        assert "other targets than depot only" in error["message"]


async def test_a_linked_target_is_reached_by_who_reaches_the_one_that_needs_it(
    tmp_path: Path,
) -> None:
    grants = [grant("key:alice", "ops:read", "ops:write", targets=["shelf"])]
    async with standing(
        tmp_path, infos=INFOS, guard=SOLO, keys=[key("alice", ALICE, **CONFIRMS)], grants=grants
    ) as s:
        done = await s.call("copy_item", ALICE, name="x", reason=WHY)
        assert not done.json()["result"]["isError"], done.text


async def test_where_one_target_is_left_it_is_the_default(tmp_path: Path) -> None:
    infos = (shelf_target("a"), shelf_target("b"))
    near = (Reach(scopes=frozenset({"ops:read"}), targets=("b",)),)
    caller = replace(AGENT, reach=near, scopes=frozenset({"ops:read"}))
    async with bench(tmp_path, infos=infos) as b:
        published = b.server._tools["look_at_item"]
        b.server._tools = {
            **b.server._tools,
            "look_at_item": replace(published, targets=("a", "b")),
        }
        found = await b.ok("look_at_item", caller, name="x")
        assert found["target"] == "b"
        error = await b.error("look_at_item", caller, name="x", target="a")
        assert error["code"] == "permission_denied"
        error = await b.error("look_at_item", caller, name="x", target="c")
        assert "a" not in error["hint"].replace("a ", "").partition("One of: ")[2]


async def test_an_approver_answers_for_the_targets_in_reach(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=GuardSettings(profile="team")) as b:
        refusal = await b.error("drop_item", AGENT, name="x", reason=WHY)
        question = str(refusal["details"]["approval_id"])
        people = People(
            approvals=b.stores.approvals,
            ledger=b.stores.ledger,
            policy=b.guard.policy,
            clock=b.clock,
            redactor=b.redactor,
            environment_of=lambda _: "prod",
        )

        def approver(**more: Any) -> Caller:
            reach = (Reach(scopes=frozenset({"ops:approve"}), **more),)
            return Caller(
                principal="key:ada",
                scopes=SCOPES | {"ops:approve"},
                channel="http",
                reach=reach,
            )

        for elsewhere in ({"targets": ("depot",)}, {"environments": ("dev",)}):
            with pytest.raises(Refused) as refused:
                await people.decide(question, approver(**elsewhere), approved=True, note="")
            assert refused.value.reason is RefusalCode.PERMISSION_DENIED
        decided = await people.decide(
            question, approver(targets=("sh*",), environments=("prod",)), approved=True, note=""
        )
    assert decided.state == "approved"


async def test_an_answer_is_for_who_asked_and_for_who_decides(tmp_path: Path) -> None:
    keys = [
        key("alice", ALICE, **CONFIRMS),
        key("bob", BOB),
        key("ada", "ada-key-0123456789", "ops:read", "ops:approve"),
    ]
    async with standing(tmp_path, guard=SOLO, keys=keys) as s:
        await s.call("put_item", ALICE, name="x", reason=WHY)
        (line,) = await s.b.stores.ledger.search(AuditQuery(tool="put_item", verdict="ok"))
        asked = await s.refused("drop_item", ALICE, name="x", reason=WHY)
        question = asked["details"]["approval_id"]
        for handle in (line.call_id, question):
            for token in (ALICE, "ada-key-0123456789"):
                found = await s.call("get_operation", token, operation_id=handle)
                assert not found.json()["result"]["isError"], found.text
            error = await s.refused("get_operation", BOB, operation_id=handle)
            assert error["code"] == "not_found"
        error = await s.refused("cancel_operation", BOB, operation_id=line.call_id, reason=WHY)
        assert error["code"] == "permission_denied"
        foreign = replace(AGENT, principal="key:bob", channel="http")
        with pytest.raises(NotFound):
            await s.b.control(foreign).operation(line.call_id)


async def test_a_write_that_goes_on_elsewhere_keeps_its_reach(tmp_path: Path) -> None:
    from mcp_ops.guard.resume import _caller

    reach = (Reach(scopes=frozenset({"ops:write"}), targets=("shelf",), environments=("dev",)),)
    kept = {
        "principal": "key:alice",
        "scopes": ["ops:write"],
        "channel": "http",
        "client": "",
        "era": "",
        "trace_id": "",
        "reach": [{"scopes": ["ops:write"], "targets": ["shelf"], "environments": ["dev"]}],
    }
    assert _caller(kept).reach == reach
    del kept["reach"]  # as an older version wrote it
    assert _caller(kept).reach == ()
