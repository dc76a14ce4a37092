"""Tools on the server itself: health, guard, circuits, audit, approvals, operations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_ops.capabilities.base import Effect, NextStep, Undo
from mcp_ops.capabilities.guard import (
    ApprovalPage,
    AuditPage,
    BulkheadChange,
    CircuitChange,
    CircuitList,
    GuardControl,
    GuardModeSet,
    GuardStatus,
    HotTools,
    OperationCancelled,
    OperationStatus,
    ServerHealth,
)
from mcp_ops.params import (
    Cursor,
    Limit,
    Minutes,
    ModeName,
    ObjectName,
    SinceMinutes,
    TargetFilter,
    TargetName,
)
from mcp_ops.ports import Mode
from mcp_ops.tool import Write, tool

Verdict = Literal["", "ok", "refused", "invalid", "asked", "failed", "unknown", "error"]
OperationId = Annotated[
    str, Field(description="From operation_id or an approval.", min_length=8, max_length=64)
]
ResetTo = Literal["closed", "half_open"]
TargetOrAll = Annotated[
    str, Field(description="A target, or all.", min_length=1, max_length=63), ObjectName()
]
Word = Annotated[str, Field(description="Exact.", max_length=100)]


@tool(effect=Effect.READ)
async def get_health(guard: GuardControl) -> ServerHealth:
    """Show whether each target and this server work: status, latency, mode, and which figures are
    past their thresholds. Start an incident here."""
    return await guard.health()


@tool(effect=Effect.READ)
async def get_guard_status(guard: GuardControl) -> GuardStatus:
    """Show what the guard would refuse now: modes with cause and expiry, limits and budgets left,
    circuits, bulkheads, freeze windows, pending approvals."""
    return await guard.status()


@tool(effect=Effect.WRITE, recovery=True, idempotent=True)
async def set_guard_mode(
    guard: GuardControl,
    mode: Annotated[ModeName, Field(description="Stricter holds at once.")],
    write: Write,
    target: TargetOrAll = "all",
    minutes: Minutes = 0,
) -> GuardModeSet:
    """Make the guard stricter for a target or all, at once; a looser mode needs a person's
    approval. critical leaves only checks and recovery, lockdown nothing."""
    previous = await guard.mode_of(target)
    if write.dry_run:
        write.saw({"mode": previous.value}, None)
        return GuardModeSet(
            outcome="planned",
            previous=previous,
            mode=Mode(mode),
            plan=[f"Set {target} from {previous} to {mode}."],
        )
    now = await guard.set_mode(target, Mode(mode), minutes=minutes, reason=write.reason)
    return GuardModeSet(
        outcome="verified",
        previous=previous,
        mode=now,
        evidence={"asked": mode, "in_force": now.value},
    )


@tool(effect=Effect.READ)
async def list_circuits(guard: GuardControl) -> CircuitList:
    """Show each target's circuit: state, failures, since when, when it tries again and the last
    error. An open circuit refuses calls to a failing target."""
    return CircuitList(circuits=await guard.circuits())


@tool(effect=Effect.WRITE, recovery=True)
async def reset_circuit(
    guard: GuardControl,
    target: TargetName,
    write: Write,
    to: Annotated[ResetTo, Field(description="half_open: one call tries first.")] = "closed",
) -> CircuitChange:
    """Close a target's open circuit after the target was repaired; half_open where that is not
    sure. It opens again if the target still fails. Does not lift an operator's isolation."""
    before = {circuit.target: circuit for circuit in await guard.circuits()}.get(target)
    previous = before.state if before else None
    if write.dry_run:
        state = previous.value if previous else "closed"
        verb = "Close" if to == "closed" else "Let one call try"
        # Not the phase: it goes from open to half-open and back by itself.
        write.saw({"isolated_by": before.by if before and state == "isolated" else None}, None)
        return CircuitChange(
            outcome="planned",
            previous=previous,
            plan=[f"{verb} the circuit of {target} ({state})."],
        )
    after = await guard.reset_circuit(target, to=to, reason=write.reason)
    return CircuitChange(
        outcome="verified",
        previous=previous,
        state=after.state,
        evidence={"state": after.state.value, "failures_before": before.failures if before else 0},
        next_steps=[NextStep(tool="get_health", why="See whether the target answers now.")],
    )


