"""The state of the lab's App Service: plans, apps and slots, which change with time."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from mcp_ops.clock import rfc3339
from mcp_ops.lab.standin import EffectLog, Faults

SUPPORTED: Final = (
    "arm-throttled",
    "arm-forbidden",
    "arm-busy",
    "arm-unavailable",
    "bad-deployment",
    "broken-reference",
    "stuck-operation",
)
BROKEN: Final = "broken"
_DOCKER: Final = (
    "Container {site} for site {site} initialized successfully and is ready to serve requests."
)
_PINGS: Final = (
    "Container {site} for site {site} has exited, failing site start: "
    "Container didn't respond to HTTP pings on port: 8080"
)


@dataclass(slots=True, kw_only=True)
class Operation:
    """Something that takes its time. `fails` is the error it ends with, or empty; `result` what
    its address answers at the end."""

    id: str
    name: str
    until: float
    done: Callable[[], None]
    fails: str = ""
    ended: bool = False
    result: Callable[[], dict[str, Any]] = lambda: {"status": "Succeeded"}


@dataclass(slots=True, kw_only=True)
class Farm:
    """An App Service plan."""

    name: str
    sku: str
    tier: str
    capacity: int
    linux: bool
    state: str = "Succeeded"
    extra: dict[str, Any] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)

    def machine(self, instance: str) -> str:
        """The worker's own name."""
        return ("lw1sdlwk" if self.linux else "rd") + instance[:6].upper()

    def resize(self) -> None:
        """As many workers as are wanted."""
        while len(self.workers) < self.capacity:
            self.workers.append(secrets.token_hex(32))
        del self.workers[self.capacity :]


@dataclass(slots=True, kw_only=True)
class App:
    """An app or slot. `key` is `app` or `app/slot` as Azure writes it."""

    key: str
    farm: Farm
    state: str = "Running"
    settings: dict[str, str] = field(default_factory=dict)
    sticky: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    deployments: list[dict[str, Any]] = field(default_factory=list)
    swap: dict[str, str] | None = None
    modified: float = 0.0
    started: dict[str, float] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    ready_at: float = 0.0
    operation: Operation | None = None
    log: list[tuple[float, str, bool, str]] = field(default_factory=list)
    files: bool = True  # whether what is logged is kept in files, and not in the stream alone

    @property
    def broken(self) -> bool:
        """Whether what is deployed can't start."""
        active = next((one for one in self.deployments if one["active"]), {})
        return bool(active.get("broken"))

    @property
    def scm(self) -> str:
        """The first label of Kudu's host."""
        return self.key.lower().replace("/", "-")


