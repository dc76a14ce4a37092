"""Modes: which calls each lets pass, and how API usage moves a target between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mcp_ops.call import Call, Caller
from mcp_ops.capabilities.base import Effect
from mcp_ops.capabilities.tokens import SecretStore, TokenIssuer
from mcp_ops.capabilities.usage import ApiUsageSource
from mcp_ops.errors import RefusalCode
from mcp_ops.guard.targets import TargetInfo
from mcp_ops.ports import (
    ALL_TARGETS,
    OWN_TARGET,
    PRINCIPAL_SCOPE,
    Mode,
    ModeEntry,
    ModeSource,
)
from mcp_ops.settings import UsageSettings
from mcp_ops.tool import Tool

# Strictest last, as an agent's right to tighten and the text of a refusal see them.
STRICTNESS: tuple[Mode, ...] = (
    Mode.NORMAL,
    Mode.RESTRICTIVE,
    Mode.CRITICAL,
    Mode.READ_ONLY,
    Mode.LOCKDOWN,
)
RATE_FACTORS: Mapping[Mode, float] = {
    Mode.NORMAL: 1.0,
    Mode.RESTRICTIVE: 0.25,
    Mode.CRITICAL: 0.05,
    Mode.READ_ONLY: 1.0,
    Mode.LOCKDOWN: 0.0,
}
RESTRICTED_ITEMS = 20
_AT_LEAST: Mapping[Mode, frozenset[Mode]] = {
    Mode.NORMAL: frozenset({Mode.NORMAL}),
    Mode.RESTRICTIVE: frozenset({Mode.NORMAL, Mode.RESTRICTIVE}),
    Mode.CRITICAL: frozenset({Mode.NORMAL, Mode.RESTRICTIVE, Mode.CRITICAL}),
    Mode.READ_ONLY: frozenset({Mode.NORMAL, Mode.READ_ONLY}),
    Mode.LOCKDOWN: frozenset(Mode),
}

_ALL = frozenset(Mode)
# A token check reads the linked store, and a refresh does so before it repairs anything.
CHECKS_OF_STATE = (ApiUsageSource, TokenIssuer, SecretStore)
_READ = frozenset({Mode.NORMAL, Mode.RESTRICTIVE, Mode.READ_ONLY})
_BULK_METERED = frozenset({Mode.NORMAL, Mode.READ_ONLY})
_WRITE = frozenset({Mode.NORMAL, Mode.RESTRICTIVE})
_RECOVERY = _WRITE | {Mode.CRITICAL}


def modes_allowed(call: Call, info: TargetInfo | None, *, always: bool) -> frozenset[Mode]:
    """The modes under which this call may run (the table in docs/guard.md).

    `always` is for changes of the guard itself, of which tightening passes every mode and
    loosening is decided by a person, and for break-glass. `info` is None for a tool on the server
    itself.
    """
    return _ALL if always else allowed_of(call.tool, call.effect, info)


def allowed_of(tool: Tool, effect: Effect, info: TargetInfo | None) -> frozenset[Mode]:
    """The modes under which a tool may be called to such an effect."""
    own = info is None or info.name == OWN_TARGET
    if own and effect is Effect.READ:
        return _ALL
    if effect is Effect.READ:
        if tool.bulk and info is not None and info.metered:
            return _BULK_METERED
        if tool.capability in CHECKS_OF_STATE and not tool.bulk:
            return _READ | {Mode.CRITICAL}
        return _READ
    if effect is Effect.WRITE and tool.recovery:
        return _RECOVERY
    return _WRITE


def applying(
    entries: Iterable[ModeEntry], target: str, principal: str = ""
) -> tuple[ModeEntry, ...]:
    """The entries that hold for a principal's calls on a target, strictest first."""
    if not entries:  # as mostly
        return ()
    scopes = (ALL_TARGETS, target, f"{PRINCIPAL_SCOPE}{principal}")
    mine = [entry for entry in entries if entry.scope in scopes]
    return tuple(sorted(mine, key=lambda entry: STRICTNESS.index(entry.mode), reverse=True))


def effective(entries: Iterable[ModeEntry], target: str, principal: str = "") -> Mode:
    """The strictest mode in force for a principal's calls on a target."""
    mine = applying(entries, target, principal)
    return mine[0].mode if mine else Mode.NORMAL


