"""The lab's Azure on the wire: Resource Manager for App Service, and Kudu below `/scm/APP`.

`docs/targets/azure-app-service.md` says which of Azure's facts each behaviour follows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_ops.lab.azure import answers, changes, kudu, show
from mcp_ops.lab.azure.seed import GROUP, SUBSCRIPTION, seed
from mcp_ops.lab.azure.world import SUPPORTED, App, World
from mcp_ops.lab.oauth.wire import Wire
from mcp_ops.lab.standin import EffectLog, StandIn

VERSIONS: Final = frozenset({"2022-03-01", "2023-12-01", "2024-04-01", "2024-11-01", "2025-05-01"})
_OTHERS: Final = frozenset({"2015-04-01", "2018-01-01", "2022-04-01", "2022-10-01"})
_APP: Final = r"/sites/(?P<site>[^/]+)(?:/slots/(?P<slot>[^/]+))?"
_GROUP: Final = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)/providers"
    r"/(?P<provider>[^/]+)(?P<rest>/.*)",
    re.IGNORECASE,
)
_EVENTS: Final = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/providers/microsoft\.insights/eventtypes"
    r"/management/values",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that may be answered: what it names, and what it brings."""

    request: Request
    named: dict[str, str]
    body: Any
    resource: str


Handler = Callable[[Call], Response | Awaitable[Response]]


