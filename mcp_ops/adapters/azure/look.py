"""What there is in a resource group: apps, their instances and the plans that they run on."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from mcp_ops.adapters.azure.arm import Arm, Ask
from mcp_ops.adapters.azure.fields import Obj, flag, mapping, number, seconds, text
from mcp_ops.adapters.azure.names import AppName, listed_name
from mcp_ops.adapters.azure.scm import Scm
from mcp_ops.adapters.azure.settings import AzureAppServiceSettings
from mcp_ops.clock import Clock
from mcp_ops.errors import BadAnswer, Conflict, Forbidden, NotFound
from mcp_ops.redact import Redactor, tame

READ_SITE: Final = Ask(action="Microsoft.Web/sites/read")
READ_PLAN: Final = Ask(action="Microsoft.Web/serverfarms/read")
READ_INSTANCES: Final = Ask(action="Microsoft.Web/sites/instances/read")
READ_CONFIG: Final = Ask(action="Microsoft.Web/sites/config/read")
MOST_SITES: Final = 2_000
MOST_INSTANCES: Final = 100
_INSTANCE: Final = re.compile(r"[A-Za-z0-9]{1,128}")
# Plans on which Azure chooses the workers of each app.
_ELASTIC: Final = frozenset({"dynamic", "flexconsumption", "elasticpremium"})
_PLAN_ID: Final = re.compile(
    r"/subscriptions/(?P<subscription>[^/]{1,60})/resourceGroups/(?P<group>[^/]{1,90})"
    r"/providers/Microsoft\.Web/serverfarms/(?P<name>[-A-Za-z0-9_]{1,60})",
    re.IGNORECASE,
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Azure:
    """What every part of the adapter works with. `operations` are the addresses of operations
    that this process began, by the call's id: a hint on how they end, never the proof."""

    arm: Arm
    scm: Scm
    settings: AzureAppServiceSettings
    clock: Clock
    redactor: Redactor
    operations: dict[str, str] = field(default_factory=dict)

    def remember(self, call_id: str, operation: str) -> None:
        """Keep the address of an operation, of the newest hundred."""
        if operation:
            self.operations[call_id] = operation
            while len(self.operations) > 100:
                del self.operations[next(iter(self.operations))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An app or slot as Resource Manager has it."""

    name: AppName
    raw: Obj

    def said(self, key: str) -> str:
        """A text of its properties."""
        return tame(text(self.raw, "properties", key), 1_000)

    @property
    def running(self) -> bool:
        """Whether it is meant to serve."""
        return self.said("state").lower() == "running"

    @property
    def exceeded(self) -> bool:
        """Whether a quota keeps it from serving."""
        return (
            self.said("usageState") == "Exceeded" or self.said("state").lower() == "quotaexceeded"
        )

    @property
    def linux(self) -> bool:
        """Whether it runs on Linux workers."""
        return flag(self.raw, "properties", "reserved") or "linux" in text(self.raw, "kind").lower()

    @property
    def busy(self) -> str:
        """The id of an operation that is under way at it, or empty."""
        return self.said("inProgressOperationId")[:100]

    @property
    def image(self) -> str:
        """What it runs: the stack or image, else its kind."""
        config = mapping(self.raw, "properties", "siteConfig")
        stack = text(config, "linuxFxVersion") or text(config, "windowsFxVersion")
        return stack or text(self.raw, "kind") or "app"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A worker that runs an app. `machine` is the worker's own name, where Azure tells it."""

    name: str
    state: str
    machine: str

    @property
    def ready(self) -> bool:
        """Whether Azure sends requests there."""
        return self.state == "READY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Farm:
    """An App Service plan: the workers, and what they cost."""

    name: str
    group: str
    raw: Obj

    @property
    def sku(self) -> str:
        """Its size, as `P1v3`."""
        return tame(text(self.raw, "sku", "name"), 40)

    @property
    def tier(self) -> str:
        """The tier of the size, as `PremiumV3`."""
        return tame(text(self.raw, "sku", "tier"), 40)

    @property
    def capacity(self) -> int:
        """Workers wanted."""
        return number(self.raw, "sku", "capacity", absent=1)

    @property
    def state(self) -> str:
        """How far the last change of it is: `Succeeded`, `InProgress`, `Failed`."""
        return text(self.raw, "properties", "provisioningState") or "Succeeded"

    def has(self, key: str) -> bool:
        """Whether a property is true."""
        return flag(self.raw, "properties", key)

    @property
    def elastic(self) -> bool:
        """Whether each app has workers of its own number, which Azure or the app decides."""
        each = self.has("elasticScaleEnabled") or self.has("perSiteScaling")
        return each or self.tier.lower() in _ELASTIC

    @property
    def shown(self) -> str:
        """For people: `web-plan (P1v3, 2 workers)`."""
        return f"{self.name} ({self.sku}, {self.capacity} workers)"


async def get_site(azure: Azure, name: AppName) -> Site:
    """One app; raises `NotFound`."""
    raw = await azure.arm.get(azure.arm.web(name.path), READ_SITE)
    if not mapping(raw, "properties"):
        raise BadAnswer("Azure's answer is no app.")
    return Site(name=name, raw=raw)


async def list_sites(azure: Azure) -> tuple[list[Site], bool]:
    """All apps and slots of the target by name, and whether there are more than are listed."""
    raw, more = await azure.arm.pages(
        azure.arm.web("sites"), READ_SITE, most=MOST_SITES, includeSlots="true"
    )
    only = azure.settings.site.lower()
    found = {}
    for one in raw:
        name = listed_name(text(one, "name"))
        if name is not None and only in ("", name.site):
            found[name.shown] = Site(name=name, raw=one)
    return [found[shown] for shown in sorted(found)], more


async def list_instances(azure: Azure, name: AppName) -> list[Instance]:
    """The workers that run an app, at most a hundred."""
    path = azure.arm.web(f"{name.path}/instances")
    raw, _ = await azure.arm.pages(path, READ_INSTANCES, most=MOST_INSTANCES)
    found = [
        Instance(
            name=text(one, "name"),
            state=text(one, "properties", "state").upper()[:20] or "UNKNOWN",
            machine=text(one, "properties", "machineName")[:60],
        )
        for one in raw
        if _INSTANCE.fullmatch(text(one, "name"))
    ]
    return sorted(found, key=lambda one: one.name)


async def list_farms(azure: Azure) -> dict[str, Farm]:
    """The plans of the resource group by their names in lower case."""
    raw, _ = await azure.arm.pages(azure.arm.web("serverfarms"), READ_PLAN, most=500)
    return {
        text(one, "name").lower(): Farm(name=text(one, "name")[:60], group=azure.arm.group, raw=one)
        for one in raw
    }


def plan_id(site: Site) -> tuple[str, str, str]:
    """Subscription, resource group and name of an app's plan; raises `BadAnswer`."""
    found = _PLAN_ID.fullmatch(site.said("serverFarmId"))
    if found is None:
        raise BadAnswer("Azure does not say on which plan the app runs.")
    return found["subscription"], found["group"], found["name"]


async def get_farm(azure: Azure, site: Site) -> Farm:
    """The plan of an app. Raises `Conflict` for one that is not in the target's resource group:
    the target ends there."""
    subscription, group, name = plan_id(site)
    same = subscription.lower() == azure.settings.subscription_id.lower()
    if not same or group.lower() != azure.arm.group.lower():
        raise Conflict(
            f"The app's plan {name} is in another resource group, which is not this target.",
            hint="Its plan has to be changed through a target of that resource group.",
        )
    raw = await azure.arm.get(azure.arm.web(f"serverfarms/{name}"), READ_PLAN)
    if not mapping(raw, "sku"):
        raise BadAnswer("Azure's answer is no App Service plan.")
    return Farm(name=name, group=group, raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """The apps that share a plan, by name: at most a hundred. `whole` when there are no others."""

    names: list[str]
    whole: bool

    def others(self, name: str) -> list[str]:
        """All but one."""
        return [each for each in self.names if each != name]

    def reached(self, name: str) -> list[str] | None:
        """The others of a change of the plan; None where some have no name here."""
        return self.others(name) if self.whole else None


async def sites_of_farm(azure: Azure, farm: Farm) -> Sharing:
    """The apps that share a plan; their names only."""
    path = azure.arm.web(f"serverfarms/{farm.name}/sites")
    ask = Ask(action="Microsoft.Web/serverfarms/sites/read")
    raw, more = await azure.arm.pages(path, ask, most=100)
    names = [listed_name(text(one, "name")) for one in raw]
    known = sorted({name.shown for name in names if name is not None})
    counted = number(farm.raw, "properties", "numberOfSites")
    whole = not more and None not in names and counted <= len(known)
    return Sharing(names=known, whole=whole)


async def if_allowed(ask: Callable[[], Awaitable[T]]) -> T | None:
    """What is nice to know: None where the role does not allow it, or it is not there."""
    try:
        return await ask()
    except (Forbidden, NotFound):
        return None


def age_of(written: str, now: float) -> int | None:
    """Whole seconds since a time, or None where it is none."""
    at = seconds(written)
    return None if at is None else max(round(now - at), 0)