def slowest(entries: Iterable[ModeEntry], target: str, principal: str = "") -> float:
    """By how much the modes in force slow a target's rate down."""
    mine = applying(entries, target, principal)
    return min((RATE_FACTORS[entry.mode] for entry in mine), default=1.0)


def shortened(call: Call, modes: Iterable[ModeEntry]) -> Call:
    """In a restrictive mode a list has at most 20 items, whatever else is in force beside it."""
    asked = getattr(call.arguments, "limit", 0)
    restricted = any(entry.mode is Mode.RESTRICTIVE for entry in modes)
    if restricted and call.tool.bulk and asked > RESTRICTED_ITEMS:
        return with_limit(call, RESTRICTED_ITEMS)
    return call


def with_limit(call: Call, limit: int) -> Call:
    """The same call, for fewer items."""
    return replace(call, arguments=call.arguments.model_copy(update={"limit": limit}))


def mode_for_usage(used_percent: float, current: Mode, settings: UsageSettings) -> Mode:
    """The mode that a reading asks for, with hysteresis: between `normal` and `restrict` a target
    stays as it is, except that it leaves critical below the critical threshold."""
    if used_percent >= settings.critical:
        return Mode.CRITICAL
    if used_percent >= settings.restrict:
        return Mode.RESTRICTIVE
    if used_percent < settings.normal:
        return Mode.NORMAL
    return Mode.NORMAL if current is Mode.NORMAL else Mode.RESTRICTIVE


def is_tightening(call: Call, entries: Iterable[ModeEntry]) -> bool:
    """Whether a call on the guard can only make it stricter: nobody is asked, no mode stops it."""
    if call.tool.name in ("isolate_target", "cancel_operation"):
        return True
    return call.tool.name == "set_guard_mode" and not _asks_looser(call, entries)


def is_loosening(call: Call, entries: Iterable[ModeEntry]) -> bool:
    """Whether a call on the guard makes it looser somewhere: a person decides."""
    return call.tool.name == "set_guard_mode" and _asks_looser(call, entries)


def at_least_as_strict(mode: Mode, other: Mode) -> bool:
    """Whether `mode` refuses whatever `other` refuses. Some modes cannot be compared."""
    return other in _AT_LEAST[mode]


def _asks_looser(call: Call, entries: Iterable[ModeEntry]) -> bool:
    asked = Mode(call.arguments.mode)  # type: ignore[attr-defined]
    return loosens(asked, call.about or ALL_TARGETS, entries, source=source_of(call.caller))


def source_of(caller: Caller) -> ModeSource:
    """As whose a caller's modes count."""
    return "operator" if "ops:admin" in caller.scopes else "agent"


def loosens(
    asked: Mode, scope: str, entries: Iterable[ModeEntry], *, source: ModeSource = "agent"
) -> bool:
    """Whether a mode of `source` for a scope would let pass what an entry of it refuses now."""
    for entry in entries:
        if not within(entry.scope, scope, asked) or at_least_as_strict(asked, entry.mode):
            continue
        # An entry of another source stays beside the new one, unless the new one is its loosening.
        if entry.source == source or at_least_as_strict(entry.mode, asked):
            return True
    return False


def within(entry_scope: str, scope: str, asked: Mode) -> bool:
    """Whether a mode for `scope` takes the place of an entry: normal for all is for every target.

    A principal's mode has to be lifted by its name: what ran away on one target does so on all.
    """
    if entry_scope == scope:
        return True
    everything = scope == ALL_TARGETS and asked is Mode.NORMAL
    return everything and not entry_scope.startswith(PRINCIPAL_SCOPE)


# The modes that refuse, strictest first, with their codes.
CODES: Mapping[Mode, RefusalCode] = {
    Mode.LOCKDOWN: RefusalCode.LOCKED_DOWN,
    Mode.READ_ONLY: RefusalCode.READ_ONLY,
    Mode.CRITICAL: RefusalCode.CRITICAL,
    Mode.RESTRICTIVE: RefusalCode.RESTRICTED,
}


def floor_refuses(floor: Mode, allowed: frozenset[Mode]) -> RefusalCode | None:
    """The code with which the configured mode refuses a call that may run under `allowed`."""
    return None if floor in allowed else CODES[floor]