class _Arm:
    """Resource Manager over one world."""

    def __init__(self, world: World, check: Callable[[str], bool], page_size: int) -> None:
        self.world = world
        self._check = check
        self._page_size = page_size
        self._routes = self._table()

    def _table(self) -> list[tuple[str, re.Pattern[str], str, Handler]]:
        act = changes.Changes(self.world, self.app)
        web = "Microsoft.Web"
        rows: list[tuple[str, str, str, Handler]] = [
            ("GET", "/sites", f"{web}/sites/read", self.sites),
            ("GET", _APP, f"{web}/sites/read", self.site),
            ("GET", f"{_APP}/config/web", f"{web}/sites/config/read", self.config),
            ("GET", f"{_APP}/instances", f"{web}/sites/instances/read", self.instances),
            ("GET", f"{_APP}/deployments", f"{web}/sites/deployments/read", self.deployments),
            (
                "GET",
                f"{_APP}/instances/(?P<instance>[^/]+)/processes",
                f"{web}/sites/instances/processes/read",
                self.processes,
            ),
            (
                "GET",
                f"{_APP}/instances/(?P<instance>[^/]+)/processes/(?P<pid>[^/]+)",
                f"{web}/sites/instances/processes/read",
                self.process,
            ),
            (
                "GET",
                f"{_APP}/config/configreferences/appsettings",
                f"{web}/sites/config/read",
                self.references,
            ),
            (
                "POST",
                f"{_APP}/config/appsettings/list",
                f"{web}/sites/config/list/Action",
                self.settings,
            ),
            ("POST", f"{_APP}/slotsdiffs", f"{web}/sites/slotsdiffs/Action", self.differences),
            (
                "GET",
                f"{_APP}/providers/microsoft.insights/metrics",
                "Microsoft.Insights/metrics/read",
                self.metrics,
            ),
            ("GET", "/serverfarms", f"{web}/serverfarms/read", self.farms),
            ("GET", "/serverfarms/(?P<farm>[^/]+)", f"{web}/serverfarms/read", self.farm),
            (
                "GET",
                "/serverfarms/(?P<farm>[^/]+)/sites",
                f"{web}/serverfarms/sites/read",
                self.farm_sites,
            ),
            ("GET", "/operations/(?P<operation>[^/]+)", f"{web}/sites/read", self.operation),
            *act.rows(_APP),
        ]
        return [
            (method, re.compile(path, re.IGNORECASE), action, handler)
            for method, path, action, handler in rows
        ]

    # The way of a request

    async def serve(self, request: Request) -> Response:
        self.world.advance()
        return answers.stamped(await self._answered(request))

    async def _answered(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not self._check(token):
            return answers.unauthenticated()
        version = request.query_params.get("api-version", "")
        if not version:
            return answers.error(
                400,
                "MissingApiVersionParameter",
                "The api-version query parameter (?api-version=) is required for all requests.",
            )
        if version not in VERSIONS | _OTHERS:
            return answers.error(
                400,
                "NoRegisteredProviderFound",
                f"No registered resource provider found for API version '{version}'.",
            )
        if "arm-throttled" in self.world.faults:
            return answers.throttled()
        if "arm-unavailable" in self.world.faults:
            return answers.unavailable()
        path = request.url.path
        if found := _EVENTS.fullmatch(path):
            return self._other_subscription(found["subscription"]) or self.events(request)
        return await self._in_group(request, path)

    async def _in_group(self, request: Request, path: str) -> Response:
        found = _GROUP.fullmatch(path)
        if found is None:
            return answers.error(404, "InvalidResourceType", "The resource type is not known.")
        if wrong := self._other_subscription(found["subscription"]):
            return wrong
        if found["group"].lower() != self.world.group.lower():
            name = found["group"]
            return answers.error(
                404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found."
            )
        provider = found["provider"].lower()
        if provider == "microsoft.authorization":
            granted = {"actions": self.world.actions, "notActions": []}
            return JSONResponse({"value": [granted]})
        if provider == "microsoft.insights":
            return JSONResponse({"value": self.world.autoscale})
        return await self._routed(request, found["rest"])

    def _other_subscription(self, subscription: str) -> Response | None:
        if subscription.lower() == self.world.subscription:
            return None
        return answers.error(
            404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found."
        )

    async def _routed(self, request: Request, rest: str) -> Response:
        for method, pattern, action, handler in self._routes:
            found = pattern.fullmatch(rest)
            if found is None or method != request.method:
                continue
            resource = request.url.path
            if not self._granted(action):
                return answers.forbidden(action, resource)
            raw = await request.body()
            body = await request.json() if raw else {}
            named = {key: value for key, value in found.groupdict().items() if value}
            call = Call(request=request, named=named, body=body, resource=resource)
            answer = handler(call)
            return answer if isinstance(answer, Response) else await answer
        return answers.error(404, "InvalidResourceType", f"There is nothing at {rest[:100]}.")

    def _granted(self, action: str) -> bool:
        writes = not action.lower().endswith("read") and not action.endswith(
            ("list/Action", "slotsdiffs/Action")
        )
        if writes and "arm-forbidden" in self.world.faults:
            return False
        patterns = (each.replace("*", ".*") for each in self.world.actions)
        return any(re.fullmatch(each, action, re.IGNORECASE) for each in patterns)

    def app(self, call: Call) -> App | Response:
        """The app that a call names, or 404."""
        site, slot = call.named["site"], call.named.get("slot", "")
        key = f"{site}/{slot}".rstrip("/").lower()
        found = self.world.apps.get(key)
        if found is None:
            return answers.not_found("sites", key, self.world.group)
        return found

    def _list(self, call: Call, items: Iterable[Any]) -> Response:
        """A page, and where the next one is."""
        every = list(items)
        skip = int(call.request.query_params.get("$skiptoken", "0"))
        page = every[skip : skip + self._page_size]
        body: dict[str, Any] = {"value": page}
        if skip + len(page) < len(every):
            url = call.request.url.include_query_params(**{"$skiptoken": skip + len(page)})
            body["nextLink"] = str(url)
        return JSONResponse(body)

    # Reading

    def sites(self, call: Call) -> Response:
        slots = call.request.query_params.get("includeSlots") == "true"
        apps = [app for app in self.world.apps.values() if slots or "/" not in app.key]
        return self._list(call, [show.site_of(self.world, app) for app in apps])

    def site(self, call: Call) -> Response:
        app = self.app(call)
        if isinstance(app, Response):
            return app
        return JSONResponse(show.site_of(self.world, app))

    def config(self, call: Call) -> Response:
        app = self.app(call)
        return app if isinstance(app, Response) else JSONResponse({"properties": app.config})

    def instances(self, call: Call) -> Response:
        app = self.app(call)
        if isinstance(app, Response):
            return app
        return self._list(call, show.instances_of(self.world, app))

    def deployments(self, call: Call) -> Response:
        app = self.app(call)
        return app if isinstance(app, Response) else self._list(call, show.deployments_of(app))

    def processes(self, call: Call) -> Response:
        app = self.app(call)
        if isinstance(app, Response):
            return app
        found = show.processes_of(self.world, app, call.named["instance"])
        return self._list(call, [{"name": one["name"]} for one in found])

    def process(self, call: Call) -> Response:
        app = self.app(call)
        if isinstance(app, Response):
            return app
        for one in show.processes_of(self.world, app, call.named["instance"]):
            if one["name"] == call.named["pid"]:
                return JSONResponse(one)
        return answers.not_found("processes", call.named["pid"], self.world.group)

    def references(self, call: Call) -> Response:
        app = self.app(call)
        if isinstance(app, Response):
            return app
        return self._list(call, show.references_of(self.world, app))

    def settings(self, call: Call) -> Response:
        app = self.app(call)
        return app if isinstance(app, Response) else JSONResponse({"properties": app.settings})

    def differences(self, call: Call) -> Response:
        app = self.app(call)
        if isinstance(app, Response):
            return app
        other = self.world.apps.get(f"{app.key}/{call.body.get('targetSlot', '')}".lower())
        if other is None:
            return answers.not_found("slots", "?", self.world.group)
        keys = sorted({*app.settings, *other.settings})
        found = [
            {
                "properties": {
                    "level": "Information",
                    "settingType": "AppSetting",
                    "diffRule": "SettingsWillBeModifiedInDestination",
                    "settingName": key,
                    "valueInCurrentSlot": app.settings.get(key, ""),
                    "valueInTargetSlot": other.settings.get(key, ""),
                }
            }
            for key in keys
            if app.settings.get(key) != other.settings.get(key) and key not in app.sticky
        ]
        return self._list(call, found)

    def metrics(self, call: Call) -> Response:
        app = self.app(call)
        if isinstance(app, Response):
            return app
        value = 100.0 if self.world.ready(app) else 0.0
        return JSONResponse({"value": [{"timeseries": [{"data": [{"average": value}]}]}]})

    def farms(self, call: Call) -> Response:
        return self._list(call, [show.farm_of(self.world, x) for x in self.world.farms.values()])

    def farm(self, call: Call) -> Response:
        farm = self.world.farms.get(call.named["farm"].lower())
        if farm is None:
            return answers.not_found("serverfarms", call.named["farm"], self.world.group)
        return JSONResponse(show.farm_of(self.world, farm))

    def farm_sites(self, call: Call) -> Response:
        farm = self.world.farms.get(call.named["farm"].lower())
        if farm is None:
            return answers.not_found("serverfarms", call.named["farm"], self.world.group)
        apps = [app for app in self.world.apps.values() if app.farm is farm]
        return self._list(call, [show.site_of(self.world, app) for app in apps])

    def operation(self, call: Call) -> Response:
        found = self.world.operations.get(call.named["operation"])
        if found is None:
            return answers.error(404, "NotFound", "The operation is not known.")
        if found.ended and found.fails:
            return answers.conflict(found.fails)
        if found.ended:
            return JSONResponse(found.result())
        return answers.accepted(self.world, str(call.request.url))

    def events(self, request: Request) -> Response:
        found = re.search(r"eventTimestamp ge '([^']+)'", request.query_params.get("$filter", ""))
        if found is None:
            return answers.error(400, "BadRequest", "$filter must name a start.")
        since = changes.moment(found[1])
        return JSONResponse({"value": self.world.shown_events(since)})


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureStandIn(StandIn):
    """The stand-in, and the world behind it."""

    world: World


def azure(
    *,
    directory: Path,
    token: str = "",
    check_token: Callable[[str], bool] | None = None,
    clock: Callable[[], float] = time.time,
    settle_s: float = 0.4,
    activity_lag_s: float = 180.0,
    page_size: int = 50,
) -> AzureStandIn:
    """Build the stand-in; it accepts `token`, or what `check_token` accepts.

    `settle_s` is how long a restart, a swap or a change of a plan takes; `activity_lag_s` how far
    the activity log is behind.
    """
    world = World(
        subscription=SUBSCRIPTION,
        group=GROUP,
        log=EffectLog(directory / "azure.effects.jsonl", now=clock),
        clock=clock,
        settle_s=settle_s,
        activity_lag_s=activity_lag_s,
    )
    seed(world)

    def check(given: str) -> bool:
        return bool(given) and (given == token or (check_token is not None and check_token(given)))

    arm = _Arm(world, check, page_size)
    scm = kudu.Kudu(world, check)
    methods = ["GET", "POST", "PUT", "DELETE"]
    routes = [
        Route("/subscriptions/{path:path}", arm.serve, methods=methods),
        Route("/scm/{app}/api/{path:path}", scm.serve, methods=methods),
    ]
    return AzureStandIn(
        name="azure",
        app=Wire(Starlette(routes=routes), now=clock),
        log=world.log,
        supported=SUPPORTED,
        inject=world.inject,
        mend=world.mend,
        world=world,
    )
