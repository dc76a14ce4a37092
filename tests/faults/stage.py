"""The systems of a run: stand-ins on sockets with logs of their own, gates and proxies before them.

Each row takes the parts that it needs. A gate looks at whole requests (hold it, lose its answer),
a proxy at bytes. The configuration of the servers under test names the proxies.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
from starlette.types import ASGIApp

from mcp_ops.lab.azure.world import World as AzureWorld
from mcp_ops.lab.configuration import lab_environment
from mcp_ops.lab.coordinator import coordinator
from mcp_ops.lab.kubernetes.api import kubeconfig, kubernetes
from mcp_ops.lab.postgres import Postgres, postgres
from mcp_ops.lab.proxy import Proxy, proxy
from mcp_ops.lab.redis import Valkey, valkey
from mcp_ops.lab.standin import StandIn
from tests.faults.checker import Effect
from tests.faults.cluster_objects import APPS, make, patch
from tests.faults.cluster_writes import OLD
from tests.faults.commands import Commands
from tests.faults.effects import READ
from tests.faults.naming import Named, as_sent
from tests.faults.platform_writes import each
from tests.faults.platforms import MOST, Platform, azure_part, jobs_part, railway_part
from tests.faults.units import Units
from tests.faults.writes import writing_of
from tests.faults.writing import PATIENT
from tests.kubernetes_lab import Between, served
from tests.served import loopback

ROOT = Path(__file__).parent.parent.parent
# Secrets that no answer, log line, ledger entry or file of the state may hold.
CLUSTER_TOKEN = "canary-cluster-3f9c1d7e5b"
QUEUE_PASSWORD = "canary-queue-8a2e6c4f0d"
AZURE_TOKEN = "canary-azure-6c1f9e4b7a"
RAILWAY_TOKEN = "canary-railway-2e8d5a0c6f"
JOBS_KEY = "canary-jobs-7f3b1d9e5c"
SETTING = "canary-setting-0d6a8c4e2b"  # what an app or a service has as a secret of its own
AGENT_KEY = "canary-agent-key-5d1b9f3a7c"
OTHER_KEY = "canary-other-key-2c8e4a6b0f"
APPROVER_KEY = "canary-approver-key-9e7c5a3d1b"
STORE_PASSWORD = "canary-store-4d6f8b0a2c"
STORE_KEY = "canary-store-key-7b3e9d1f5a"
OLD_SEAL_KEY = "canary-seal-key-old-6e2a4c8f1b"
NEW_SEAL_KEY = "canary-seal-key-new-9d3b7a5e0c"
CANARIES = (
    *(OLD_SEAL_KEY, NEW_SEAL_KEY),
    *(AZURE_TOKEN, RAILWAY_TOKEN, JOBS_KEY, SETTING),
    *(CLUSTER_TOKEN, QUEUE_PASSWORD, STORE_PASSWORD, STORE_KEY),
    *(AGENT_KEY, OTHER_KEY, APPROVER_KEY),
)
SETTLE_S = 0.05
QUEUE_URL = "FAULTS_QUEUE_URL"
AGAIN = "orders:again"
# The commands and keys that docs/shared-store.md asks for.
_MAY = (
    "~{mcp-ops}:* +eval +evalsha +time +info +get +set +del +exists +hget +hset +hmget +hdel "
    "+hvals +hgetall +client|setname"
)
# A crash of the server is survived all the same: what is not synced is lost with the machine only.
_FAST = ("fsync=off", "shared_buffers=16MB", "max_wal_size=128MB")

_HEAD = """\
[server]
allowed_hosts = ["127.0.0.1"]
[[server.keys]]
name = "agent"
key = "env:FAULTS_AGENT_KEY"
host_confirms = true
[[server.keys]]
name = "other"
key = "env:FAULTS_OTHER_KEY"
host_confirms = true
[[server.keys]]
name = "approver"
key = "env:FAULTS_APPROVER_KEY"
scopes = ["ops:read", "ops:approve"]
[tools]
profile = "full"
"""
LIMITS = {
    "principal_per_minute": 1_000_000,
    "metered_per_minute": 1_000_000,
    "writes_per_object": 100_000,
    "writes_per_hour": 1_000_000,
    "destroys_per_hour": 1_000_000,
    "concurrent_per_target": 100,
    "bulkhead_wait_s": 30,
}
# A circuit that a row does not test must not answer in the place of what it tests.
CIRCUIT = {"threshold": 100, "minimum_calls": 1000, "open_s": 1}
FREE = '[[policy]]\nrequire = "none"\n'


@dataclass(kw_only=True)
class Stage:
    """What a run plays on. The parts that it did not ask for are absent."""

    directory: Path
    config: Path
    between: dict[str, Between] = field(default_factory=dict)
    proxies: dict[str, Proxy] = field(default_factory=dict)
    stand_ins: dict[str, StandIn] = field(default_factory=dict)
    platforms: dict[str, Platform] = field(default_factory=dict)
    local: dict[str, Units | Commands] = field(default_factory=dict)
    queue: Valkey | None = None
    postgres: Postgres | None = None
    variables: dict[str, str] = field(default_factory=dict)
    cluster: httpx2.AsyncClient | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the servers under test and of the operator's commands."""
        return {
            **lab_environment(os.environ),
            "FAULTS_AGENT_KEY": AGENT_KEY,
            "FAULTS_OTHER_KEY": OTHER_KEY,
            "FAULTS_APPROVER_KEY": APPROVER_KEY,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **self.variables,
        }

    @property
    def there(self) -> httpx2.AsyncClient:
        """The cluster as somebody else has it, past its gate and proxy."""
        assert self.cluster is not None
        return self.cluster

    async def workloads(self, *names: str, image: str = OLD) -> None:
        """Make deployments of one instance, schedules, apps, services: each is the object of one
        intent. A tag with `broken` in it can't start."""
        async with anyio.create_task_group() as tasks:
            for name in names:
                writing = writing_of(name)
                if writing.part in self.platforms:
                    self.platforms[writing.part].make(name)
                elif writing.part in self.local:
                    tasks.start_soon(self.local[writing.part].make, name)
                else:
                    tasks.start_soon(make, self.there, writing.tool, name, image)

    async def change(self, name: str, spec: dict[str, Any]) -> None:
        """Change a deployment as somebody else would."""
        await patch(self.there, f"{APPS}/deployments/{name}", {"spec": spec})

    def late(self) -> None:
        """Azure's activity log is behind, as it is when somebody looks at once."""
        if "azure" in self.platforms:
            world = self.platforms["azure"].world
            assert isinstance(world, AzureWorld)
            world.activity_lag_s = 180.0

    def effects(self) -> list[Effect]:
        """What really happened at all stand-ins, as the checker reads it."""
        found: list[Effect] = []
        for name, stand_in in self.stand_ins.items():
            read = self.platforms[name].effects if name in self.platforms else READ[name]
            found += [effect for line in stand_in.log.read() for effect in read(line)]
        return found + [effect for part in self.local.values() for effect in part.effects()]

    async def settled(self) -> None:
        """Wait until what was begun on this machine shows in the effects."""
        for part in self.local.values():
            await part.settled()


