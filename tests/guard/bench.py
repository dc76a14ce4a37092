"""A server of the tests: the real stores, guard, controls and edge around test tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from mcp_ops.adapter import Wiring
from mcp_ops.adapters.embedded import EmbeddedQueue
from mcp_ops.call import Answer, Ask, Caller, NeedsAnswer, Question
from mcp_ops.capabilities.deadletters import DeadLetterQueue, OperationEndpoint
from mcp_ops.capabilities.guard import GuardControl
from mcp_ops.capabilities.usage import UsageGuard
from mcp_ops.catalog import ALL_TOOLS
from mcp_ops.clock import Clock, ManualClock
from mcp_ops.guard.control import Control, Parts
from mcp_ops.guard.health import HealthCheck
from mcp_ops.guard.inside import Inside
from mcp_ops.guard.operations import Operations
from mcp_ops.guard.order import Guard
from mcp_ops.guard.resume import Resumer
from mcp_ops.guard.targets import TargetInfo
from mcp_ops.guard.usage import UsageWatch
from mcp_ops.opening import Configured, OpenTargets
from mcp_ops.ports import ALL_TARGETS, OWN_TARGET, Mode, ModeEntry, ModeSource
from mcp_ops.records import AuditQuery, Entry
from mcp_ops.redact import Redactor
from mcp_ops.server import OpsServer, Published, Reply
from mcp_ops.settings import GuardSettings, LimitSettings, PolicyRule
from mcp_ops.stores import opening
from mcp_ops.stores.opening import Place
from mcp_ops.stores.sqlite.embedded import Stores, open_stores
from mcp_ops.tool import Tool, schemas_of
from mcp_ops.transport import bind_caller, seal
from tests.guard.shelf import SHELF_CAPABILITIES, SHELF_TOOLS, ShelfAdapter, World

SCOPES = frozenset({"ops:read", "ops:write", "ops:destroy"})
AGENT = Caller(
    principal="agent:test@host",
    scopes=SCOPES,
    channel="stdio",
    client="test 1",
    client_confirms=True,
)
OPERATOR = Caller(
    principal="operator:ada", scopes=SCOPES | {"ops:approve", "ops:admin"}, channel="cli"
)
OPEN_LIMITS = LimitSettings(
    principal_per_minute=10_000,
    metered_per_minute=10_000,
    writes_per_object=1_000,
    writes_per_hour=1_000,
    destroys_per_hour=1_000,
)
OPEN = GuardSettings(limits=OPEN_LIMITS)
WHY = "a test wants it"
SEAL = b"a key of the tests, 32 bytes long"


@dataclass
class Bench:
    """An open server. `call` answers what a client gets, as data."""

    guard: Guard
    stores: Stores
    server: OpsServer
    clock: ManualClock
    redactor: Redactor
    operations: Operations
    targets: OpenTargets
    parts: Parts
    inside: Inside
    usage: UsageWatch
    worlds: dict[str, World]
    path: Path
    tasks: anyio.abc.TaskGroup
    resumer: Resumer
    callers: list[Caller] = field(default_factory=list)

    @property
    def world(self) -> World:
        return self.worlds["shelf"]

    async def reply(self, tool: str, caller: Caller = AGENT, /, **arguments: Any) -> Reply:
        with anyio.fail_after(20):
            return await self.server.call_tool(tool, arguments, caller)

    async def ok(self, tool: str, caller: Caller = AGENT, /, **arguments: Any) -> dict[str, Any]:
        """A success, whose text is its structured content."""
        reply = await self.reply(tool, caller, **arguments)
        assert not reply.is_error, reply.text
        assert reply.structured == orjson.loads(reply.text)
        return reply.structured or {}

    async def error(self, tool: str, caller: Caller = AGENT, /, **arguments: Any) -> dict[str, Any]:
        """An error, which has no structured content."""
        reply = await self.reply(tool, caller, **arguments)
        assert reply.is_error, reply.text
        assert reply.structured is None
        body: dict[str, Any] = orjson.loads(reply.text)["error"]
        return body

    async def code(self, tool: str, caller: Caller = AGENT, /, **arguments: Any) -> str:
        """The error's code, or `ok`."""
        reply = await self.reply(tool, caller, **arguments)
        return str(orjson.loads(reply.text)["error"]["code"]) if reply.is_error else "ok"

    async def put(self, caller: Caller = AGENT, /, **arguments: Any) -> dict[str, Any]:
        return await self.ok("put_item", caller, **{"name": "a", "reason": WHY, **arguments})

    async def question(self, tool: str, caller: Caller, /, **arguments: Any) -> Question:
        """The question that a call ends in."""
        with pytest.raises(NeedsAnswer) as caught:
            await self.reply(tool, caller, **arguments)
        return caught.value.question

    async def entries(self, **query: Any) -> list[Entry]:
        """Lines of the ledger, oldest first."""
        found = await self.stores.ledger.search(AuditQuery(limit=1_000, **query))
        return found[::-1]

    async def ends(self, **query: Any) -> list[tuple[str, str]]:
        """The terminal records: verdict and code."""
        return [(e.verdict, e.code) for e in await self.entries(**query) if e.kind == "ended"]

    async def set_mode(
        self, mode: Mode, *, scope: str = "shelf", source: ModeSource = "operator", **more: Any
    ) -> None:
        await self.stores.hot.set_mode(
            ModeEntry(
                scope=scope,
                mode=mode,
                source=source,
                reason="a test",
                author="test",
                since=self.clock.now(),
                **more,
            )
        )

    def control(self, caller: Caller = OPERATOR) -> Control:
        return Control(self.parts, caller)

    async def approve(self, approval_id: str, *, approved: bool = True) -> None:
        """A person at the command line decides."""
        decided = await self.stores.approvals.decide(
            approval_id, approved=approved, by="operator:ada", note="", at=self.clock.now()
        )
        assert decided is not None


