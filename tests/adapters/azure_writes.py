"""Every write of the App Service adapter, as a row that tests go through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio

from mcp_ops.capabilities.changes import Change, Plan
from mcp_ops.tool import Write
from mcp_ops.tools import deployment_config, deployments, rollouts
from tests.azure_lab import Lab
from tests.kubernetes_lab import write

WAIT_S = 45
REFERENCE = "@Microsoft.KeyVault(VaultName=shop-vault;SecretName=api-key)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A write: the tool's call, the plan behind it, the request that does it, its effect,
    whether the target itself shows afterwards that it was done, and whether Azure logs it."""

    name: str
    call: Callable[[Lab, Write], Awaitable[Any]]
    plan: Callable[[Lab], Awaitable[Plan]]
    method: str
    path: str
    effect: str
    shows: bool = True
    logged: bool = True

    async def run(self, place: Lab, **frame: Any) -> Change:
        """Make the change through its tool."""
        with anyio.fail_after(30):
            done: Change = await self.call(place, write(**frame))
            return done


async def instance_of(place: Lab, name: str) -> str:
    """The name of an app's first instance."""
    return (await place.platform.describe(name)).instances[0].name


async def _restart_instance(place: Lab, frame: Write) -> Any:
    name = "shop-admin"
    instance = await instance_of(place, name)
    return await rollouts.restart_instance.function(place.platform, frame, name, instance, WAIT_S)


async def _plan_instance(place: Lab) -> Plan:
    instance = await instance_of(place, "shop-admin")
    return await place.platform.plan_instance_restart("shop-admin", instance)


async def _reboot(place: Lab, frame: Write) -> Any:
    name = "shop-web"
    instance = await instance_of(place, name)
    return await rollouts.restart_instance.function(place.platform, frame, name, instance, WAIT_S)


async def _plan_reboot(place: Lab) -> Plan:
    instance = await instance_of(place, "shop-web")
    return await place.platform.plan_instance_restart("shop-web", instance)


def _set(place: Lab, frame: Write) -> Awaitable[Any]:
    function = deployment_config.set_config.function
    return function(place.platform, frame, "shop-api", "API_TIMEOUT", "60", "", True, WAIT_S)


def _refer(place: Lab, frame: Write) -> Awaitable[Any]:
    function = deployment_config.set_config.function
    return function(place.platform, frame, "shop-api", "API_KEY", "", REFERENCE, False, WAIT_S)


ROWS = (
    Row(
        name="restart",
        call=lambda at, frame: deployments.restart_deployment.function(
            at.platform, frame, "shop-api", WAIT_S
        ),
        plan=lambda at: at.platform.plan_restart("shop-api"),
        method="POST",
        path="/sites/shop-api/restart",
        effect="client.restart",
        shows=False,
    ),
    Row(
        name="stop",
        call=lambda at, frame: rollouts.stop_deployment.function(
            at.platform, frame, "shop-web", WAIT_S
        ),
        plan=lambda at: at.platform.plan_stop("shop-web"),
        method="POST",
        path="/sites/shop-web/stop",
        effect="client.stop",
    ),
    Row(
        name="swap",
        call=lambda at, frame: rollouts.swap_slots.function(
            at.platform, frame, "shop-api", "Staging", WAIT_S
        ),
        plan=lambda at: at.platform.plan_swap("shop-api", "staging"),
        method="POST",
        path="/sites/shop-api/slotsswap",
        effect="client.slotsswap",
    ),
    Row(
        name="rollback",
        call=lambda at, frame: rollouts.rollback_deployment.function(
            at.platform, frame, "shop-api", "", WAIT_S
        ),
        plan=lambda at: at.platform.plan_rollback("shop-api", ""),
        method="PUT",
        path="/api/deployments/rel-41",
        effect="client.redeploy",
        logged=False,
    ),
    Row(
        name="scale",
        call=lambda at, frame: rollouts.scale_deployment.function(
            at.platform, frame, "shop-api", 3, WAIT_S
        ),
        plan=lambda at: at.platform.plan_scale("shop-api", 3),
        method="PUT",
        path="/serverfarms/shop-plan",
        effect="client.plan",
    ),
    Row(
        name="size",
        call=lambda at, frame: rollouts.set_resources.function(
            at.platform, frame, "shop-admin", "", "", "p1V3", WAIT_S
        ),
        plan=lambda at: at.platform.plan_resources("shop-admin", memory="", cpu="", tier="P1v3"),
        method="PUT",
        path="/serverfarms/admin-plan",
        effect="client.plan",
    ),
    Row(
        name="instance",
        call=_restart_instance,
        plan=_plan_instance,
        method="DELETE",
        path="/processes/",
        effect="client.process_ended",
    ),
    Row(
        name="worker",
        call=_reboot,
        plan=_plan_reboot,
        method="POST",
        path="/reboot",
        effect="client.worker_rebooted",
        shows=False,
    ),
    Row(
        name="setting",
        call=_set,
        plan=lambda at: at.platform.plan_config(
            "shop-api", "API_TIMEOUT", value="60", value_ref="", overwrite=True
        ),
        method="PUT",
        path="/config/appsettings",
        effect="client.appsettings",
    ),
    Row(
        name="reference",
        call=_refer,
        plan=lambda at: at.platform.plan_config(
            "shop-api", "API_KEY", value="", value_ref=REFERENCE, overwrite=False
        ),
        method="PUT",
        path="/config/appsettings",
        effect="client.appsettings",
    ),
)
NAMES = [row.name for row in ROWS]
