"""The writes that rows play at Kubernetes, by the beginning of the names of their objects.

All but two are patches of one object, which then has the mark of the call. An evicted pod and a
deleted run keep none: that they are gone is all that a look can tell. A run that was not seen may
have been cleared away: it is the one that nobody begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.faults.writing import Writing

OLD: Final = "lab/faults:1"
NEW: Final = "lab/faults:2"
_ALL: Final = 200  # jobs of one page, which has to be the only one
_MEMORY_MIB: Final = 64


def _ran(body: dict[str, Any], name: str) -> bool:
    return any(job["name"] == name and "last_start" in job for job in body["items"])


def _held(body: dict[str, Any], name: str) -> bool:
    return any(job["name"] == name and job["suspended"] for job in body["items"])


def _goes_on(body: dict[str, Any], name: str) -> bool:
    return any(job["name"] == name and not job["suspended"] for job in body["items"])


def _ended(body: dict[str, Any], name: str) -> bool:
    assert not body["truncated"], "a run that is on another page has not ended"
    return all(job["name"] != f"run/{name}" for job in body["items"])


def _sized(body: dict[str, Any], _name: str) -> bool:
    return any(one.get("memory_limit_mib") == _MEMORY_MIB for one in body["containers"])


def _desired(count: int) -> Callable[[dict[str, Any], str], bool]:
    return lambda body, _: bool(body["desired"] == count)


def _workload(tool: str, found: Callable[[dict[str, Any], str], bool], **more: Any) -> Writing:
    """A patch of a deployment, of which get_deployment tells."""
    return Writing(tool=tool, found=found, **{"more": {}, "look": "get_deployment", **more})


def _job(tool: str, found: Callable[[dict[str, Any], str], bool], part: str, **how: Any) -> Writing:
    """A request on a schedule or a run, of which list_jobs tells."""
    return Writing(
        tool=tool,
        found=found,
        look="list_jobs",
        looked=lambda _: {"limit": _ALL},
        **{"more": {}, "asks": part, "looks": part, **how},
    )


RESTART: Final = _workload("restart_deployment", lambda body, _: "last_restart" in body)
WRITES: Final[Mapping[str, Writing]] = {
    "scale": _workload("scale_deployment", _desired(2), more={"replicas": 2}),
    "rollback": _workload(
        "rollback_deployment", lambda body, _: bool(body["image"] == OLD), more={"to_revision": "1"}
    ),
    "config": _workload(
        "set_config",
        lambda body, _: any(one["name"] == "REGION" for one in body["items"]),
        more={"key": "REGION", "value": "eu"},
        look="list_config",
    ),
    "run": _job("run_job", _ran, "/jobs/{name}-ops-", method="POST", repeats=False),
    "stop": _workload("stop_deployment", _desired(0)),
    "start": _workload("start_deployment", _desired(1)),
    "pause": _workload(
        "pause_rollout", lambda body, _: bool(body["problem"] == "paused"), waits=False
    ),
    "resume": _workload("resume_rollout", lambda body, _: bool(body["problem"] != "paused")),
    "resources": _workload("set_resources", _sized, more={"memory": f"{_MEMORY_MIB}Mi"}),
    # Its autoscaler takes the workload to the new least at once.
    "autoscale": _workload(
        "set_autoscaling",
        _desired(2),
        more={"min": 2, "max": 4},
        waits=False,
        asks="/horizontalpodautoscalers/{name}",
        looks="/horizontalpodautoscalers/{name}",
    ),
    # The one pod of a set that replaces none by itself: the one in its place is of the new version.
    "evict": _workload(
        "restart_instance",
        lambda body, _: bool(body["updated"] == 1),
        more={"name": "statefulset/{name}", "instance": "{name}-0"},
        looked=lambda name: {"name": f"statefulset/{name}"},
        method="POST",
        asks="/pods/{name}-0/eviction",
        looks="/pods/{name}-0",
    ),
    "hold": _job("suspend_job", _held, "/cronjobs/{name}", waits=False),
    "letgo": _job("resume_job", _goes_on, "/cronjobs/{name}", waits=False),
    "endrun": _job(
        "stop_job", _ended, "/jobs/{name}", method="DELETE", more={"name": "run/{name}"}
    ),
}
