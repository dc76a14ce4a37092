"""The checks: pure functions of a call and one snapshot, in the order of the refusals' codes.

Each returns nothing or a refusal. None has a side effect, so that all of them can run before
anyone is asked to approve, and again when the call is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mcp_ops.call import SCOPE_OF, Call
from mcp_ops.capabilities.base import Effect
from mcp_ops.clock import rfc3339
from mcp_ops.errors import RefusalCode, Refused
from mcp_ops.guard.freeze import Freeze
from mcp_ops.guard.modes import CODES, applying
from mcp_ops.guard.policy import Decision
from mcp_ops.guard.targets import TargetInfo
from mcp_ops.ports import PRINCIPAL_SCOPE, Admission, CircuitPhase, Mode, ModeEntry
from mcp_ops.reach import reaches, reaches_all
from mcp_ops.records import BudgetState
from mcp_ops.redact import quoted
from mcp_ops.settings import GuardSettings, ProtectedObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that the checks look at, read at one moment.

    Checks of the configuration run before the store is asked: `admission` is None then.
    """

    call: Call
    info: TargetInfo | None
    decision: Decision
    settings: GuardSettings
    modes_allowed: frozenset[Mode]
    use_circuit: bool
    tightening: bool
    taking: bool
    at: float
    environment: str = "prod"
    admission: Admission | None = None
    budgets: tuple[BudgetState, ...] = ()
    frozen: tuple[Freeze, ...] = ()

    @property
    def seen(self) -> Admission:
        """The store's answer, for the checks that come after it was asked."""
        if self.admission is None:
            raise AssertionError("a check of the store's state ran before the store was asked")
        return self.admission

    @property
    def subject(self) -> str:
        """The target that a refusal speaks of."""
        return self.call.target or self.call.about


Check = Callable[[Situation], Refused | None]


def configured_refusal(situation: Situation) -> Refused | None:
    """The first refusal by what is configured, in the documented order."""
    return _first(CONFIGURED, situation)


def present_refusal(situation: Situation) -> Refused | None:
    """The first refusal by the present state, in the documented order; none if it was granted."""
    if granted(situation.seen, situation.budgets):
        return None
    refusal = _first(PRESENT, situation)
    if refusal is None and situation.taking:
        return Refused(
            RefusalCode.RATE_LIMITED,
            "The guard's state changed at this moment.",
            hint="Call again.",
            retry_after_s=1,
        )
    return refusal


def granted(admission: Admission, budgets: tuple[BudgetState, ...]) -> bool:
    """Whether the store gave all that was asked for: then no check of its state refuses."""
    return admission.granted and all(budget.allowed for budget in budgets)


def _first(checks: tuple[Check, ...], situation: Situation) -> Refused | None:
    for check in checks:
        refusal = check(situation)
        if refusal is not None:
            return refusal
    return None


def access(s: Situation) -> Refused | None:
    """The principal's scopes cover the effect, on this target."""
    scope = SCOPE_OF[s.call.effect]
    if scope not in s.call.caller.scopes:
        return Refused(
            RefusalCode.PERMISSION_DENIED,
            f"{s.call.caller.principal} lacks the scope {scope} that {s.call.tool.name} needs.",
            hint="The operator gives scopes to a key in [[server.keys]] of the configuration.",
        )
    if not s.call.caller.reach or _in_reach(s, scope):
        return None
    return Refused(
        RefusalCode.PERMISSION_DENIED,
        f"{s.call.caller.principal} has the scope {scope} on other targets than "
        f"{s.subject or 'all'} only.",
        hint="tools/list shows which. The operator says where scopes hold: [[server.grants]] in "
        "the configuration.",
    )


def _in_reach(s: Situation, scope: str) -> bool:
    reach = s.call.caller.reach
    if s.subject:
        return reaches(reach, scope, s.subject, s.environment)
    # Without a target it is about this server; what changes it for all targets needs all of them.
    everywhere = s.call.effect is not Effect.READ and "target" in s.call.tool.fields
    return reaches_all(reach, scope) if everywhere else True


