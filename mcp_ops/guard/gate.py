"""The gate: what is asked of the configuration and the stores, refused by them, and taken.

All checks of a call are here, in one order, before anything of it is charged; what was charged
comes back when the call does not reach its target.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType

import anyio

from mcp_ops.call import Call
from mcp_ops.clock import Clock
from mcp_ops.errors import RefusalCode, Refused, StoreUnavailable
from mcp_ops.guard.bulkhead import Bulkheads
from mcp_ops.guard.checks import (
    Situation,
    configured_refusal,
    granted,
    present_refusal,
    protected_others,
)
from mcp_ops.guard.plan import Plan, Planner
from mcp_ops.guard.shown import shadow_line
from mcp_ops.guard.targets import TargetInfo
from mcp_ops.guard.telemetry import stage
from mcp_ops.ports import OWN_TARGET, Admission, HotStore
from mcp_ops.records import BudgetState, Ledger
from mcp_ops.settings import GuardSettings


class Taken:
    """A place at a target, and what was admitted. Each call enters one: a generator would cost
    twice as much."""

    __slots__ = ("_give_back", "_reached", "_slot")

    def __init__(
        self,
        slot: AbstractAsyncContextManager[None] | None,
        reached: Callable[[], bool],
        give_back: Callable[[], Awaitable[None]],
    ) -> None:
        self._slot = slot
        self._reached = reached
        self._give_back = give_back

    async def __aenter__(self) -> None:
        if self._slot is None:
            return
        try:
            await self._slot.__aenter__()
        except BaseException:
            await self._return()
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self._slot is not None:
            await self._slot.__aexit__(exc_type, exc_val, exc_tb)
        if isinstance(exc_val, Refused | StoreUnavailable) and not self._reached():
            await self._return()

    async def _return(self) -> None:
        with anyio.CancelScope(shield=True), suppress(StoreUnavailable):
            await self._give_back()


class Gate:
    """What every call passes before it runs. In shadow mode it counts and lets pass."""

    def __init__(
        self,
        *,
        settings: GuardSettings,
        planner: Planner,
        hot: HotStore,
        ledger: Ledger,
        clock: Clock,
        bulkheads: Bulkheads,
    ) -> None:
        self._settings = settings
        self._planner = planner
        self._hot = hot
        self._ledger = ledger
        self._clock = clock
        self._bulkheads = bulkheads
        self.shadow_refusals = 0

    async def plan(self, call: Call, *, info: TargetInfo | None = None, sub: bool = False) -> Plan:
        """What the call needs, unless the configuration refuses it. Raises `Refused`."""
        with stage("plan", info.name if info else call.target):
            plan = await self._planner.plan(call, info=info, sub=sub)
            self._refuse(plan)
        return plan

    async def look(self, plan: Plan) -> None:
        """All checks, before anyone is asked and without taking anything."""
        await self.admit(plan, take=False)

    async def admit(self, plan: Plan, *, take: bool = True) -> tuple[Admission, bool]:
        """Ask the stores; what the budgets have no room for takes nothing else. Raises `Refused`.

        The second answer is whether there was room: false gets through in shadow mode only.
        """
        with stage("take" if take else "checks", plan.request.target):
            states = await self._ledger.budgets(plan.budgets) if plan.budgets else ()
            room = all(state.allowed for state in states)
            takes = take and room
            request = plan.request
            if request.take is not takes:
                request = replace(request, take=takes)
            admission = await self._hot.admit(request)
            looking = plan if take else replace(plan, request=request)
            self._refuse(looking, admission, states)
        return admission, room

    def taken(
        self,
        plan: Plan,
        admission: Admission,
        *,
        place: bool = True,
        reached: Callable[[], bool] = lambda: False,
    ) -> Taken:
        """A place at the target; what was admitted comes back on a late refusal that came before
        a system was `reached`, and on a cancellation that comes before the place."""
        slot: AbstractAsyncContextManager[None] | None = None
        if place and plan.info is not None and plan.info.name != OWN_TARGET:
            limits = self._settings.limits
            slot = self._bulkheads.of(plan.info, admission.concurrent).slot(
                limits.bulkhead_wait_s, most_waiting=limits.bulkhead_queue
            )
        return Taken(slot, reached, partial(self._hot.give_back, plan.request, admission))

    async def spare(self, plan: Plan, admission: Admission) -> None:
        """Give the principal back what a call cost it; what it cost its target stays taken."""
        own = replace(plan.request, rates=plan.request.rates[:1])
        first = replace(
            admission, rates=admission.rates[:1], marks=admission.marks[:1], probe=False
        )
        with suppress(StoreUnavailable):
            await self._hot.give_back(own, first)

    def overlook(self, plan: Plan, code: RefusalCode) -> None:
        """In shadow mode: what would have been refused is counted once, and has its line."""
        self._overlook(plan.call, plan.overlooked, code, rule=plan.decision.rule)

    def reaches(
        self, call: Call, overlooked: list[RefusalCode], others: Sequence[str] | None
    ) -> None:
        """What a planned change would reach besides its object; raises `Refused` where a part of
        that is protected."""
        refusal = protected_others(self._settings, call, others)
        if refusal is None:
            return
        if self._settings.enforcement != "shadow":
            raise refusal
        self._overlook(call, overlooked, refusal.reason, rule="")

    def _overlook(
        self, call: Call, overlooked: list[RefusalCode], code: RefusalCode, *, rule: str
    ) -> None:
        if overlooked:
            return
        overlooked.append(code)
        self.shadow_refusals += 1
        self._ledger.note(shadow_line(call, code, rule=rule, at=self._clock.now()))

    def _refuse(
        self,
        plan: Plan,
        admission: Admission | None = None,
        budgets: tuple[BudgetState, ...] = (),
    ) -> None:
        """Raise the first refusal: by the configuration or, once the store was asked, by it."""
        if admission is not None and granted(admission, budgets):
            return
        situation = Situation(
            call=plan.call,
            info=plan.info,
            decision=plan.decision,
            settings=self._settings,
            modes_allowed=plan.request.modes_allowed,
            use_circuit=plan.request.use_circuit,
            tightening=plan.tightening,
            environment=plan.environment,
            taking=plan.request.take,
            at=admission.at if admission else self._clock.now(),
            admission=admission,
            budgets=budgets,
            frozen=plan.frozen,
        )
        check = present_refusal if admission else configured_refusal
        refusal = check(situation)
        if refusal is None:
            return
        # Who may do what is not on trial in shadow mode: rates, modes and approvals are.
        trial = refusal.reason is not RefusalCode.PERMISSION_DENIED
        if self._settings.enforcement == "shadow" and trial:
            self.overlook(plan, refusal.reason)
            return
        raise refusal
