"""The adapter of Azure App Service: the apps and slots of one resource group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import ClassVar, Final

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.adapters.azure import (
    acting,
    appsettings,
    describe,
    instances,
    redeploy,
    restart,
    revisions,
    scale,
    swap,
)
from mcp_ops.adapters.azure.acting import Action
from mcp_ops.adapters.azure.arm import Arm, Wire
from mcp_ops.adapters.azure.credentials import open_tokens
from mcp_ops.adapters.azure.logs import read_logs
from mcp_ops.adapters.azure.look import READ_SITE, Azure
from mcp_ops.adapters.azure.names import AppName, parse_name
from mcp_ops.adapters.azure.scm import Scm
from mcp_ops.adapters.azure.settings import AzureAppServiceSettings
from mcp_ops.capabilities.base import writes
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.capabilities.deployment_config import ConfigPage, ConfigurablePlatform
from mcp_ops.capabilities.deployments import (
    DeploymentDetail,
    DeploymentLogs,
    DeploymentPage,
    DeploymentPlatform,
    InstancePlatform,
    LogLevel,
    RevisionedPlatform,
    RevisionPage,
    ScalablePlatform,
    SizedPlatform,
    SlottedPlatform,
    StoppablePlatform,
)
from mcp_ops.wire.http import Limits, open_client

_BYTES: Final = 16 * 1024 * 1024
_ACTIONS: Final[Mapping[str, Action]] = {
    **restart.ACTIONS,
    **swap.ACTIONS,
    **redeploy.ACTIONS,
    **scale.ACTIONS,
    **instances.ACTIONS,
    **appsettings.ACTIONS,
}


class AzureAppServiceAdapter(
    Adapter,
    DeploymentPlatform,
    RevisionedPlatform,
    ScalablePlatform,
    StoppablePlatform,
    SlottedPlatform,
    InstancePlatform,
    SizedPlatform,
    ConfigurablePlatform,
):
    """The apps and slots of a resource group, or one of them."""

    kind: ClassVar[str] = "azure_app_service"
    title: ClassVar[str] = "Azure App Service"
    extra: ClassVar[str] = "azure"
    Settings: ClassVar[type[AdapterSettings]] = AzureAppServiceSettings

    def __init__(self, azure: Azure) -> None:
        self._azure = azure

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: AzureAppServiceSettings, wiring: Wiring
    ) -> AsyncIterator[AzureAppServiceAdapter]:
        """Open the client and the credential; nothing is sent yet."""
        secrets = (settings.client_secret, settings.access_token)
        wiring.redactor.add(*(each.get_secret_value() for each in secrets if each))
        clock, redactor = wiring.clock, wiring.redactor
        seconds = settings.request_timeout_s
        limits = Limits(read_s=seconds, total_s=seconds, max_bytes=_BYTES, connections=16)
        async with (
            open_tokens(settings, clock=clock, redactor=redactor) as tokens,
            open_client(system="Azure", clock=clock, redactor=redactor, limits=limits) as http,
        ):
            wire = Wire(http, tokens)
            arm = Arm(
                wire,
                url=settings.arm_url,
                subscription=settings.subscription_id,
                group=settings.resource_group,
                api_version="2024-11-01",
            )
            scm = Scm(wire, template=settings.scm_url, domains=settings.scm_domains)
            yield cls(Azure(arm=arm, scm=scm, settings=settings, clock=clock, redactor=redactor))

    async def ping(self) -> None:
        """List the first page of apps: shows the address, the credential and the permission."""
        await self._azure.arm.pages(self._azure.arm.web("sites"), READ_SITE, most=1)

    def _name(self, name: str) -> AppName:
        return parse_name(name, self._azure.settings.site)

    # Reading

    async def list_workloads(self, *, limit: int, cursor: str) -> DeploymentPage:
        """One page by name, at most fifty; one request for the apps, one for the plans, and one
        for the instances of each app on the page."""
        return await describe.list_workloads(self._azure, limit=limit, cursor=cursor)

    async def describe(self, name: str) -> DeploymentDetail:
        """The app with its instances, deployments and findings; at most six requests."""
        return describe.detail(await describe.see(self._azure, self._name(name)))

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
        """The newest lines of at most ten log files, over Kudu."""
        return await read_logs(
            self._azure,
            self._name(name),
            since_minutes=since_minutes,
            tail=tail,
            grep=grep,
            level=level,
            previous=previous,
        )

    async def list_revisions(self, name: str, *, limit: int, cursor: str) -> RevisionPage:
        """The deployments that Azure lists, the newest first."""
        found = self._name(name)
        return await revisions.list_revisions(self._azure, found, limit=limit, cursor=cursor)

    async def list_config(self, name: str, *, limit: int, cursor: str) -> ConfigPage:
        """The application settings by name, values masked."""
        found = self._name(name)
        return await appsettings.list_config(self._azure, found, limit=limit, cursor=cursor)

    # Plans

    async def plan_restart(self, name: str) -> Plan:
        """Restart an app on all its instances."""
        return await restart.plan_restart(self._azure, self._name(name))

    async def plan_stop(self, name: str) -> Plan:
        """Stop an app."""
        return await restart.plan_stop(self._azure, self._name(name))

    async def plan_start(self, name: str) -> Plan:
        """Start a stopped app."""
        return await restart.plan_start(self._azure, self._name(name))

    async def plan_swap(self, name: str, slot: str) -> Plan:
        """Swap a slot with production."""
        return await swap.plan_swap(self._azure, self._name(name), slot)

    async def plan_rollback(self, name: str, to_revision: str) -> Plan:
        """Deploy an earlier deployment again."""
        return await redeploy.plan_rollback(self._azure, self._name(name), to_revision)

    async def plan_scale(self, name: str, replicas: int) -> Plan:
        """Scale the plan of an app, within the operator's bounds."""
        return await scale.plan_scale(self._azure, self._name(name), replicas)

    async def plan_resources(self, name: str, *, memory: str, cpu: str, tier: str) -> Plan:
        """Give the plan of an app another size, of those that the operator allows."""
        found = self._name(name)
        return await scale.plan_resources(self._azure, found, memory=memory, cpu=cpu, tier=tier)

    async def plan_instance_restart(self, name: str, instance: str) -> Plan:
        """Restart one instance."""
        return await instances.plan_instance_restart(self._azure, self._name(name), instance)

    async def plan_config(
        self, name: str, key: str, *, value: str, value_ref: str, overwrite: bool
    ) -> Plan:
        """Set one application setting."""
        return await appsettings.plan_config(
            self._azure,
            self._name(name),
            key,
            value=value,
            value_ref=value_ref,
            overwrite=overwrite,
        )

    # Changes

    async def rehearse(self, plan: Plan) -> None:
        """Check again, and look at the permissions; Azure has no dry run."""
        await acting.rehearse(self._azure, plan, _ACTIONS[plan.action])

    @writes
    async def begin(self, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Check what was looked at once more, and send the change once. Azure keeps no reason."""
        return await acting.begin(self._azure, plan, _ACTIONS[plan.action], call_id)

    async def find(self, plan: Plan, call_id: str) -> Begun | None:
        """Look for the call in the activity log, and at the state of the target."""
        return await acting.find(self._azure, plan, _ACTIONS[plan.action], call_id)

    async def follow(self, plan: Plan, begun: Begun) -> Progress:
        """Look at the target, and at the operation that Azure named."""
        return await acting.follow(self._azure, plan, _ACTIONS[plan.action], begun)
