"""The adapter of plain processes: commands that the operator listed, each with a keeper."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import anyio

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.adapters.process import changing
from mcp_ops.adapters.process.changing import RESTART, START, STOP
from mcp_ops.adapters.process.control import Control, Record
from mcp_ops.adapters.process.reading import detail, listed, read_logs, unready
from mcp_ops.adapters.process.settings import ProcessSettings
from mcp_ops.capabilities.base import writes
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.capabilities.deployments import (
    Deployment,
    DeploymentDetail,
    DeploymentLogs,
    DeploymentPage,
    DeploymentPlatform,
    LogLevel,
    StoppablePlatform,
)
from mcp_ops.errors import InvalidInput, NotFound, Upstream
from mcp_ops.wire.http import HttpClient, Limits, open_client
from mcp_ops.wire.log_lines import Wanted


class ProcessAdapter(Adapter, DeploymentPlatform, StoppablePlatform):
    """The listed commands of the server's own machine."""

    kind: ClassVar[str] = "process"
    title: ClassVar[str] = "Processes"
    Settings: ClassVar[type[AdapterSettings]] = ProcessSettings

    def __init__(self, settings: ProcessSettings, wiring: Wiring, http: HttpClient) -> None:
        folder = wiring.directory.absolute() / "process" / wiring.target
        self._controls = {
            name: Control(folder=folder / name, command=command, answer_s=settings.timeout_s)
            for name, command in sorted(settings.commands.items())
        }
        self._clock = wiring.clock
        self._http = http

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: ProcessSettings, wiring: Wiring) -> AsyncIterator[ProcessAdapter]:
        """Nothing is started: commands run when somebody starts them, and outlive the server."""
        limits = Limits(connect_s=2.0, read_s=2.0, total_s=3.0, max_bytes=65_536)
        async with open_client(
            system="the command's check",
            clock=wiring.clock,
            redactor=wiring.redactor,
            limits=limits,
        ) as http:
            adapter = cls(settings, wiring, http)
            for control in adapter._controls.values():
                control.check()
            yield adapter

    async def ping(self) -> None:
        """Look at one command."""
        await next(iter(self._controls.values())).look()

    async def list_workloads(self, *, limit: int, cursor: str) -> DeploymentPage:
        """The listed commands by name."""
        if cursor and cursor not in self._controls:
            raise InvalidInput(
                "The cursor is not one of this list.",
                hint="Call list_deployments again without a cursor.",
            )
        names = [name for name in self._controls if name > cursor]
        found: dict[str, Deployment] = {}

        errors: list[Upstream] = []

        async def look(name: str) -> None:
            try:
                record, waits = await self._look(name)
            except Upstream as error:
                errors.append(error)
            else:
                found[name] = listed(name, self._controls[name].command, record, waits)

        async with anyio.create_task_group() as tasks:
            for name in names[:limit]:
                tasks.start_soon(look, name)
        if errors:
            raise errors[0]
        more = len(names) > limit
        return DeploymentPage(
            items=[found[name] for name in names[:limit]],
            next_cursor=names[limit - 1] if more else "",
            truncated=more,
            searched=f"the {len(self._controls)} commands that the configuration lists",
        )

    async def describe(self, name: str) -> DeploymentDetail:
        """The command, its process and how that ended last."""
        record, waits = await self._look(name)
        command = self._control(name).command
        return detail(name, command, record, waits, now=self._clock.now())

    async def logs(
        self,
        name: str,
        *,
        since_minutes: int,
        tail: int,
        grep: str,
        level: LogLevel,
        previous: bool,
    ) -> DeploymentLogs:
        """Of both its streams, what is still kept; at most 4 MiB and 5,000 lines are looked at."""
        control = self._control(name)
        return await read_logs(
            control.folder,
            await control.look(),
            Wanted(tail=tail, grep=grep, level=level),
            since_minutes=since_minutes,
            previous=previous,
            now=self._clock.now(),
        )

    async def plan_restart(self, name: str) -> Plan:
        """End the process and start another one, with the configuration as it is now."""
        return changing.plan(RESTART, name, await self._control(name).look())

    async def plan_stop(self, name: str) -> Plan:
        """End the process; nothing starts it again but a call."""
        return changing.plan(STOP, name, await self._control(name).look())

    async def plan_start(self, name: str) -> Plan:
        """Start the command under a keeper."""
        return changing.plan(START, name, await self._control(name).look())

    async def rehearse(self, plan: Plan) -> None:
        """There is nothing to ask."""

    @writes
    async def begin(self, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Ask the keeper; it does what one call asks for once, and only for the generation that
        was looked at."""
        note = await self._control(plan.name).request(
            plan.action, call_id=call_id, generation=int(plan.lock)
        )
        return changing.begun_of(plan, note)

    async def find(self, plan: Plan, call_id: str) -> Begun | None:
        """The keeper's note of this call."""
        note = (await self._control(plan.name).look()).call(call_id)
        return None if note is None else changing.begun_of(plan, note)

    async def follow(self, plan: Plan, begun: Begun) -> Progress:
        """Look at the command, and whether it is ready."""
        record, waits = await self._look(plan.name)
        return changing.follow(plan, begun, record, unready=waits)

    def _control(self, name: str) -> Control:
        if name not in self._controls:
            raise NotFound(
                "This target has no command of this name.", hint="list_deployments shows which."
            )
        return self._controls[name]

    async def _look(self, name: str) -> tuple[Record, str]:
        control = self._control(name)
        record = await control.look()
        return record, await unready(record, control.command, self._http, now=self._clock.now())
