"""Control: what the tools on the server itself, and the operator's commands, see and change."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import orjson

from mcp_ops.call import Caller, new_id
from mcp_ops.capabilities.guard import (
    ApprovalItem,
    AuditPage,
    BudgetInfo,
    BulkheadResized,
    CircuitInfo,
    GuardStatus,
    HotTool,
    LimitInfo,
    OperationStatus,
    ServerHealth,
    StoreAway,
)
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    RefusalCode,
    Refused,
    StoreUnavailable,
)
from mcp_ops.guard import shown
from mcp_ops.guard.act import allowed_by_a_person
from mcp_ops.guard.break_glass import openings
from mcp_ops.guard.circuits import Circuits, ResetTo
from mcp_ops.guard.health import HealthCheck, overall, thresholds
from mcp_ops.guard.limits import destroys_budget, principal_rate, target_rate, writes_budget
from mcp_ops.guard.modes import effective, slowest
from mcp_ops.guard.operations import Operations
from mcp_ops.guard.order import Guard
from mcp_ops.guard.partitions import Partitions
from mcp_ops.guard.switching import clear, scope_of, switch, there
from mcp_ops.ports import (
    OWN_TARGET,
    CircuitPhase,
    Mode,
    ModeEntry,
)
from mcp_ops.questions import Approval, Approvals
from mcp_ops.reach import held
from mcp_ops.records import AuditQuery, Entry, EntryKind, Ledger, Operation

_PLACE = re.compile(r"[0-9]{1,18}")  # of a line of the ledger; more digits fit in no store


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What control works on: one set for the process."""

    guard: Guard
    ledger: Ledger
    approvals: Approvals
    operations: Operations
    health: HealthCheck
    clock: Clock
    version: str
    started_at: float
    away: Callable[[], Mapping[str, float]] = dict