def denied_by_policy(s: Situation) -> Refused | None:
    """No policy rule denies the call."""
    if s.decision.require != "deny":
        return None
    return Refused(
        RefusalCode.PERMISSION_DENIED,
        f"The policy rule {s.decision.rule} denies {s.call.tool.name} here.",
        hint="Only the operator can change it: [[policy]] in the configuration.",
    )


def freeze(s: Situation) -> Refused | None:
    """No freeze holds for the target; a window that cannot be read counts as holding."""
    if s.call.effect is Effect.READ or s.tightening or s.call.breaks_glass:
        return None
    for held in s.frozen:
        if held.active and any(fnmatchcase(s.subject, glob) for glob in held.targets):
            return _frozen(held, s.at)
    return None


def _frozen(held: Freeze, at: float) -> Refused:
    if held.problem:
        return Refused(
            RefusalCode.FROZEN,
            f"Changes are frozen: {held.problem}, and what cannot be read counts as frozen.",
            hint="The operator repairs the file that [[guard.freeze]] in the configuration names.",
        )
    until = f" until {rfc3339(held.until)}" if held.until is not None else ""
    return Refused(
        RefusalCode.FROZEN,
        f"Changes are frozen since {rfc3339(held.since or at)}{until}: {held.reason}.",
        hint="Only the operator can lift it: [[guard.freeze]] in the configuration.",
        retry_after_s=_until(held.until, at),
    )


def protected(s: Situation) -> Refused | None:
    """The object is not on the list of protected ones."""
    if s.call.effect is Effect.READ or s.tightening or s.call.breaks_glass:
        return None
    for item in _protections(s.settings, s.call.effect, s.subject):
        if fnmatchcase(s.call.object, item.object):
            return _protected(s.call.object or s.subject, s.call.effect, item)
    return None


def protected_others(
    settings: GuardSettings, call: Call, others: Sequence[str] | None
) -> Refused | None:
    """None of the other objects that a change reaches is on the list of protected ones.

    Only the target knows them (what runs on the same machine, the other side of a swap): they are
    checked once the change is planned. None for what can't be named counts as any.
    """
    if call.breaks_glass or (call.dry_run and not call.parent):
        return None
    for item in _protections(settings, call.wanted, call.target):
        if others is None:
            return Refused(
                RefusalCode.PROTECTED,
                f"{call.tool.name} reaches more than {call.object} there, which of it can't be "
                f"seen, and {call.target} has protected objects.",
                hint="The operator lets the credential read what shares the object, or does it.",
            )
        for other in others:
            if fnmatchcase(other, item.object):
                return _protected(f"{other}, which it reaches, too,", call.wanted, item)
    return None


def _protections(settings: GuardSettings, effect: Effect, target: str) -> Iterator[ProtectedObject]:
    for item in settings.protected:
        if effect.value in item.effects and fnmatchcase(target, item.target):
            yield item


def _protected(what: str, effect: Effect, item: ProtectedObject) -> Refused:
    return Refused(
        RefusalCode.PROTECTED,
        f"{what} is protected from {effect}: {item.reason}.",
        hint="Only the operator can change it: [[guard.protected]] in the configuration.",
    )


_MEANINGS: dict[Mode, str] = {
    Mode.LOCKDOWN: "nothing but this server itself may be asked",
    Mode.READ_ONLY: "nothing may be changed",
    Mode.CRITICAL: "only usage and token checks and recovery tools are let through",
    Mode.RESTRICTIVE: "bulk and list tools are off",
}


def modes(s: Situation) -> Refused | None:
    """Every mode in force for the target lets such a call pass; the strictest one is named."""
    for mode, code in CODES.items():
        for entry in applying(s.seen.modes, s.subject, s.call.caller.principal):
            if entry.mode is mode and entry.mode not in s.modes_allowed:
                return _mode_refusal(s, entry, code, _MEANINGS[mode])
    return None


