"""The plan of a call: what the guard is going to ask of the store, and of people."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from mcp_ops.call import Call
from mcp_ops.capabilities.base import Effect
from mcp_ops.errors import RefusalCode
from mcp_ops.guard.elevation import lowered
from mcp_ops.guard.freeze import Freeze, Freezes
from mcp_ops.guard.limits import budgets_of, rates_of
from mcp_ops.guard.modes import RATE_FACTORS, is_loosening, is_tightening, modes_allowed
from mcp_ops.guard.partitions import TOOL as RESIZES
from mcp_ops.guard.partitions import enlarges
from mcp_ops.guard.policy import Decision, Policy
from mcp_ops.guard.switching import there
from mcp_ops.guard.targets import TargetInfo, Targets
from mcp_ops.ports import (
    ALL_TARGETS,
    OWN_TARGET,
    AdmitRequest,
    CircuitPolicy,
    Grant,
    ModeEntry,
    Partition,
)
from mcp_ops.records import Budget
from mcp_ops.settings import LimitSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the guard is going to ask of the store and of people for one call.

    `overlooked` is what shadow mode let pass of it: the first refusal counts, as it would have.
    """

    call: Call
    info: TargetInfo | None
    decision: Decision
    request: AdmitRequest
    tightening: bool
    environment: str = "prod"
    budgets: tuple[Budget, ...] = ()
    frozen: tuple[Freeze, ...] = ()
    overlooked: list[RefusalCode] = field(default_factory=list)

    def looking(self) -> Plan:
        """The same plan, to look without taking anything."""
        return replace(self, request=replace(self.request, take=False))


class Known(Protocol):
    """What a plan needs to know of the store."""

    async def modes(self) -> tuple[ModeEntry, ...]:
        """All entries in force."""
        ...

    async def grants(self) -> tuple[Grant, ...]:
        """The elevations in force."""
        ...

    async def partitions(self) -> tuple[Partition, ...]:
        """The partition sizes that people set, in force."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Makes plans out of the configuration. The store is asked only by a change of the guard
    itself, and by a call that somebody would have to agree to."""

    limits: LimitSettings
    circuit: CircuitPolicy
    policy: Policy
    targets: Targets
    hot: Known
    freezes: Freezes

    async def plan(
        self, call: Call, *, info: TargetInfo | None, sub: bool, at: float | None = None
    ) -> Plan:
        """The plan; `info` is the target of a sub-call (`sub`), else it is looked up. `at` asks
        for the freeze windows of another moment."""
        if info is None and call.target:
            info = self.targets.info(call.target)
        about = info or (self.targets.info(call.about) if call.about else None)
        tightening = loosening = False
        if call.tool.own and call.effect is not Effect.READ:
            entries = await self.hot.modes()
            caller = there(call.caller, call.about or ALL_TARGETS, self.targets)
            tightening = is_tightening(replace(call, caller=caller), entries)
            loosening = is_loosening(replace(call, caller=caller), entries)
            if call.tool.name == RESIZES:
                loosening = await enlarges(call, self.hot, self.targets)
                tightening = not loosening
        decision = await self._decide(call, about, tightening=tightening, loosening=loosening)
        free = tightening or call.breaks_glass  # charged to nothing, and held back by no mode
        system = bool(call.target) and call.target != OWN_TARGET
        request = AdmitRequest(
            call_id=call.id,
            target=call.target or call.about or OWN_TARGET,
            principal=call.caller.principal,
            take=True,
            modes_allowed=modes_allowed(call, info, always=free or loosening),
            rate_factors=RATE_FACTORS,
            rates=() if free else rates_of(call, info, self.limits, sub=sub),
            use_circuit=system and not call.tool.recovery and not call.breaks_glass,
            fresh=call.effect is not Effect.READ,
            circuit=self.circuit,
        )
        return Plan(
            call=call,
            info=info,
            decision=decision,
            request=request,
            tightening=tightening,
            environment=about.environment if about else "prod",
            budgets=() if sub or free else budgets_of(call, self.limits, tightening=tightening),
            frozen=() if call.effect is Effect.READ or free else await self.freezes.at(at),
        )

    async def _decide(
        self, call: Call, about: TargetInfo | None, *, tightening: bool, loosening: bool
    ) -> Decision:
        decision = self.policy.decide(call, about)
        if tightening:
            return replace(decision, require="none", rule="tightening")
        if decision.require == "deny":
            return decision
        if call.breaks_glass:
            return replace(decision, require="none", rule="break_glass")
        if loosening:  # no elevation lowers it, and a yes of the caller's own never suffices
            looser = decision.require in ("none", "confirm")
            return replace(decision, require="approve", rule="loosening") if looser else decision
        if decision.require == "none":
            return decision
        return lowered(decision, call, await self.hot.grants())