class Control:
    """The `GuardControl` of one caller: its changes carry the caller's name."""

    def __init__(self, parts: Parts, caller: Caller) -> None:
        self._p = parts
        self._caller = caller

    @cached_property
    def _circuits(self) -> Circuits:
        return Circuits(
            hot=self._p.guard.hot,
            caller=self._caller,
            clock=self._p.clock,
            changed=self._changed,
            held=self._held,
        )

    @cached_property
    def _partitions(self) -> Partitions:
        return Partitions(
            hot=self._p.guard.hot,
            targets=self._p.guard.targets,
            bulkheads=self._p.guard.bulkheads,
            caller=self._caller,
            clock=self._p.clock,
            changed=self._changed,
        )

    async def health(self) -> ServerHealth:
        """Ask every target and look at every part."""
        components = await self._p.health.components()
        circuits = await self._p.guard.hot.circuits()
        past = thresholds(components, circuits, await self._p.health.dead_letters())
        return ServerHealth(
            target=OWN_TARGET,
            overall=overall(components, past),
            version=self._p.version,
            uptime_s=int(self._p.clock.now() - self._p.started_at),
            mode=(await self.mode_of("all")).value,
            components=components,
            thresholds=past,
        )

    async def status(self) -> GuardStatus:
        """Everything that may refuse a call now."""
        guard, limits = self._p.guard, self._p.guard.settings.limits
        principal = self._caller.principal
        entries = await guard.hot.modes()
        rates = [principal_rate(principal, limits)]
        for name in guard.targets.names():
            rate = target_rate(guard.targets.info(name), limits)
            factor = slowest(entries, name, principal)
            if rate is not None and factor:  # a target that admits nothing has its mode above
                rates.append(dataclasses.replace(rate, per_minute=rate.per_minute * factor))
        budgets = (writes_budget(principal, limits), destroys_budget(principal, limits))
        recent = await self._kept(self._p.approvals.recent(100), [])
        pending = [a for a in recent if a.state == "pending"]
        return GuardStatus(
            target=OWN_TARGET,
            profile=guard.policy.profile_for(self._caller.channel),
            enforcement=guard.settings.enforcement,
            modes=[shown.mode_info(entry) for entry in entries],
            limits=[
                LimitInfo(
                    name=state.name,
                    per_minute=state.limit_per_minute,
                    remaining=state.remaining,
                    retry_after_s=None if state.allowed else state.retry_after_s,
                )
                for state in await guard.hot.rates(tuple(rates))
            ],
            budgets=[
                BudgetInfo(
                    name=state.name,
                    used=state.used,
                    limit=state.limit,
                    frees_at=rfc3339(state.frees_at) if state.frees_at else None,
                )
                for state in await self._kept(self._p.ledger.budgets(budgets), ())
            ],
            circuits=[c for c in await self.circuits() if c.state is not CircuitPhase.CLOSED],
            bulkheads=await self._partitions.shown(),
            freeze_windows=[shown.freeze_info(each) for each in await guard.freezes.at()],
            elevations=[shown.elevation_info(grant) for grant in await guard.hot.grants()],
            break_glass=[
                shown.break_glass_info(entry)
                for entry in await self._kept(openings(self._p.ledger, self._p.clock.now()), [])
            ],
            pending_approvals=len(pending),
            shadow_refusals=guard.shadow_refusals,
            away=[StoreAway(name=n, since=rfc3339(at)) for n, at in self._p.away().items()],
        )

    async def _kept(self, answer: Awaitable[T], empty: T) -> T:
        """What the ledger says, or nothing while it is known to be away: the rest is still told."""
        try:
            return await answer
        except StoreUnavailable:
            if not self._p.away():
                raise
            return empty

    async def mode_of(self, target: str) -> Mode:
        """The strictest mode in force for a target, or for all."""
        return effective(await self._p.guard.hot.modes(), scope_of(target))

    async def set_mode(self, target: str, mode: Mode, *, minutes: int, reason: str) -> Mode:
        """Set a mode for this caller's kind. A loosening that got here was allowed by a person:
        it lifts what is stricter in its scope, except the environment's floor."""
        reason = self._safe(reason)
        scope = scope_of(target)
        await switch(
            self._p.guard.hot,
            there(self._caller, scope, self._p.guard.targets),
            mode,
            scope=scope,
            minutes=minutes,
            reason=reason,
            now=self._p.clock.now(),
            allowed=allowed_by_a_person(),
        )
        await self._changed("set_guard_mode", scope, reason, {"mode": mode.value})
        return await self.mode_of(target)

    async def modes(self) -> tuple[ModeEntry, ...]:
        """All entries in force."""
        return await self._p.guard.hot.modes()

    async def clear_modes(self, scope: str, *, reason: str) -> None:
        """Lift what operators and agents set for a scope; usage and environment stay."""
        await clear(self._p.guard.hot, scope)
        await self._changed("set_guard_mode", scope, reason, {"mode": "cleared"})

    async def circuits(self) -> list[CircuitInfo]:
        """The circuits of all targets; one that never failed is closed."""
        names = [name for name in self._p.guard.targets.names() if name != OWN_TARGET]
        return await self._circuits.all(names)

    async def reset_circuit(
        self, target: str, *, reason: str, to: ResetTo = "closed"
    ) -> CircuitInfo:
        """Close a circuit, or let its one probe through now."""
        return await self._circuits.reset(target, to=to, reason=self._safe(reason))

    async def isolate(self, target: str, *, reason: str) -> CircuitInfo:
        """Open a circuit until further notice."""
        return await self._circuits.isolate(target, reason=self._safe(reason))

    async def set_bulkhead_limit(
        self, target: str, size: int, *, minutes: int, reason: str, dry_run: bool
    ) -> BulkheadResized:
        """Give a target's partition another size for a while."""
        if dry_run:
            found = await self._partitions.plan(target, size, minutes=minutes)
        else:
            found = await self._partitions.resize(
                target, size, minutes=minutes, reason=self._safe(reason)
            )
        return BulkheadResized(
            previous=found.previous,
            size=found.size,
            targets=found.targets,
            expires_at=rfc3339(found.expires_at) if found.expires_at else None,
        )

    async def hot_tools(self, *, since_minutes: int, limit: int) -> list[HotTool]:
        """Who spent the most upstream calls."""
        since = self._p.clock.now() - since_minutes * 60
        return [
            HotTool(
                tool=s.tool,
                principal=s.principal,
                calls=s.calls,
                upstream_calls=s.upstream_calls,
                refused=s.refused,
            )
            for s in await self._p.ledger.spent(since, limit)
        ]

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
        """Lines of the ledger, newest first."""
        if cursor and not _PLACE.fullmatch(cursor):
            raise InvalidInput("cursor: is none of this list.", hint="Start without a cursor.")
        entries = await self._p.ledger.search(
            AuditQuery(
                since=self._p.clock.now() - since_minutes * 60,
                principal=principal,
                tool=tool,
                target=target,
                verdict=verdict,
                trace_id=trace_id,
                before_seq=int(cursor) if cursor else None,
                limit=limit + 1,
            )
        )
        page, more = entries[:limit], len(entries) > limit
        return AuditPage(
            target=OWN_TARGET,
            items=[shown.audit_item(entry) for entry in page],
            next_cursor=str(page[-1].seq) if more else "",
            truncated=more,
            searched=f"the ledger of the last {since_minutes} minutes",
        )

    async def approvals(self, *, limit: int) -> list[ApprovalItem]:
        """Pending and recent questions."""
        return [shown.approval_item(a) for a in await self._p.approvals.recent(limit)]

    async def operation(self, operation_id: str) -> OperationStatus:
        """An operation or an approval by id."""
        operation = await self._p.ledger.get_operation(operation_id)
        if operation is not None and self._may_look(operation):
            return self._operation(operation)
        approval = None if operation else await self._p.approvals.get(operation_id)
        if approval is not None and self._may_look(approval):
            return shown.approval_status(approval)
        raise NotFound(
            "There is no operation or approval with this id.",
            hint="list_approvals and search_audit show the ids of recent ones.",
        )

    async def cancel_operation(
        self, operation_id: str, *, reason: str, dry_run: bool
    ) -> OperationStatus:
        """Ask a running write to stop; one in another process hears of it at its next renewal."""
        operation = await self._p.ledger.get_operation(operation_id)
        if operation is None:
            raise NotFound(
                "There is no operation with this id.",
                hint="search_audit shows the ids of recent ones; a question cannot be cancelled.",
            )
        if self._caller.principal != operation.principal and not self._operates(operation):
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                f"{self._caller.principal} may not stop what {operation.principal} asked for.",
                hint="Who asked for it or an operator runs: mcp-ops call cancel_operation",
            )
        if not dry_run:
            asked = await self._p.operations.cancel(operation_id, by=self._caller.principal)
            operation = asked or await self._p.ledger.get_operation(operation_id) or operation
        status = self._operation(operation)
        if status.state != "running":
            raise Conflict(
                f"The operation does not run (any more): it is {status.state}.",
                hint="get_operation shows how it ended.",
            )
        if not dry_run:
            evidence = {"operation": operation_id, "tool": operation.tool}
            await self._changed("cancel_operation", operation.target, reason, evidence)
        return status

    def _may_look(self, asked: Operation | Approval) -> bool:
        """Whether the answer of somebody's write is for this caller: over HTTP for whoever asked
        for it, and for those who decide or operate there."""
        mine = self._caller.principal == asked.principal or self._caller.channel != "http"
        return mine or not self._held(asked.target).isdisjoint(("ops:approve", "ops:admin"))

    def _operates(self, operation: Operation) -> bool:
        return "ops:admin" in self._held(operation.target)

    def _held(self, target: str) -> frozenset[str]:
        """The caller's scopes on a target; of one that is not here any more, those without an
        environment to look at."""
        targets = self._p.guard.targets
        where = targets.info(target).environment if target in targets.names() else ""
        return held(self._caller.scopes, self._caller.reach, target or OWN_TARGET, where)

    def _operation(self, operation: Operation) -> OperationStatus:
        running = self._p.operations.get(operation.id)
        return OperationStatus(
            id=operation.id,
            kind="operation",
            state="pending" if operation.state == "waiting" else operation.state,
            tool=operation.tool,
            target=operation.target or OWN_TARGET,
            outcome=operation.outcome or None,
            progress=(running.shown() if running else operation.progress) or None,
            started_at=rfc3339(operation.started_at),
            ended_at=rfc3339(operation.ended_at) if operation.ended_at else None,
            answer=orjson.loads(operation.answer) if operation.answer else {},
        )

    def _safe(self, reason: str) -> str:
        """A reason as it may be kept: an operator's has come through no call."""
        return self._p.guard.redactor.text(reason)

    async def _changed(self, tool: str, target: str, reason: str, evidence: dict[str, str]) -> None:
        await self._p.ledger.change(
            Entry(
                kind=EntryKind.CHANGED,
                call_id=new_id(),
                at=self._p.clock.now(),
                tool=tool,
                target=target,
                principal=self._caller.principal,
                channel=self._caller.channel,
                reason=self._p.guard.redactor.text(reason),
                evidence=evidence,
            )
        )
