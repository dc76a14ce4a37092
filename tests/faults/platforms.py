"""The lab's App Service, Railway and HTTP job endpoints as parts of a stage.

Each has objects of its own for every write, so that an object is one intent, and says of its own
log what the effects are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from starlette.types import ASGIApp

from mcp_ops.clock import rfc3339
from mcp_ops.lab.azure.api import azure
from mcp_ops.lab.azure.seed import GROUP, SUBSCRIPTION
from mcp_ops.lab.azure.world import App, Farm, deployment_of
from mcp_ops.lab.azure.world import World as AzureWorld
from mcp_ops.lab.railway.api import PATH, railway_with_world
from mcp_ops.lab.railway.world import Service
from mcp_ops.lab.railway.world import World as RailwayWorld
from mcp_ops.lab.standin import StandIn
from mcp_ops.lab.sync import sync_backend
from tests.faults.checker import Effect
from tests.faults.naming import Named, as_sent
from tests.faults.platform_writes import (
    INSTANCE,
    JOB_MODE,
    LARGER,
    LARGER_TIER,
    RELEASES,
    SMALLER,
    each,
)
from tests.faults.writing import PATIENT

SETTLE_S: Final = 0.05
_DAY: Final = 86_400.0
_TAKES_S: Final = 0.3
# How somebody else calls themselves.
SOMEBODY: Final = "somebody"
# Longer than a deployment needs to replace another one: what runs until then is not steady.
_STEADY_S: Final = 0.3
# Jobs, units and commands are configuration: so many of each kind are there before a row says which
# it changes.
MOST: Final = 12


def _as_it_is(app: ASGIApp) -> ASGIApp:
    return app


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A stand-in, how an object of a write is made in it, and what its log says.

    `named` stands before the gate and gives a request the path by which it is told there, `sent`
    stands behind it and takes that back. `world` is what is inside, to act as somebody else.
    """

    stand_in: StandIn
    make: Callable[[str], None]
    effects: Callable[[Mapping[str, Any]], list[Effect]]
    configured: Callable[[str], str]
    world: AzureWorld | RailwayWorld | None = None
    named: Callable[[ASGIApp], ASGIApp] = _as_it_is
    sent: Callable[[ASGIApp], ASGIApp] = _as_it_is


# App Service


def azure_part(directory: Path, *, token: str, variable: str, secret: str) -> Platform:
    """A resource group whose apps have a secret among their settings."""
    # Who comes after a process that was lost comes after the log, which is minutes late.
    stand_in = azure(directory=directory, token=token, settle_s=SETTLE_S, activity_lag_s=0.0)

    def configured(url: str) -> str:
        return f"""
[targets.web]
kind = "azure_app_service"
environment = "dev"
subscription_id = "{SUBSCRIPTION}"
resource_group = "{GROUP}"
credential = "token"
access_token = "env:{variable}"
arm_url = "{url}"
scm_url = "{url}/scm/{{site}}"
log_stream_s = 0
restart_workers = true
{PATIENT}
tiers = ["{SMALLER}"]
"""

    return Platform(
        stand_in=stand_in,
        world=stand_in.world,
        make=lambda name: _app(stand_in.world, name, secret),
        effects=_of_azure,
        configured=configured,
    )


def _app(world: AzureWorld, name: str, secret: str) -> None:
    """An app on a plan of its own, with two deployments; one that is swapped has a slot."""
    # A process of its own can be ended at Windows only.
    linux = not name.startswith("azure-instance")
    farm = Farm(name=f"plan-{name}", sku=LARGER, tier=LARGER_TIER, capacity=1, linux=linux)
    farm.workers = [INSTANCE]
    world.farms[farm.name] = farm
    for key in (name, *([f"{name}/staging"] if name.startswith("azure-swap") else [])):
        now = world.now()
        app = App(key=key, farm=farm, modified=now - _DAY)
        app.config = {"alwaysOn": True, "linuxFxVersion": "PYTHON|3.12"}
        app.settings = {"SLOT": key, "PAYMENTS_PASSWORD": secret}
        app.sticky = {"SLOT"}
        app.deployments = [
            deployment_of(f"rel-{n}", rfc3339(now - (3 - n) * _DAY), message="x", active=n == 2)
            for n in (2, 1)
        ]
        app.state = "Stopped" if name.startswith("azure-start") else "Running"
        world.apps[key] = app


def _of_azure(line: Mapping[str, Any]) -> list[Effect]:
    if not line["effect"].startswith("client."):
        return []
    name = line.get("site") or line["plan"].removeprefix("plan-")
    return [Effect(intent=name, call=line["request"])]


# Railway


