"""What health counts: targets, stores that are away, and the dead letters of all queues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcp_ops.capabilities.deadletters import DeadLetterQueue
from mcp_ops.capabilities.guard import ComponentHealth, Threshold
from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.errors import StoreUnavailable, Unreachable
from mcp_ops.failed import FailedOperation
from mcp_ops.guard.health import HealthCheck, overall
from mcp_ops.guard.inside import Inside
from tests.guard.bench import AGENT, Bench, bench, shelf_target
from tests.guard.test_control import ONE_TRY, component

QUEUE = frozenset({DeadLetterQueue})


async def keep(b: Bench, count: int) -> None:
    """Failed calls in the server's own queue."""
    for number in range(count):
        await b.stores.failed.add(
            FailedOperation(
                id=f"{number:016x}",
                operation="put_one",
                failure_type="unreachable",
                error="down",
                target="shelf",
                principal=AGENT.principal,
                arguments={"name": "x"},
                failed_at=b.clock.now(),
            )
        )


def as_server(b: Bench, check: HealthCheck) -> Inside:
    return Inside(
        guard=b.guard, tools=ALL_TOOLS, ledger=b.stores.ledger, usage=b.usage, health=check
    )


async def letters(b: Bench) -> list[dict[str, Any]]:
    found = await b.ok("get_health")
    return [each for each in found["thresholds"] if each["name"] == "dead letters"]


async def test_a_healthy_target_tells_how_long_it_took(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=(shelf_target(),)) as b:

        async def slow() -> None:
            b.clock.advance(0.25006)

        b.world.plans.append(slow)
        (shelf,) = await b.inside.components()
    assert shelf == ComponentHealth(
        name="shelf", kind="shelf", status="healthy", latency_ms=250.1, age_s=0.0, problem=None
    )


async def test_a_store_that_is_away_is_an_unhealthy_part_of_the_server(tmp_path: Path) -> None:
    async with bench(tmp_path, infos=(shelf_target(),)) as b:
        check = HealthCheck(
            targets=b.targets,
            failed=b.stores.failed,
            clock=b.clock,
            sub_call=b.guard.sub_call,
            away=lambda: {"store.hot": 1_800_000_000.0},
        )
        shelf, store = await as_server(b, check).components()
    assert shelf.status == "healthy"
    assert store == ComponentHealth(
        name="store.hot",
        kind="store",
        status="unhealthy",
        problem="away since 2027-01-15T08:00:00.000Z: reads go on restricted, writes are refused",
    )


async def test_the_servers_own_dead_letters_count_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.world.letters = 120  # of a target that has no such queue
        await keep(b, 51)
        assert await letters(b) == [{"name": "dead letters", "value": 51, "level": "warning"}]


async def test_the_queues_behind_one_that_does_not_answer_are_counted(tmp_path: Path) -> None:
    infos = (
        shelf_target(),
        *(shelf_target(name, capabilities=QUEUE) for name in ("broken", "full", "fuller")),
    )
    async with bench(tmp_path, infos=infos, settings=ONE_TRY) as b:
        b.worlds["broken"].opening += [Unreachable("down"), Unreachable("down")]
        b.worlds["full"].letters, b.worlds["fuller"].letters = 60, 70
        await keep(b, 1)
        assert await letters(b) == [{"name": "dead letters", "value": 131, "level": "critical"}]


class AwayStore:
    """A store of failed operations that does not answer."""

    async def count(self) -> int:
        raise StoreUnavailable("gone")


async def test_without_its_store_the_queues_that_answer_are_counted(tmp_path: Path) -> None:
    infos = (shelf_target(), shelf_target("full", capabilities=QUEUE))
    async with bench(tmp_path, infos=infos) as b:
        away: dict[str, float] = {"store.ledger": 1.0}
        failed: Any = AwayStore()
        check = HealthCheck(
            targets=b.targets,
            failed=failed,
            clock=b.clock,
            sub_call=b.guard.sub_call,
            away=lambda: away,
        )
        b.worlds["full"].letters = 7
        counted: list[int | str] = []

        class Counting:
            async def health(self) -> Any:
                try:
                    counted.append(await check.dead_letters())
                except StoreUnavailable as error:
                    counted.append(error.message)

        control: Any = Counting()
        for _ in range(2):
            await as_server(b, check).health(control)
            away.clear()  # then nobody knows that it is away, and nobody says seven
    assert counted == [7, "gone"]


def test_one_critical_figure_among_others_is_unhealthy() -> None:
    past = [
        Threshold(name="dead letters", value=200, level="critical"),
        Threshold(name="open circuits", value=2, level="warning"),
    ]
    assert overall([component("healthy")], past) == "unhealthy"
    assert overall([component("healthy")], past[1:]) == "degraded"


def test_one_part_that_is_not_well_among_others_is_degraded() -> None:
    parts = [component("healthy"), component("degraded")]
    assert overall(parts, []) == "degraded"
    assert overall(parts[:1], []) == "healthy"
    assert overall([component("healthy"), component("unhealthy")], []) == "degraded"
