"""What the tools on the server itself show, and the server as a caller of its own guard."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import anyio
import pytest

from mcp_ops.capabilities.deadletters import DeadLetterQueue
from mcp_ops.capabilities.guard import ComponentHealth
from mcp_ops.errors import OpsError, Unreachable
from mcp_ops.guard import shown
from mcp_ops.guard.health import HealthCheck, overall, thresholds
from mcp_ops.ports import CircuitPhase, CircuitState, Mode
from mcp_ops.records import Entry, EntryKind
from mcp_ops.settings import GuardSettings, UsageSettings
from tests.guard.bench import (
    OPEN_LIMITS,
    OPERATOR,
    WHY,
    bench,
    shelf_target,
)
from tests.guard.test_modes import reading

ONE_TRY = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"read_attempts": 1}))


# ---- health


async def test_health_asks_every_target(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        health = await b.ok("get_health")
        assert health["overall"] == "healthy"
        assert health["mode"] == "normal"
        assert {c["name"]: c["status"] for c in health["components"]} == {
            "shelf": "healthy",
            "depot": "healthy",
        }
        assert b.world.asked == ["ping"]


async def test_health_says_which_target_is_wrong_and_why(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        b.world.plans.append(Unreachable("Nobody home."))
        health = await b.ok("get_health")
        shelf = health["components"][0]
        assert (health["overall"], shelf["status"]) == ("degraded", "unhealthy")
        assert shelf["problem"] == "unreachable: Nobody home."
        await b.control(OPERATOR).isolate("shelf", reason=WHY)
        await b.set_mode(Mode.LOCKDOWN, scope="depot")
        statuses = [c["status"] for c in (await b.ok("get_health"))["components"]]
        assert statuses == ["unhealthy", "degraded"]


async def test_health_waits_for_nobody_longer_than_its_bound(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        check = HealthCheck(
            targets=b.targets,
            failed=b.stores.failed,
            clock=b.clock,
            sub_call=b.guard.sub_call,
            ping_s=0.05,
        )
        b.world.hold()
        with anyio.fail_after(5):
            async with b.inside._as_server("get_health"):
                shelf, depot = await check.components()
        assert (shelf.status, shelf.problem) == ("unhealthy", "no answer within 0.05 s")
        assert depot.status == "healthy"
        assert await b.stores.hot.circuits() == ()  # an impatient question opens no circuit


async def test_health_of_the_probe_passes_as_the_server_itself(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert [c.status for c in await b.inside.components()] == ["healthy", "healthy"]
        for _ in range(3):
            health = await b.inside.health(b.control())
        assert health.overall == "healthy"
        assert b.world.asked == ["ping", "ping"]  # the answer of a moment ago is good enough
        assert await b.ends() == []  # a probe every second must not fill the ledger


def component(status: str) -> ComponentHealth:
    return ComponentHealth(name="a", kind="k", status=status, latency_ms=1.0, age_s=0.0)


def circuit(phase: CircuitPhase) -> CircuitState:
    return CircuitState(target="a", phase=phase)


@pytest.mark.parametrize(
    ("opened", "failed", "letters", "expected"),
    [
        (1, 2, 50, []),
        (2, 0, 0, [("open circuits", "warning")]),
        (3, 0, 0, [("open circuits", "critical")]),
        (0, 3, 0, [("failed checks", "warning")]),
        (0, 4, 0, [("failed checks", "critical")]),
        (0, 0, 51, [("dead letters", "warning")]),
        (0, 0, 101, [("dead letters", "critical")]),
    ],
)
def test_the_runbooks_thresholds(
    opened: int, failed: int, letters: int, expected: list[tuple[str, str]]
) -> None:
    components = [component("unhealthy")] * failed + [component("healthy")]
    circuits = (circuit(CircuitPhase.OPEN),) * opened + (circuit(CircuitPhase.CLOSED),)
    past = thresholds(components, circuits, letters)
    assert [(t.name, t.level) for t in past] == expected
    status = overall(components, past)
    if expected and expected[0][1] == "critical":
        assert status == "unhealthy"
    elif expected or failed:
        assert status == "degraded"


def test_a_server_whose_every_target_is_down_is_unhealthy() -> None:
    assert overall([component("unhealthy")], []) == "unhealthy"
    assert overall([component("degraded")], []) == "degraded"
    assert overall([], []) == "healthy"


async def test_health_counts_the_dead_letters_of_all_queues_that_answer(tmp_path: Path) -> None:
    queue = frozenset({DeadLetterQueue})
    infos = (shelf_target(), shelf_target("full", capabilities=queue), shelf_target("broken"))
    infos = (*infos[:2], shelf_target("broken", capabilities=queue))
    async with bench(tmp_path, infos=infos, settings=ONE_TRY) as b:
        b.worlds["full"].letters = 120
        b.worlds["broken"].opening.append(Unreachable("down"))
        b.worlds["broken"].opening.append(Unreachable("down"))
        health = await b.ok("get_health")
        assert health["overall"] == "unhealthy"
        assert {"name": "dead letters", "value": 120, "level": "critical"} in health["thresholds"]


# ---- audit, operations, approvals


async def test_the_audit_is_paged_newest_first(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in range(5):
            await b.ok("look_at_item", name=f"x{number}")
        first = await b.ok("search_audit", limit=3)
        assert first["truncated"] is True
        rest = await b.ok("search_audit", limit=3, cursor=first["next_cursor"])
        sequence = [item["seq"] for item in first["items"] + rest["items"]]
        assert len(sequence) == 5
        assert sequence == sorted(sequence, reverse=True)
        assert await b.code("search_audit", cursor="none of ours") == "invalid_input"


async def test_the_hottest_tools_are_told(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in range(3):
            await b.ok("look_at_item", name=f"x{number}")
        await b.ok("list_items")
        (first, second, *_) = (await b.ok("list_hot_tools"))["items"]
        assert (first["tool"], first["upstream_calls"]) == ("look_at_item", 3)
        assert second["tool"] == "list_items"


async def test_an_unknown_operation_is_not_found(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert await b.code("get_operation", operation_id="0123456789abcdef") == "not_found"


async def test_questions_are_listed_and_counted(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.code("drop_item", name="x", reason=WHY)
        (item,) = (await b.ok("list_approvals"))["items"]
        assert (item["tool"], item["state"], item["reason"]) == ("drop_item", "pending", WHY)
        assert (await b.ok("get_guard_status"))["pending_approvals"] == 1
        await b.approve(item["id"])
        assert (await b.ok("get_guard_status"))["pending_approvals"] == 0


async def test_a_denied_question_shows_when_it_was_decided(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        asked = (await b.error("drop_item", name="x", reason=WHY))["details"]["approval_id"]
        await b.approve(asked, approved=False)
        found = await b.ok("get_operation", operation_id=asked)
        assert (found["kind"], found["state"]) == ("approval", "denied")
        assert "ended_at" in found


def test_an_entry_without_details_is_shown_without_them() -> None:
    item = shown.audit_item(Entry(kind=EntryKind.ENDED, call_id="a", at=0.0, tool="t"))
    assert item.target is None
    assert item.verdict is None


# ---- usage


async def test_a_reading_in_a_header_moves_the_mode(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        adapter = await b.targets.adapter("shelf")
        b.tasks.start_soon(b.usage.follow)
        for percent, expected in ((95.0, "critical"), (float("nan"), "critical"), (10.0, "normal")):
            adapter.wiring.report_usage("Daily", percent)
            with anyio.fail_after(5):
                while (await b.control().mode_of("shelf")).value != expected:
                    await anyio.sleep(0)
                await anyio.wait_all_tasks_blocked()


async def test_a_reading_that_cannot_be_applied_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path) as b:
        await b.ok("look_at_item", name="x")
        b.tasks.start_soon(b.usage.follow)
        with sqlite3.connect(b.path / "s.db") as file:
            file.execute("DROP TABLE modes")
        file.close()
        b.usage.report("shelf", "Daily", 95.0)
        with anyio.fail_after(5):
            while "was not applied" not in caplog.text:
                await anyio.sleep(0.01)
        assert "store_unavailable" in caplog.text


async def test_restricted_targets_are_read_until_they_come_back(tmp_path: Path) -> None:
    quick = UsageSettings.model_construct(poll_s=0.01)
    settings = GuardSettings(limits=OPEN_LIMITS).model_copy(update={"usage": quick})
    async with bench(tmp_path, settings=settings) as b:
        b.world.reading = reading(60)
        b.world.plans.append(Unreachable("not now", retry_after_s=100))
        await b.set_mode(Mode.LOCKDOWN, scope="*", source="operator")
        await b.stores.hot.clear_modes("*", frozenset({"operator"}))
        await b.set_mode(Mode.READ_ONLY, scope="depot", source="operator")
        await b.set_mode(Mode.RESTRICTIVE, scope="gone", source="usage")
        await b.set_mode(Mode.RESTRICTIVE, scope="shelf", source="usage")
        b.tasks.start_soon(b.usage.poll, b.inside.read_usage)
        with anyio.fail_after(5):
            while await b.control().mode_of("shelf") is not Mode.NORMAL:
                await anyio.sleep(0.01)
            while len(ends := await b.ends(principal="server:mcp-ops")) < 2:
                await anyio.sleep(0.01)
        assert b.world.asked == ["usage", "usage"]
        assert ends == [("failed", "unreachable"), ("ok", "")]
        b.tasks.cancel_scope.cancel()


# ---- opening of targets


async def test_a_target_is_opened_once_when_it_is_first_used(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert b.world.opened == 0
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(b.targets.adapter, "shelf")
                del number
        assert b.world.opened == 1


async def test_a_target_that_does_not_open_is_tried_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for error, code in (
            (Unreachable("closed"), "unreachable"),
            (ModuleNotFoundError("x", name="vendor"), "configuration_error"),
            (ZeroDivisionError("secret"), "unreachable"),
        ):
            b.world.opening.append(error)
            found = await b.error("put_item", name="x", reason=WHY)
            assert found["code"] == code
            assert found["executed"] == "no"
            assert "secret" not in str(found)
        assert await b.code("put_item", name="x", reason=WHY) == "ok"
        assert b.world.opened == 4


async def test_a_failed_opening_wakes_all_who_wait_and_ends_nothing_else(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        b.world.opening.append(Unreachable("closed"))
        results: list[str] = []

        async def ask() -> None:
            for _ in range(3):
                try:
                    await b.targets.adapter("shelf")
                    results.append("open")
                except OpsError as error:
                    results.append(error.code)

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask)
        assert results.count("unreachable") == 10
        assert results.count("open") == 20
        assert b.world.opened == 2


async def test_a_linked_secret_store_is_open_before_its_target_whoever_asks_first(
    tmp_path: Path,
) -> None:
    infos = (shelf_target(links={"secrets": "depot"}), shelf_target("depot"))
    async with bench(tmp_path, infos=infos) as b:
        found: dict[str, object] = {}

        async def ask(name: str) -> None:
            found[name] = await b.targets.adapter(name)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "shelf")
            tasks.start_soon(ask, "depot")
        assert found["shelf"].wiring.secrets is found["depot"]  # type: ignore[attr-defined]
        assert b.worlds["depot"].opened == 1


async def test_a_linked_store_that_did_not_open_is_tried_again(tmp_path: Path) -> None:
    infos = (shelf_target(links={"secrets": "depot"}), shelf_target("depot"))
    async with bench(tmp_path, infos=infos) as b:
        b.worlds["depot"].opening.append(Unreachable("closed"))
        with pytest.raises(Unreachable):
            await b.targets.adapter("shelf")
        adapter = await b.targets.adapter("shelf")
        assert adapter.wiring.secrets is await b.targets.adapter("depot")


async def test_the_status_shows_the_rate_that_the_mode_leaves(tmp_path: Path) -> None:
    metered = shelf_target(metered=True)
    async with bench(tmp_path, infos=(metered,)) as b:
        full = {limit.name: limit.per_minute for limit in (await b.control().status()).limits}
        await b.set_mode(Mode.RESTRICTIVE, scope="shelf")
        slow = {limit.name: limit.per_minute for limit in (await b.control().status()).limits}
        assert slow["calls to shelf"] == full["calls to shelf"] / 4
        await b.set_mode(Mode.LOCKDOWN, scope="shelf")
        none = {limit.name for limit in (await b.control().status()).limits}
        assert "calls to shelf" not in none