def railway_part(directory: Path, *, token: str, variable: str, secret: str) -> Platform:
    """A project whose services have a secret among their variables."""
    stand_in, api = railway_with_world(directory=directory, token=token, settle_s=SETTLE_S)

    def configured(url: str) -> str:
        return f"""
[targets.store]
kind = "railway"
environment = "dev"
token = "env:{variable}"
url = "{url}{PATH}"
steady_s = {_STEADY_S}
recheck_s = {SETTLE_S}
{PATIENT}
"""

    return Platform(
        stand_in=stand_in,
        world=api.world,
        make=lambda name: _service(api.world, name, secret),
        effects=_of_railway,
        configured=configured,
        named=lambda app: Named(app, partial(_named, api.world)),
        sent=as_sent,
    )


def _service(world: RailwayWorld, name: str, secret: str) -> None:
    """A service with two deployments, of which the newer one has its name."""
    variables = {"PAYMENTS_PASSWORD": secret}
    made = world.add(
        Service(id=f"id-{name}", name=name, repo="acme/faults", head="b2" * 20, variables=variables)
    )
    now = world.now()
    for number in range(RELEASES):
        commit = ("a1", "b2")[number] * 20
        at = now - (RELEASES - number) * _DAY
        world.deploy(made, reason="deploy", commit=commit, outcome="good", at=at).id = (
            name if number == RELEASES - 1 else f"old-{name}"
        )
    world.settle()
    for one in made.deployments[:-1]:
        one.settled = "REMOVED"
    if name.startswith("railway-start"):
        made.deployments[-1].stopped_at = now - _DAY


_EFFECTS: Final = frozenset(
    {
        "deploymentRestart",
        "deploymentRedeploy",
        "deploymentRollback",
        "deploymentStop",
        "serviceInstanceDeployV2",
        "variableUpsert",
    }
)


def _of_railway(line: Mapping[str, Any]) -> list[Effect]:
    # Railway is told no call: only the service says whose effect it is. The number of instances
    # that is saved before a deployment takes it up is no effect yet.
    return [Effect(intent=line["service"])] if line["effect"] in _EFFECTS else []


def _named(world: RailwayWorld, path: str, body: Any) -> str:
    """A request of GraphQL is told by `/OPERATION/SERVICE`."""
    told = body if isinstance(body, dict) else {}
    return f"/{told.get('operationName')}/{_service_of(world, told.get('variables') or {})}"


def _service_of(world: RailwayWorld, variables: Mapping[str, Any]) -> str:
    service = world.services.get(variables.get("service", ""))
    if service is not None:
        return service.name
    wanted = variables.get("deployment")
    found = [one.service.name for one in world.deployments() if one.id == wanted]
    return found[0] if found else ""


# HTTP job endpoints


def jobs_part(directory: Path, *, key: str, variable: str) -> Platform:
    """Jobs that start a run for one key once, and jobs that know no keys; each can be told to."""
    names = each(MOST, "jobs")
    there = {"sales": False, **{name: name.startswith("job-keyed") for name in names}}
    stand_in = sync_backend(
        directory=directory,
        key=key,
        takes_s=_TAKES_S,
        jobs=there,
        held=[name for name in names if name.startswith("job-letgo")],
        hung=[name for name in names if name.startswith("job-cancel")],
    )

    def configured(url: str) -> str:
        head = f"""
[targets.syncs]
kind = "http_jobs"
environment = "dev"
url = "{url}"
headers = {{ X-Admin-Key = "env:{variable}" }}
{PATIENT}
"""
        return head + "".join(_job(name, keyed=there[name]) for name in names)

    def make(name: str) -> None:
        assert name in there, f"{name} is not configured"

    return Platform(stand_in=stand_in, make=make, effects=_of_jobs, configured=configured)


def _job(name: str, *, keyed: bool) -> str:
    header = 'idempotency_header = "Idempotency-Key"' if keyed else ""
    return f"""
[targets.syncs.jobs.{name}]
cancel = {{ path = "/admin/sync-{name}/cancel" }}
suspend = {{ path = "/admin/sync-{name}/pause" }}
resume = {{ path = "/admin/sync-{name}/unpause" }}
[targets.syncs.jobs.{name}.status]
path = "/admin/sync-{name}/status"
running = '$.status == "running"'
succeeded = '$.status == "completed"'
failed = '$.status == "failed"'
suspended = "$.paused"
run_id = "$.run_id"
last_start = "$.started_at"
last_success = "$.last_sync_at"
problem = "$.error"
[targets.syncs.jobs.{name}.trigger]
path = "/admin/sync-{name}"
modes = {{ {JOB_MODE} = {{ mode = "{JOB_MODE}" }} }}
run_id = "$.run_id"
{header}
"""


def _of_jobs(line: Mapping[str, Any]) -> list[Effect]:
    if line["agent"] == SOMEBODY:
        return []
    if line["effect"] in ("sync-cancel", "sync-pause", "sync-unpause"):
        return [Effect(intent=line["job"])]
    if line["effect"] != "sync-started":
        return []
    return [Effect(intent=line["job"], call=line["key"])]
