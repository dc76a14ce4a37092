"""GuardControl: what the server says of itself, and what may be changed about its guard."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from mcp_ops.capabilities.base import Model, Moment, Page, Result, UntrustedLine, WriteResult
from mcp_ops.ports import CircuitPhase, Mode, Port

Status = Literal["healthy", "degraded", "unhealthy"]


class ComponentHealth(Model):
    """One target or part of the server."""

    name: str
    kind: str
    status: Status
    latency_ms: float | None = None
    age_s: float | None = None
    problem: UntrustedLine | None = None


class Threshold(Model):
    """A figure of the operations runbook that is past its warning or critical threshold."""

    name: str
    value: float
    level: Literal["warning", "critical"]


class ServerHealth(Result):
    """Answer of get_health."""

    overall: Status
    version: str
    uptime_s: int
    mode: str
    components: list[ComponentHealth]
    thresholds: list[Threshold] = []


class ModeInfo(Model):
    """A mode in force; `scope` is a target or `*`."""

    scope: str
    mode: Mode
    source: str
    reason: UntrustedLine
    author: str
    since: Moment
    expires_at: Moment | None = None


class LimitInfo(Model):
    """What is left of a rate limit."""

    name: str
    per_minute: float
    remaining: int
    retry_after_s: float | None = None


class BudgetInfo(Model):
    """What is used of an action budget."""

    name: str
    used: int
    limit: int
    frees_at: Moment | None = None


class CircuitInfo(Model):
    """A target's circuit."""

    target: str
    state: CircuitPhase
    failures: int
    opened_at: Moment | None = None
    retry_at: Moment | None = None
    last_error: UntrustedLine | None = None
    by: str | None = None
    reason: UntrustedLine | None = None


class BulkheadInfo(Model):
    """Calls at a target, or at targets that share a partition, in this process."""

    target: str
    targets: list[str]
    active: int
    waiting: int
    max_concurrent: int
    configured: int
    timed_out: int
    turned_away: int
    by: str | None = None
    reason: UntrustedLine | None = None
    expires_at: Moment | None = None


class FreezeInfo(Model):
    """A freeze window; `start` and `end` are of the freeze that holds, or of the next one."""

    when: str
    start: Moment | None = None
    end: Moment | None = None
    targets: list[str]
    reason: UntrustedLine
    active: bool
    problem: str | None = None


class ElevationInfo(Model):
    """An elevation in force: calls that match need no more than `require`. Globs."""

    id: str
    principal: str
    tool: str
    elevated_target: str
    require: Literal["none", "confirm"]
    incident: str
    reason: UntrustedLine
    author: str
    expires_at: Moment


class BreakGlassInfo(Model):
    """An operator went past the guard with the credential for emergencies."""

    at: Moment
    principal: str
    tool: str
    used_on: str
    reason: UntrustedLine


class StoreAway(Model):
    """A part of the guard's own store that does not answer: reads go on stricter, writes do not."""

    name: str
    since: Moment


class GuardStatus(Result):
    """Answer of get_guard_status."""

    profile: str
    enforcement: str
    modes: list[ModeInfo] = []
    limits: list[LimitInfo] = []
    budgets: list[BudgetInfo] = []
    circuits: list[CircuitInfo] = []
    bulkheads: list[BulkheadInfo] = []
    freeze_windows: list[FreezeInfo] = []
    elevations: list[ElevationInfo] = []
    break_glass: list[BreakGlassInfo] = []
    pending_approvals: int = 0
    shadow_refusals: int = 0
    away: list[StoreAway] = []


class GuardModeSet(WriteResult):
    """Answer of set_guard_mode: the mode in force now, which another entry may keep stricter."""

    mode: Mode | None = None
    previous: Mode | None = None
    expires_at: Moment | None = None


class CircuitList(Result):
    """Answer of list_circuits."""

    circuits: list[CircuitInfo]


class CircuitChange(WriteResult):
    """Answer of reset_circuit and isolate_target."""

    state: CircuitPhase | None = None
    previous: CircuitPhase | None = None


class BulkheadResized(Model):
    """A change of a partition's size; without `expires_at` the configured size holds again."""

    previous: int
    size: int
    targets: list[str]
    expires_at: Moment | None = None


class BulkheadChange(WriteResult):
    """Answer of set_bulkhead_limit; `targets` share the places."""

    max_concurrent: int | None = None
    previous: int | None = None
    targets: list[str] = []
    expires_at: Moment | None = None


