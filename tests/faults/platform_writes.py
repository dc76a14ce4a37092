"""The writes that rows play at App Service, at Railway and at HTTP job endpoints; and, of this
machine, at systemd and plain processes.

`azure-restart-03` is an app that is restarted, `railway-scale-01` a service that is scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.faults import local_writes
from tests.faults.writing import Writing

# What the log of a platform says of a start that was asked for.
_RESTARTED: Final = "because it was restarted"
_APP_STARTS: Final = "level=info starting"  # an app's own first words
_STARTED: Final = "Starting Container"
# What stands at a platform when the rows come to it: deployments made earlier.
RELEASES: Final = 2
JOB_MODE: Final = "incremental"
# The size that a plan has, the one that it is given, and the tiers of both.
LARGER: Final = "P1v3"
LARGER_TIER: Final = "PremiumV3"
SMALLER: Final = "S1"
SMALLER_TIER: Final = "Standard"
# The one instance of an app that loses its process.
INSTANCE: Final = "a1b2c3d4" * 8


def _logged(words: str) -> Callable[[str], Mapping[str, Any]]:
    return lambda name: {"name": name, "grep": words}


def _any_item(body: dict[str, Any], _name: str) -> bool:
    return bool(body["items"])


def _stopped(body: dict[str, Any], _name: str) -> bool:
    return body["problem"] in ("stopped", "scaled_to_zero")


def _two(body: dict[str, Any], _name: str) -> bool:
    return bool(body["desired"] == 2)


def _configured(body: dict[str, Any], _name: str) -> bool:
    return any(one["name"] == "REGION" for one in body["items"])


def _swapped(body: dict[str, Any], _name: str) -> bool:
    return any(one["type"] == "LastSwap" for one in body["conditions"])


def _deployed(body: dict[str, Any], _name: str) -> bool:
    return len(body["items"]) > RELEASES


def _ran(body: dict[str, Any], name: str) -> bool:
    return any(job["name"] == name and "last_start" in job for job in body["items"])


def _held(body: dict[str, Any]) -> bool:
    return bool(body["items"][0]["suspended"])


def _over(body: dict[str, Any], _name: str) -> bool:
    return body["items"][0]["state"] not in ("running", "running_too_long")


def _only(name: str) -> dict[str, Any]:
    """The page that has nothing but this job: it begins right before its name."""
    return {"limit": 1, "cursor": name[:-1] + chr(ord(name[-1]) - 1)}


def _smaller(body: dict[str, Any], _name: str) -> bool:
    return any(
        one["type"] == "Plan" and one["reason"] == SMALLER_TIER for one in body["conditions"]
    )


_SET: Final = {"key": "REGION", "value": "eu"}
_INSTANCES: Final = ("GET", "/sites/{name}/instances", 0)
_SITE: Final = "/sites/{name}"
_PROCESSES: Final = f"/sites/{{name}}/instances/{INSTANCE}/processes"
_LIST: Final = "/sites/{name}/config/appsettings/list"

_AZURE: Final[Mapping[str, Writing]] = {
    "azure-restart": Writing(
        part="azure",
        tool="restart_deployment",
        more={},
        look="get_deployment_logs",
        looked=_logged(_RESTARTED),
        found=_any_item,
        method="POST",
        asks="/sites/{name}/restart",
        looks="/eventtypes/",
        meanwhile=_INSTANCES,
        repeats=False,
        marked=False,  # but in the activity log, minutes later
    ),
    "azure-stop": Writing(
        part="azure",
        tool="stop_deployment",
        more={},
        look="get_deployment",
        found=_stopped,
        method="POST",
        asks="/sites/{name}/stop",
        looks=_SITE,
        meanwhile=_INSTANCES,
    ),
    "azure-start": Writing(
        part="azure",
        tool="start_deployment",
        more={},
        look="get_deployment",
        found=lambda body, name: not _stopped(body, name),
        method="POST",
        asks="/sites/{name}/start",
        looks=_SITE,
        meanwhile=_INSTANCES,
    ),
    "azure-swap": Writing(
        part="azure",
        tool="swap_slots",
        more={"slot": "staging"},
        look="get_deployment",
        found=_swapped,
        method="POST",
        asks="/sites/{name}/slotsswap",
        looks=_SITE,
        meanwhile=("POST", "/sites/{name}/slotsdiffs", 0),
        repeats=False,
    ),
    "azure-scale": Writing(
        part="azure",
        tool="scale_deployment",
        more={"replicas": 2},
        look="get_deployment",
        found=_two,
        method="PUT",
        asks="/serverfarms/plan-{name}",
        looks="/serverfarms/plan-{name}",
        meanwhile=_INSTANCES,
    ),
    "azure-tier": Writing(
        part="azure",
        tool="set_resources",
        more={"tier": SMALLER},
        look="get_deployment",
        found=_smaller,
        method="PUT",
        asks="/serverfarms/plan-{name}",
        looks="/serverfarms/plan-{name}",
        meanwhile=_INSTANCES,
    ),
    "azure-instance": Writing(
        part="azure",
        tool="restart_instance",
        more={"instance": INSTANCE},
        look="get_deployment_logs",
        looked=_logged(_APP_STARTS),
        found=_any_item,
        method="DELETE",
        asks=f"{_PROCESSES}/",
        looks=_PROCESSES,
        meanwhile=("GET", _PROCESSES, 3),
        repeats=False,
    ),
    # Its worker has nothing else on it, and no process that could be ended.
    "azure-worker": Writing(
        part="azure",
        tool="restart_instance",
        more={"instance": INSTANCE},
        look="get_deployment_logs",
        looked=_logged(_APP_STARTS),
        found=_any_item,
        method="POST",
        asks="/serverfarms/plan-{name}/workers/",
        looks="/eventtypes/",
        meanwhile=_INSTANCES,
        repeats=False,
        marked=False,  # but in the activity log, minutes later
    ),
    "azure-config": Writing(
        part="azure",
        tool="set_config",
        more=_SET,
        look="list_config",
        found=_configured,
        method="PUT",
        asks="/sites/{name}/config/appsettings",
        look_method="POST",
        looks=_LIST,
        meanwhile=("POST", _LIST, 1),
    ),
    "azure-rollback": Writing(
        part="azure",
        tool="rollback_deployment",
        more={},
        look="get_deployment",
        found=lambda body, name: bool(body["revision"] == "rel-1"),
        method="PUT",
        asks="/scm/{name}/api/deployments/",
        looks="/sites/{name}/deployments",
        meanwhile=("GET", "/sites/{name}/deployments", 1),
        repeats=False,
    ),
}


def _railway(tool: str, operation: str, found: Any, **more: Any) -> Writing:
    """A request of GraphQL is told by its operation and the service that it is of."""
    given: dict[str, Any] = {"look": "get_deployment", "more": {}, "looks": "/Service/{name}"}
    return Writing(
        part="railway",
        tool=tool,
        found=found,
        method="POST",
        asks=f"/{operation}/{{name}}",
        look_method="POST",
        meanwhile=("POST", "/Service/{name}", 1),
        repeats=False,
        **{**given, **more},
    )


_RAILWAY: Final[Mapping[str, Writing]] = {
    "railway-restart": _railway(
        "restart_deployment",
        "Restart",
        _any_item,
        look="get_deployment_logs",
        looked=_logged(_STARTED),
    ),
    "railway-redeploy": _railway(
        "rollback_deployment",
        "Redeploy",
        _deployed,
        look="list_revisions",
        more={"to_revision": "{name}"},  # the current one has the name of its service
    ),
    "railway-rollback": _railway(
        "rollback_deployment", "Rollback", _deployed, look="list_revisions"
    ),
    "railway-config": _railway(
        "set_config", "SetVariable", _configured, look="list_config", more=_SET
    ),
    # The second of two requests: the number is saved by then.
    "railway-scale": _railway(
        "scale_deployment", "Deploy", _two, more={"replicas": 2}, blind="unconfirmed"
    ),
    "railway-stop": _railway("stop_deployment", "Stop", _stopped),
    # What was stopped is started by a restart of its deployment.
    "railway-start": _railway(
        "start_deployment", "Restart", lambda body, name: not _stopped(body, name)
    ),
}


def _job(tool: str, found: Any, path: str = "", **more: Any) -> Writing:
    given: dict[str, Any] = {"more": {}, "meanwhile": ("GET", "/admin/sync-{name}/status", 1)}
    return Writing(
        part="jobs",
        tool=tool,
        look="list_jobs",
        looked=_only,
        found=found,
        method="POST",
        asks=f"/admin/sync-{{name}}{path}",
        looks="/admin/sync-{name}/status",
        **{**given, **more},
    )


_JOBS: Final[Mapping[str, Writing]] = {
    "job-run": _job("run_job", _ran, more={"mode": JOB_MODE}, repeats=False),
    "job-keyed": _job("run_job", _ran, more={"mode": JOB_MODE}),
    "job-hold": _job("suspend_job", lambda body, _: _held(body), "/pause", waits=False),
    "job-letgo": _job("resume_job", lambda body, _: not _held(body), "/unpause", waits=False),
    "job-cancel": _job("stop_job", _over, "/cancel", repeats=False),
}
# Those that start a run.
RUNS: Final = ("job-run", "job-keyed")

WRITES: Final[Mapping[str, Writing]] = {**_AZURE, **_RAILWAY, **_JOBS, **local_writes.WRITES}
"""By the beginning of the names of their objects."""


def kinds(*parts: str) -> tuple[str, ...]:
    """The beginnings of the names of all writes on these parts of a stage."""
    return tuple(kind for kind, writing in WRITES.items() if writing.part in parts)


def each(count: int, *parts: str, first: int = 0) -> list[str]:
    """Names of as many objects for every write on these parts."""
    return [f"{kind}-{n:02}" for n in range(first, first + count) for kind in kinds(*parts)]
