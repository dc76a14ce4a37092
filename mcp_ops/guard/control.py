"""Control: what the tools on the server itself, and the operator's commands, see and change."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import orjson

from mcp_ops.call import Caller, new_id
from mcp_ops.capabilities.guard import (
    ApprovalItem,
    AuditPage,
    BudgetInfo,
    BulkheadInfo,
    CircuitInfo,
    FreezeInfo,
    GuardStatus,
    HotTool,
    LimitInfo,
    OperationStatus,
    ServerHealth,
)
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import Conflict, InvalidInput, NotFound, RefusalCode, Refused
from mcp_ops.guard import shown
from mcp_ops.guard.act import current
from mcp_ops.guard.health import HealthCheck, overall, thresholds
from mcp_ops.guard.limits import destroys_budget, principal_rate, target_rate, writes_budget
from mcp_ops.guard.modes import at_least_as_strict, effective, loosens, slowest
from mcp_ops.guard.operations import Operations
from mcp_ops.guard.order import Guard
from mcp_ops.ports import (
    ALL_TARGETS,
    OWN_TARGET,
    CircuitPhase,
    CircuitState,
    Mode,
    ModeEntry,
    ModeSource,
)
from mcp_ops.records import Approvals, AuditQuery, Entry, EntryKind, Ledger, Operation

_OPERATOR = "operator:"
_LIFTS_ISOLATION = frozenset({"ops:admin", "ops:approve"})


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


class Control:
    """The `GuardControl` of one caller: its changes carry the caller's name."""

    def __init__(self, parts: Parts, caller: Caller) -> None:
        self._p = parts
        self._caller = caller

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
            factor = slowest(entries, name)
            if rate is not None and factor:  # a target that admits nothing has its mode above
                rates.append(dataclasses.replace(rate, per_minute=rate.per_minute * factor))
        budgets = (writes_budget(principal, limits), destroys_budget(principal, limits))
        pending = [a for a in await self._p.approvals.recent(100) if a.state == "pending"]
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
                for state in await self._p.ledger.budgets(budgets)
            ],
            circuits=[c for c in await self.circuits() if c.state is not CircuitPhase.CLOSED],
            bulkheads=[
                BulkheadInfo(
                    target=p.name,
                    active=p.active,
                    waiting=len(p.queue),
                    max_concurrent=p.size,
                    timed_out=p.timed_out,
                )
                for p in guard.bulkheads.all()
            ],
            freeze_windows=[
                FreezeInfo(
                    start=w.start,
                    end=w.end,
                    targets=list(w.targets),
                    reason=w.reason,
                    active=shown.active(w.start, w.end, self._p.clock.now()),
                )
                for w in guard.settings.freeze
            ],
            pending_approvals=len(pending),
            shadow_refusals=guard.shadow_refusals,
        )

    async def mode_of(self, target: str) -> Mode:
        """The strictest mode in force for a target, or for all."""
        scope = ALL_TARGETS if target in ("all", "", ALL_TARGETS) else target
        return effective(await self._p.guard.hot.modes(), scope)

    async def set_mode(self, target: str, mode: Mode, *, minutes: int, reason: str) -> Mode:
        """Set a mode for this caller's kind. A loosening that got here was allowed by a person:
        it lifts what is stricter in its scope, except the environment's floor."""
        hot = self._p.guard.hot
        scope = ALL_TARGETS if target in ("all", "", ALL_TARGETS) else target
        operator = "ops:admin" in self._caller.scopes
        source: ModeSource = "operator" if operator else "agent"
        entries = await hot.modes()
        if not operator and loosens(mode, scope, entries) and not _allowed_by_a_person():
            raise Refused(
                RefusalCode.APPROVAL_REQUIRED,
                "The mode was changed at this moment; what was asked is looser than it is now.",
                hint="Look at get_guard_status and call again.",
            )
        for entry in entries:
            in_scope = entry.scope == scope or (scope == ALL_TARGETS and mode is Mode.NORMAL)
            if in_scope and entry.mode is not mode and at_least_as_strict(entry.mode, mode):
                await self.clear_mode(entry)
        now = self._p.clock.now()
        ends = now + minutes * 60 if minutes else None
        if not operator:
            ends = _not_before(ends, mode, scope, entries)
        if mode is Mode.NORMAL:
            await hot.clear_modes(scope, frozenset({source}))
        else:
            await hot.set_mode(
                ModeEntry(
                    scope=scope,
                    mode=mode,
                    source=source,
                    reason=reason,
                    author=self._caller.principal,
                    since=now,
                    expires_at=ends,
                )
            )
        await self._changed("set_guard_mode", scope, reason, {"mode": mode.value})
        return await self.mode_of(target)

    async def modes(self) -> tuple[ModeEntry, ...]:
        """All entries in force."""
        return await self._p.guard.hot.modes()

    async def clear_modes(self, scope: str, *, reason: str) -> None:
        """Lift what operators and agents set for a scope; usage and environment stay."""
        await self._p.guard.hot.clear_modes(scope, frozenset({"operator", "agent"}))
        await self._changed("set_guard_mode", scope, reason, {"mode": "cleared"})

    async def clear_mode(self, entry: ModeEntry) -> None:
        """Lift one entry; the environment's floor cannot be lifted."""
        if entry.source != "environment":
            await self._p.guard.hot.clear_modes(entry.scope, frozenset({entry.source}))

    async def circuits(self) -> list[CircuitInfo]:
        """The circuits of all targets; one that never failed is closed."""
        known = {state.target: state for state in await self._p.guard.hot.circuits()}
        names = [name for name in self._p.guard.targets.names() if name != OWN_TARGET]
        return [shown.circuit_info(known.get(name, CircuitState(target=name))) for name in names]

    async def reset_circuit(self, target: str, *, reason: str) -> CircuitInfo:
        """Close a circuit."""
        before = await self._circuit(target)
        # The second scope is what a command line without a terminal lacks: an agent may have one.
        if _isolated_by_operator(before) and not self._caller.scopes >= _LIFTS_ISOLATION:
            raise Refused(
                RefusalCode.PERMISSION_DENIED,
                f"{target} was isolated by {before.by}; only an operator lifts that.",
                hint="An operator runs, at a terminal: "
                "mcp-ops call reset_circuit target=… reason=…",
            )
        after = await self._set_circuit(
            CircuitState(target=target, by=self._caller.principal, reason=reason), before
        )
        await self._changed("reset_circuit", target, reason, {"from": before.phase.value})
        return shown.circuit_info(after)

    async def isolate(self, target: str, *, reason: str) -> CircuitInfo:
        """Open a circuit until further notice."""
        before = await self._circuit(target)
        keeps = _isolated_by_operator(before)
        after = await self._set_circuit(
            dataclasses.replace(
                before,
                phase=CircuitPhase.ISOLATED,
                opened_at=before.opened_at or self._p.clock.now(),
                retry_at=None,
                probing=False,
                by=before.by if keeps else self._isolator(),
                reason=before.reason if keeps else reason,
            ),
            before,
        )
        await self._changed("isolate_target", target, reason, {"from": before.phase.value})
        return shown.circuit_info(after)

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
        if cursor and not cursor.isdecimal():
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
        if operation is not None:
            return self._operation(operation)
        approval = await self._p.approvals.get(operation_id)
        if approval is not None:
            return OperationStatus(
                id=approval.id,
                kind="approval",
                state=approval.state,
                tool=approval.tool,
                target=approval.target or OWN_TARGET,
                started_at=rfc3339(approval.created_at),
                expires_at=rfc3339(approval.expires_at),
                ended_at=rfc3339(approval.decided_at) if approval.decided_at else None,
            )
        raise NotFound(
            "There is no operation or approval with this id.",
            hint="list_approvals and search_audit show the ids of recent ones.",
        )

    def _operation(self, operation: Operation) -> OperationStatus:
        running = self._p.operations.get(operation.id)
        state = operation.state
        lost = running is None and operation.lease_until < self._p.clock.now()
        if state == "running" and lost:
            state = "unknown"
        return OperationStatus(
            id=operation.id,
            kind="operation",
            state="pending" if state == "waiting" else state,
            tool=operation.tool,
            target=operation.target or OWN_TARGET,
            outcome=operation.outcome or None,
            progress=(running.shown() if running else operation.progress) or None,
            started_at=rfc3339(operation.started_at),
            ended_at=rfc3339(operation.ended_at) if operation.ended_at else None,
            answer=orjson.loads(operation.answer) if operation.answer else {},
        )

    def _isolator(self) -> str:
        """Who isolates: an operator by whatever way is named as one, and only one lifts that."""
        principal = self._caller.principal
        if "ops:admin" not in self._caller.scopes or principal.startswith(_OPERATOR):
            return principal
        return f"{_OPERATOR}{principal}"

    async def _circuit(self, target: str) -> CircuitState:
        for state in await self._p.guard.hot.circuits():
            if state.target == target:
                return state
        return CircuitState(target=target)

    async def _set_circuit(self, wanted: CircuitState, before: CircuitState) -> CircuitState:
        after = await self._p.guard.hot.set_circuit(wanted, expected_version=before.version)
        if after is None:
            raise Conflict(
                f"The circuit of {wanted.target} changed at this moment.",
                hint="Look at list_circuits and call again if it is still needed.",
            )
        return after

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


def _allowed_by_a_person() -> bool:
    passage = current.get(None)
    return passage is not None and (
        passage.consent.how == "approve" or passage.consent.record == "shadow"
    )


def _not_before(
    ends: float | None, mode: Mode, scope: str, entries: tuple[ModeEntry, ...]
) -> float | None:
    """An agent's stricter mode holds at least as long as the one whose place it takes: a short
    lockdown must not end a long restriction."""
    for entry in entries:
        mine = entry.scope == scope and entry.source == "agent"
        if mine and at_least_as_strict(mode, entry.mode) and ends is not None:
            return None if entry.expires_at is None else max(ends, entry.expires_at)
    return ends


def _isolated_by_operator(circuit: CircuitState) -> bool:
    return circuit.phase is CircuitPhase.ISOLATED and circuit.by.startswith(_OPERATOR)
