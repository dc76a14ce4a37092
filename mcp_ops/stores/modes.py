"""Which modes concern a call, and what they let through: pure functions that the stores share."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mcp_ops.ports import ALL_TARGETS, PRINCIPAL_SCOPE, AdmitRequest, ModeEntry


def in_force(entries: Iterable[ModeEntry], now: float) -> tuple[ModeEntry, ...]:
    """Of each scope and source the newest entry that has not expired."""
    newest = {(e.scope, e.source): e for e in entries if e.expires_at is None or e.expires_at > now}
    return tuple(newest.values())


def concerning(
    entries: Collection[ModeEntry], target: str, principal: str, now: float
) -> tuple[ModeEntry, ...]:
    """Entries in force for a principal's call on a target: of both, and those for all."""
    if not entries:  # as mostly
        return ()
    scopes = (target, ALL_TARGETS, f"{PRINCIPAL_SCOPE}{principal}")
    return tuple(e for e in in_force(entries, now) if e.scope in scopes)


def allow(entries: Iterable[ModeEntry], request: AdmitRequest) -> bool:
    """Whether every one of these modes lets the call through."""
    return all(entry.mode in request.modes_allowed for entry in entries)


def factor(entries: Iterable[ModeEntry], request: AdmitRequest) -> float:
    """By how much these modes slow the target's rate down: the smallest factor."""
    return min((request.rate_factors.get(entry.mode, 1.0) for entry in entries), default=1.0)