@tool(effect=Effect.WRITE, recovery=True, idempotent=True)
async def isolate_target(guard: GuardControl, target: TargetName, write: Write) -> CircuitChange:
    """Stop all calls to a target until further notice, for one that does harm. reset_circuit
    lifts an isolation by an agent; an operator's stays."""
    if write.dry_run:
        return CircuitChange(outcome="planned", plan=[f"Refuse every call to {target}."])
    after = await guard.isolate(target, reason=write.reason)
    return CircuitChange(
        outcome="verified", state=after.state, evidence={"state": after.state.value}
    )


@tool(effect=Effect.WRITE, idempotent=True)
async def set_bulkhead_limit(
    guard: GuardControl,
    target: TargetName,
    max_concurrent: Annotated[int, Field(description="Calls at once.", ge=1, le=1000)],
    write: Write,
    minutes: Annotated[int, Field(description="For so long.", ge=1, le=10_080)] = 60,
) -> BulkheadChange:
    """Change for a while how many calls may be at a target at once. Fewer holds at once; more
    than now needs a person's approval. To stop all calls use isolate_target."""
    found = await guard.set_bulkhead_limit(
        target, max_concurrent, minutes=minutes, reason=write.reason, dry_run=write.dry_run
    )
    change = BulkheadChange(
        outcome="planned",
        max_concurrent=found.size,
        previous=found.previous,
        targets=found.targets,
        expires_at=found.expires_at,
    )
    if write.dry_run:
        places = f"{found.size} calls at once at {', '.join(found.targets)}"
        until = f"until {found.expires_at}" if found.expires_at else "as configured"
        plan = [f"Allow {places}, {until} ({found.previous} now)."]
        return change.model_copy(update={"plan": plan})
    undo = {"target": target, "max_concurrent": found.previous}
    return change.model_copy(
        update={
            "outcome": "verified",
            "evidence": {"max_concurrent": found.size, "before": found.previous},
            "undo": Undo(tool="set_bulkhead_limit", arguments=undo),
        }
    )


@tool(effect=Effect.READ)
async def list_hot_tools(
    guard: GuardControl, since_minutes: SinceMinutes = 60, limit: Limit = 20
) -> HotTools:
    """Show which tools and principals spent the most upstream calls in a window: who uses up a
    quota."""
    items = await guard.hot_tools(since_minutes=since_minutes, limit=limit)
    return HotTools(since_minutes=since_minutes, items=items)


@tool(effect=Effect.READ, bulk=True)
async def search_audit(
    guard: GuardControl,
    since_minutes: SinceMinutes = 60,
    tool: Word = "",
    target: TargetFilter = "",
    principal: Word = "",
    outcome: Annotated[Verdict, Field(description="Verdict.")] = "",
    trace_id: Word = "",
    limit: Limit = 20,
    cursor: Cursor = "",
) -> AuditPage:
    """Search the ledger of all calls, newest first."""
    return await guard.audit(
        since_minutes=since_minutes,
        tool=tool,
        target=target,
        principal=principal,
        verdict=outcome,
        trace_id=trace_id,
        limit=limit,
        cursor=cursor,
    )


@tool(effect=Effect.READ)
async def list_approvals(guard: GuardControl, limit: Limit = 20) -> ApprovalPage:
    """Show questions that wait for a person, and recent ones with their answers. An agent can
    look, never decide."""
    items = await guard.approvals(limit=limit)
    return ApprovalPage(items=items, searched="pending and recent approvals")


@tool(effect=Effect.READ)
async def get_operation(guard: GuardControl, operation_id: OperationId) -> OperationStatus:
    """Show how far a write is, its answer once it is done, or whether the approval that it waits
    for was given: then call the tool again."""
    return await guard.operation(operation_id)


@tool(effect=Effect.WRITE, idempotent=True)
async def cancel_operation(
    guard: GuardControl,
    operation_id: Annotated[
        str, Field(description="From operation_id.", min_length=8, max_length=64)
    ],
    write: Write,
) -> OperationCancelled:
    """Stop a write that is still running, between two of its steps. What it did already stays
    done. Yours only; an operator may stop any."""
    status = await guard.cancel_operation(operation_id, reason=write.reason, dry_run=write.dry_run)
    if write.dry_run:
        return OperationCancelled(
            outcome="planned",
            plan=[f"Ask {status.tool} on {status.target} to stop before its next step."],
            progress=status.progress,
        )
    return OperationCancelled(
        outcome="unconfirmed",
        evidence={"state": status.state, "tool": status.tool},
        progress=status.progress,
        next_steps=[
            NextStep(
                tool="get_operation",
                arguments={"operation_id": operation_id},
                why="See where it stopped.",
            )
        ],
    )