@asynccontextmanager
async def stage(
    directory: Path,
    *parts: str,
    limits: Mapping[str, Any] | None = None,
    circuit: Mapping[str, Any] | None = None,
    policy: str = FREE,
    more: str = "",
) -> AsyncIterator[Stage]:
    """Start the parts that `_PARTS` names, and write the configuration.

    `limits` and `circuit` go over wide ones; `policy` and `more` are TOML for the end of it.
    """
    made = Stage(directory=directory, config=directory / "mcp-ops.toml")
    text = [_HEAD, _table("guard.limits", {**LIMITS, **(limits or {})})]
    text += [_table("guard.circuit", {**CIRCUIT, **(circuit or {})}), policy]
    async with AsyncExitStack() as stack:
        for part in parts:
            text.append(await _PARTS[part](made, stack))
        made.config.write_text("\n".join([*text, more]), encoding="utf-8")
        yield made


async def _cluster(made: Stage, stack: AsyncExitStack) -> str:
    stand_in = kubernetes(
        directory=made.directory / "cluster", token=CLUSTER_TOKEN, settle_s=SETTLE_S
    )
    url = await _behind(
        made, stack, "cluster", stand_in, named=lambda app: Named(app, _named), sent=as_sent
    )
    path = made.directory / "kubeconfig"
    path.write_text(kubeconfig(url, CLUSTER_TOKEN), encoding="utf-8")
    return f"""
[targets.shop]
kind = "kubernetes"
environment = "dev"
kubeconfig = {json.dumps(str(path))}
{PATIENT}
"""


