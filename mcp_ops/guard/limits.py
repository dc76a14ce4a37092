"""Which limits and budgets a call is charged to."""

from __future__ import annotations

from functools import lru_cache

from mcp_ops.call import Call
from mcp_ops.capabilities.base import Effect
from mcp_ops.guard.targets import TargetInfo
from mcp_ops.ports import OWN_TARGET, Rate
from mcp_ops.records import Budget
from mcp_ops.redact import fingerprint
from mcp_ops.settings import LimitSettings

OBJECT_WINDOW_S = 30 * 60.0
HOUR_S = 3_600.0


def rates_of(
    call: Call, info: TargetInfo | None, limits: LimitSettings, *, sub: bool
) -> tuple[Rate, ...]:
    """The principal's rate, and the target's where it has one (metered or configured).

    A sub-call is charged to its target only: the principal paid for the call that makes it.
    """
    rates = [] if sub else [principal_rate(call.caller.principal, limits, cost=call.tool.cost)]
    if info is not None and (target := target_rate(info, limits, cost=call.tool.cost)):
        rates.append(target)
    return tuple(rates)


def principal_rate(principal: str, limits: LimitSettings, *, cost: int = 1) -> Rate:
    """A principal's calls a minute over all targets."""
    return _principal_rate(principal, limits.principal_per_minute, cost)


@lru_cache(maxsize=1_024)  # the same with every call
def _principal_rate(principal: str, per_minute: float, cost: int) -> Rate:
    return Rate(
        key=f"principal|{principal}",
        name="calls of this principal",
        per_minute=per_minute,
        burst=max(1, int(per_minute)),
        cost=cost,
    )


def target_rate(info: TargetInfo, limits: LimitSettings, *, cost: int = 1) -> Rate | None:
    """A target's calls a minute over all principals; None where it has no limit."""
    per_minute = info.per_minute or (limits.metered_per_minute if info.metered else None)
    return None if per_minute is None else _target_rate(info.name, per_minute, cost)


@lru_cache(maxsize=1_024)
def _target_rate(target: str, per_minute: float, cost: int) -> Rate:
    return Rate(
        key=f"target|{target}",
        name=f"calls to {target}",
        per_minute=per_minute,
        burst=max(1, int(per_minute)),
        cost=cost,
        scaled=True,
    )


def budgets_of(call: Call, limits: LimitSettings, *, tightening: bool) -> tuple[Budget, ...]:
    """The action budgets of a write; tightening the guard is never held back by one."""
    if call.effect is Effect.READ or tightening:
        return ()
    target = call.target or call.about or OWN_TARGET
    # Steps of one recovery follow each other on one object: each tool has its own budget there,
    # so that a repair is not locked out half-way, and none can loop.
    step = f"|{call.tool.name}" if call.tool.recovery else ""
    budgets = [
        Budget(
            # A name can hold what should not lie in a store; any other name has another budget.
            key=f"object|{target}|{fingerprint(call.object)}{step}",
            name=f"writes on {call.object or target}",
            limit=limits.writes_per_object,
            window_s=OBJECT_WINDOW_S,
        ),
        writes_budget(call.caller.principal, limits),
    ]
    if call.effect is Effect.DESTROY:
        budgets.append(destroys_budget(call.caller.principal, limits))
    return tuple(budgets)


def writes_budget(principal: str, limits: LimitSettings) -> Budget:
    """A principal's writes an hour."""
    return Budget(
        key=f"writes|{principal}",
        name="writes of this principal",
        limit=limits.writes_per_hour,
        window_s=HOUR_S,
    )


def destroys_budget(principal: str, limits: LimitSettings) -> Budget:
    """A principal's destroys an hour."""
    return Budget(
        key=f"destroys|{principal}",
        name="destroys of this principal",
        limit=limits.destroys_per_hour,
        window_s=HOUR_S,
    )
