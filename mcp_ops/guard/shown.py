"""Records of the stores as the tools show them."""

from __future__ import annotations

from mcp_ops.call import Call
from mcp_ops.capabilities.guard import (
    ApprovalItem,
    AuditItem,
    BreakGlassInfo,
    CircuitInfo,
    ElevationInfo,
    FreezeInfo,
    ModeInfo,
    OperationStatus,
)
from mcp_ops.clock import rfc3339
from mcp_ops.errors import RefusalCode
from mcp_ops.guard.freeze import Freeze
from mcp_ops.ports import OWN_TARGET, CircuitState, Grant, ModeEntry
from mcp_ops.questions import Approval
from mcp_ops.records import Entry, EntryKind


def mode_info(entry: ModeEntry) -> ModeInfo:
    """A mode in force."""
    return ModeInfo(
        scope=entry.scope,
        mode=entry.mode,
        source=entry.source,
        reason=entry.reason,
        author=entry.author,
        since=rfc3339(entry.since),
        expires_at=rfc3339(entry.expires_at) if entry.expires_at else None,
    )


def circuit_info(state: CircuitState) -> CircuitInfo:
    """A circuit."""
    return CircuitInfo(
        target=state.target,
        state=state.phase,
        failures=state.failures,
        opened_at=rfc3339(state.opened_at) if state.opened_at else None,
        retry_at=rfc3339(state.retry_at) if state.retry_at else None,
        last_error=state.last_error or None,
        by=state.by or None,
        reason=state.reason or None,
    )


def audit_item(entry: Entry) -> AuditItem:
    """A line of the ledger."""
    return AuditItem(
        seq=entry.seq,
        at=rfc3339(entry.at),
        call_id=entry.call_id,
        kind=entry.kind.value,
        tool=entry.tool,
        target=entry.target or None,
        principal=entry.principal,
        verdict=entry.verdict or None,
        code=entry.code or None,
        outcome=entry.outcome or None,
        reason=entry.reason or None,
        duration_ms=entry.duration_ms,
        trace_id=entry.trace_id or None,
    )


def approval_item(approval: Approval) -> ApprovalItem:
    """A question to a person."""
    return ApprovalItem(
        id=approval.id,
        kind=approval.kind,
        state=approval.state,
        tool=approval.tool,
        target=approval.target or OWN_TARGET,
        principal=approval.principal,
        reason=approval.reason,
        created_at=rfc3339(approval.created_at),
        expires_at=rfc3339(approval.expires_at),
        votes=f"{len(approval.votes)} of {approval.needed}",
        decided_by=approval.decided_by or None,
        note=approval.note or None,
    )


def freeze_info(freeze: Freeze) -> FreezeInfo:
    """A freeze window, with the freeze that holds or the next one."""
    return FreezeInfo(
        when=freeze.when,
        start=rfc3339(freeze.since) if freeze.since is not None else None,
        end=rfc3339(freeze.until) if freeze.until is not None else None,
        targets=list(freeze.targets),
        reason=freeze.reason,
        active=freeze.active,
        problem=freeze.problem or None,
    )


def elevation_info(grant: Grant) -> ElevationInfo:
    """An elevation in force."""
    return ElevationInfo(
        id=grant.id,
        principal=grant.principal,
        tool=grant.tool,
        elevated_target=grant.target,
        require=grant.require,
        incident=grant.incident,
        reason=grant.reason,
        author=grant.author,
        expires_at=rfc3339(grant.expires_at),
    )


def break_glass_info(entry: Entry) -> BreakGlassInfo:
    """A use of break-glass."""
    return BreakGlassInfo(
        at=rfc3339(entry.at),
        principal=entry.principal,
        tool=entry.object,
        used_on=entry.target or OWN_TARGET,
        reason=entry.reason,
    )


def shadow_line(call: Call, code: RefusalCode, *, rule: str, at: float) -> Entry:
    """The ledger's line about a call that shadow mode let pass.

    What the client said is in the call's own line, redacted: it has the same id.
    """
    return Entry(
        kind=EntryKind.CHANGED,
        call_id=call.id,
        at=at,
        tool=call.tool.name,
        target=call.target or call.about,
        principal=call.caller.principal,
        channel=call.caller.channel,
        effect=call.wanted.value,
        dry_run=call.dry_run,
        policy=rule,
        code=code.value,
        evidence={"shadow": True},
        trace_id=call.caller.trace_id,
        parent=call.parent,
    )


def approval_status(approval: Approval) -> OperationStatus:
    """A question to a person, for the caller that waits for it."""
    votes = f"{len(approval.votes)} of {approval.needed} said yes"
    ended = approval.state in ("denied", "revoked")
    words = f"{votes}; {approval.note}" if ended and approval.note else votes
    return OperationStatus(
        id=approval.id,
        kind="approval",
        state=approval.state,
        tool=approval.tool,
        target=approval.target or OWN_TARGET,
        progress=words if approval.kind == "approve" else None,
        started_at=rfc3339(approval.created_at),
        expires_at=rfc3339(approval.expires_at),
        execute_by=rfc3339(approval.execute_by) if approval.execute_by else None,
        ended_at=rfc3339(approval.decided_at) if approval.decided_at else None,
    )