def answering(answer: Answer | None) -> Ask:
    """A client of the session era whose user always answers so."""

    async def ask(_question: Question) -> Answer | None:
        return answer

    return ask


def modern(caller: Caller = AGENT, answered: tuple[str, Answer] | None = None) -> Caller:
    """A client of the 2026 revision that can show a form."""
    return replace(caller, asks_by_result=True, answered=answered)


def shelf_target(name: str = "shelf", **more: Any) -> TargetInfo:
    values: dict[str, Any] = {
        "name": name,
        "kind": "shelf",
        "environment": "prod",
        "metered": False,
        "per_minute": None,
        "concurrent": 10,
        "links": {},
        "capabilities": SHELF_CAPABILITIES,
    }
    return TargetInfo(**{**values, **more})


TWO = (shelf_target(links={"endpoint": "depot"}), shelf_target("depot"))


@asynccontextmanager
async def bench(
    path: Path,
    *,
    settings: GuardSettings = OPEN,
    rules: tuple[PolicyRule, ...] = (),
    infos: tuple[TargetInfo, ...] = TWO,
    clock: ManualClock | None = None,
    worlds: Mapping[str, World] | None = None,
    extra_tools: Mapping[str, Tool] | None = None,
    place: Place | None = None,
    approver_keys: frozenset[str] | None = None,
    hot: str = "",
) -> AsyncIterator[Bench]:
    """The parts of `app.open_app`, around the shelf; `hot` is the URL of a shared one."""
    clock, redactor = clock or ManualClock(), Redactor()
    made = {info.name: World() for info in infos} | dict(worlds or {})
    floor = _floor(settings, clock)
    async with AsyncExitStack() as stack:
        opened: Any = open_stores(path / "s.db", clock, floor=floor)
        if hot or place:
            place = place or Place(directory=path, hot=hot)
            opened = opening.open_stores(place, clock, floor=floor)
        stores: Stores = await stack.enter_async_context(opened)
        away = getattr(stores, "away", dict)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        usage = UsageWatch(
            hot=stores.hot, ledger=stores.ledger, clock=clock, settings=settings.usage
        )
        operations = Operations(tasks, stores.ledger, clock)
        built: dict[str, Any] = {}
        targets = _targets(infos, made, clock, redactor, usage, path, built)

        def make_port(port: type, call: Any) -> Any:
            if port is GuardControl:
                return Control(built["parts"], call.caller)
            if port is Clock:
                return clock
            assert port is UsageGuard
            return built["inside"].usage_of(call)

        guard = Guard(
            settings=settings,
            rules=rules,
            targets=targets,
            hot=stores.hot,
            ledger=stores.ledger,
            approvals=stores.approvals,
            failed=stores.failed,
            clock=clock,
            redactor=redactor,
            operations=operations,
            make_port=make_port,
            approver_keys=approver_keys,
        )
        health = HealthCheck(
            targets=targets, failed=stores.failed, clock=clock, sub_call=guard.sub_call, away=away
        )
        tools = {**ALL_TOOLS, **SHELF_TOOLS, **(extra_tools or {})}
        inside = Inside(guard=guard, tools=tools, ledger=stores.ledger, usage=usage, health=health)
        built["queue"] = EmbeddedQueue(
            stores.failed, inside.rerun, clock=clock, redactor=redactor, retention_s=86_400
        )
        parts = Parts(
            guard=guard,
            ledger=stores.ledger,
            approvals=stores.approvals,
            operations=operations,
            health=health,
            clock=clock,
            version="0",
            started_at=clock.now(),
            away=away,
        )
        built.update(parts=parts, inside=inside)
        resumer = Resumer(
            guard=guard, tools=tools, ledger=stores.ledger, operations=operations, now=clock.now
        )
        names = tuple(info.name for info in infos)
        server = OpsServer(
            guard=guard,
            tools={
                name: Published(
                    tool=each, targets=_where(each, targets, names), schemas=schemas_of(each)
                )
                for name, each in tools.items()
            },
            ledger=stores.ledger,
            redactor=redactor,
            clock=clock,
            version="0",
            user="host",
        )
        seal(server.mcp, [SEAL], bind_caller("host"))
        await stack.enter_async_context(targets.serving(tasks))
        yield Bench(
            guard=guard,
            stores=stores,
            server=server,
            clock=clock,
            redactor=redactor,
            operations=operations,
            targets=targets,
            parts=parts,
            inside=inside,
            usage=usage,
            worlds=made,
            path=path,
            tasks=tasks,
            resumer=resumer,
        )


