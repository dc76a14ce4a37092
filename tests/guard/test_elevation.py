"""Elevation: what it lowers, what it never lifts, who may give it, and that it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.call import Caller
from mcp_ops.errors import OpsError
from mcp_ops.guard.elevation import Elevations
from mcp_ops.ports import Grant, Mode
from mcp_ops.settings import FreezeWindow, GuardSettings, PolicyRule, ProtectedObject
from tests.guard.bench import AGENT, OPEN_LIMITS, OPERATOR, WHY, Bench, bench, modern

STRICT = GuardSettings(profile="strict", limits=OPEN_LIMITS)
DROP: dict[str, Any] = {"name": "a", "reason": WHY}


def elevations(b: Bench) -> Elevations:
    return Elevations(hot=b.stores.hot, ledger=b.stores.ledger, clock=b.clock, redactor=b.redactor)


async def elevate(b: Bench, caller: Caller = OPERATOR, **fields: Any) -> Grant:
    return await elevations(b).grant(
        caller,
        **{
            "principal": "agent:*",
            "tool": "put_*",
            "target": "shelf",
            "require": "none",
            "minutes": 10,
            "incident": "INC-7",
            "reason": "the shelf is on fire",
            **fields,
        },
    )


async def test_an_elevated_call_needs_no_approval_until_it_expires(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=STRICT) as b:
        assert await b.code("put_item", **DROP) == "approval_required"
        grant = await elevate(b)
        await b.ok("put_item", **DROP)
        (began,) = [e for e in await b.entries(tool="put_item") if e.kind == "began"]
        assert began.policy == f"strict[3], elevation {grant.id} for INC-7"
        (shown,) = (await b.ok("get_guard_status"))["elevations"]
        assert (shown["id"], shown["require"], shown["incident"]) == (grant.id, "none", "INC-7")
        b.clock.advance(600)
        assert await b.code("put_item", name="b", reason=WHY) == "approval_required"
        assert (await b.ok("get_guard_status"))["elevations"] == []


async def test_an_elevation_to_confirm_lets_the_clients_own_yes_suffice_but_for_a_destroy(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, settings=STRICT) as b:
        await elevate(b, tool="*", require="confirm")
        await b.ok("put_item", **DROP)
        assert await b.code("drop_item", **DROP) == "approval_required"
        await elevate(b, tool="drop_item", require="none")
        assert await b.code("drop_item", **DROP) == "ok"


async def test_of_several_elevations_one_is_ended(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=STRICT) as b:
        grants = [await elevate(b, incident=f"INC-{number}") for number in range(3)]
        for grant in grants[::-1]:
            assert await elevations(b).end(OPERATOR, grant.id) == grant
            left = [each["id"] for each in (await b.ok("get_guard_status"))["elevations"]]
            assert sorted(left) == sorted(each.id for each in grants[: grants.index(grant)])


@pytest.mark.parametrize("field", [{"principal": "key:*"}, {"tool": "drop_*"}, {"target": "depot"}])
async def test_an_elevation_holds_for_what_it_names_alone(
    tmp_path: Path, field: dict[str, Any]
) -> None:
    async with bench(tmp_path, settings=STRICT) as b:
        await elevate(b, **field)
        assert await b.code("put_item", **DROP) == "approval_required"


async def test_an_elevation_to_none_needs_no_yes_where_the_rule_wants_the_clients(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        await b.question("put_item", modern(), **DROP)
        await elevate(b)
        await b.ok("put_item", modern(), **DROP)


async def test_an_elevation_never_asks_for_more_than_the_rule(tmp_path: Path) -> None:
    rules = (PolicyRule(tool="put_*", require="confirm"),)
    async with bench(tmp_path, rules=rules) as b:
        await elevate(b, require="confirm")
        await b.ok("put_item", **DROP)
        (began,) = [e for e in await b.entries(tool="put_item") if e.kind == "began"]
        assert began.policy == "policy[1]"


async def test_an_elevation_lifts_no_deny_no_freeze_no_mode_and_no_protection(
    tmp_path: Path,
) -> None:
    async def refused(path: Path, settings: GuardSettings, *rules: PolicyRule) -> str:
        async with bench(path, settings=settings, rules=rules) as b:
            await elevate(b, tool="*", target="*")
            if not (rules or settings.freeze or settings.protected):
                await b.set_mode(Mode.READ_ONLY)
            return await b.code("put_item", **DROP)

    frozen = FreezeWindow(start="2020-01-01T00:00:00Z", end="2040-01-01T00:00:00Z", reason="r")
    more: tuple[tuple[dict[str, Any], tuple[PolicyRule, ...]], ...] = (
        ({}, (PolicyRule(require="deny"),)),
        ({"freeze": (frozen,)}, ()),
        ({"protected": (ProtectedObject(),)}, ()),
        ({}, ()),
    )
    codes = []
    for number, (fields, rules) in enumerate(more):
        settings = STRICT.model_copy(update=fields)
        (tmp_path / str(number)).mkdir()
        codes.append(await refused(tmp_path / str(number), settings, *rules))
    assert codes == ["permission_denied", "frozen", "protected", "read_only"]


async def test_an_elevation_does_not_let_an_agent_make_the_guard_looser(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.LOCKDOWN, scope="*")
        await elevate(b, tool="*", target="*")
        code = await b.code("set_guard_mode", mode="normal", reason=WHY)
        assert code == "approval_required"


async def test_an_elevation_stands_in_the_ledger_with_its_incident(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        grant = await elevate(b)
        await elevations(b).end(OPERATOR, grant.id)
        granted, ended = await b.entries(tool="elevate")
        assert (granted.kind, granted.outcome, ended.outcome) == ("changed", "granted", "ended")
        assert (granted.principal, granted.reason) == ("operator:ada", "the shelf is on fire")
        assert granted.evidence == {
            "principal": "agent:*",
            "tool": "put_*",
            "require": "none",
            "incident": "INC-7",
            "expires_at": "2027-01-15T08:10:00.000Z",
        }


async def test_an_ended_elevation_holds_no_more(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=STRICT) as b:
        grant = await elevate(b)
        await elevations(b).end(replace(OPERATOR, scopes=frozenset()), grant.id)
        assert await b.code("put_item", **DROP) == "approval_required"
        with pytest.raises(OpsError, match="No elevation is in force under this id"):
            await elevations(b).end(OPERATOR, grant.id)


@pytest.mark.parametrize(
    ("caller", "fields", "says"),
    [
        (AGENT, {}, "agent:test@host may not elevate anybody."),
        (replace(OPERATOR, channel="http"), {}, "operator:ada may not elevate anybody."),
        (
            replace(OPERATOR, scopes=frozenset({"ops:admin"})),
            {},
            "operator:ada may not elevate anybody.",
        ),
        (OPERATOR, {"principal": "*"}, "Nobody elevates themselves"),
        (OPERATOR, {"principal": "operator:*"}, "Nobody elevates themselves"),
        (OPERATOR, {"minutes": 0}, "minutes: must be from 1 to 480."),
        (OPERATOR, {"minutes": 481}, "minutes: must be from 1 to 480."),
        (OPERATOR, {"incident": " "}, "needs an incident and a reason"),
        (OPERATOR, {"reason": ""}, "needs an incident and a reason"),
    ],
)
async def test_who_may_not_elevate_is_told_why(
    tmp_path: Path, caller: Caller, fields: dict[str, Any], says: str
) -> None:
    async with bench(tmp_path) as b:
        with pytest.raises(OpsError) as caught:
            await elevate(b, caller, **fields)
        assert says in caught.value.message
        assert await b.stores.hot.grants() == ()
        assert await b.entries(tool="elevate") == []
