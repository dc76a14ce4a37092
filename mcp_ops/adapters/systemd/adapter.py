"""The adapter of systemd: units of the server's own machine that the operator listed."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import anyio
from pydantic import AfterValidator, Field, model_validator

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.adapters.systemd import changing
from mcp_ops.adapters.systemd.commands import Commands, check_program, environment_of
from mcp_ops.adapters.systemd.journal import events_of, read_logs
from mcp_ops.adapters.systemd.marks import Marks
from mcp_ops.adapters.systemd.reaching import reached
from mcp_ops.adapters.systemd.showing import detail, listed
from mcp_ops.adapters.systemd.units import Unit, get_unit, get_units
from mcp_ops.capabilities.base import writes
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.capabilities.deployments import (
    DeploymentDetail,
    DeploymentLogs,
    DeploymentPage,
    DeploymentPlatform,
    Event,
    LogLevel,
    StoppablePlatform,
)
from mcp_ops.errors import Forbidden, InvalidInput, NotFound
from mcp_ops.wire.log_lines import Wanted

_UNIT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,200}\.(service|timer|socket|path|target|mount|slice)"
)


def _unit(name: str) -> str:
    if not _UNIT.fullmatch(name):
        raise ValueError("must be the exact name of a unit with its suffix, as redis.service")
    return name


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


UnitName = Annotated[str, AfterValidator(_unit)]
Program = Annotated[Path, AfterValidator(_absolute)]


class SystemdSettings(AdapterSettings):
    """Which units, and whose."""

    units: tuple[UnitName, ...] = Field(
        min_length=1, max_length=200, description="Exact names; no other unit can be reached."
    )
    scope: Literal["system", "user"] = Field(
        "system", description="`user`: the units of the server's own user."
    )
    settle_s: float = Field(
        3.0, ge=0, le=300, description="How long a started unit has to stay up, seconds."
    )
    timeout_s: float = Field(15.0, gt=0, le=60, description="Longest wait for systemd, seconds.")
    systemctl: Program = Path("/usr/bin/systemctl")
    journalctl: Program = Path("/usr/bin/journalctl")

    @model_validator(mode="after")
    def _one_name_each(self) -> Self:
        if len({name.lower() for name in self.units}) != len(self.units):
            raise ValueError("two units have the same name, or differ in upper case only")
        return self


class SystemdAdapter(Adapter, DeploymentPlatform, StoppablePlatform):
    """The listed units of one systemd."""

    kind: ClassVar[str] = "systemd"
    title: ClassVar[str] = "systemd"
    Settings: ClassVar[type[AdapterSettings]] = SystemdSettings

    def __init__(self, settings: SystemdSettings, commands: Commands, wiring: Wiring) -> None:
        self._units = {name.lower(): name for name in sorted(settings.units, key=str.lower)}
        self._settle_s = settings.settle_s
        self._commands = commands
        self._clock = wiring.clock
        self._marks = Marks(directory=wiring.directory / "systemd" / wiring.target)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: SystemdSettings, wiring: Wiring) -> AsyncIterator[SystemdAdapter]:
        """Check the two programs; nothing runs yet. Raises `ConfigurationError`."""
        for program in (settings.systemctl, settings.journalctl):
            await anyio.to_thread.run_sync(check_program, program)
        user = settings.scope == "user"
        yield cls(
            settings,
            Commands(
                systemctl=settings.systemctl,
                journalctl=settings.journalctl,
                user=user,
                timeout_s=settings.timeout_s,
                redactor=wiring.redactor,
                environment=environment_of(user),
            ),
            wiring,
        )

    async def ping(self) -> None:
        """Ask for one unit: shows that systemd answers."""
        await get_units(self._commands, [next(iter(self._units.values()))], clock=self._clock)

    async def list_workloads(self, *, limit: int, cursor: str) -> DeploymentPage:
        """The listed units by name; a page is one question to systemd."""
        if cursor and cursor not in self._units:
            raise InvalidInput(
                "The cursor is not one of this list.",
                hint="Call list_deployments again without a cursor.",
            )
        names = [name for name in self._units if name > cursor]
        chosen = names[:limit]
        units = await get_units(
            self._commands, [self._units[name] for name in chosen], clock=self._clock
        )
        more = len(names) > len(chosen)
        return DeploymentPage(
            items=[listed(unit) for unit in units],
            next_cursor=chosen[-1] if more else "",
            truncated=more,
            searched=f"the {len(self._units)} units that the configuration lists",
        )

    async def describe(self, name: str) -> DeploymentDetail:
        """The unit, and the last ten things that systemd wrote about it."""
        unit = await self._look(name)
        events: list[Event] = []
        closed = ""
        try:
            events = await events_of(self._commands, unit)
        except (Forbidden, NotFound) as error:
            closed = error.message
        return detail(unit, events, now=self._clock.now(), closed=closed)

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
        """At most 5,000 lines or 4 MiB of the journal are looked at."""
        return await read_logs(
            self._commands,
            await self._look(name),
            Wanted(tail=tail, grep=grep, level=level),
            since_minutes=since_minutes,
            previous=previous,
            clock=self._clock,
        )

    async def plan_restart(self, name: str) -> Plan:
        """A restart of the run that is seen now."""
        unit = await self._look(name)
        return await self._reached(changing.plan_restart(unit), unit, stops=True, starts=True)

    async def plan_stop(self, name: str) -> Plan:
        """Stop the unit; one that is enabled starts again with the machine."""
        unit = await self._look(name)
        return await self._reached(changing.plan_stop(unit), unit, stops=True)

    async def plan_start(self, name: str) -> Plan:
        """Start the unit, failures reset first."""
        unit = await self._look(name)
        return await self._reached(changing.plan_start(unit), unit, starts=True)

    async def rehearse(self, plan: Plan) -> None:
        """systemd can't rehearse: only that the unit is there is looked at."""
        await self._look(plan.name)

    @writes
    async def begin(self, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Ask systemd once; it goes on by itself."""
        return await changing.begin(
            self._commands,
            self._marks,
            self._listed(plan.name),
            plan,
            call_id=call_id,
            clock=self._clock,
        )

    async def find(self, plan: Plan, call_id: str) -> Begun | None:
        """Look for this server's own mark, and for the effect at the unit."""
        return await changing.find(
            self._commands,
            self._marks,
            self._listed(plan.name),
            plan,
            call_id,
            clock=self._clock,
        )

    async def follow(self, plan: Plan, begun: Begun) -> Progress:
        """Look at the unit."""
        unit = await self._look(plan.name)
        return changing.follow(plan, unit, now=self._clock.now(), settle_s=self._settle_s)

    def _listed(self, name: str) -> str:
        if name not in self._units:
            raise NotFound(
                "This target has no unit of this name.", hint="list_deployments shows which."
            )
        return self._units[name]

    async def _reached(self, plan: Plan, unit: Unit, **ways: bool) -> Plan:
        found = await reached(self._commands, unit, **ways)
        if found is None:
            told = ["It takes with it more units than can be told."]
            return plan.model_copy(update={"reaches": None, "lines": [*plan.lines, *told]})
        lines = [*plan.lines, *found.lines()]
        return plan.model_copy(update={"reaches": found.all, "lines": lines})

    async def _look(self, name: str) -> Unit:
        return await get_unit(self._commands, self._listed(name), clock=self._clock)