def _where(tool: Tool, targets: OpenTargets, names: tuple[str, ...]) -> tuple[str, ...]:
    if tool.own:
        return names
    if tool.name in SHELF_TOOLS and len(names) > 1:
        return names[:1]  # `target` has a default then; the second shelf is reached by links
    return tuple(n for n in targets.names() if tool.capability in targets.info(n).capabilities)


def _floor(settings: GuardSettings, clock: ManualClock) -> tuple[ModeEntry, ...]:
    if settings.mode is Mode.NORMAL:
        return ()
    return (
        ModeEntry(
            scope=ALL_TARGETS,
            mode=settings.mode,
            source="environment",
            reason="guard.mode",
            author="configuration",
            since=clock.now(),
        ),
    )


def _targets(
    infos: tuple[TargetInfo, ...],
    worlds: Mapping[str, World],
    clock: ManualClock,
    redactor: Redactor,
    usage: UsageWatch,
    path: Path,
    built: Mapping[str, Any],
) -> OpenTargets:
    def configured(info: TargetInfo) -> Configured:
        def wiring(store: Any) -> Wiring:
            return Wiring(
                target=info.name,
                clock=clock,
                redactor=redactor,
                report_usage=lambda name, percent: usage.report(info.name, name, percent),
                directory=path,
                secrets=store,
            )

        return Configured(
            info=info,
            adapter=ShelfAdapter,
            settings=ShelfAdapter.Settings(world=worlds[info.name]),
            wiring=wiring,
        )

    own = TargetInfo(
        name=OWN_TARGET,
        kind="embedded",
        environment="prod",
        metered=False,
        per_minute=None,
        concurrent=10,
        links={"endpoint": OWN_TARGET},
        capabilities=frozenset({DeadLetterQueue, OperationEndpoint}),
    )
    return OpenTargets([configured(info) for info in infos], own, lambda: built["queue"])