class HotTool(Model):
    """Upstream calls that one tool spent for one principal."""

    tool: UntrustedLine
    principal: str
    calls: int
    upstream_calls: int
    refused: int


class HotTools(Result):
    """Answer of list_hot_tools, the most upstream calls first."""

    since_minutes: int
    items: list[HotTool]


class AuditItem(Model):
    """One line of the ledger."""

    seq: int
    at: Moment
    call_id: str
    kind: str
    tool: UntrustedLine
    target: str | None = None
    principal: str
    verdict: str | None = None
    code: str | None = None
    outcome: str | None = None
    reason: UntrustedLine | None = None
    duration_ms: float | None = None
    trace_id: str | None = None


class AuditPage(Page[AuditItem]):
    """Answer of search_audit, newest first."""


class ApprovalItem(Model):
    """A question to a person. `votes` is "1 of 2": how many said yes, of those needed."""

    id: str
    kind: Literal["confirm", "approve"]
    state: str
    tool: str
    target: str
    principal: str
    reason: UntrustedLine
    created_at: Moment
    expires_at: Moment
    votes: str
    decided_by: str | None = None
    note: UntrustedLine | None = None


class ApprovalPage(Page[ApprovalItem]):
    """Answer of list_approvals, pending ones first."""


class OperationStatus(Result):
    """Answer of get_operation, for a write's operation or for an approval that it waits for.

    `answer` is what the write answered, once it is done. `execute_by` is until when an approved
    call may run.
    """

    id: str
    kind: Literal["operation", "approval"]
    state: Literal[
        "running",
        "pending",
        "approved",
        "denied",
        "redeemed",
        "expired",
        "revoked",
        "done",
        "unknown",
    ]
    tool: str
    outcome: str | None = None
    progress: UntrustedLine | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None
    expires_at: Moment | None = None
    execute_by: Moment | None = None
    answer: Annotated[dict[str, Any], Field(description="The write's own answer.")] = {}


class OperationCancelled(WriteResult):
    """Answer of cancel_operation: the write was asked to stop, and stops before its next step."""

    progress: UntrustedLine | None = None


class GuardControl(Port, Protocol):
    """The guard, for the principal of one call. Changes are durable when a method returns."""

    async def health(self) -> ServerHealth:
        """Ask every target and look at every part."""
        ...

    async def status(self) -> GuardStatus:
        """Everything that may refuse a call now."""
        ...

    async def mode_of(self, target: str) -> Mode:
        """The strictest mode in force for a target, or for all (`all`)."""
        ...

    async def set_mode(self, target: str, mode: Mode, *, minutes: int, reason: str) -> Mode:
        """Set a mode; answers the mode in force now. Stricter entries of others stay."""
        ...

    async def circuits(self) -> list[CircuitInfo]:
        """The circuits of all targets."""
        ...

    async def reset_circuit(
        self, target: str, *, reason: str, to: Literal["closed", "half_open"] = "closed"
    ) -> CircuitInfo:
        """Close a circuit, or let its one probe through now.

        Raises `Refused` for an operator's isolation, `Conflict` when it just changed or when a
        closed one should be tried.
        """
        ...

    async def isolate(self, target: str, *, reason: str) -> CircuitInfo:
        """Open a circuit until further notice."""
        ...

    async def set_bulkhead_limit(
        self, target: str, size: int, *, minutes: int, reason: str, dry_run: bool
    ) -> BulkheadResized:
        """Give a target's partition another size for a while, or say what would be."""
        ...

    async def hot_tools(self, *, since_minutes: int, limit: int) -> list[HotTool]:
        """Who spent the most upstream calls."""
        ...

    async def audit(
        self,
        *,
        since_minutes: int,
        tool: str,
        target: str,
        principal: str,
        verdict: str,
        trace_id: str,
        limit: int,
        cursor: str,
    ) -> AuditPage:
        """Lines of the ledger; raises `InvalidInput` for a cursor that is none of ours."""
        ...

    async def approvals(self, *, limit: int) -> list[ApprovalItem]:
        """Pending and recent questions."""
        ...

    async def operation(self, operation_id: str) -> OperationStatus:
        """An operation or an approval by id; raises `NotFound`."""
        ...

    async def cancel_operation(
        self, operation_id: str, *, reason: str, dry_run: bool
    ) -> OperationStatus:
        """Ask a running write to stop, or say whether one could be asked.

        Raises `NotFound`, `Conflict` when it does not run, `Refused` for somebody else's.
        """
        ...
