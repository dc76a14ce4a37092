"""Switching modes: what takes the place of what, in whose name, and what returns afterwards."""

from __future__ import annotations

from dataclasses import replace

from mcp_ops.call import Caller
from mcp_ops.errors import RefusalCode, Refused
from mcp_ops.guard.modes import at_least_as_strict, loosens, source_of, within
from mcp_ops.guard.targets import Targets
from mcp_ops.ports import ALL_TARGETS, PRINCIPAL_SCOPE, HotStore, Mode, ModeEntry, ModeSource
from mcp_ops.reach import held, held_everywhere


def scope_of(target: str) -> str:
    """The scope that a caller's word means: a target, a principal, or all."""
    return ALL_TARGETS if target in ("all", "", ALL_TARGETS) else target


def there(caller: Caller, scope: str, targets: Targets) -> Caller:
    """The caller with the scopes that hold in a mode's scope: an operator of one target is none of
    another. What is no target, all of them or a principal, needs scopes that hold everywhere."""
    if scope in targets.names():
        where = targets.info(scope).environment
        scopes = held(caller.scopes, caller.reach, scope, where)
    else:
        scopes = held_everywhere(caller.scopes, caller.reach)
    return replace(caller, scopes=scopes)


async def switch(
    hot: HotStore,
    caller: Caller,
    mode: Mode,
    *,
    scope: str,
    minutes: int,
    reason: str,
    now: float,
    allowed: bool,
) -> None:
    """Set a mode for this caller's kind; `allowed` says that a person allowed a looser one.

    The caller's scopes are those that hold `there`.

    A loosening lifts what is stricter in its scope, except the environment's floor. With `minutes`
    it is lifted for that long, and what an operator or an agent had set returns.
    """
    # The second scope is what a command line without a terminal lacks: an agent may have one.
    free = caller.scopes >= {"ops:admin", "ops:approve"}
    source = source_of(caller)
    entries = await hot.modes()
    looser = loosens(mode, scope, entries, source=source)
    if not free and looser and not allowed:
        raise Refused(
            RefusalCode.APPROVAL_REQUIRED,
            "The mode was changed at this moment; what was asked is looser than it is now.",
            hint="Look at get_guard_status and call again.",
        )
    ends = now + minutes * 60 if minutes else None
    entry = ModeEntry(
        scope=scope,
        mode=mode,
        source=source,
        reason=reason,
        author=caller.principal,
        since=now,
        expires_at=ends,
        lifts=looser and ends is not None,
    )
    if not free and not looser:
        entry = _no_looser_later(entry, entries)
    for each in entries:
        if within(each.scope, scope, mode) and each.mode is not mode:
            await _lift(hot, each, entry)
    returns = entry.expires_at is not None and any(_mine(each, entry) for each in entries)
    if mode is not Mode.NORMAL:
        await hot.set_mode(entry)
    elif not returns:
        await hot.clear_modes(scope, frozenset({source}))


async def clear(hot: HotStore, scope: str) -> None:
    """Lift what operators and agents set for a scope; usage and environment stay."""
    sources: set[ModeSource] = {"operator", "agent"}
    if scope.startswith(PRINCIPAL_SCOPE):
        sources.add("runaway")
    await hot.clear_modes(scope, frozenset(sources))


async def _lift(hot: HotStore, held: ModeEntry, by: ModeEntry) -> None:
    """Lift what is stricter: for good, or under an entry that expires."""
    if held.source == "environment" or not at_least_as_strict(held.mode, by.mode):
        return
    if by.expires_at is None or held.source in ("usage", "runaway"):
        await hot.clear_modes(held.scope, frozenset({held.source}))
    else:
        await hot.set_mode(replace(by, scope=held.scope, source=held.source, lifts=True))


def _mine(held: ModeEntry, entry: ModeEntry) -> bool:
    return (held.scope, held.source) == (entry.scope, entry.source)


def _no_looser_later(entry: ModeEntry, entries: tuple[ModeEntry, ...]) -> ModeEntry:
    """A change that nobody allowed, so that the mode is looser at no later moment than without it.

    It holds at least as long as the one whose place it takes: a short lockdown must not end a long
    restriction. Over one that lifts a stricter mode for a while it holds no longer than that one:
    the stricter mode returns then.
    """
    held = next((each for each in entries if _mine(each, entry)), None)
    if held is None or held.expires_at is None:
        return entry if held is None else replace(entry, expires_at=None)
    if held.lifts:
        ends = min(entry.expires_at or held.expires_at, held.expires_at)
        return replace(entry, expires_at=ends, lifts=True)
    if entry.expires_at is None:
        return entry
    return replace(entry, expires_at=max(entry.expires_at, held.expires_at))
