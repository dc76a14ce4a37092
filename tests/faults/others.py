"""What somebody else does at a platform: before a change of ours, after it, and to spoil it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import httpx2

from mcp_ops.clock import rfc3339
from mcp_ops.lab.azure.world import App, deployment_of
from mcp_ops.lab.azure.world import World as AzureWorld
from mcp_ops.lab.railway.world import World as RailwayWorld
from tests.faults.commands import Commands
from tests.faults.platform_writes import LARGER, LARGER_TIER
from tests.faults.platforms import SOMEBODY
from tests.faults.stage import JOBS_KEY, Stage
from tests.faults.writes import writing_of

# A run takes less: ours has ended by then, and another one can begin.
_A_RUN_S = 0.5
_THEIRS = "c3" * 20


async def change(stage: Stage, name: str) -> None:
    """Change the object of a write so that it is not what was looked at."""
    part = writing_of(name).part
    if part in stage.local:
        await stage.local[part].change(name)
        return
    world = stage.platforms[part].world
    if isinstance(world, AzureWorld):
        _change_app(world, name)
    elif isinstance(world, RailwayWorld):
        world.deploy(world.by_name(name), reason="deploy", commit=_THEIRS)
    else:
        if name.startswith("job-cancel"):
            await _ask(stage, name, "/cancel")
        await _run(stage, name)


def _change_app(world: AzureWorld, name: str) -> None:
    app = world.apps[name]
    if name.startswith(("azure-scale", "azure-tier")):
        app.farm.capacity = 3
        app.farm.resize()
    elif name.startswith("azure-instance"):
        world.restart(app)
    elif name.startswith("azure-config"):
        app.settings["OTHER"] = "theirs"
    elif name.startswith("azure-rollback"):
        _deploy(world, app)
    else:
        world.touch(app)


def _deploy(world: AzureWorld, app: App) -> None:
    for one in app.deployments:
        one["active"] = False
    theirs = deployment_of("rel-3", rfc3339(world.now()), message="theirs", active=True)
    app.deployments.insert(0, theirs)


async def _undo_app(world: AzureWorld, name: str) -> None:
    app = world.apps[name]
    if name.startswith("azure-config"):
        app.settings["REGION"] = "theirs"
    elif name.startswith("azure-scale"):
        app.farm.capacity = 3
    elif name.startswith("azure-tier"):
        app.farm.sku, app.farm.tier = LARGER, LARGER_TIER
    elif name.startswith("azure-rollback"):
        with anyio.fail_after(30):
            while not next(one for one in app.deployments if one["id"] == "rel-1")["active"]:
                await anyio.sleep(0.02)
                world.advance()
        _deploy(world, app)
    else:
        app.state = "Running" if name.startswith("azure-stop") else "Stopped"


async def overtake(stage: Stage, name: str) -> None:
    """Change it again right after ours was done: what is there then is not ours."""
    part = writing_of(name).part
    if part in stage.local:
        await stage.local[part].overtake(name)
        return
    world = stage.platforms[part].world
    if isinstance(world, AzureWorld):
        await _undo_app(world, name)
    elif isinstance(world, RailwayWorld):
        world.deploy(world.by_name(name), reason="deploy", commit=_THEIRS)
    elif name.startswith(("job-hold", "job-letgo")):
        await _ask(stage, name, "/unpause" if name.startswith("job-hold") else "/pause")
    else:
        if not name.startswith("job-cancel"):
            await anyio.sleep(_A_RUN_S)
        await _run(stage, name)


async def _ask(stage: Stage, name: str, act: str = "", **body: str) -> None:
    """Ask for a run of a job, or for what else can be done with it, as somebody else."""
    url = f"http://127.0.0.1:{stage.proxies['jobs'].port}/admin/sync-{name}{act}"
    headers = {"x-admin-key": JOBS_KEY, "user-agent": SOMEBODY}
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.post(url, json=body, headers=headers)
    assert answer.is_success, answer.text


async def _run(stage: Stage, name: str) -> None:
    await _ask(stage, name, mode="full")


def spoil(stage: Stage, name: str) -> None:
    """What is started of it from now on does not come up."""
    part = writing_of(name).part
    if part in stage.local:
        stage.local[part].spoil(name)
        return
    world = stage.platforms[part].world
    if isinstance(world, AzureWorld):
        next(one for one in world.apps[name].deployments if one["active"])["broken"] = True
        return
    assert isinstance(world, RailwayWorld), "runs fail while their endpoint has a fault"
    runs = world.by_name(name).deployments[-1]
    runs.settled, runs.settled_at, runs.outcome = "SUCCESS", runs.born, "build-fails"


def bereave(stage: Stage, name: str) -> None:
    """The keeper of a command is killed when it has started it."""
    commands = stage.local[writing_of(name).part]
    assert isinstance(commands, Commands)
    commands.bereave(name)


@contextmanager
def never(stage: Stage, name: str, fault: str) -> Iterator[None]:
    """What is begun of it meanwhile does not come to its end: by that fault of its platform, or on
    this machine for good."""
    part = writing_of(name).part
    if part in stage.local:
        stage.local[part].never(name)
        yield
        return
    stage.stand_ins[part].inject(fault)
    yield
    stage.stand_ins[part].mend(fault)
