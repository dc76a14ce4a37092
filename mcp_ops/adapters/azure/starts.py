"""When an app's instances started last, as far as App Service shows it.

On Windows Resource Manager has the worker process of each instance with its start. On Linux it
shows processes of Kudu's own container only; there the platform's log tells when the app's
container was ready, or that it did not start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from mcp_ops.adapters.azure.arm import Ask
from mcp_ops.adapters.azure.fields import Obj, flag, moment, seconds, text
from mcp_ops.adapters.azure.logs import dated, list_files, read_end
from mcp_ops.adapters.azure.look import Azure, Instance, Site, if_allowed
from mcp_ops.clock import rfc3339
from mcp_ops.errors import BadAnswer, Upstream
from mcp_ops.redact import tame
from mcp_ops.wire.together import together

PROCESSES: Final = Ask(action="Microsoft.Web/sites/instances/processes/read")
_INSTANCES: Final = 10
_EACH: Final = 6
_FILES: Final = 20
_BYTES: Final = 64 * 1024
_READY: Final = (
    "initialized successfully and is ready to serve requests",
    "site startup probe succeeded",
    "site started",
)
_FAILED: Final = (
    "didn't respond to http pings",
    "did not start within expected time limit",
    "startup probe failed",
    "failing site start",
    "container has exited, failing",
)


@dataclass(slots=True)
class Starts:
    """Starts since a moment: when, by instance or worker. `failed` is the platform's own line that
    says that one did not start; `unseen` why nothing can be seen at all."""

    at: dict[str, str] = field(default_factory=dict)
    failed: str = ""
    unseen: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The process of an app on one instance."""

    pid: str
    started: str


async def starts_since(azure: Azure, site: Site, instances: list[Instance], since: float) -> Starts:
    """What started after a moment (Unix seconds, on Azure's clock). Looking is no part of a
    change: an error here only means that nothing is seen."""
    try:
        if site.linux:
            return await _logged(azure, site, since)
        return await _processes(azure, site, instances, since)
    except Upstream:
        return Starts(unseen="App Service did not show when the instances started")


async def _processes(azure: Azure, site: Site, instances: list[Instance], since: float) -> Starts:
    found = Starts()
    asked = instances[:_INSTANCES]
    processes = await together([partial(process_of, azure, site, each.name) for each in asked])
    for instance, process in zip(asked, processes, strict=True):
        at = seconds(process.started) if process is not None else None
        if process is not None and at is not None and at >= since:
            found.at[instance.name[:12]] = moment(process.started) or ""
    if len(instances) > _INSTANCES:
        found.unseen = f"only the first {_INSTANCES} instances were looked at"
    return found


async def process_of(azure: Azure, site: Site, instance: str) -> Process | None:
    """The worker process of an app on one instance, or None where there is none or it is not
    shown."""
    base = azure.arm.web(f"{site.name.path}/instances/{instance}/processes")
    listed = await if_allowed(partial(azure.arm.pages, base, PROCESSES, most=_EACH))
    pids = [_pid(one) for one in listed[0]] if listed is not None else []
    asks = [
        partial(if_allowed, partial(azure.arm.get, f"{base}/{pid}", PROCESSES))
        for pid in pids
        if pid
    ]
    for pid, one in zip((each for each in pids if each), await together(asks), strict=True):
        if one is not None and _is_app(one):
            return Process(pid=pid, started=text(one, "properties", "start_time"))
    return None


def _pid(process: Obj) -> str:
    name = text(process, "name").rpartition("/")[2]
    pid = name if name.isdigit() else text(process, "id").rpartition("/")[2]
    return pid if pid.isascii() and pid.isdigit() and len(pid) < 10 else ""


def _is_app(process: Obj) -> bool:
    """IIS' worker process, and not the one of Kudu."""
    file = text(process, "properties", "file_name").lower()
    return file.endswith("w3wp.exe") and not flag(process, "properties", "is_scm_site")


async def _logged(azure: Azure, site: Site, since: float) -> Starts:
    address = azure.scm.address(site.name, site.raw)
    files = [each for each in await list_files(azure, site, address) if each.platform]
    recent = [each for each in files if each.changed >= since or not each.changed][:_FILES]
    found = Starts()
    if not files:
        found.unseen = "the platform's log of starts is not there"
    for file in recent:
        try:
            words, _ = await read_end(azure, address, file, _BYTES)
        except BadAnswer:
            found.unseen = "the platform's log of starts is too large to read"
            continue
        _read(found, file.machine, dated(words), since)
    return found


def _read(
    found: Starts, machine: str, lines: Iterable[tuple[float | None, str]], since: float
) -> None:
    """The last word of a worker counts: one that failed may have started after all."""
    failed = ""
    for at, line in lines:
        low = line.lower()
        if at is None or at < since:
            continue
        if any(each in low for each in _READY):
            found.at[machine] = rfc3339(at)
            failed = ""
        elif any(each in low for each in _FAILED):
            found.at.pop(machine, None)
            failed = tame(line, 200)
    found.failed = found.failed or failed
