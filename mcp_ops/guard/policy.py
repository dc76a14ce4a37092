"""Policy: whether a call needs nobody, the caller's own yes, another person, or is denied."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mcp_ops.call import Call, Channel
from mcp_ops.guard.targets import TargetInfo
from mcp_ops.settings import PolicyRule, Profile, Requirement

PROFILES: dict[Profile, tuple[PolicyRule, ...]] = {
    "solo": (
        PolicyRule(effect="read", require="none"),
        PolicyRule(effect="write", require="confirm"),
        PolicyRule(effect="destroy", require="approve"),
    ),
    "team": (
        PolicyRule(effect="read", require="none"),
        PolicyRule(effect="write", environment="prod", require="approve"),
        PolicyRule(effect="write", require="confirm"),
        PolicyRule(effect="destroy", require="approve"),
    ),
    "strict": (
        PolicyRule(effect="read", require="none"),
        PolicyRule(effect="destroy", require="approve", approvals=2),
        PolicyRule(require="approve"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the policy asks of a call. `version` changes with the policy: approvals are bound.

    `approvers` are globs over principals who may say yes (empty: everyone who may approve),
    `needed` is how many different ones have to, `execute_s` for how long their yes holds.
    `elevated` names the grant that lowered `require`, and its incident.
    """

    require: Requirement
    rule: str
    profile: Profile
    expires_s: float
    version: str
    approvers: tuple[str, ...] = ()
    needed: int = 1
    execute_s: float = 900.0
    elevated: str = ""


_REMEMBERED = 1_000


class Policy:
    """The operator's rules, then those of the built-in profile; the first that matches wins."""

    def __init__(self, rules: Sequence[PolicyRule], profile: str) -> None:
        self._rules = tuple(rules)
        self._profile = profile
        body = repr((self._rules, profile, PROFILES)).encode()
        self._decided: dict[tuple[str, ...], Decision] = {}
        self.version = hashlib.sha256(body).hexdigest()[:12]

    def profile_for(self, channel: Channel) -> Profile:
        """The configured profile, or the channel's: solo on stdio and a terminal, else team."""
        if self._profile in PROFILES:
            return self._profile
        return "team" if channel == "http" else "solo"

    def decide(self, call: Call, info: TargetInfo | None) -> Decision:
        """The decision for a call; what no rule matches needs an approval."""
        profile = self.profile_for(call.caller.channel)
        environment = info.environment if info else "prod"
        # Everything that a rule can look at: the same call is decided once.
        facts = (
            call.tool.name,
            call.effect.value,
            call.target or call.about,
            environment,
            call.caller.principal,
            profile,
        )
        decision = self._decided.get(facts)
        if decision is None:
            decision = self._first_match(call, environment, profile)
            if len(self._decided) >= _REMEMBERED:
                self._decided.clear()
            self._decided[facts] = decision
        return decision

    def _first_match(self, call: Call, environment: str, profile: Profile) -> Decision:
        named = (
            (f"{source}[{number}]", rule)
            for source, rules in (("policy", self._rules), (profile, PROFILES[profile]))
            for number, rule in enumerate(rules, start=1)
            if _matches(rule, call, environment)
        )
        name, rule = next(named, ("default", PolicyRule(require="approve")))
        return self._decision(rule, name, profile)

    def _decision(self, rule: PolicyRule, name: str, profile: Profile) -> Decision:
        return Decision(
            require=rule.require,
            rule=name,
            profile=profile,
            expires_s=rule.expires_s,
            version=self.version,
            approvers=rule.approvers,
            needed=rule.approvals,
            execute_s=rule.execute_s,
        )


def _matches(rule: PolicyRule, call: Call, environment: str) -> bool:
    return (
        fnmatchcase(call.tool.name, rule.tool)
        and rule.effect in ("", call.effect.value)
        and fnmatchcase(call.target or call.about, rule.target)
        and rule.environment in ("", environment)
        and fnmatchcase(call.caller.principal, rule.principal)
    )


def covers(required: Requirement, given: str) -> bool:
    """Whether a parent's approval covers what a call made by it requires (never a destroy)."""
    order = {"none": 0, "confirm": 1, "approve": 2}
    return required in order and order.get(given, -1) >= order[required]