class World:
    """Everything in one resource group, and what happens to it."""

    def __init__(
        self,
        *,
        subscription: str,
        group: str,
        log: EffectLog,
        clock: Callable[[], float],
        settle_s: float,
        activity_lag_s: float,
    ) -> None:
        self.subscription = subscription
        self.group = group
        self.log = log
        self.now = clock
        self.settle_s = settle_s
        self.activity_lag_s = activity_lag_s
        self.faults = Faults()
        self.farms: dict[str, Farm] = {}
        self.apps: dict[str, App] = {}
        self.operations: dict[str, Operation] = {}
        self.events: list[dict[str, Any]] = []
        self.autoscale: list[dict[str, Any]] = []
        self.actions: list[str] = ["*"]

    def advance(self) -> None:
        """Let happen what has become due."""
        if "stuck-operation" in self.faults:
            return
        for operation in list(self.operations.values()):
            if not operation.ended and self.now() >= operation.until:
                operation.ended = True
                operation.done()

    def begin(self, name: str, done: Callable[[], None]) -> Operation:
        """Start something that ends later."""
        operation = Operation(
            id=secrets.token_hex(16), name=name, until=self.now() + self.settle_s, done=done
        )
        self.operations[operation.id] = operation
        return operation

    def record(self, action: str, resource: str, headers: Any) -> None:
        """An event of the activity log, with the id that the client gave its request."""
        event = {
            "eventTimestamp": rfc3339(self.now()),
            "operationName": {"value": action},
            "status": {"value": "Succeeded"},
            "resourceId": resource,
            "resourceGroupName": self.group,
            "correlationId": secrets.token_hex(16),
            "httpRequest": {
                "clientRequestId": headers.get("x-ms-client-request-id", ""),
                "method": "POST",
            },
        }
        self.events.append({"at": self.now(), "event": event})

    def shown_events(self, since: float) -> list[dict[str, Any]]:
        """Events that the log shows by now: it is minutes behind."""
        latest = self.now() - self.activity_lag_s
        return [each["event"] for each in self.events if since <= each["at"] <= latest]

    # Apps

    def restart(self, app: App, *, only: str = "") -> None:
        """Start an app's instances anew; what they say comes with the time."""
        now = self.now()
        ready = now + self.settle_s
        for instance in app.farm.workers:
            if only and instance != only:
                continue
            machine = app.farm.machine(instance)
            app.started[instance] = now + self.settle_s / 2
            app.pids[instance] = app.pids.get(instance, 4000) + 4
            words = _PINGS if app.broken else _DOCKER
            site = app.scm
            app.log += [
                (now, machine, True, f"INFO  - Stopping site {site} because it was restarted."),
                (now, machine, True, f"INFO  - Starting container for site {site}"),
                (ready, machine, True, "INFO  - " + words.format(site=site)),
                (ready, machine, False, f"level=info starting {site}"),
            ]
            if app.broken:
                app.log.append(
                    (ready, machine, False, "ERROR could not import settings: PAYMENTS_URL missing")
                )
        app.ready_at = ready

    def ready(self, app: App) -> bool:
        """Whether the app's instances get requests."""
        return app.state == "Running" and not app.broken and self.now() >= app.ready_at

    def touch(self, app: App) -> None:
        """The app was changed."""
        app.modified = self.now()

    def swap(self, one: App, other: App) -> None:
        """Exchange what is deployed and what is set, but for what belongs to the slots."""
        one.deployments, other.deployments = other.deployments, one.deployments
        sticky = one.sticky | other.sticky
        kept = [{k: v for k, v in app.settings.items() if k in sticky} for app in (one, other)]
        free = [{k: v for k, v in app.settings.items() if k not in sticky} for app in (one, other)]
        one.settings, other.settings = {**free[1], **kept[0]}, {**free[0], **kept[1]}
        status = {
            "timestampUtc": rfc3339(self.now()),
            "sourceSlotName": other.key.partition("/")[2] or "Production",
            "destinationSlotName": one.key.partition("/")[2] or "Production",
        }
        for app in (one, other):
            app.swap, app.operation = status, None
            app.properties.pop("targetSwapSlot", None)
            self.touch(app)
            self.restart(app)
        self.log.append("platform.swapped", site=one.key, slot=other.key)

    def deploy(self, app: App, deployment: dict[str, Any]) -> None:
        """A deployment has ended: it is the active one."""
        for each in app.deployments:
            each["active"] = each is deployment
        deployment["status"] = 4
        deployment["end_time"] = rfc3339(self.now())
        app.operation = None
        self.touch(app)
        self.restart(app)
        self.log.append("platform.deployed", site=app.key, id=deployment["id"])

    def inject(self, name: str) -> None:
        """Break something; raises `KeyError` for an unknown fault."""
        if name not in SUPPORTED:
            raise KeyError(name)
        self.faults.active.add(name)
        if name == "bad-deployment":
            app = self.apps["shop-api"]
            at = rfc3339(self.now())
            made = deployment_of(BROKEN, at, message="Release 43", active=True, broken=True)
            for each in app.deployments:
                each["active"] = False
            app.deployments.insert(0, made)
            self.restart(app)
        self.log.append("fault.injected", fault=name)

    def mend(self, name: str) -> None:
        """Take a fault back; raises `KeyError` for an unknown fault."""
        if name not in SUPPORTED:
            raise KeyError(name)
        self.faults.active.discard(name)
        if name == "bad-deployment":
            app = self.apps["shop-api"]
            app.deployments = [one for one in app.deployments if one["id"] != BROKEN]
            if app.deployments and not any(one["active"] for one in app.deployments):
                app.deployments[0]["active"] = True
                self.restart(app)
        self.log.append("fault.mended", fault=name)


def deployment_of(
    id: str,  # noqa: A002 - as Kudu calls it
    at: str,
    *,
    message: str,
    active: bool = False,
    broken: bool = False,
    status: int = 4,
) -> dict[str, Any]:
    """A deployment as Kudu keeps it."""
    return {
        "id": id,
        "status": status,
        "message": message,
        "author": "Build",
        "deployer": "GitHub",
        "start_time": at,
        "end_time": at,
        "active": active,
        "broken": broken,
    }


def fingerprint(value: str) -> str:
    """What the effect log keeps of a value."""
    return hashlib.sha256(value.encode()).hexdigest()[:12]
