"""Operators' expectations of their own rules: read from TOML, held against the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from mcp_ops.adapters.embedded import EmbeddedQueue
from mcp_ops.catalog import ALL_TOOLS, capabilities
from mcp_ops.clock import SystemClock
from mcp_ops.commands.policy import caller_as, moment
from mcp_ops.errors import ConfigurationError, OpsError, RefusalCode
from mcp_ops.guard.explain import NothingSet, configured_outcome, place_of, supposed
from mcp_ops.guard.freeze import Freezes
from mcp_ops.guard.plan import Planner
from mcp_ops.guard.policy import Policy
from mcp_ops.guard.targets import TargetInfo
from mcp_ops.opening import adapter_class, implements
from mcp_ops.ports import OWN_TARGET, CircuitPolicy
from mcp_ops.settings import Settings
from mcp_ops.settings_base import Frozen
from mcp_ops.settings_policy import lines_of
from mcp_ops.settings_problems import Key, Problems, add_validation, did_you_mean, dotted
from mcp_ops.settings_toml import read_toml
from mcp_ops.tool import Tool

Outcome = Literal[
    "allowed",
    "confirm",
    "approve",
    "denied",
    "frozen",
    "protected",
    "locked_down",
    "read_only",
    "critical",
    "restricted",
]


class Expectation(Frozen):
    """One `[[expect]]`: a call, and what has to become of it by configuration alone."""

    tool: str
    target: str = ""
    principal: str = ""
    channel: Literal["", "stdio", "http", "cli"] = ""
    at: str = ""
    arguments: dict[str, Any] = {}
    outcome: Outcome
    line: int = Field(0, exclude=True)


class _File(Frozen):
    expect: tuple[Expectation, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An expectation and what was found; `rule` is what decided, and where it stands."""

    line: int
    call: str
    expected: str
    found: str
    rule: str


def read_expectations(path: Path) -> tuple[Expectation, ...]:
    """The expectations of a file; raises `ConfigurationError` that names every mistake's line."""
    tree, text = read_toml(path)
    lines = lines_of(text)
    problems = Problems()
    try:
        found = _File.model_validate(tree).expect
    except ValidationError as error:

        def where(key: Key) -> str:
            number = key[1] if len(key) > 1 and isinstance(key[1], int) else -1
            line = lines.get(("expect", number))
            return f"{path}{f' line {line}' if line else ''}: {dotted(key)}"

        add_validation(problems, error, _File, where=where, hidden=False)
        found = ()
    problems.raise_if_any()
    return tuple(
        each.model_copy(update={"line": lines.get(("expect", number), 0)})
        for number, each in enumerate(found)
    )


async def hold(settings: Settings, expectations: Sequence[Expectation]) -> list[Held]:
    """Each expectation with what the configuration makes of it.

    Raises `ConfigurationError` for one that names a tool or target that there is not.
    """
    clock = SystemClock()
    targets = _Configured(settings)
    policy = Policy(settings.policy, settings.guard.profile)
    planner = Planner(
        limits=settings.guard.limits,
        circuit=CircuitPolicy(),
        policy=policy,
        targets=targets,
        hot=NothingSet(),
        freezes=Freezes(settings.guard.freeze, clock),
    )
    held: list[Held] = []
    for each in expectations:
        try:
            tool = _tool(each.tool)
            caller = caller_as(settings, each.principal, each.channel)
            target = {"target": each.target} if each.target else {}
            call = supposed(tool, {**each.arguments, **target}, caller, targets.of(tool))
            at = moment(each.at) if each.at else clock.now()
            found = await configured_outcome(planner, settings.guard, call, at=at)
        except OpsError as error:
            raise ConfigurationError(
                f"The expectation in line {each.line}: {error.message}", hint=error.hint
            ) from error
        about = call.target or call.about
        decision = policy.decide(call, targets.info(about) if about else None)
        held.append(
            Held(
                line=each.line,
                call=f"{tool.name} on {about or OWN_TARGET}, {caller.principal}",
                expected=each.outcome,
                found=found,
                rule=_why(found, decision.rule, settings.rule_places),
            )
        )
    return held


def _why(found: str, rule: str, places: Sequence[str]) -> str:
    by_check = {code.value for code in RefusalCode} & {found}
    return f"the guard's check: {found}" if by_check else f"{rule}, {place_of(rule, places)}"


def _tool(name: str) -> Tool:
    if name in ALL_TOOLS:
        return ALL_TOOLS[name]
    raise ConfigurationError(f"there is no tool of this name.{did_you_mean(name, ALL_TOOLS)}")


class _Configured:
    """The targets by configuration: none is opened, and no credential is looked at."""

    def __init__(self, settings: Settings) -> None:
        known = capabilities()
        self._infos = {
            target.name: TargetInfo(
                name=target.name,
                kind=target.kind,
                environment=target.environment,
                metered=(
                    adapter_class(target.kind).metered if target.metered is None else target.metered
                ),
                per_minute=target.per_minute,
                concurrent=1,
                capabilities=frozenset(
                    each for each in known if implements(adapter_class(target.kind), each)
                ),
            )
            for target in settings.targets
        }
        own = frozenset(each for each in known if implements(EmbeddedQueue, each))
        self._infos[OWN_TARGET] = TargetInfo(
            name=OWN_TARGET,
            kind="embedded",
            environment="prod",
            metered=False,
            per_minute=None,
            concurrent=1,
            capabilities=own,
        )

    def names(self) -> tuple[str, ...]:
        """All targets."""
        return tuple(self._infos)

    def info(self, name: str) -> TargetInfo:
        """What is configured of it; raises `KeyError`."""
        return self._infos[name]

    async def adapter(self, name: str) -> Any:
        """None is ever opened here."""
        raise KeyError(name)

    def of(self, tool: Tool) -> tuple[str, ...]:
        """The targets that a tool may be called with."""
        if tool.own:
            return tuple(name for name in self._infos if name != OWN_TARGET)
        return tuple(n for n, info in self._infos.items() if tool.capability in info.capabilities)
