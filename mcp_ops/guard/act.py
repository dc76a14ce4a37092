"""Act: hand a tool what it works on, run it under its deadline, tell the circuit how it went."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import anyio

from mcp_ops.call import Call
from mcp_ops.capabilities.base import Effect, Result
from mcp_ops.errors import (
    DeadlineExceeded,
    Health,
    OpsError,
    RefusalCode,
    StoreUnavailable,
    UpstreamTimeout,
)
from mcp_ops.guard.bulkhead import rest
from mcp_ops.guard.consent import Consent
from mcp_ops.guard.operations import Running
from mcp_ops.guard.record import Frame
from mcp_ops.guard.seen import Sight, same
from mcp_ops.guard.targets import TargetInfo, Targets, View
from mcp_ops.guard.telemetry import stage
from mcp_ops.heard import listening
from mcp_ops.ports import OWN_TARGET, CircuitPolicy, HotStore
from mcp_ops.redact import Redactor
from mcp_ops.tool import WRITE_FIELDS, OneRun, Steps, Write

_log = logging.getLogger("mcp_ops.guard")

T = TypeVar("T")
SubCall = Callable[[str, Effect, Callable[[Any], Awaitable[Any]], type], Awaitable[Any]]
Retry = Callable[[Callable[[], Awaitable[Result]]], Awaitable[Result]]
MakePort = Callable[[type, Call], Any]
MakeSteps = Callable[[Call, Running], Steps]
Tell = Callable[..., Awaitable[None]]
Reaches = Callable[[Call, list[RefusalCode], Sequence[str] | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A call on its way: what sub-calls and reruns inherit. `overlooked` is what shadow mode let
    pass of it."""

    call: Call
    frame: Frame
    consent: Consent
    overlooked: list[RefusalCode] = field(default_factory=list)


# The call that the current task works for: a sub-call belongs to it.
current: ContextVar[Passage] = ContextVar("mcp_ops_passage")


class Passing:
    """What a call has taken, with the call as the current one. Each call enters one: a generator
    would cost twice as much."""

    __slots__ = ("_passage", "_taken", "_token")

    def __init__(self, passage: Passage, taken: AbstractAsyncContextManager[None]) -> None:
        self._passage = passage
        self._taken = taken

    async def __aenter__(self) -> None:
        self._token = current.set(self._passage)
        try:
            await self._taken.__aenter__()
        except BaseException:
            current.reset(self._token)
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        try:
            return await self._taken.__aexit__(exc_type, exc_val, exc_tb)
        finally:
            current.reset(self._token)


def allowed_by_a_person() -> bool:
    """Whether a person approved the current call, or shadow mode lets everything pass."""
    passage = current.get(None)
    return passage is not None and (
        passage.consent.how == "approve" or passage.consent.record == "shadow"
    )


class Link:
    """A linked target in the hands of a tool: each use is a sub-call through the guard."""

    def __init__(self, name: str, capability: type, sub_call: SubCall) -> None:
        self._name = name
        self._capability = capability
        self._sub_call = sub_call

    @property
    def name(self) -> str:
        """The linked target's name."""
        return self._name

    async def use(
        self, action: Callable[[Any], Awaitable[T]], *, effect: Effect = Effect.READ
    ) -> T:
        """Run one action on the linked target."""
        result: T = await self._sub_call(self._name, effect, action, self._capability)
        return result


