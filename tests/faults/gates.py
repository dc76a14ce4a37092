"""Gates before a stand-in: a request is held before it has its effect, or before its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.faults.commands import Commands
from tests.faults.stage import Stage
from tests.faults.writes import writing_of
from tests.kubernetes_lab import Fault, broken


@dataclass(kw_only=True)
class Gate:
    """One request that stands still: `arrived` once it is there, until `released`. One that comes
    late is through when it has `passed`."""

    arrived: anyio.Event = field(default_factory=anyio.Event)
    released: anyio.Event = field(default_factory=anyio.Event)
    passed: anyio.Event = field(default_factory=anyio.Event)

    async def reached(self, *, within_s: float = 90.0) -> None:
        """Wait until a request stands at the gate."""
        with anyio.fail_after(within_s):
            await self.arrived.wait()

    async def stand(self) -> None:
        """Stand still."""
        self.arrived.set()
        await self.released.wait()

    def before(self) -> Fault:
        """Hold the request before the target has acted."""

        async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            await self.stand()
            await app(scope, receive, send)

        return fault

    def lost(self) -> Fault:
        """Hold the request; it never comes to the target."""

        async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            await self.stand()
            await broken(app, scope, receive, send)

        return fault

    def late(self) -> Fault:
        """Hold the whole request, which comes to the target although whoever sent it is gone."""

        async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            left = [await receive()]
            while left[-1].get("more_body"):
                left.append(await receive())

            async def again() -> Message:
                return left.pop(0) if left else await receive()

            async def nobody(_message: Message) -> None:
                return None

            await self.stand()
            try:
                await app(scope, again, nobody)
            finally:  # a program that was ended comes no more
                self.passed.set()

        return fault

    def after(self) -> Fault:
        """Let the target act, and hold its answer."""

        async def fault(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            said: list[Message] = []

            async def keep(message: Message) -> None:
                said.append(message)

            await app(scope, receive, keep)
            await self.stand()
            for message in said:
                await send(message)

        return fault


def hold_restart(stage: Stage, name: str, *, after: bool = False) -> Gate:
    """The write of that name stands still before the target acts, or after it has."""
    return hold(stage, name, Gate.after if after else Gate.before)


def hold(stage: Stage, name: str, how: Callable[[Gate], Fault]) -> Gate:
    """The request of that write meets a gate."""
    gate = Gate()
    writing = writing_of(name)
    commands = stage.local.get(writing.part)
    if how is Gate.after and isinstance(commands, Commands) and commands.stands(name, gate):
        return gate
    between, request = stage.between[writing.part], writing.requests(name)
    between.inject(*request, how(gate))
    return gate


def hold_look(stage: Stage, name: str) -> Gate:
    """The next look at a workload stands still."""
    gate = Gate()
    stage.between["cluster"].inject("GET", f"/deployments/{name}", gate.before())
    return gate
