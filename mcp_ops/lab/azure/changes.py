"""What clients change in the lab's App Service; one line of the effect log for each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from mcp_ops.lab.azure import answers, show
from mcp_ops.lab.azure.world import App, Farm, World, fingerprint

if TYPE_CHECKING:
    from mcp_ops.lab.azure.api import Call

SKUS = {
    "B1": "Basic",
    "S1": "Standard",
    "S2": "Standard",
    "P0v3": "PremiumV3",
    "P1v3": "PremiumV3",
    "P2v3": "PremiumV3",
}
_SWAP = "SwapSiteSlots"


def moment(written: str) -> float:
    """Unix seconds of a time."""
    return datetime.fromisoformat(written.replace("Z", "+00:00")).timestamp()


class Changes:
    """The writing half of Resource Manager."""

    def __init__(self, world: World, find: Callable[[Call], App | Response]) -> None:
        self._world = world
        self._find = find

    def rows(self, app: str) -> list[tuple[str, str, str, Any]]:
        """Method, path, action and handler of each."""
        web = "Microsoft.Web"
        sites = [
            ("POST", f"{app}/restart", f"{web}/sites/restart/Action", self.restart),
            ("POST", f"{app}/stop", f"{web}/sites/stop/Action", self.stop),
            ("POST", f"{app}/start", f"{web}/sites/start/Action", self.start),
            ("POST", f"{app}/slotsswap", f"{web}/sites/slotsswap/Action", self.swap),
            ("PUT", f"{app}/config/appsettings", f"{web}/sites/config/Write", self.settings),
            (
                "DELETE",
                f"{app}/instances/(?P<instance>[^/]+)/processes/(?P<pid>[^/]+)",
                f"{web}/sites/instances/processes/delete",
                self.end,
            ),
        ]
        farm = "/serverfarms/(?P<farm>[^/]+)"
        return [
            *sites,
            ("PUT", farm, f"{web}/serverfarms/Write", self.put_farm),
            (
                "POST",
                f"{farm}/workers/(?P<machine>[^/]+)/reboot",
                f"{web}/serverfarms/workers/reboot/Action",
                self.reboot,
            ),
        ]

    def _free(self, call: Call) -> App | Response:
        app = self._find(call)
        if isinstance(app, Response):
            return app
        if app.operation is not None or "arm-busy" in self._world.faults:
            found = app.operation.id if app.operation else "4711"
            return answers.conflict(
                "Cannot modify this site because another operation is in progress. "
                f"Id: {found}, OperationName: {_SWAP}."
            )
        return app

    def _happened(self, effect: str, call: Call, action: str, **fields: Any) -> None:
        request = call.request.headers.get("x-ms-client-request-id", "")
        self._world.log.append(f"client.{effect}", request=request, **fields)
        self._world.record(action, call.resource, call.request.headers)

    def restart(self, call: Call) -> Response:
        app = self._free(call)
        if isinstance(app, Response):
            return app
        soft = call.request.query_params.get("softRestart") == "true"
        self._happened(
            "restart", call, "Microsoft.Web/sites/restart/Action", site=app.key, soft=soft
        )
        if not soft and app.state == "Running":
            self._world.restart(app)
        return Response(status_code=200)

    def stop(self, call: Call) -> Response:
        return self._power(call, "Stopped", "stop")

    def start(self, call: Call) -> Response:
        return self._power(call, "Running", "start")

    def _power(self, call: Call, state: str, verb: str) -> Response:
        app = self._free(call)
        if isinstance(app, Response):
            return app
        if app.state != state:
            app.state = state
            self._world.touch(app)
            self._happened(verb, call, f"Microsoft.Web/sites/{verb}/Action", site=app.key)
            if state == "Running":
                self._world.restart(app)
        return Response(status_code=200)

    def swap(self, call: Call) -> Response:
        app = self._free(call)
        if isinstance(app, Response):
            return app
        slot = str(call.body.get("targetSlot", "")).lower()
        other = self._world.apps.get(f"{app.key}/{slot}".lower())
        if other is None:
            return answers.not_found("slots", slot, self._world.group)
        world = self._world
        operation = world.begin(_SWAP, lambda: world.swap(app, other))
        app.operation = other.operation = operation
        app.properties["targetSwapSlot"] = slot
        action = "Microsoft.Web/sites/slotsswap/Action"
        self._happened("slotsswap", call, action, site=app.key, slot=slot)
        return answers.accepted(world, self._where(call, operation.id))

    def _where(self, call: Call, operation: str) -> str:
        base = str(call.request.base_url).rstrip("/")
        return f"{base}{show.id_of(self._world, f'operations/{operation}')}?api-version=2024-11-01"

    def settings(self, call: Call) -> Response:
        app = self._free(call)
        if isinstance(app, Response):
            return app
        given = call.body.get("properties")
        if not isinstance(given, dict):
            return answers.error(
                400, "BadRequest", "The parameter properties has an invalid value."
            )
        old, app.settings = app.settings, {str(k): str(v) for k, v in given.items()}
        changed = {k: fingerprint(v) for k, v in app.settings.items() if old.get(k) != v}
        lost = sorted(set(old) - set(app.settings))
        if changed or lost:
            self._world.touch(app)
            self._world.restart(app)
            action = "Microsoft.Web/sites/config/Write"
            self._happened("appsettings", call, action, site=app.key, changed=changed, lost=lost)
        return JSONResponse({"properties": app.settings})

    def end(self, call: Call) -> Response:
        app = self._free(call)
        if isinstance(app, Response):
            return app
        instance, pid = call.named["instance"], call.named["pid"]
        if str(app.pids.get(instance, 4000)) != pid or app.farm.linux:
            return answers.not_found("processes", pid, self._world.group)
        action = "Microsoft.Web/sites/instances/processes/delete"
        self._happened("process_ended", call, action, site=app.key, instance=instance, pid=pid)
        self._world.restart(app, only=instance)
        return Response(status_code=204)

    def reboot(self, call: Call) -> Response:
        farm = self._world.farms.get(call.named["farm"].lower())
        machine = call.named["machine"].lower()
        known = [x for x in farm.workers if farm.machine(x).lower() == machine] if farm else []
        if farm is None or not known:
            return answers.not_found("workers", machine, self._world.group)
        action = "Microsoft.Web/serverfarms/workers/reboot/Action"
        self._happened("worker_rebooted", call, action, plan=farm.name, machine=machine)
        for app in self._world.apps.values():
            if app.farm is farm and app.state == "Running":
                self._world.restart(app, only=known[0])
        return Response(status_code=204)

    def put_farm(self, call: Call) -> Response:
        farm = self._world.farms.get(call.named["farm"].lower())
        if farm is None:
            return answers.not_found("serverfarms", call.named["farm"], self._world.group)
        if farm.state == "InProgress" or "arm-busy" in self._world.faults:
            return answers.conflict("Cannot modify this plan: another operation is in progress.")
        sku = call.body.get("sku") or {}
        name, capacity = str(sku.get("name", farm.sku)), int(sku.get("capacity", farm.capacity))
        if SKUS.get(name) is None or not call.body.get("location") or not 1 <= capacity <= 30:
            return answers.error(400, "BadRequest", "The sku is not available here.")
        return self._resize(call, farm, name, capacity)

    def _resize(self, call: Call, farm: Farm, name: str, capacity: int) -> Response:
        world = self._world
        before = {"sku": farm.sku, "capacity": farm.capacity}
        after = {"sku": name, "capacity": capacity}
        if before == after:
            return JSONResponse(show.farm_of(world, farm))
        farm.state = "InProgress"
        moves = name != farm.sku
        farm.sku, farm.tier, farm.capacity = name, SKUS[name], capacity

        def done() -> None:
            farm.state = "Succeeded"
            if moves:
                farm.workers.clear()
            farm.resize()
            for app in world.apps.values():
                if app.farm is farm and moves and app.state == "Running":
                    world.restart(app)

        operation = world.begin("ScaleServerFarm", done)
        operation.result = lambda: show.farm_of(world, farm)
        action = "Microsoft.Web/serverfarms/Write"
        self._happened("plan", call, action, plan=farm.name, before=before, after=after)
        return answers.accepted(world, self._where(call, operation.id), show.farm_of(world, farm))