def _named(path: str, body: Any) -> str:
    """What is created is told by its name: all runs have one address."""
    name = (body.get("metadata") or {}).get("name") if isinstance(body, dict) else None
    return f"{path}/{name}" if name and path.endswith("/jobs") else path


async def _coordinator(made: Stage, stack: AsyncExitStack) -> str:
    stand_in = coordinator(directory=made.directory / "coordinator")
    url = await _behind(made, stack, "coordinator", stand_in)
    return f"""
[targets.coordinator]
kind = "http"
environment = "dev"
url = "{url}"
allow_operations = ["oci_*", "llm.*"]
"""


def _free_port() -> int:
    taken, _ = loopback()
    port = int(taken.getsockname()[1])
    taken.close()
    return port


async def _valkey(made: Stage, stack: AsyncExitStack, *options: str) -> str:
    """The server with the queue, the shared hot store, or both; the URL of a proxy before it."""
    port = _free_port()
    made.queue = await stack.enter_async_context(valkey(made.directory / "queue", port, *options))
    made.proxies["queue"] = await stack.enter_async_context(proxy(port))
    return f"127.0.0.1:{made.proxies['queue'].port}/0"


async def _queue(made: Stage, stack: AsyncExitStack) -> str:
    url = f"redis://{await _valkey(made, stack)}"
    (made.directory / "queue-url").write_text(url, encoding="utf-8")
    return """
[targets.orders]
kind = "redis"
environment = "dev"
url = "file:queue-url"
[targets.orders.links]
endpoint = "coordinator"
"""


async def _moves(made: Stage, stack: AsyncExitStack) -> str:
    """A queue whose items are moved to another one: each process may have a way of its own."""
    made.variables[QUEUE_URL] = f"redis://{await _valkey(made, stack)}"
    return f"""
[targets.orders]
kind = "redis"
environment = "dev"
url = "env:{QUEUE_URL}"
retry = "requeue"
requeue_key = "{AGAIN}"
"""


async def _hot(made: Stage, stack: AsyncExitStack) -> str:
    """The shared hot store, for a user that may do what docs/shared-store.md says."""
    may = ["--user", "mcp-ops", "on", f">{STORE_PASSWORD}", *_MAY.split()]
    address = await _valkey(made, stack, *may)
    made.variables["MCP_OPS_STORE_HOT"] = f"redis://mcp-ops:{STORE_PASSWORD}@{address}"
    return ""


async def _ledger(made: Stage, stack: AsyncExitStack) -> str:
    """The shared ledger in PostgreSQL, behind a proxy."""
    port = _free_port()
    running = postgres(made.directory / "postgres", port, *_FAST, password=STORE_PASSWORD)
    made.postgres = await stack.enter_async_context(running)
    made.proxies["ledger"] = between = await stack.enter_async_context(proxy(port))
    url = made.postgres.url.replace(f":{port}/", f":{between.port}/")
    made.variables |= {"MCP_OPS_STORE_LEDGER": url, "MCP_OPS_STORE_KEY": STORE_KEY}
    return ""


