"""What the server does by itself: health for probes, usage on a timer, retries of failed writes.

It passes the same guard, under a principal of its own, and may only read; a retry carries the
principal of the call that asked for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from mcp_ops.call import Call, Caller, digest_of, new_id, parse
from mcp_ops.capabilities.base import Effect
from mcp_ops.capabilities.deadletters import OperationAnswer
from mcp_ops.capabilities.guard import ComponentHealth, GuardControl, ServerHealth
from mcp_ops.capabilities.usage import GuardModeChange, UsageReading
from mcp_ops.errors import Failed, OpsError
from mcp_ops.failed import FailedOperation
from mcp_ops.guard.act import Passage, current
from mcp_ops.guard.consent import Consent
from mcp_ops.guard.health import HealthCheck
from mcp_ops.guard.order import Guard
from mcp_ops.guard.policy import covers
from mcp_ops.guard.record import Frame
from mcp_ops.guard.usage import UsageWatch
from mcp_ops.records import Ledger
from mcp_ops.tool import Tool

PROBE_AGE_S = 10.0
SERVER = Caller(principal="server:mcp-ops", scopes=frozenset({"ops:read"}), channel="cli")


def _without_questions(caller: Caller) -> Caller:
    """The caller as an item's rerun sees it. The client was asked about the retry as a whole; it
    cannot be asked within it, and what needs more than that yes waits for a person's approval."""
    asks = caller.ask is not None or caller.asks_by_result
    return replace(
        caller,
        ask=None,
        asks_by_result=False,
        answered=None,
        client_confirms=caller.client_confirms and not asks,
    )


class UsageOf:
    """The `UsageGuard` of one call: readings are of its target."""

    def __init__(self, watch: UsageWatch, target: str) -> None:
        self._watch = watch
        self._target = target

    async def usage_read(self, reading: UsageReading) -> GuardModeChange:
        """Let a reading change the target's mode."""
        return await self._watch.read(self._target, reading)


class Inside:
    """The server as a caller of its own guard."""

    caller = SERVER

    def __init__(
        self,
        *,
        guard: Guard,
        tools: Mapping[str, Tool],
        ledger: Ledger,
        usage: UsageWatch,
        health: HealthCheck,
    ) -> None:
        self._guard = guard
        self._tools = tools
        self._ledger = ledger
        self._usage = usage
        self._health = health
        self._probing = anyio.Lock()
        self._probed: tuple[float, ServerHealth] | None = None

    def usage_of(self, call: Call) -> UsageOf:
        """What check_api_usage gets."""
        return UsageOf(self._usage, call.target)

    async def read_usage(self, target: str) -> None:
        """Run check_api_usage by timer; raises what the guard or the target says.

        A target that is not configured any more keeps its mode in the file and is not asked.
        """
        if target not in self._guard.targets.names():
            return
        tool = self._tools["check_api_usage"]
        frame = self._frame(tool.name)
        call = parse(tool, {}, caller=SERVER, call_id=frame.call_id, targets=(target,))
        try:
            await self._guard.run(call, frame)
        except OpsError as error:
            frame.fail(error)
            raise
        finally:
            frame.abandon("failed", code="cancelled")

    async def components(self) -> list[ComponentHealth]:
        """The state of each target."""
        async with self._as_server("get_health"):
            return await self._health.components()

    async def health(self, control: GuardControl) -> ServerHealth:
        """The whole health, for the HTTP probe: asked anew at most every ten seconds, so that a
        stranger who probes cannot make us call the targets more often."""
        async with self._probing:
            now = self._guard.clock.monotonic()
            if self._probed is None or now - self._probed[0] > PROBE_AGE_S:
                async with self._as_server("get_health"):
                    self._probed = (now, await control.health())
            return self._probed[1]

    @property
    def last_health(self) -> ServerHealth | None:
        """What `health` found last."""
        return self._probed[1] if self._probed else None

    @property
    def usage_read(self) -> Mapping[str, float]:
        """The newest reading of each target's usage, in percent."""
        return self._usage.last

    async def rerun(self, item: FailedOperation) -> OperationAnswer:
        """Run a failed write again as its own tool, for the principal of the current call.

        Modes, limits, budgets and policy hold for it. The consent to the retry covers what needs
        no more than that; a destroy is never covered. Raises `Failed` when the end is unknown.
        """
        passage = current.get()
        tool = self._tools.get(item.operation)
        if tool is None or item.target not in self._guard.targets.names():
            return OperationAnswer(success=False, error="Its tool or target is not here any more.")
        frame = Frame(
            call_id=new_id(),
            tool=tool.name,
            caller=passage.call.caller,
            ledger=self._ledger,
            redactor=self._guard.redactor,
            clock=self._guard.clock,
        )
        try:
            call = self._again(tool, item, passage, frame.call_id)
            data = await self._guard.run(call, frame)
        except OpsError as error:
            frame.fail(error)
            if isinstance(error, Failed):
                raise
            return OperationAnswer(success=False, error=f"{error.code}: {error.message}")
        finally:
            if not frame.detached:
                frame.abandon("failed", code="cancelled")
        outcome = data.get("outcome", "")
        if outcome in ("unknown", "in_progress"):
            raise Failed("The end of the retried call is not known.", hint="Look at the target.")
        return OperationAnswer(success=outcome != "failed", error=str(data.get("problem", "")))

    def _again(self, tool: Tool, item: FailedOperation, passage: Passage, call_id: str) -> Call:
        raw = {**item.arguments, "target": item.target}
        # A retry is a new intention, under its own key: one key runs at most once.
        raw["idempotency_key"] = f"retry-{item.id}-{item.attempts}"
        raw["dry_run"] = False
        call = parse(
            tool,
            raw,
            caller=_without_questions(passage.call.caller),
            call_id=call_id,
            targets=(item.target,),
            parent=passage.call.id,
        )
        decision = self._guard.policy.decide(call, self._guard.targets.info(item.target))
        if call.wanted is Effect.DESTROY or not covers(decision.require, passage.consent.how):
            return call
        return replace(call, approved_by=passage.call.id)

    def _frame(self, tool: str) -> Frame:
        return Frame(
            call_id=new_id(),
            tool=tool,
            caller=SERVER,
            ledger=self._ledger,
            redactor=self._guard.redactor,
            clock=self._guard.clock,
        )

    @asynccontextmanager
    async def _as_server(self, name: str) -> AsyncIterator[None]:
        tool = self._tools[name]
        call = Call(
            id=new_id(),
            tool=tool,
            target="",
            arguments=tool.arguments(),
            caller=SERVER,
            digest=digest_of(name, "", {}),
        )
        consent = Consent(how="none", record="server")
        token = current.set(Passage(call=call, frame=self._frame(name), consent=consent))
        try:
            yield
        finally:
            current.reset(token)