def _mode_refusal(s: Situation, entry: ModeEntry, code: RefusalCode, meaning: str) -> Refused:
    scope = "all targets" if entry.scope == "*" else entry.scope.removeprefix(PRINCIPAL_SCOPE)
    until = f" until {rfc3339(entry.expires_at)}" if entry.expires_at else ""
    hint = {
        "environment": "The operator set it with MCP_RATE_LIMIT_MODE or guard.mode; only the "
        "operator can change it.",
        "operator": "The operator can change it: mcp-ops mode clear.",
        "agent": "set_guard_mode can ask for a looser mode; a person must approve it.",
        "usage": "It ends by itself when the usage falls; check_api_usage shows it.",
        "runaway": "The same call was made again and again. Stop; a person clears it: "
        f"mcp-ops mode clear {entry.scope}.",
        "store": "It ends by itself when the store answers again; the operator brings back the "
        "Redis of store.hot.",
    }[entry.source]
    if entry.source == "operator" and entry.scope.startswith(PRINCIPAL_SCOPE):
        hint = f"The operator can change it: mcp-ops mode clear {entry.scope}."
    return Refused(
        code,
        f"{s.call.tool.name} is refused: {scope} is {entry.mode.value} since "
        f"{rfc3339(entry.since)}{until} (by {entry.author}: {quoted(entry.reason, 200)}); "
        f"{meaning}.",
        hint=hint,
        retry_after_s=entry.expires_at - s.at if entry.expires_at else None,
        details={"mode": entry.mode.value, "source": entry.source},
    )


def budgets(s: Situation) -> Refused | None:
    """Every action budget has room for one more."""
    return spent(s.budgets, s.at)


def spent(states: Iterable[BudgetState], at: float) -> Refused | None:
    """The refusal by the first budget that is used up."""
    for budget in states:
        if not budget.allowed:
            return Refused(
                RefusalCode.BUDGET_EXHAUSTED,
                f"The budget is used up: {budget.name}, {budget.used} of {budget.limit}.",
                hint="Wait, or a person acts; the operator sets budgets in [guard.limits].",
                retry_after_s=_until(budget.frees_at, at),
                details={"budget": budget.name, "limit": budget.limit, "used": budget.used},
            )
    return None


def rates(s: Situation) -> Refused | None:
    """Every rate limit admits the call."""
    for rate in s.seen.rates:
        if not rate.allowed:
            return Refused(
                RefusalCode.RATE_LIMITED,
                f"Too many calls: {rate.name} are limited to {rate.limit_per_minute:g} a minute.",
                hint="Call again later; the operator sets rates in [guard.limits].",
                retry_after_s=rate.retry_after_s,
                details={"limit": rate.name, "per_minute": rate.limit_per_minute},
            )
    return None


def circuit(s: Situation) -> Refused | None:
    """The target's circuit lets the call pass."""
    state = s.seen.circuit
    if not s.use_circuit or state.phase is CircuitPhase.CLOSED:
        return None
    if state.phase is CircuitPhase.ISOLATED:
        return Refused(
            RefusalCode.CIRCUIT_OPEN,
            f"{s.subject} was isolated by {state.by or 'the operator'} at "
            f"{rfc3339(state.opened_at or s.at)}: {quoted(state.reason, 200)}.",
            hint="Who isolated it can lift it; reset_circuit refuses an operator's isolation.",
            details={"circuit": "isolated"},
        )
    waits = _until(state.retry_at, s.at)
    if not state.probing and (waits == 0 or state.phase is CircuitPhase.HALF_OPEN):
        return None  # it would let one probe through
    return Refused(
        RefusalCode.CIRCUIT_OPEN,
        f"The circuit of {s.subject} is open since {rfc3339(state.opened_at or s.at)} "
        f"after {state.failures} failures.",
        hint="list_circuits shows the last error. It tries by itself; once the target is repaired "
        "reset_circuit closes it at once.",
        retry_after_s=waits,
        details={"circuit": state.phase.value, "failures": state.failures},
    )


def _until(moment: float | None, now: float) -> float | None:
    return None if moment is None else max(0.0, moment - now)


CONFIGURED: tuple[Check, ...] = (access, denied_by_policy, freeze, protected)
PRESENT: tuple[Check, ...] = (modes, budgets, rates, circuit)
