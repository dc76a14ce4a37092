"""The server in this process, on the same state, with a clock of its own.

So a run need not wait for a lease to pass, and replicas can disagree about the time. It is the
whole application as `mcp-ops serve` opens it; only the clock is another one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import orjson

from mcp_ops.app import App, open_app
from mcp_ops.call import Caller
from mcp_ops.clock import Clock, SystemClock
from mcp_ops.errors import UnknownTool
from mcp_ops.settings_file import load_settings
from tests.faults.agents import DEADLINE_S, WHY, Answer
from tests.faults.history import History
from tests.faults.stage import Stage
from tests.faults.writes import writing_of

# The lease of an operation is 15 s: a server that lives this much later finds it over.
LATER_S = 20.0
_GOES_ON_S = 30.0
SCOPES = frozenset({"ops:read", "ops:write", "ops:destroy"})


@dataclass(slots=True)
class ShiftedClock:
    """The machine's clock `later_s` seconds from now, whose wall time is off by `ahead_s`; changed
    while it runs, wall time jumps."""

    ahead_s: float = 0.0
    later_s: float = 0.0
    inner: SystemClock = field(default_factory=SystemClock)

    def now(self) -> float:
        """Wall time."""
        return self.inner.now() + self.later_s + self.ahead_s

    def monotonic(self) -> float:
        """The machine's: a jump of the wall clock does not touch it."""
        return self.inner.monotonic() + self.later_s


@dataclass(kw_only=True)
class LocalAgent:
    """A client of a server in this process; as a caller it is the agent's key."""

    app: App
    history: History
    server: str
    principal: str = "key:agent"
    scopes: frozenset[str] = SCOPES

    async def call(
        self, tool: str, *, intent: str = "", deadline_s: float = DEADLINE_S, **arguments: Any
    ) -> Answer:
        """Call a tool on the way that every call takes."""
        number = self.history.call(
            tool=tool, arguments=arguments, intent=intent, server=self.server
        )
        caller = Caller(
            principal=self.principal, scopes=self.scopes, channel="http", client_confirms=True
        )
        try:
            with anyio.fail_after(deadline_s):
                reply = await self.app.call(tool, arguments, caller)
        except TimeoutError:
            self.history.hung(number)
            raise
        except UnknownTool as unknown:
            body = {"code": unknown.code, "executed": "no"}
            self.history.answered(number, body, error=True)
            return Answer(body=body, error=True)
        except BaseException:
            self.history.lost(number, "the client left")
            raise
        body = orjson.loads(reply.text)
        answer = Answer(body=body["error"] if reply.is_error else body, error=reply.is_error)
        self.history.answered(number, answer.body, error=answer.error)
        return answer

    async def restart(self, name: str, **more: Any) -> Answer:
        """Restart a workload, or what else its name tells: one effect for the intent of it."""
        writing = writing_of(name)
        arguments = {"intent": name, "reason": WHY, **writing.arguments(name, **more)}
        return await self.call(writing.tool, **arguments)

    async def end_of(self, name: str) -> Answer:
        """Ask for a restart until it is in progress no more: who takes over what was lost looks
        for it every five seconds, and follows it to its end."""
        answer = await self.restart(name, wait_s=0)
        with anyio.move_on_after(_GOES_ON_S):
            while answer.outcome == "in_progress":
                await anyio.sleep(0.1)
                answer = await self.restart(name, wait_s=0)
        return answer

    async def discard(self) -> str:
        """Ask to discard dead letters, which a person has to approve; the question's id."""
        answer = await self.call(
            "discard_deadletters", target="orders", failure_type="timeout", reason=WHY
        )
        details: dict[str, str] = answer.body.get("details", {})
        return details.get("approval_id", answer.code)

    async def decide(
        self, approval_id: str, *, by: str = "operator:ann", approved: bool = True
    ) -> None:
        """A person says yes or no; raises `OpsError` where that counts no more."""
        person = Caller(principal=by, scopes=SCOPES | {"ops:approve", "ops:admin"}, channel="cli")
        await self.app.people.decide(approval_id, person, approved=approved, note="")

    async def look(self, name: str) -> bool:
        """Look at the target, through the server, whether the write had its effect."""
        writing = writing_of(name)
        answer = await self.call(writing.look, **writing.look_arguments(name))
        assert answer.code == "ok", answer.body
        found = writing.found(answer.body, name)
        self.history.looked(name, found=found)
        return found


@asynccontextmanager
async def local(
    stage: Stage,
    history: History,
    *,
    clock: Clock | None = None,
    name: str = "later",
    state: str = "state",
) -> AsyncIterator[LocalAgent]:
    """A server in this process, and a client of it. Without a clock it lives after all leases."""
    environ = {**stage.environment, "MCP_OPS_STATE_DIR": str(stage.directory / state)}
    settings = load_settings(stage.config, environ, {"server.transport": "http"})
    chosen = clock or ShiftedClock(later_s=LATER_S)
    async with open_app(settings, environ=environ, clock=chosen) as app:
        yield LocalAgent(app=app, history=history, server=name)
