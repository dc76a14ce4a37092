"""What would become of a call, and why: every stage of the guard asked, and nothing charged."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_ops.call import Call, Caller, choose_target, digest_of, new_id, parse
from mcp_ops.capabilities.base import Effect
from mcp_ops.clock import rfc3339
from mcp_ops.errors import InvalidInput, RefusalCode, Refused
from mcp_ops.guard import checks
from mcp_ops.guard.checks import Situation
from mcp_ops.guard.modes import effective, floor_refuses
from mcp_ops.guard.order import Guard
from mcp_ops.guard.plan import Plan, Planner
from mcp_ops.guard.policy import Decision
from mcp_ops.ports import Grant, ModeEntry, Partition
from mcp_ops.records import Ledger
from mcp_ops.settings import GuardSettings
from mcp_ops.tool import Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage: whether it lets the call pass, its code if not, and what it looked at."""

    name: str
    passes: bool
    says: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`outcome` is `allowed`, `confirm`, `approve`, `denied` or the code of a refusal."""

    outcome: str
    stages: tuple[Stage, ...]


class NothingSet:
    """A guard in which nobody has set a mode or given an elevation: what is configured, alone."""

    async def modes(self) -> tuple[ModeEntry, ...]:
        """None."""
        return ()

    async def partitions(self) -> tuple[Partition, ...]:
        """None."""
        return ()

    async def grants(self) -> tuple[Grant, ...]:
        """None."""
        return ()


def supposed(tool: Tool, raw: dict[str, Any], caller: Caller, targets: Sequence[str]) -> Call:
    """A call to ask about; arguments that are left out are taken as they are not looked at.

    `targets` are those that the tool may be called with. Raises `InvalidInput` for what is given
    and wrong.
    """
    fields = tool.fields
    left_out = {name for name, field in fields.items() if field.is_required() and name not in raw}
    if not left_out:
        return parse(tool, raw, caller=caller, call_id=new_id(), targets=tuple(targets))
    if "mode" in left_out:
        raise InvalidInput("mode: is required, since what it does depends on it.")
    given = dict(raw)
    target = "" if tool.own else choose_target(given.pop("target", ""), tuple(targets))
    about = str(given.get("target", "")) if tool.own else ""
    if about not in ("", "all"):
        choose_target(about, tuple(targets))
    if unknown := given.keys() - fields.keys():
        raise InvalidInput(
            f"{tool.name} has no argument {min(unknown)[:40]!r}.",
            hint=f"Arguments of {tool.name}: {', '.join(sorted(fields))}.",
        )
    values = {**dict.fromkeys(left_out, ""), **given}
    arguments = tool.arguments.model_construct(**values)
    return Call(
        id=new_id(),
        tool=tool,
        target=target,
        arguments=arguments,
        caller=caller,
        digest=digest_of(tool.name, target, values),
        about="" if about == "all" else about,
        object=tool.object_of(arguments),
        dry_run=given.get("dry_run") is True,
    )


async def configured_outcome(
    planner: Planner, settings: GuardSettings, call: Call, *, at: float
) -> str:
    """The outcome by configuration alone: scopes, rules, freezes, protections, the floor."""
    plan = await planner.plan(call, info=None, sub=False, at=at)
    refusal = checks.configured_refusal(_situation(plan, settings, at=at))
    if refusal is not None:
        return outcome_of(refusal)
    floor = floor_refuses(settings.mode, plan.request.modes_allowed)
    return floor.value if floor else required(call, plan.decision)


def outcome_of(refusal: Refused) -> str:
    """A refusal as an outcome: rights and rules that deny are `denied`, others their code."""
    denied = refusal.reason is RefusalCode.PERMISSION_DENIED
    return "denied" if denied else refusal.reason.value


def required(call: Call, decision: Decision) -> str:
    """What the policy asks, as an outcome: a confirmation never suffices for a destroy."""
    if decision.require == "confirm" and call.effect is Effect.DESTROY:
        return "approve"
    return {"none": "allowed", "deny": "denied"}.get(decision.require, decision.require)


async def explain(
    guard: Guard, ledger: Ledger, call: Call, *, places: Sequence[str] = (), at: float | None = None
) -> Explanation:
    """Every stage for a call, as it is now (`at`: freeze windows at another moment).

    `places` says of each configured rule where it stands. Raises `StoreUnavailable`.
    """
    moment = guard.clock.now() if at is None else at
    plan = await guard.planner.plan(call, info=None, sub=False, at=moment)
    look = plan.looking()
    situation = _situation(
        look,
        guard.settings,
        at=moment,
        admission=await guard.hot.admit(look.request),
        budgets=await ledger.budgets(plan.budgets) if plan.budgets else (),
    )
    stages = tuple(_stage(name, check, passing, situation) for name, check, passing in _STAGES)
    refused = next((stage for stage in stages if not stage.passes), None)
    denied = refused is not None and refused.code == RefusalCode.PERMISSION_DENIED.value
    outcome = required(call, plan.decision)
    if refused is not None:
        outcome = "denied" if denied else refused.code
    decision = guard.policy.decide(call, plan.info or _about(guard, call))
    return Explanation(
        outcome=outcome,
        stages=(
            *stages,
            Stage(
                name="policy",
                passes=True,
                says=_rule(plan.decision, decision.rule, place_of(decision.rule, places)),
            ),
            Stage(name="elevation", passes=True, says=plan.decision.elevated or "none is in force"),
            Stage(name="approval", passes=True, says=_who(call, plan.decision, outcome)),
        ),
    )


def place_of(rule: str, places: Sequence[str]) -> str:
    """Where a rule stands: a file and line, or the built-in profile."""
    match = re.fullmatch(r"policy\[(\d+)\]", rule)
    if match is None:
        return "built in"
    number = int(match[1])
    return places[number - 1] if number <= len(places) else "configured"


def _rule(decision: Decision, matched: str, place: str) -> str:
    if decision.rule == matched:
        return f"{matched} ({place}) requires {decision.require}"
    return f"{matched} ({place}) matches; {decision.rule}: requires {decision.require}"


def _about(guard: Guard, call: Call) -> Any:
    return guard.targets.info(call.about) if call.about else None


def _situation(plan: Plan, settings: GuardSettings, *, at: float, **seen: Any) -> Situation:
    return Situation(
        call=plan.call,
        info=plan.info,
        decision=plan.decision,
        settings=settings,
        modes_allowed=plan.request.modes_allowed,
        use_circuit=plan.request.use_circuit,
        tightening=plan.tightening,
        environment=plan.environment,
        taking=False,
        at=at,
        frozen=plan.frozen,
        **seen,
    )


_Says = Callable[[Situation], str]


def _stage(name: str, check: checks.Check, says: _Says, s: Situation) -> Stage:
    refusal = check(s)
    if refusal is None:
        return Stage(name=name, passes=True, says=says(s))
    return Stage(
        name=name,
        passes=False,
        says=f"{refusal.message} {refusal.hint}".strip(),
        code=refusal.reason.value,
    )


def _frozen(s: Situation) -> str:
    if not s.frozen:
        return "none holds"
    ahead = [held.since for held in s.frozen if held.since is not None and not held.active]
    return f"none holds; the next begins {rfc3339(min(ahead))}" if ahead else "none holds here"


def _modes(s: Situation) -> str:
    return effective(s.seen.modes, s.subject, s.call.caller.principal).value


def _budgets(s: Situation) -> str:
    said = [f"{budget.name}: {budget.used} of {budget.limit} used" for budget in s.budgets]
    return "; ".join(said) or "none is charged"


def _rates(s: Situation) -> str:
    said = [f"{r.name}: {r.remaining} left, {r.limit_per_minute:g} a minute" for r in s.seen.rates]
    return "; ".join(said) or "none is charged"


def _circuit(s: Situation) -> str:
    return s.seen.circuit.phase.value if s.use_circuit else "it is passed by"


_STAGES: tuple[tuple[str, checks.Check, _Says], ...] = (
    ("scopes", checks.access, lambda s: f"{s.call.caller.principal} may {s.call.effect.value}"),
    ("rules that deny", checks.denied_by_policy, lambda _: "none does"),
    ("freeze windows", checks.freeze, _frozen),
    ("protected objects", checks.protected, lambda s: f"{s.call.object or 'no object'}: not one"),
    ("modes", checks.modes, _modes),
    ("budgets", checks.budgets, _budgets),
    ("limits", checks.rates, _rates),
    ("circuit", checks.circuit, _circuit),
)


def _who(call: Call, decision: Decision, outcome: str) -> str:
    if outcome == "confirm":
        return "the caller's own client confirms; where it cannot, a person approves"
    if outcome != "approve":
        return "nobody is asked"
    whom = f" of {', '.join(decision.approvers)}" if decision.approvers else ""
    count = "one person" if decision.needed == 1 else f"{decision.needed} different people"
    other = "" if decision.profile == "solo" else f", not {call.caller.principal}"
    return (
        f"{count}{whom}{other}; the question is open for {decision.expires_s:g} s, and a yes can "
        f"be used for {decision.execute_s:g} s"
    )
