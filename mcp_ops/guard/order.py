"""The order of the guard: the way of every call, on one screen.

frame     the ledger record is open (server.py opens it before parsing)
replay    the same write was done or runs: its outcome is the answer
checks    pure functions over one snapshot, in the order of the refusals' codes
approval  where the policy asks for one
take      limits, budgets, the circuit's probe, a place at the target, a deadline
run       reads are shared and retried; writes run once, in a task of their own
settle    outcome to the circuit, evidence to the ledger, the answer redacted and cut
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from mcp_ops.call import Call, new_id
from mcp_ops.capabilities.base import Effect, Result
from mcp_ops.clock import Clock
from mcp_ops.errors import Internal, RefusalCode
from mcp_ops.failed import FailedOperations
from mcp_ops.guard import settle
from mcp_ops.guard.act import Actor, MakePort, Passage, Passing, current
from mcp_ops.guard.approval import Approver
from mcp_ops.guard.bulkhead import Bulkheads
from mcp_ops.guard.consent import Consent
from mcp_ops.guard.freeze import Freezes
from mcp_ops.guard.gate import Gate
from mcp_ops.guard.modes import (
    CHECKS_OF_STATE,
    applying,
    effective,
    shortened,
    with_limit,
)
from mcp_ops.guard.operations import Operations, Running
from mcp_ops.guard.plan import Plan, Planner
from mcp_ops.guard.policy import Policy
from mcp_ops.guard.reads import Reads
from mcp_ops.guard.record import Frame, open_frame
from mcp_ops.guard.runaway import Runaway
from mcp_ops.guard.targets import Targets
from mcp_ops.guard.telemetry import call_span, stage
from mcp_ops.guard.writes import Writes
from mcp_ops.ports import (
    OWN_TARGET,
    Admission,
    CircuitPolicy,
    HotStore,
    Mode,
)
from mcp_ops.questions import Approvals
from mcp_ops.records import Budget, Ledger, Operation
from mcp_ops.redact import Redactor
from mcp_ops.settings import GuardSettings, PolicyRule


class Guard:
    """Every call passes `run`; nothing reaches an adapter round it."""

    def __init__(
        self,
        *,
        settings: GuardSettings,
        rules: tuple[PolicyRule, ...],
        targets: Targets,
        hot: HotStore,
        ledger: Ledger,
        approvals: Approvals,
        failed: FailedOperations,
        clock: Clock,
        redactor: Redactor,
        operations: Operations,
        make_port: MakePort,
        approver_keys: Container[str] | None = None,
    ) -> None:
        self.settings = settings
        self.policy = Policy(rules, settings.profile)
        self.targets = targets
        self.hot = hot
        self.clock = clock
        self.redactor = redactor
        self.bulkheads = Bulkheads(targets)
        self.circuit_policy = CircuitPolicy(
            consecutive=settings.circuit.threshold,
            ratio=settings.circuit.ratio,
            minimum_calls=settings.circuit.minimum_calls,
            window_s=settings.circuit.window_s,
            open_s=settings.circuit.open_s,
        )
        self.freezes = Freezes(settings.freeze, clock)
        self.planner = Planner(
            limits=settings.limits,
            circuit=self.circuit_policy,
            policy=self.policy,
            targets=targets,
            hot=hot,
            freezes=self.freezes,
        )
        self._ledger = ledger
        self._gate = Gate(
            settings=settings,
            planner=self.planner,
            hot=hot,
            ledger=ledger,
            clock=clock,
            bulkheads=self.bulkheads,
        )
        self._runaway = Runaway(
            hot=hot, ledger=ledger, clock=clock, most=settings.limits.runaway_refusals
        )
        self._approver = Approver(
            approvals,
            clock,
            redactor,
            ledger=ledger,
            targets=targets,
            rehearse=self._rehearse,
            keys=approver_keys,
        )
        self._reads = Reads(
            clock, attempts=settings.limits.read_attempts, cache=settings.cache.tools
        )
        self._actor = Actor(
            targets=targets,
            hot=hot,
            circuit=self.circuit_policy,
            make_port=make_port,
            sub_call=self.sub_call,
            redactor=redactor,
            steps=operations.steps,
            reaches=self._gate.reaches,
        )
        self._writes = Writes(
            operations=operations,
            ledger=ledger,
            failed=failed,
            clock=clock,
            redactor=redactor,
            wait_s=settings.limits.write_wait_s,
        )

    @property
    def shadow_refusals(self) -> int:
        """How many calls were let pass that would have been refused, since the start."""
        return self._gate.shadow_refusals

    async def run(self, call: Call, frame: Frame) -> dict[str, Any]:
        """The call's answer. Raises `OpsError`, or `NeedsAnswer` when it ends in a question."""
        frame.know(call)
        with call_span(call):
            if call.effect is Effect.READ:
                return await self._read(call, frame)
            replayed = await self._writes.replay(call)
            if replayed is not None:
                frame.close("ok", code="replayed", outcome=str(replayed.get("outcome", "")))
                return replayed
            async with self._runaway.watching(call):
                plan = await self._gate.plan(call)
                frame.policy = plan.decision.rule
                if not self._asks_nobody(plan):
                    await self._gate.look(plan)
                consent = await self._consent(plan)
                return await self._writes.run(
                    call, frame, lambda running: self._write(plan, consent, frame, running)
                )

    async def _read(self, call: Call, frame: Frame) -> dict[str, Any]:
        plan = await self._gate.plan(call)
        frame.policy = plan.decision.rule
        consent = Consent(how="none", record=plan.decision.rule)
        if plan.decision.require != "none":
            await self._gate.look(plan)
            consent = await self._consent(plan)
        admission, _ = await self._gate.admit(plan)
        cached = self._cached(plan, admission)
        if cached is not None:
            await self.hot.give_back(plan.request, admission)
            frame.close("ok", code="cached")
            return cached
        async with self._passage(plan, consent, frame, admission):
            await self._approver.redeem(consent, call, plan.decision)
            if admission.probe:  # one attempt of its own: it is the circuit's question
                data = await self._ask(plan, frame, admission)
            else:
                data = await self._reads.share(
                    call,
                    lambda: self._ask(plan, frame, admission),
                    metered=plan.info is not None and plan.info.metered,
                    within_s=self._read_s(call),
                )
        frame.close("ok")
        return data

    async def _ask(self, plan: Plan, frame: Frame, admission: Admission) -> dict[str, Any]:
        principal = plan.call.caller.principal
        call = shortened(plan.call, applying(admission.modes, plan.request.target, principal))
        ends = self.clock.monotonic() + self._read_s(call)
        retry = partial(self._reads.retry, plan.request.target)
        asked_again = 0
        while True:
            result = await self._actor.act(
                call,
                frame,
                deadline_s=max(0.05, ends - self.clock.monotonic()),
                running=None,
                probe=admission.probe,
                retry=None if admission.probe else retry,
            )
            try:
                return self._settled(call, result, ask_again="limit" in call.tool.fields)
            except settle.TooLarge as page:
                asked_again += 1
                call = with_limit(call, page.fitting if asked_again < _PAGES else 1)

    async def _write(
        self, plan: Plan, consent: Consent, frame: Frame, running: Running
    ) -> dict[str, Any]:
        call = plan.call
        admission, room = await self._gate.admit(plan)
        async with (
            self._passage(plan, consent, frame, admission),
            self._reads.changing(call.target),
        ):
            budgets = plan.budgets if room else ()
            holder = await self._begin(plan, consent, frame, running, budgets)
            if holder is not None:
                await self.hot.give_back(plan.request, admission)
                return holder
            result = await self._actor.act(
                call,
                frame,
                deadline_s=call.tool.timeout_s,
                running=running,
                probe=admission.probe,
            )
        return self._settled(call, result)

    async def _begin(
        self,
        plan: Plan,
        consent: Consent,
        frame: Frame,
        running: Running,
        budgets: tuple[Budget, ...],
    ) -> dict[str, Any] | None:
        """The durable intent; the answer of who holds the key already. A resumed write has one."""
        if running.began:
            return None
        return await self._writes.begin(
            plan.call,
            frame.began(policy=plan.decision.rule, approval=consent.record),
            running,
            budgets=budgets,
            approval=consent.redemption(plan.call, plan.decision),
        )

    def _settled(self, call: Call, result: Result, *, ask_again: bool = False) -> dict[str, Any]:
        """The answer: redacted, cut, stamped."""
        with stage("settle", call.target):
            return settle.settle(
                result,
                target=call.target or call.about or OWN_TARGET,
                at=self.clock.now(),
                redactor=self.redactor,
                limit_bytes=self.settings.limits.result_bytes,
                ask_again=ask_again,
            )

    async def sub_call(
        self,
        target: str,
        effect: Effect,
        action: Callable[[Any], Awaitable[Any]],
        capability: type,
    ) -> Any:
        """One action of the current call on a further target: that target's modes, limits and
        circuit apply; approval, budgets and the record are the call's own."""
        passage = current.get()
        if _RANK[effect] > _RANK[passage.call.effect]:
            raise Internal(f"A {passage.call.effect} may not {effect} on {target}.")
        info = self.targets.info(target)
        parent = passage.call
        call = replace(
            parent,
            id=new_id(),
            target=target,
            about="",
            parent=parent.id,
            approved_by=parent.id,
            # Which target needs which is the operator's word: who reaches one needs no more.
            caller=replace(parent.caller, reach=()),
            tool=replace(
                parent.tool, effect=effect, capability=capability, bulk=False, destroys_when={}
            ),
            dry_run=False,
        )
        plan = await self._gate.plan(call, info=info, sub=True)
        admission, _ = await self._gate.admit(plan)
        # A write may be half done when a shorter deadline than its own ends it.
        reading = effect is Effect.READ
        deadline = self.settings.limits.read_timeout_s if reading else parent.tool.timeout_s
        async with (
            self._gate.taken(plan, admission, place=not self.bulkheads.holds(parent.target, info)),
            nullcontext() if reading else self._reads.changing(target),
            self._actor.attempt(target, deadline_s=deadline, probe=admission.probe),
        ):
            return await action(await self._actor.view(info, capability, effect, passage.frame))

    async def _rehearse(self, call: Call, frame: Frame, consent: Consent) -> Result:
        """The dry run of a call that a person is asked about, on the way of a read.

        Its principal gets back what it cost, unless the target's answer ends the call: calls that
        always end so are no way to ask a target without end.
        """
        plan = await self._gate.plan(call)
        admission, _ = await self._gate.admit(plan)
        deadline = self.settings.limits.read_timeout_s
        async with self._passage(plan, consent, frame, admission):
            result = await self._actor.act(
                call, frame, deadline_s=deadline, running=None, probe=admission.probe
            )
        await self._gate.spare(plan, admission)
        return result

    def _asks_nobody(self, plan: Plan) -> bool:
        return self._approver.asks_nobody(
            plan.call, plan.decision, confirm_fallback=self.settings.confirm_fallback
        )

    async def _consent(self, plan: Plan) -> Consent:
        if self.settings.enforcement == "shadow":
            if plan.decision.require == "approve":
                self._gate.overlook(plan, RefusalCode.APPROVAL_REQUIRED)
            return Consent(how="none", record="shadow")
        with stage("approval", plan.request.target):
            return await self._approver.obtain(
                plan.call, plan.decision, confirm_fallback=self.settings.confirm_fallback
            )

    async def resume(self, call: Call, operation: Operation, consent: Consent) -> None:
        """Go on with a write whose process was lost, in a task of its own.

        Its budgets and its approval were used when it began; everything else is asked again.
        """
        frame = open_frame(call, ledger=self._ledger, redactor=self.redactor, clock=self.clock)

        async def body(running: Running) -> dict[str, Any]:
            plan = replace(await self._gate.plan(call), budgets=())
            return await self._write(plan, consent, frame, running)

        await self._writes.go_on(call, frame, body, operation)

    def _passage(
        self, plan: Plan, consent: Consent, frame: Frame, admission: Admission
    ) -> AbstractAsyncContextManager[None]:
        taken = self._gate.taken(plan, admission, reached=lambda: frame.upstream_calls > 0)
        passage = Passage(call=plan.call, frame=frame, consent=consent, overlooked=plan.overlooked)
        return Passing(passage, taken)

    def _cached(self, plan: Plan, admission: Admission) -> dict[str, Any] | None:
        if plan.info is None:
            return None
        restrictive = (
            plan.info.metered
            and plan.call.tool.capability not in CHECKS_OF_STATE
            and effective(admission.modes, plan.info.name, plan.call.caller.principal)
            is Mode.RESTRICTIVE
        )
        return self._reads.recall(plan.call, restrictive=restrictive)

    def _read_s(self, call: Call) -> float:
        limits = self.settings.limits
        deadline = limits.bulk_timeout_s if call.tool.bulk else limits.read_timeout_s
        return min(deadline, call.tool.timeout_s)


_PAGES = 3  # a page that is too large is asked for again so often; then item by item
_RANK = {Effect.READ: 0, Effect.WRITE: 1, Effect.DESTROY: 2}
