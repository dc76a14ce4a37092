"""The lab's objects as Resource Manager shows them."""

from __future__ import annotations

from typing import Any

from mcp_ops.clock import rfc3339
from mcp_ops.lab.azure.world import App, Farm, World

_VAULT = "@microsoft.keyvault("


def site_of(world: World, app: App) -> dict[str, Any]:
    """An app or slot."""
    site, _, slot = app.key.partition("/")
    path = f"sites/{site}/slots/{slot}" if slot else f"sites/{site}"
    host = f"{app.scm}.azurewebsites.net"
    properties: dict[str, Any] = {
        "name": app.key,
        "state": app.state,
        "usageState": "Normal",
        "availabilityState": "Normal",
        "enabled": app.state == "Running",
        "hostNames": [host],
        "defaultHostName": host,
        "hostNameSslStates": [
            {"name": host, "sslState": "Disabled", "hostType": "Standard"},
            {
                "name": f"{app.scm}.scm.azurewebsites.net",
                "sslState": "Disabled",
                "hostType": "Repository",
            },
        ],
        "serverFarmId": id_of(world, f"serverfarms/{app.farm.name}"),
        "reserved": app.farm.linux,
        "lastModifiedTimeUtc": rfc3339(app.modified),
        "siteConfig": {"linuxFxVersion": app.config.get("linuxFxVersion", "")},
        "httpsOnly": True,
        "clientAffinityEnabled": False,
        "inProgressOperationId": app.operation.id if app.operation else None,
        "targetSwapSlot": None,
        "slotSwapStatus": app.swap,
        **app.properties,
    }
    return {
        "id": id_of(world, path),
        "name": app.key,
        "type": "Microsoft.Web/sites/slots" if slot else "Microsoft.Web/sites",
        "kind": "app,linux" if app.farm.linux else "app",
        "location": "West Europe",
        "properties": properties,
    }


def farm_of(world: World, farm: Farm) -> dict[str, Any]:
    """A plan."""
    sites = [app for app in world.apps.values() if app.farm is farm]
    return {
        "id": id_of(world, f"serverfarms/{farm.name}"),
        "name": farm.name,
        "type": "Microsoft.Web/serverfarms",
        "kind": "linux" if farm.linux else "app",
        "location": "West Europe",
        "tags": {"owner": "platform"},
        "sku": {
            "name": farm.sku,
            "tier": farm.tier,
            "size": farm.sku,
            "family": farm.sku.rstrip("0123456789v"),
            "capacity": farm.capacity,
        },
        "properties": {
            "status": "Ready",
            "provisioningState": farm.state,
            "numberOfWorkers": len(farm.workers),
            "maximumNumberOfWorkers": 30 if farm.tier.startswith("Premium") else 10,
            "numberOfSites": len(sites),
            "perSiteScaling": False,
            "elasticScaleEnabled": False,
            "reserved": farm.linux,
            "zoneRedundant": False,
            **farm.extra,
        },
    }


def instances_of(world: World, app: App) -> list[dict[str, Any]]:
    """The workers of an app."""
    if app.state != "Running":
        return []
    state = "READY" if world.ready(app) else "UNKNOWN"
    return [
        {
            "id": f"/instances/{instance}",
            "name": instance,
            "type": "Microsoft.Web/sites/instances",
            "properties": {"state": state, "machineName": app.farm.machine(instance)},
        }
        for instance in app.farm.workers
    ]


def processes_of(world: World, app: App, instance: str) -> list[dict[str, Any]]:
    """What runs on an instance; on Linux that is Kudu's container only."""
    own = app.pids.get(instance, 4000)
    kudu = {
        "name": "3100",
        "properties": {
            "file_name": "/opt/Kudu/kudu" if app.farm.linux else "D:\\Windows\\w3wp.exe",
            "is_scm_site": True,
            "start_time": rfc3339(app.started.get(instance, 0.0)),
        },
    }
    if app.farm.linux or world.now() < app.started.get(instance, 0.0):
        return [kudu]
    mine = {
        "name": str(own),
        "properties": {
            "file_name": "D:\\Windows\\SysWOW64\\inetsrv\\w3wp.exe",
            "is_scm_site": False,
            "start_time": rfc3339(app.started.get(instance, 0.0)),
        },
    }
    return [kudu, mine]


def deployments_of(app: App) -> list[dict[str, Any]]:
    """What was deployed."""
    return [
        {
            "name": one["id"],
            "type": "Microsoft.Web/sites/deployments",
            "properties": {key: value for key, value in one.items() if key != "broken"},
        }
        for one in app.deployments
    ]


def references_of(world: World, app: App) -> list[dict[str, Any]]:
    """Key Vault references, and whether Azure could resolve them."""
    found = []
    for key, value in app.settings.items():
        if not value.lower().startswith(_VAULT):
            continue
        broken = "broken-reference" in world.faults or "missing" in value.lower()
        details = "The secret was not found." if broken else "Reference has been resolved."
        found.append(
            {
                "name": key,
                "properties": {
                    "reference": value,
                    "status": "SecretNotFound" if broken else "Resolved",
                    "details": details,
                    "source": "KeyVault",
                },
            }
        )
    return found


def id_of(world: World, path: str) -> str:
    """The id of a resource of App Service."""
    scope = f"/subscriptions/{world.subscription}/resourceGroups/{world.group}"
    return f"{scope}/providers/Microsoft.Web/{path}"