async def _azure(made: Stage, stack: AsyncExitStack) -> str:
    made.variables["FAULTS_AZURE_TOKEN"] = AZURE_TOKEN
    part = azure_part(
        made.directory / "azure", token=AZURE_TOKEN, variable="FAULTS_AZURE_TOKEN", secret=SETTING
    )
    return await _platform(made, stack, "azure", part)


async def _railway(made: Stage, stack: AsyncExitStack) -> str:
    made.variables["FAULTS_RAILWAY_TOKEN"] = RAILWAY_TOKEN
    part = railway_part(
        made.directory / "railway",
        token=RAILWAY_TOKEN,
        variable="FAULTS_RAILWAY_TOKEN",
        secret=SETTING,
    )
    return await _platform(made, stack, "railway", part)


async def _jobs(made: Stage, stack: AsyncExitStack) -> str:
    made.variables["FAULTS_JOBS_KEY"] = JOBS_KEY
    part = jobs_part(made.directory / "jobs", key=JOBS_KEY, variable="FAULTS_JOBS_KEY")
    return await _platform(made, stack, "jobs", part)


async def _platform(made: Stage, stack: AsyncExitStack, name: str, part: Platform) -> str:
    """Serve a platform; the configuration of its target."""
    made.platforms[name] = part
    # It has a time of its own.
    url = await _behind(
        made, stack, name, part.stand_in, named=part.named, sent=part.sent, date=False
    )
    return part.configured(url)


async def _units(made: Stage, stack: AsyncExitStack) -> str:
    part = Units(made.directory / "units", each(MOST, "units"))
    await _tended(made, stack, "units", part)
    return part.configured()


async def _commands(made: Stage, stack: AsyncExitStack) -> str:
    made.variables["FAULTS_SETTING"] = SETTING
    folders = (made.directory / "state", made.directory / "commands")
    part = Commands(*folders, each(MOST, "commands"), secret=SETTING)
    await _tended(made, stack, "commands", part)
    return part.configured("FAULTS_SETTING")


async def _tended(made: Stage, stack: AsyncExitStack, name: str, part: Units | Commands) -> None:
    """A part of this machine is open, and what it started ends with it."""
    made.local[name], made.between[name] = part, part.between
    tasks = await stack.enter_async_context(anyio.create_task_group())
    stack.callback(tasks.cancel_scope.cancel)
    stack.push_async_callback(part.close)
    await part.open(tasks)


async def _behind(
    made: Stage,
    stack: AsyncExitStack,
    name: str,
    stand_in: StandIn,
    *,
    named: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    sent: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    date: bool = True,
) -> str:
    """Serve a stand-in behind a gate and a proxy; the proxy's URL. `named` stands before the gate,
    `sent` behind it."""
    made.stand_ins[name] = stand_in
    made.between[name] = Between(sent(stand_in.app))
    direct = await stack.enter_async_context(served(named(made.between[name]), date=date))
    port = urlsplit(direct).port
    assert port is not None
    made.proxies[name] = await stack.enter_async_context(proxy(port))
    if name == "cluster":
        headers = {"authorization": f"Bearer {CLUSTER_TOKEN}"}
        client = httpx2.AsyncClient(base_url=direct, headers=headers, trust_env=False)
        made.cluster = await stack.enter_async_context(client)
    return f"http://127.0.0.1:{made.proxies[name].port}"


_PARTS = {
    "cluster": _cluster,
    "azure": _azure,
    "railway": _railway,
    "jobs": _jobs,
    "units": _units,
    "commands": _commands,
    "coordinator": _coordinator,
    "queue": _queue,
    "moves": _moves,
    "hot": _hot,
    "ledger": _ledger,
}


def _table(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines])
