"""The adapter of Railway: one environment of one project a target."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, ClassVar, Final

from pydantic import Field, SecretStr

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.adapters.railway import rollouts, scaling, variables
from mcp_ops.adapters.railway.access import Access
from mcp_ops.adapters.railway.api import MAX_BYTES, SYSTEM, Api
from mcp_ops.adapters.railway.changing import Action, Driver
from mcp_ops.adapters.railway.logs import Wanted, read_logs
from mcp_ops.adapters.railway.reading import Reading
from mcp_ops.adapters.railway.state import text
from mcp_ops.capabilities.base import writes
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.capabilities.deployment_config import ConfigPage, ConfigurablePlatform
from mcp_ops.capabilities.deployments import (
    DeploymentDetail,
    DeploymentLogs,
    DeploymentPage,
    DeploymentPlatform,
    LogLevel,
    RevisionedPlatform,
    RevisionPage,
    ScalablePlatform,
    StoppablePlatform,
)
from mcp_ops.wire.http import Limits, SecureUrl, open_client

_ID: Final = r"^([A-Za-z0-9][A-Za-z0-9_-]{0,63})?$"
_ACTIONS: Final[Mapping[str, Action]] = {
    **rollouts.ACTIONS,
    scaling.SCALE: scaling.ACTION,
    variables.SET: variables.ACTION,
}

Names = tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)], ...]


class RailwaySettings(AdapterSettings):
    """One environment, and with which token it is reached."""

    token: SecretStr = Field(description="A project token, made for the environment.")
    project_id: str = Field("", pattern=_ID, description="Default: the token's.")
    environment_id: str = Field("", pattern=_ID, description="Default: the token's.")
    allow_broad_token: bool = Field(
        False,
        description="Take the token of an account or a workspace, which reaches all of its"
        " projects.",
    )
    max_replicas: int = Field(
        10, ge=1, le=1_000, description="Most instances that a service may be scaled to."
    )
    required_variables: dict[str, Names] = Field(
        {}, description="Variables that a service must have, by its name as listed."
    )
    steady_s: float = Field(
        10.0,
        ge=0,
        le=600,
        description="How long a deployment has to run before it counts, seconds.",
    )
    recheck_s: float = Field(
        1.5,
        ge=0,
        le=30,
        description="Pause between the three looks for a change whose answer was lost, seconds.",
    )
    url: SecureUrl = "https://backboard.railway.com/graphql/v2"
    request_timeout_s: float = Field(
        25.0, gt=0, le=60, description="Longest wait for one answer, seconds."
    )


class RailwayAdapter(
    Adapter,
    DeploymentPlatform,
    RevisionedPlatform,
    ScalablePlatform,
    ConfigurablePlatform,
    StoppablePlatform,
):
    """The services of an environment."""

    kind: ClassVar[str] = "railway"
    title: ClassVar[str] = "Railway"
    metered: ClassVar[bool] = True
    Settings: ClassVar[type[AdapterSettings]] = RailwaySettings

    def __init__(self, settings: RailwaySettings, driver: Driver) -> None:
        self._settings = settings
        self._driver = driver
        self._reading = driver.reading

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: RailwaySettings, wiring: Wiring) -> AsyncIterator[RailwayAdapter]:
        """Open the client; what the token is, is asked before anything else."""
        wiring.redactor.add(settings.token.get_secret_value())
        limits = Limits(
            total_s=settings.request_timeout_s,
            read_s=settings.request_timeout_s,
            max_bytes=MAX_BYTES,
        )
        async with open_client(
            system=SYSTEM, clock=wiring.clock, redactor=wiring.redactor, limits=limits
        ) as http:
            api = Api(http, settings.url, settings.token)
            access = Access(
                api,
                project=settings.project_id,
                environment=settings.environment_id,
                allow_broad=settings.allow_broad_token,
            )
            driver = Driver(
                api=api,
                access=access,
                reading=Reading(api, access),
                clock=wiring.clock,
                redactor=wiring.redactor,
                steady_s=settings.steady_s,
                recheck_s=settings.recheck_s,
            )
            yield cls(settings, driver)

    async def ping(self) -> None:
        """Ask what the token is, and refuse one that reaches too far."""
        await self._driver.access.verify()

    async def list_workloads(self, *, limit: int, cursor: str) -> DeploymentPage:
        """One page by name; a request for each hundred services."""
        return await self._reading.list_workloads(limit=limit, cursor=cursor)

    async def describe(self, name: str) -> DeploymentDetail:
        """The service with its newest deployments: two or three requests."""
        return await self._reading.describe(name, now=self._driver.clock.now())

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
        """At most 2,000 lines of each log, 12,000 characters in all."""
        _, service = await self._reading.named(name)
        wanted = Wanted(
            since=self._driver.clock.now() - since_minutes * 60,
            tail=tail,
            grep=grep,
            level=level,
            previous=previous,
        )
        return await read_logs(self._driver.api, service, wanted)

    async def list_revisions(self, name: str, *, limit: int, cursor: str) -> RevisionPage:
        """The deployments of the service, newest first."""
        return await self._reading.list_revisions(name, limit=limit, cursor=cursor)

    async def list_config(self, name: str, *, limit: int, cursor: str) -> ConfigPage:
        """The variables by name. References are shown, values are masked."""
        scope, service = await self._reading.named(name, first=1)
        return variables.list_page(
            name,
            await variables.read_variables(self._driver, scope, service),
            required=self._settings.required_variables.get(name, ()),
            services=await self._titles(),
            redactor=self._driver.redactor,
            limit=limit,
            cursor=cursor,
        )

    async def plan_restart(self, name: str) -> Plan:
        """Restart the containers of the running deployment."""
        _, service = await self._reading.named(name)
        return await rollouts.plan_restart(self._driver, name, service)

    async def plan_rollback(self, name: str, to_revision: str) -> Plan:
        """Run an earlier deployment again; the current one is deployed anew."""
        _, service = await self._reading.named(name)
        return await rollouts.plan_rollback(self._driver, name, service, to_revision)

    async def plan_scale(self, name: str, replicas: int) -> Plan:
        """Run that many instances, over the regions that it runs in."""
        _, service = await self._reading.named(name)
        return scaling.plan_scale(name, service, replicas, most=self._settings.max_replicas)

    async def plan_config(
        self, name: str, key: str, *, value: str, value_ref: str, overwrite: bool
    ) -> Plan:
        """Set a variable of the service; a reference is written as `${{shared.NAME}}`."""
        scope, service = await self._reading.named(name)
        return variables.plan_config(
            name,
            service,
            await variables.read_variables(self._driver, scope, service),
            key=key,
            value=value,
            value_ref=value_ref,
            overwrite=overwrite,
            services=await self._titles(),
            redactor=self._driver.redactor,
        )

    async def plan_stop(self, name: str) -> Plan:
        """Stop the running deployment."""
        _, service = await self._reading.named(name)
        return rollouts.plan_stop(name, service)

    async def plan_start(self, name: str) -> Plan:
        """Start the stopped deployment."""
        _, service = await self._reading.named(name)
        return rollouts.plan_start(name, service)

    async def rehearse(self, plan: Plan) -> None:
        """Railway can't rehearse: the token and what was looked at are checked again."""
        await self._driver.checked(plan, _ACTIONS[plan.action])

    @writes
    async def begin(self, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Check the token and the newest deployment, then send the change once. The reason stays
        in the audit: Railway takes none."""
        return await self._driver.begin(plan, _ACTIONS[plan.action], call_id)

    async def find(self, plan: Plan, call_id: str) -> Begun | None:
        """Look for what was not there when the change was planned."""
        return await self._driver.find(plan, _ACTIONS[plan.action], call_id)

    async def follow(self, plan: Plan, begun: Begun) -> Progress:
        """Look at the deployment of the change."""
        return await self._driver.follow(plan, begun, _ACTIONS[plan.action])

    async def _titles(self) -> set[str]:
        """The names of the services as Railway has them, as references use them."""
        scope = await self._driver.access.scope()
        names = await self._reading.names(scope)
        return {text(one, "serviceName") for one in names.values()}