class Attempt:
    """A deadline around one attempt at a target, whose circuit learns the outcome.

    A timeout counts only where the target gave no byte: a long log that is still arriving must not
    open the circuit for writes. Each call enters one: a generator would cost twice as much.
    """

    __slots__ = ("_deadline_s", "_limit", "_probe", "_signs", "_stage", "_target", "_tell")

    def __init__(self, tell: Tell, target: str, *, deadline_s: float, probe: bool) -> None:
        self._tell = tell
        self._target = target
        self._deadline_s = deadline_s
        self._probe = probe
        self._stage = stage("run", target)
        self._signs = listening()

    async def __aenter__(self) -> None:
        self._stage.__enter__()
        self._signs.__enter__()
        # What fail_after does, without its two generators, by the clock of anyio's scopes.
        ends = asyncio.get_running_loop().time() + self._deadline_s
        self._limit = anyio.CancelScope(deadline=ends)
        self._limit.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Raises `DeadlineExceeded` where the deadline ended it."""
        self._limit.__exit__(exc_type, exc_val, exc_tb)
        self._signs.__exit__()
        if self._limit.cancelled_caught:
            exc_type, exc_val, exc_tb = None, None, None
        self._stage.__exit__(exc_type, exc_val, exc_tb)
        late = self._limit.cancelled_caught or isinstance(exc_val, TimeoutError)
        health, error = Health.UNTOUCHED, ""
        if late:
            health, error = _unless(Health.FAILED, slow=self._signs.heard), "timeout"
        elif exc_val is None:
            health = Health.ANSWERED
        elif isinstance(exc_val, OpsError) and exc_val.blamed in ("", self._target):
            exc_val.blamed = self._target
            slow = self._signs.heard and isinstance(exc_val, UpstreamTimeout)
            health = _unless(exc_val.health, slow=slow)
            error = f"{exc_val.code}: {exc_val.message}"
        if self._target and self._target != OWN_TARGET:
            await self._tell(self._target, health, error, probe=self._probe)
        if late:
            raise DeadlineExceeded(
                f"{self._target or 'The server'} gave no answer within {self._deadline_s:g} s.",
                hint="Look at the target's state before trying again.",
            ) from None


class Actor:
    """Runs tools on the targets."""

    def __init__(
        self,
        *,
        targets: Targets,
        hot: HotStore,
        circuit: CircuitPolicy,
        make_port: MakePort,
        sub_call: SubCall,
        redactor: Redactor,
        steps: MakeSteps,
        reaches: Reaches,
    ) -> None:
        self._steps = steps
        self._reaches = reaches
        self._targets = targets
        self._hot = hot
        self._circuit = circuit
        self._make_port = make_port
        self._sub_call = sub_call
        self._redactor = redactor

    async def act(
        self,
        call: Call,
        frame: Frame,
        *,
        deadline_s: float,
        running: Running | None,
        probe: bool,
        retry: Retry | None = None,
    ) -> Result:
        """Call the tool's function. Raises what the adapter raised, or `DeadlineExceeded`.

        `retry` may call it again within the deadline: to the circuit that is one call.
        """
        arguments = {
            name: value for name, value in vars(call.arguments).items() if name not in WRITE_FIELDS
        }
        if call.tool.write_parameter:
            arguments[call.tool.write_parameter] = self._write(call, running)
        for parameter, capability in call.tool.links.items():
            arguments[parameter] = self._link(call, parameter, capability)
        for parameter, port in call.tool.ports.items():
            arguments[parameter] = self._make_port(port, call)
        async with self.attempt(call.target, deadline_s=deadline_s, probe=probe):

            async def once() -> Result:
                return await call.tool.function(await self._inject(call, frame), **arguments)

            return await (once() if retry is None else retry(once))

    def attempt(self, target: str, *, deadline_s: float, probe: bool) -> Attempt:
        """A deadline around one attempt at a target, whose circuit learns the outcome."""
        return Attempt(self._tell, target, deadline_s=deadline_s, probe=probe)

    async def _tell(self, target: str, health: Health, error: str, *, probe: bool) -> None:
        """Tell the circuit. A store that fails now must not hide how the call itself ended."""
        with anyio.CancelScope(shield=True), stage("circuit", target):
            try:
                await self._hot.record(
                    target,
                    health,
                    error=self._redactor.text(error),
                    probe=probe,
                    policy=self._circuit,
                )
            except StoreUnavailable as unavailable:
                _log.error("the circuit of %s was not told: %s", target, unavailable.message)

    async def view(self, info: TargetInfo, capability: type, effect: Effect, frame: Frame) -> View:
        """A capability of a target, for one call."""
        adapter = await self._targets.adapter(info.name)
        return View(adapter, capability, effect, frame)

    def _write(self, call: Call, running: Running | None) -> Write:
        steps = self._steps(call, running) if running and call.tool.resumable else OneRun()
        passage = current.get()
        consent = passage.consent
        return Write(
            reason=call.reason,
            dry_run=call.dry_run,
            call_id=call.id,
            principal=call.caller.principal,
            progress=running.progress if running else _no_progress,
            cancelled=(lambda: running.cancelled) if running else _never,
            pause=rest,
            steps=steps,
            pinned=consent.pinned,
            approved=lambda state: same(state, consent.seen),
            saw=(consent.sight or Sight()).tell,
            reaches=partial(self._reaches, call, passage.overlooked),
        )

    async def _inject(self, call: Call, frame: Frame) -> Any:
        if call.tool.own:
            return self._make_port(call.tool.capability, call)
        info = self._targets.info(call.target)
        return await self.view(info, call.tool.capability, call.effect, frame)

    def _link(self, call: Call, parameter: str, capability: type) -> Link | None:
        info = self._targets.info(call.target)
        linked = info.links.get(parameter)
        return Link(linked, capability, self._sub_call) if linked else None


def _unless(health: Health, *, slow: bool) -> Health:
    return Health.UNTOUCHED if slow else health


def _no_progress(_done: int, _total: int, _message: str) -> None:
    return None


def _never() -> bool:
    return False
