"""The plan of a call: what the guard is going to ask of the store, and of people."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mcp_ops.call import Call
from mcp_ops.capabilities.base import Effect
from mcp_ops.guard.limits import budgets_of, rates_of
from mcp_ops.guard.modes import RATE_FACTORS, is_loosening, is_tightening, modes_allowed
from mcp_ops.guard.policy import Decision, Policy
from mcp_ops.guard.targets import TargetInfo, Targets
from mcp_ops.ports import OWN_TARGET, AdmitRequest, CircuitPolicy, HotStore
from mcp_ops.records import Budget
from mcp_ops.settings import LimitSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the guard is going to ask of the store and of people for one call."""

    call: Call
    info: TargetInfo | None
    decision: Decision
    request: AdmitRequest
    tightening: bool
    budgets: tuple[Budget, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Makes plans out of the configuration; only a change of the guard itself asks the store."""

    limits: LimitSettings
    circuit: CircuitPolicy
    policy: Policy
    targets: Targets
    hot: HotStore

    async def plan(self, call: Call, *, info: TargetInfo | None, sub: bool) -> Plan:
        """The plan; `info` is the target of a sub-call (`sub`), else it is looked up."""
        if info is None and call.target:
            info = self.targets.info(call.target)
        about = info or (self.targets.info(call.about) if call.about else None)
        tightening = loosening = False
        if call.tool.own and call.effect is not Effect.READ:
            entries = await self.hot.modes()
            tightening = is_tightening(call, entries)
            loosening = is_loosening(call, entries)
        decision = self.policy.decide(call, about)
        if tightening:
            decision = replace(decision, require="none", rule="tightening")
        elif loosening and decision.require in ("none", "confirm"):
            decision = replace(decision, require="approve", rule="loosening")
        request = AdmitRequest(
            call_id=call.id,
            target=call.target or call.about or OWN_TARGET,
            principal=call.caller.principal,
            take=True,
            modes_allowed=modes_allowed(call, info, always=tightening or loosening),
            rate_factors=RATE_FACTORS,
            rates=() if tightening else rates_of(call, info, self.limits, sub=sub),
            use_circuit=bool(call.target) and call.target != OWN_TARGET and not call.tool.recovery,
            fresh=call.effect is not Effect.READ,
            circuit=self.circuit,
        )
        return Plan(
            call=call,
            info=info,
            decision=decision,
            request=request,
            tightening=tightening,
            budgets=() if sub else budgets_of(call, self.limits, tightening=tightening),
        )
