"""Writes: once for one key; intent durable before the target, end durable before the answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import orjson

from mcp_ops.call import Call
from mcp_ops.clock import Clock, rfc3339
from mcp_ops.errors import (
    Failed,
    Internal,
    OpsError,
    RefusalCode,
    Refused,
    StoreUnavailable,
    Upstream,
)
from mcp_ops.failed import FailedOperation, FailedOperations
from mcp_ops.guard import resume
from mcp_ops.guard.asking import used_up
from mcp_ops.guard.checks import spent
from mcp_ops.guard.operations import LEASE_S, Operations, Running, pinned_by
from mcp_ops.guard.record import Frame, verdict_of
from mcp_ops.guard.settle import clean
from mcp_ops.guard.telemetry import stage
from mcp_ops.questions import Redemption
from mcp_ops.records import Budget, Entry, Ledger, Operation
from mcp_ops.redact import Redactor
from mcp_ops.tool import Interrupted

_REPLAYED = "This is the recorded answer; to run it again pass a new idempotency_key."
_CUT_OFF = "The server was stopped while it waited for the end of this write."
_log = logging.getLogger("mcp_ops.guard")


class Writes:
    """Replays, records and answers writes."""

    def __init__(
        self,
        *,
        operations: Operations,
        ledger: Ledger,
        failed: FailedOperations,
        clock: Clock,
        redactor: Redactor,
        wait_s: float,
    ) -> None:
        self._operations = operations
        self._ledger = ledger
        self._failed = failed
        self._clock = clock
        self._redactor = redactor
        self._wait_s = wait_s

    async def replay(self, call: Call) -> dict[str, Any] | None:
        """The answer of the same write, if it was done or runs; None when it is new.

        A change of the guard itself is a step on local state that is looked at again each time:
        only an explicit key makes it replay.
        """
        if call.tool.own and not call.idempotency_key:
            return None
        running = self._operations.find(call.operation_key)
        if running is not None:
            return await self._join(running, call)
        with stage("replay", call.target):
            operation = await self._ledger.find_operation(call.operation_key)
        return None if operation is None else self._recorded(operation, call)

    async def _join(self, running: Running, call: Call) -> dict[str, Any]:
        _same(running.digest, call)
        data = await self._operations.wait(running, call.caller, self._wait_s)
        return {**(data or self._handle(call, running.id)), "replayed": True}

    async def run(
        self,
        call: Call,
        frame: Frame,
        body: Callable[[Running], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        """Run a write in its own task and wait for it, at most as long as configured."""

        async def whole(running: Running) -> dict[str, Any]:
            with stage("operation", call.target):  # may outlast the call's own span
                return await self._whole(call, frame, body, running)

        earlier = self._operations.find(self._key(call))
        if earlier is not None:  # it began while this one was being asked about
            data = await self._join(earlier, call)
            frame.close("ok", code="replayed", outcome=str(data.get("outcome", "")))
            return data
        frame.detached = True
        running = self._operations.start(call, self._key(call), whole)
        answer = await self._operations.wait(running, call.caller, self._wait_s)
        return answer if answer is not None else self._handle(call, running.id)

    async def go_on(
        self,
        call: Call,
        frame: Frame,
        body: Callable[[Running], Awaitable[dict[str, Any]]],
        taken: Operation,
    ) -> None:
        """Start a write again whose process was lost; its end is recorded under the same id."""

        async def whole(running: Running) -> dict[str, Any]:
            return await self._whole(call, frame, body, running)

        self._operations.start(call, taken.key, whole, taken_over=taken)

    async def begin(
        self,
        call: Call,
        entry: Entry,
        running: Running,
        *,
        budgets: tuple[Budget, ...],
        approval: Redemption | None,
    ) -> dict[str, Any] | None:
        """Make the intent durable, claim the key, charge budgets and use the approval, in one
        step; the answer of the key's holder if there is one. Raises `Refused`."""
        now = self._clock.now()
        operation = Operation(
            id=call.id,
            key=self._key(call),
            digest=call.digest,
            principal=call.caller.principal,
            tool=call.tool.name,
            target=call.target or call.about,
            state="running",
            started_at=now,
            lease_until=now + LEASE_S,
            owner=self._operations.owner,
            resume=resume.kept(call, approval=entry.approval) if call.tool.resumable else "",
        )
        with stage("begin", call.target):
            begun = await self._ledger.begin(entry, operation, budgets=budgets, approval=approval)
        if begun.holder is not None:
            return self._recorded(begun.holder, call)
        if not begun.claimed:
            refusal = spent(begun.budgets, now)
            raise refusal or used_up(approval.approval_id if approval else "")
        running.began = True
        return None

    def _key(self, call: Call) -> str:
        unkeyed = call.tool.own and not call.idempotency_key
        return f"{call.operation_key}|{call.id}" if unkeyed else call.operation_key

    async def _whole(
        self,
        call: Call,
        frame: Frame,
        body: Callable[[Running], Awaitable[dict[str, Any]]],
        running: Running,
    ) -> dict[str, Any]:
        try:
            data = await body(running)
        except Interrupted:
            with anyio.CancelScope(shield=True):
                await self._hand_over(frame, running)
            return self._handle(call, running.id)
        except OpsError as error:
            with anyio.CancelScope(shield=True):
                data = await self._failed_write(call, frame, running, error)
            return data
        except BaseException as stopped:
            defect = isinstance(stopped, Exception)
            with anyio.CancelScope(shield=True):
                await self._stopped(call, frame, running, defect=defect)
            if not defect:  # the server is closed, and has waited for it as long as it could
                raise
            # A defect of ours must not take the other writes of the task group with it.
            _log.exception("defect in %s", call.tool.name, extra={"call_id": call.id})
            raise Internal(
                "mcp-ops failed inside; the write may have run.",
                hint=f"The operator finds the cause in the log under {call.id}.",
            ) from stopped
        if not running.began:
            frame.close("ok", code="replayed", outcome=str(data.get("outcome", "")))
            return data
        with anyio.CancelScope(shield=True):
            data = await self._end(call, frame, running, data)
        return data

    async def _stopped(self, call: Call, frame: Frame, running: Running, *, defect: bool) -> None:
        """End a write that a defect of ours or the end of the server stopped in the middle.

        At the end of the server, one of many steps goes on as if its process had been killed: when
        its lease is over, for what was sent may still arrive.
        """
        code, why = ("internal_error", "") if defect else ("cancelled", _CUT_OFF)
        if not running.began:
            frame.close("error" if defect else "failed", code=code)
        elif call.tool.resumable and not defect:
            frame.closed = True
        else:
            await self._end_unknown(call, frame, running, code, why)

    async def _hand_over(self, frame: Frame, running: Running) -> None:
        """Leave a write of many steps to the next process: its lease ends now, its record stays
        open. One that is fenced belongs to another already."""
        frame.closed = True
        await self._operations.release(running)  # first: the next one needs tokens of its own
        if not running.fenced:
            await self._operations.keep(running, lease_s=0)

    async def _end(
        self, call: Call, frame: Frame, running: Running, data: dict[str, Any]
    ) -> dict[str, Any]:
        outcome = str(data["outcome"])
        data = {**data, "audit_id": call.id}
        entry = frame.ended(
            "unknown" if outcome == "unknown" else "ok" if outcome != "failed" else "failed",
            outcome=outcome,
            evidence=data.get("evidence", {}),
        )
        # What found nothing to do is looked at again the next time: it may be otherwise then.
        idle = outcome == "verified" and not frame.had_effect and running.fence == 1
        keep = not idle or bool(call.idempotency_key) or call.tool.own
        await self._ended(entry, self._done(call, running, outcome, data), running, keep=keep)
        return data

    async def _ended(
        self, entry: Entry, operation: Operation, running: Running, *, keep: bool = True
    ) -> None:
        """Make the end durable. If the store takes it not, the write has still been sent."""
        try:
            with stage("end", operation.target):
                await self._ledger.end(entry, operation, keep=keep)
            await self._unpin(operation, running)
        except StoreUnavailable as error:
            # One of our own: the store may tell all calls of a batch the same one.
            sent = StoreUnavailable(error.message, hint=error.hint)
            sent.executed = "unknown"
            raise sent from error

    async def _unpin(self, operation: Operation, running: Running) -> None:
        """Forget what a write worked on, unless another process has taken it over."""
        if operation.resume and not running.fenced:
            await self._ledger.put_fact(pinned_by(operation.id), "")

    async def _failed_write(
        self, call: Call, frame: Frame, running: Running, error: OpsError
    ) -> dict[str, Any]:
        """A write that raised: freed when nothing was executed, else its outcome is unknown."""
        if not running.began:
            frame.close(verdict_of(error), code=error.code)
            raise error
        ours = isinstance(error, Refused | StoreUnavailable)  # a target's no is the tool's to judge
        if error.executed == "no" and ((ours and frame.had_effect) or running.fence > 1):
            # What stopped it executed nothing; the steps before it, maybe of a lost process, did.
            return await self._end_unknown(call, frame, running, error.code, error.message)
        if error.executed == "unknown" and isinstance(error, Upstream):
            return await self._end_unknown(call, frame, running, error.code, error.message)
        unknown = error.executed == "unknown"
        outcome = "unknown" if unknown else "failed"
        entry = frame.ended(verdict_of(error), code=error.code, outcome=outcome)
        operation = self._done(call, running, outcome, _lost(call, self._clock))
        with stage("end", call.target):
            await self._ledger.end(entry, operation, keep=unknown)
        with suppress(StoreUnavailable):  # how it ended is recorded
            await self._unpin(operation, running)
        if isinstance(error, Failed):
            await self._keep_for_later(call, error)
        raise error

    async def _end_unknown(
        self, call: Call, frame: Frame, running: Running, code: str, why: str = ""
    ) -> dict[str, Any]:
        data = _lost(call, self._clock, why=self._redactor.text(why))
        entry = frame.ended("unknown", code=code, outcome="unknown")
        await self._ended(entry, self._done(call, running, "unknown", data), running)
        return data

    def _done(self, call: Call, running: Running, outcome: str, data: dict[str, Any]) -> Operation:
        now = self._clock.now()
        return Operation(
            id=call.id,
            key=self._key(call),
            digest=call.digest,
            principal=call.caller.principal,
            tool=call.tool.name,
            target=call.target or call.about,
            state="done" if outcome != "unknown" else "unknown",
            started_at=now,
            lease_until=now,
            ended_at=now,
            outcome=outcome,
            answer=orjson.dumps(data).decode(),
            progress=running.shown(),
            fence=running.fence,
            resume="resumable" if call.tool.resumable else "",
        )

    async def _keep_for_later(self, call: Call, error: Failed) -> None:
        """A write that failed without effect waits in the embedded dead-letter queue."""
        if call.tool.own or call.parent or call.tool.sensitive:
            return
        arguments = call.arguments.model_dump()
        if clean(arguments, self._redactor) != arguments:
            return  # they would lie in the queue as they are
        await self._failed.add(
            FailedOperation(
                id=call.id,
                operation=call.tool.name,
                failure_type=error.code,
                error=self._redactor.text(error.message),
                target=call.target,
                principal=call.caller.principal,
                arguments=arguments,
                failed_at=self._clock.now(),
            )
        )

    def _recorded(self, operation: Operation, call: Call) -> dict[str, Any]:
        _same(operation.digest, call)
        if operation.state == "running":
            return {**self._handle(call, operation.id), "replayed": True}
        answer = orjson.loads(operation.answer) if operation.answer else {}
        known = answer or _lost(call, self._clock, audit_id=operation.id)
        # The same call is answered from the record, however the target changed meanwhile.
        plan = known.get("plan") or [_REPLAYED]
        return {**known, "plan": plan, "replayed": True}

    def _handle(self, call: Call, operation_id: str) -> dict[str, Any]:
        return {
            "outcome": "in_progress",
            "operation_id": operation_id,
            "audit_id": operation_id,
            "target": call.target or call.about,
            "observed_at": rfc3339(self._clock.now()),
            "next_steps": [
                {
                    "tool": "get_operation",
                    "arguments": {"operation_id": operation_id},
                    "why": "The write goes on; ask for its end.",
                }
            ],
        }


def _same(digest: str, call: Call) -> None:
    if digest != call.digest:
        raise Refused(
            RefusalCode.IDEMPOTENCY_CONFLICT,
            "This idempotency_key was used for a call with other arguments.",
            hint="Pass a new key for a new intention.",
        )


def _lost(call: Call, clock: Clock, *, why: str = "", audit_id: str = "") -> dict[str, Any]:
    return {
        "outcome": "unknown",
        "target": call.target or call.about,
        "observed_at": rfc3339(clock.now()),
        "audit_id": audit_id or call.id,
        "problem": why or "The write was sent, and its end is not known.",
        "plan": ["Look at the target before you try again; a repeat needs a new idempotency_key."],
    }
