"""Circuits: only a target that fails opens its own, and recovery is never locked out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from mcp_ops import errors
from mcp_ops.errors import OpsError, Unreachable, UpstreamTimeout
from mcp_ops.heard import asking, heard
from mcp_ops.ports import CircuitPhase
from mcp_ops.settings import GuardSettings
from tests.guard.bench import AGENT, OPEN_LIMITS, OPERATOR, WHY, Bench, bench, modern

ONE_TRY = GuardSettings(limits=OPEN_LIMITS.model_copy(update={"read_attempts": 1}))


async def phase(b: Bench) -> str:
    found = await b.ok("list_circuits")
    return str(next(c["state"] for c in found["circuits"] if c["target"] == "shelf"))


async def break_shelf(b: Bench, times: int = 3) -> None:
    for number in range(times):
        b.world.plans.append(Unreachable("The shelf fell over."))
        assert await b.code("look_at_item", name=f"broken{number}") == "unreachable"


async def test_three_failures_open_the_circuit_and_a_probe_closes_it(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        await break_shelf(b, 2)
        assert await phase(b) == "closed"
        await break_shelf(b, 1)
        refusal = await b.error("look_at_item", name="x")
        assert refusal["code"] == "circuit_open"
        assert refusal["retry_after_s"] == pytest.approx(60, abs=1)
        assert refusal["details"] == {"circuit": "open", "failures": 3}
        circuit = (await b.ok("list_circuits"))["circuits"][0]
        assert circuit["last_error"] == "unreachable: The shelf fell over."
        b.clock.advance(61)
        assert await b.code("look_at_item", name="x") == "ok"
        assert await phase(b) == "closed"


async def test_an_answer_in_between_starts_the_count_anew(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        await break_shelf(b, 2)
        await b.ok("look_at_item", name="x")
        await break_shelf(b, 2)
        assert await phase(b) == "closed"


ANSWERS = [
    errors.Unauthenticated,
    errors.ReauthorizationRequired,
    errors.Forbidden,
    errors.NotFound,
    errors.Conflict,
    errors.Rejected,
    errors.QuotaExhausted,
    errors.UpstreamRateLimited,
]


@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_answer_of_the_target_is_no_failure(
    tmp_path: Path, answer: type[errors.Upstream]
) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        for number in range(5):
            b.world.plans.append(answer("No.", said="said no"))
            found = await b.error("look_at_item", name=f"x{number}")
            assert found["code"] == answer.code
            assert found["upstream_message_untrusted"] == "said no"
        assert await phase(b) == "closed"


async def test_a_failed_probe_opens_it_again(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        await break_shelf(b)
        b.clock.advance(61)
        await break_shelf(b, 1)
        assert await b.code("look_at_item", name="x") == "circuit_open"


async def test_a_probe_is_one_attempt_whatever_the_retries_are(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=GuardSettings(limits=OPEN_LIMITS)) as b:
        b.world.plans += [Unreachable("down")] * 9
        for number in range(3):  # a call that was tried again is one failure
            assert await phase(b) == "closed", number
            assert await b.code("look_at_item", name="x") == "unreachable"
        assert await phase(b) == "open"
        assert len(b.world.asked) > 3
        b.clock.advance(61)
        b.world.asked.clear()
        b.world.plans[:] = [Unreachable("down")] * 3
        assert await b.code("look_at_item", name="x") == "unreachable"
        assert b.world.asked == ["look x"]


async def test_while_a_probe_is_under_way_everyone_else_is_refused(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        await break_shelf(b)
        b.clock.advance(61)
        hold = b.world.hold()
        async with anyio.create_task_group() as tasks:

            async def probe() -> None:
                await b.ok("look_at_item", name="probe")

            tasks.start_soon(probe)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            refusal = await b.error("look_at_item", name="other")
            assert refusal["code"] == "circuit_open"
            assert refusal["details"]["circuit"] == "half_open"
            hold.released.set()
        assert await phase(b) == "closed"


@pytest.mark.parametrize("tool", ["look_at_item", "list_items"])
async def test_a_cancelled_probe_is_given_back(tmp_path: Path, tool: str) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        await break_shelf(b)
        b.clock.advance(61)
        hold = b.world.hold()
        arguments = {"name": "x"} if tool == "look_at_item" else {}
        async with anyio.create_task_group() as tasks:

            async def probe() -> None:
                await b.code(tool, **arguments)

            tasks.start_soon(probe)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            tasks.cancel_scope.cancel()
        assert await phase(b) == "half_open"
        assert await b.code("look_at_item", name="next") == "ok"
        assert await phase(b) == "closed"


async def test_recovery_passes_an_open_circuit_and_heals_it_not(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        await break_shelf(b)
        assert await b.code("put_item", name="x", reason=WHY) == "circuit_open"
        assert await b.code("mend_shelf", reason=WHY) == "ok"
        assert b.world.effects == ["put mended"]
        assert await b.code("reset_circuit", target="shelf", reason=WHY) == "ok"
        assert await b.code("put_item", name="x", reason=WHY) == "ok"


async def test_a_reset_says_what_was_and_is_and_opens_again_if_the_target_still_fails(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        plan = await b.ok("reset_circuit", target="shelf", dry_run=True, reason=WHY)
        assert plan["plan"] == ["Close the circuit of shelf (closed)."]
        await break_shelf(b)
        plan = await b.ok("reset_circuit", target="shelf", dry_run=True, reason=WHY)
        assert plan["plan"] == ["Close the circuit of shelf (open)."]
        found = await b.ok("reset_circuit", target="shelf", reason=WHY)
        assert (found["previous"], found["state"]) == ("open", "closed")
        assert found["evidence"] == {"state": "closed", "failures_before": 3}
        await break_shelf(b)
        assert await phase(b) == "open"


async def test_resets_are_budgeted_so_that_there_is_no_reset_loop(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=GuardSettings()) as b:
        codes = [await b.code("reset_circuit", target="shelf", reason=WHY) for _ in range(5)]
        assert codes == ["ok", "ok", "ok", "budget_exhausted", "budget_exhausted"]


async def test_an_agents_isolation_can_be_lifted_by_an_agent(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert (await b.ok("isolate_target", target="shelf", reason=WHY))["state"] == "isolated"
        b.clock.advance(100_000)
        assert await b.code("look_at_item", name="x") == "circuit_open"
        assert await b.code("reset_circuit", target="shelf", reason=WHY) == "ok"
        assert await b.code("look_at_item", name="x") == "ok"


async def test_an_operators_isolation_is_not_lifted_or_taken_over_by_an_agent(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, settings=GuardSettings()) as b:
        await b.control(OPERATOR).isolate("shelf", reason="it harms")
        await b.ok("isolate_target", target="shelf", reason="me too")
        for _ in range(5):  # refused, so charged to no budget
            refusal = await b.error("reset_circuit", target="shelf", reason=WHY)
            assert refusal["code"] == "permission_denied"
        circuit = (await b.ok("list_circuits"))["circuits"][0]
        assert (circuit["by"], circuit["reason"]) == ("operator:ada", "it harms")
        await b.control(OPERATOR).reset_circuit("shelf", reason="mended")
        assert await phase(b) == "closed"


async def test_a_circuit_that_changed_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        control = b.control(OPERATOR)
        await break_shelf(b)
        before = (await b.stores.hot.circuits())[0]
        b.clock.advance(61)
        await b.ok("look_at_item", name="x")
        with pytest.raises(OpsError) as caught:
            await control._circuits._set(replace(before, phase=CircuitPhase.CLOSED), before)
        assert caught.value.code == "conflict"


@pytest.mark.parametrize("tool", ["isolate_target", "reset_circuit"])
async def test_all_is_no_target_of_a_tool_about_one(tmp_path: Path, tool: str) -> None:
    async with bench(tmp_path) as b:
        assert await b.code(tool, target="all", reason=WHY) == "invalid_input"
        assert await b.stores.hot.circuits() == ()


async def test_isolating_needs_no_question_and_passes_an_isolation_plan(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        plan = await b.ok("isolate_target", modern(), target="shelf", dry_run=True, reason=WHY)
        assert plan["plan"] == ["Refuse every call to shelf."]
        assert await phase(b) == "closed"
        await b.ok("isolate_target", modern(AGENT), target="shelf", reason=WHY)
        assert await phase(b) == "isolated"


async def test_a_silent_target_is_a_failure_at_the_deadline(tmp_path: Path) -> None:
    settings = GuardSettings.model_validate({"limits": {"read_timeout_s": 0.05}})
    async with bench(tmp_path, settings=settings) as b:
        b.world.hold()
        found = await b.error("look_at_item", name="x")
        assert (found["code"], found["executed"]) == ("timeout", "unknown")
        (circuit,) = await b.stores.hot.circuits()
        assert (circuit.failures, circuit.last_error) == (1, "timeout")


class Trickle:
    """A target that is asked, and from then on answers byte by byte, without end."""

    def __init__(self, *, first_byte: bool) -> None:
        self.first_byte = first_byte

    async def __call__(self) -> None:
        asking()
        if self.first_byte:
            heard()
        await anyio.sleep_forever()


SLOW = GuardSettings.model_validate({"limits": {"read_timeout_s": 0.05}})


@pytest.mark.parametrize(("first_byte", "failures"), [(True, 0), (False, 1)])
async def test_a_timeout_counts_only_where_the_target_gave_no_byte(
    tmp_path: Path, first_byte: bool, failures: int
) -> None:
    async with bench(tmp_path, settings=SLOW) as b:
        b.world.plans.append(Trickle(first_byte=first_byte))
        assert await b.code("look_at_item", name="x") == "timeout"
        assert sum(state.failures for state in await b.stores.hot.circuits()) == failures


async def test_slow_reads_of_logs_do_not_count_against_writes(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=SLOW) as b:
        for number in range(5):
            b.world.plans.append(Trickle(first_byte=True))
            assert await b.code("look_at_item", name=f"log{number}") == "timeout"
        assert await b.code("put_item", name="x", reason=WHY) == "ok"


async def test_a_timeout_of_the_client_library_is_told_apart_in_the_same_way(
    tmp_path: Path,
) -> None:
    async def slow_answer() -> None:
        asking()
        heard()
        raise UpstreamTimeout("The answer took too long.")

    async def silence_after_an_answer() -> None:
        asking()
        heard()
        asking()  # a second request, which nobody answers
        raise UpstreamTimeout("No answer.")

    async with bench(tmp_path, settings=ONE_TRY) as b:
        b.world.plans.append(slow_answer)
        assert await b.code("look_at_item", name="x") == "upstream_timeout"
        assert await b.stores.hot.circuits() == ()
        b.world.plans.append(silence_after_an_answer)
        assert await b.code("look_at_item", name="x") == "upstream_timeout"
        (circuit,) = await b.stores.hot.circuits()
        assert circuit.failures == 1


async def test_what_was_answered_in_full_counts_as_what_it_is(tmp_path: Path) -> None:
    """Only a timeout asks whether a byte came."""

    async def say(error: OpsError) -> None:
        asking()
        heard()
        raise error

    async with bench(tmp_path, settings=ONE_TRY) as b:
        for error, failures in ((errors.UpstreamBroken("500"), 1), (errors.NotFound("404"), 0)):
            b.world.plans.append(partial(say, error))
            assert await b.code("look_at_item", name="x") == error.code
            (circuit,) = await b.stores.hot.circuits()
            assert circuit.failures == failures


async def test_a_slow_probe_gives_its_permit_back(tmp_path: Path) -> None:
    settings = SLOW.model_copy(
        update={"limits": SLOW.limits.model_copy(update={"read_attempts": 1})}
    )
    async with bench(tmp_path, settings=settings) as b:
        await break_shelf(b)
        b.clock.advance(61)
        b.world.plans.append(Trickle(first_byte=True))
        assert await b.code("look_at_item", name="x") == "timeout"
        assert await phase(b) == "half_open"
        assert await b.code("look_at_item", name="x") == "ok"
        assert await phase(b) == "closed"


async def test_a_reset_to_half_open_lets_one_call_try_first(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        await break_shelf(b)
        reset = {"target": "shelf", "to": "half_open", "reason": WHY}
        plan = await b.ok("reset_circuit", **reset, dry_run=True)
        assert plan["plan"] == ["Let one call try the circuit of shelf (open)."]
        found = await b.ok("reset_circuit", **reset)
        assert (found["previous"], found["state"]) == ("open", "half_open")
        hold = b.world.hold()
        async with anyio.create_task_group() as tasks:

            async def probe() -> None:
                await b.ok("look_at_item", name="probe")

            tasks.start_soon(probe)
            with anyio.fail_after(5):
                await hold.arrived.wait()
            # Anew it is no second permit.
            assert (await b.ok("reset_circuit", **reset))["state"] == "half_open"
            assert await b.code("look_at_item", name="other") == "circuit_open"
            hold.released.set()
        assert await phase(b) == "closed"


async def test_a_failed_try_opens_it_again_for_the_whole_time(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        await break_shelf(b)
        await b.ok("reset_circuit", target="shelf", to="half_open", reason=WHY)
        await break_shelf(b, 1)
        refusal = await b.error("look_at_item", name="x")
        assert (refusal["code"], refusal["retry_after_s"]) == ("circuit_open", pytest.approx(60))
        assert refusal["details"]["failures"] == 4


async def test_a_closed_circuit_does_not_go_to_half_open(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=GuardSettings()) as b:
        for _ in range(5):  # nothing was changed, so charged to no budget
            assert (
                await b.code("reset_circuit", target="shelf", to="half_open", reason=WHY)
                == "conflict"
            )
        assert await phase(b) == "closed"
        assert await b.stores.hot.circuits() == ()


async def test_an_agents_isolation_is_lifted_to_half_open_too(tmp_path: Path) -> None:
    async with bench(tmp_path, settings=ONE_TRY) as b:
        await b.ok("isolate_target", target="shelf", reason=WHY)
        await b.ok("reset_circuit", target="shelf", to="half_open", reason=WHY)
        assert await b.code("look_at_item", name="x") == "ok"
        assert await phase(b) == "closed"


@pytest.mark.parametrize("to", ["closed", "half_open"])
async def test_a_circuit_that_opens_again_after_each_reset_cannot_be_reset_in_a_loop(
    tmp_path: Path, to: str
) -> None:
    """F21: three resets in half an hour, of all agents; then a person or the circuit itself."""
    limits = OPEN_LIMITS.model_copy(update={"read_attempts": 1, "writes_per_object": 3})
    async with bench(tmp_path, settings=GuardSettings(limits=limits)) as b:
        await break_shelf(b)
        for number in range(3):
            caller = replace(AGENT, principal=f"agent:{number}@host")
            assert await b.code("reset_circuit", caller, target="shelf", to=to, reason=WHY) == "ok"
            await break_shelf(b, 3 if to == "closed" else 1)
            assert await phase(b) == "open"
        refusal = await b.error("reset_circuit", target="shelf", to=to, reason=WHY)
        assert refusal["code"] == "budget_exhausted"
        assert await phase(b) == "open"
        b.clock.advance(61)
        assert await b.code("look_at_item", name="x") == "ok"
        assert await phase(b) == "closed"
