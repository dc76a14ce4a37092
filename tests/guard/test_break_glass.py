"""Break-glass: what it passes and what not, its credential, and how loud it is."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from mcp_ops.call import Caller
from mcp_ops.errors import InvalidInput, OpsError, Refused
from mcp_ops.guard.break_glass import BreakGlass
from mcp_ops.ports import Mode
from mcp_ops.settings import FreezeWindow, GuardSettings, LimitSettings, PolicyRule, ProtectedObject
from tests.guard.bench import AGENT, OPEN_LIMITS, OPERATOR, WHY, Bench, bench

KEY = "a credential for emergencies"
ITEM: dict[str, Any] = {"name": "a", "reason": WHY}
GLASS = replace(OPERATOR, break_glass=True)


def glass(b: Bench, key: str | None = KEY) -> BreakGlass:
    return BreakGlass(
        None if key is None else SecretStr(key),
        ledger=b.stores.ledger,
        clock=b.clock,
        redactor=b.redactor,
    )


async def try_key(b: Bench, credential: str, caller: Caller = OPERATOR, **more: str) -> Caller:
    said = {"tool": "put_item", "target": "shelf", "reason": WHY, **more}
    return await glass(b).open(caller, credential, **said)


async def test_it_passes_modes_freezes_protection_budgets_rates_circuit_and_approval(
    tmp_path: Path,
) -> None:
    settings = GuardSettings(
        profile="strict",
        limits=LimitSettings(principal_per_minute=1, writes_per_object=1, destroys_per_hour=1),
        freeze=(
            FreezeWindow(start="2020-01-01T00:00:00Z", end="2040-01-01T00:00:00Z", reason="r"),
        ),
        protected=(ProtectedObject(),),
    )
    async with bench(tmp_path, settings=settings) as b:
        await b.control().isolate("shelf", reason=WHY)
        await b.set_mode(Mode.LOCKDOWN, scope="*")
        for number in range(3):
            await b.ok("drop_item", GLASS, **ITEM, idempotency_key=f"k{number}")
            await b.ok("look_at_item", GLASS, name="a")
        assert len(b.world.effects) == 3
        began = [e for e in await b.entries(tool="drop_item") if e.kind == "began"]
        assert {(e.policy, e.approval) for e in began} == {("break_glass", "break_glass")}


async def test_it_passes_no_scope_no_denying_rule_no_validation_and_no_idempotency(
    tmp_path: Path,
) -> None:
    rules = (PolicyRule(tool="drop_*", require="deny"),)
    async with bench(tmp_path, rules=rules) as b:
        reader = replace(GLASS, scopes=frozenset({"ops:read"}))
        assert await b.code("put_item", reader, **ITEM) == "permission_denied"
        assert await b.code("drop_item", GLASS, **ITEM) == "permission_denied"
        assert await b.code("put_item", GLASS, name="") == "invalid_input"
        await b.ok("put_item", GLASS, **ITEM, idempotency_key="k")
        again = await b.ok("put_item", GLASS, **ITEM, idempotency_key="k")
        assert again["replayed"]
        other = {**ITEM, "name": "b"}
        assert await b.code("put_item", GLASS, **other, idempotency_key="k") == (
            "idempotency_conflict"
        )
        assert b.world.effects == ["put a"]


@pytest.mark.parametrize("channel", ["stdio", "http"])
async def test_a_caller_over_a_protocol_never_passes_by_it(tmp_path: Path, channel: Any) -> None:
    async with bench(tmp_path) as b:
        await b.set_mode(Mode.LOCKDOWN)
        forged = replace(AGENT, break_glass=True, channel=channel)
        assert await b.code("look_at_item", forged, name="a") == "locked_down"


async def test_the_credential_opens_one_call_and_everybody_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path) as b:
        with caplog.at_level(logging.WARNING, logger="mcp_ops.guard"):
            caller = await try_key(b, KEY)
        assert caller == GLASS
        assert [r.getMessage() for r in caplog.records if r.name == "mcp_ops.guard"] == [
            f'BREAK-GLASS by operator:ada: put_item on shelf: "{WHY}"'
        ]
        tried, opened = await b.entries(tool="break_glass")
        assert (tried.outcome, opened.outcome, opened.kind) == ("tried", "opened", "changed")
        assert (opened.object, opened.target, opened.reason) == ("put_item", "shelf", WHY)
        (shown,) = (await b.ok("get_guard_status"))["break_glass"]
        assert (shown["principal"], shown["tool"]) == ("operator:ada", "put_item")
        assert (shown["used_on"], shown["reason"]) == ("shelf", WHY)
        b.clock.advance(86_399)
        assert (await b.ok("get_guard_status"))["break_glass"] != []
        b.clock.advance(2)
        assert (await b.ok("get_guard_status"))["break_glass"] == []


async def test_a_wrong_credential_is_recorded_and_opens_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path) as b:
        with caplog.at_level(logging.WARNING, logger="mcp_ops.guard"), pytest.raises(Refused) as no:
            await try_key(b, "wrong" + KEY)
        assert no.value.code == "permission_denied"
        assert no.value.message == (
            "This is not the break-glass credential; the attempt was recorded."
        )
        lines = await b.entries(tool="break_glass")
        assert [(e.outcome, e.code) for e in lines] == [
            ("tried", ""),
            ("refused", "permission_denied"),
        ]
        assert KEY not in str(lines) + caplog.text
        assert (await b.ok("get_guard_status"))["break_glass"] == []


async def test_after_five_wrong_credentials_it_is_closed_for_an_hour_from_the_first(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        for _ in range(5):
            with pytest.raises(Refused, match="not the break-glass credential"):
                await try_key(b, "wrong")
            b.clock.advance(60)
        with pytest.raises(Refused) as no:
            await try_key(b, KEY)
        assert no.value.message == (
            "Break-glass is closed until 2027-01-15T09:00:00.000Z: 5 wrong credentials since "
            "2027-01-15T08:00:00.000Z."
        )
        assert no.value.retry_after_s == 3_300
        assert len(await b.entries(tool="break_glass")) == 10  # more tries leave no more lines
        b.clock.advance(3_301)
        assert (await try_key(b, KEY)).break_glass


async def test_good_credentials_are_not_counted(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for _ in range(7):
            assert (await try_key(b, KEY)).break_glass


async def test_of_many_tries_at_once_at_most_five_are_looked_at(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        said: list[str] = []

        async def one() -> None:
            with pytest.raises(Refused) as no:
                await try_key(b, "wrong")
            said.append(no.value.message)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(one)
        assert sum("not the break-glass credential" in each for each in said) <= 5


@pytest.mark.parametrize(
    ("key", "caller", "says"),
    [
        (None, OPERATOR, "Break-glass is not set up here."),
        (KEY, AGENT, "Break-glass is for an operator at the command line only."),
        (
            KEY,
            replace(OPERATOR, channel="http"),
            "Break-glass is for an operator at the command line only.",
        ),
    ],
)
async def test_where_it_is_not_to_be_had_it_says_so(
    tmp_path: Path, key: str | None, caller: Caller, says: str
) -> None:
    async with bench(tmp_path) as b:
        with pytest.raises(OpsError) as no:
            await glass(b, key).open(caller, KEY, tool="t", target="", reason=WHY)
        assert no.value.message == says
        assert no.value.hint
        assert await b.entries(tool="break_glass") == []


async def test_it_needs_a_reason(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        with pytest.raises(InvalidInput, match="needs a reason"):
            await try_key(b, KEY, reason="  ")
        assert OPEN_LIMITS is not None
