"""Jobs: pods that run to their end, as many times as it takes and no longer than they may."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import JOB, POD, Obj
from mcp_ops.lab.kubernetes.owned import create_pod, end_pod, random_suffix
from mcp_ops.lab.kubernetes.podstatus import is_over, is_ready
from mcp_ops.lab.kubernetes.store import from_rfc3339
from mcp_ops.lab.kubernetes.world import World, controller_uid

COMPLETE: Final = "Complete"
FAILED: Final = "Failed"
_SOURCE: Final = "job-controller"
# Nothing in the lab needs more at once; a number without bound would take the machine down.
MOST_PODS: Final = 100


def condition_of(job: Obj, kind: str) -> Obj | None:
    """A condition of a job that holds, if it does."""
    for one in (job.get("status") or {}).get("conditions") or []:
        if one["type"] == kind and one["status"] == "True":
            return dict(one)
    return None


def outcome(job: Obj) -> str:
    """How a job ended: `Complete`, `Failed`, or empty while it has not."""
    return next((kind for kind in (COMPLETE, FAILED) if condition_of(job, kind)), "")


class Jobs:
    """The job controller."""

    def __init__(self, world: World) -> None:
        self._world = world
        # A pod counts once, also when somebody deletes it afterwards.
        self._counted: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def sync(self) -> None:
        """Move every job one step on."""
        owned: dict[str, list[Obj]] = defaultdict(list)
        for pod in self._world.store.all(POD):
            owned[controller_uid(pod)].append(pod)
        jobs = self._world.store.all(JOB)
        for job in jobs:
            if "deletionTimestamp" not in job["metadata"] and not outcome(job):
                self._sync(job, owned[job["metadata"]["uid"]])
        for uid in self._counted.keys() - {job["metadata"]["uid"] for job in jobs}:
            del self._counted[uid]

    def _sync(self, job: Obj, pods: list[Obj]) -> None:
        ended = self._counted[job["metadata"]["uid"]]
        for pod in filter(is_over, pods):
            ended[pod["status"]["phase"]].add(pod["metadata"]["uid"])
        succeeded, failed = len(ended["Succeeded"]), len(ended["Failed"])
        live = [p for p in pods if not is_over(p) and "deletionTimestamp" not in p["metadata"]]
        status = copy.deepcopy(job.get("status") or {})
        spec, now = job["spec"], self._world.store.timestamp()
        if spec["suspend"]:
            self._suspend(job, status, live)
            live = []
        else:
            self._begin(job, status, now)
            why = self._reason_to_fail(job, status, live, failed)
            if why:
                self._end(job, live)
                live = []
                status["conditions"] = _finished(status, FAILED, why, now)
            elif _done(spec, succeeded, live):
                status["completionTime"] = now
                why = "CompletionsReached", "Reached expected number of succeeded pods"
                status["conditions"] = _finished(status, COMPLETE, why, now)
            else:
                live += self._fill(job, live, succeeded)
        self._tell(job, status, live, succeeded, failed)

    def _begin(self, job: Obj, status: Obj, now: str) -> None:
        if condition_of(job, "Suspended"):
            _set(status, "Suspended", "False", "JobResumed", "Job resumed", now)
            status["startTime"] = now
            self._event(job, "Resumed", "Job resumed")
            self._world.effect("controller.job_resumed", JOB, job)
        status.setdefault("startTime", now)

    def _suspend(self, job: Obj, status: Obj, live: list[Obj]) -> None:
        self._end(job, live)
        if condition_of(job, "Suspended"):
            return
        now = self._world.store.timestamp()
        _set(status, "Suspended", "True", "JobSuspended", "Job suspended", now)
        status.pop("startTime", None)
        self._event(job, "Suspended", "Job suspended")
        self._world.effect("controller.job_suspended", JOB, job)

    def _reason_to_fail(
        self, job: Obj, status: Obj, live: list[Obj], failed: int
    ) -> tuple[str, str] | None:
        spec = job["spec"]
        restarts = 0
        if spec["template"]["spec"].get("restartPolicy") == "OnFailure":
            restarts = sum(_restarts(pod) for pod in live)
        if failed > spec["backoffLimit"] or restarts > max(spec["backoffLimit"], 0):
            return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        deadline = spec.get("activeDeadlineSeconds")
        if deadline is None:
            return None
        if self._world.store.now() - from_rfc3339(status["startTime"]) < deadline:
            return None
        return "DeadlineExceeded", "Job was active longer than specified deadline"

    def _fill(self, job: Obj, live: list[Obj], succeeded: int) -> list[Obj]:
        spec = job["spec"]
        completions = spec.get("completions")
        wanted = spec["parallelism"]
        if completions is not None:
            wanted = min(wanted, completions - succeeded)
        elif succeeded:
            wanted = 0
        name = job["metadata"]["name"]
        missing = min(wanted, MOST_PODS) - len(live)
        return [
            create_pod(self._world, JOB, job, f"{name}-{random_suffix()}", {})
            for _ in range(missing)
        ]

    def _end(self, job: Obj, live: list[Obj]) -> None:
        for pod in live:
            end_pod(self._world, JOB, job, pod)

    def _tell(self, job: Obj, status: Obj, live: list[Obj], succeeded: int, failed: int) -> None:
        for field, count in (("active", len(live)), ("succeeded", succeeded), ("failed", failed)):
            status.pop(field, None)
            if count:
                status[field] = count
        status.update(
            ready=sum(is_ready(pod) for pod in live), terminating=0, uncountedTerminatedPods={}
        )
        told = self._world.edit(JOB, job, lambda one: one.update(status=status))
        if how := outcome(told):
            condition = condition_of(told, how) or {}
            done = how == COMPLETE
            reason = "Completed" if done else condition["reason"]
            message = "Job completed" if done else condition["message"]
            self._event(told, reason, message, "Normal" if done else "Warning")
            effect = "controller.job_completed" if done else "controller.job_failed"
            self._world.effect(effect, JOB, told, reason=condition["reason"])

    def _event(self, job: Obj, reason: str, message: str, kind: str = "Normal") -> None:
        self._world.event(JOB, job, reason, message, component=_SOURCE, type=kind)


def _restarts(pod: Obj) -> int:
    told: list[Any] = pod["status"].get("containerStatuses") or []
    return sum(one["restartCount"] for one in told)


def _done(spec: Obj, succeeded: int, live: list[Obj]) -> bool:
    completions = spec.get("completions")
    if completions is None:
        return bool(succeeded) and not live
    return bool(succeeded >= completions)


def _finished(status: Obj, kind: str, why: tuple[str, str], now: str) -> list[Obj]:
    """The conditions of a job that ended: the first says that it will, the second that it has."""
    before = "SuccessCriteriaMet" if kind == COMPLETE else "FailureTarget"
    for one in (before, kind):
        _set(status, one, "True", *why, now)
    return list(status["conditions"])


def _set(status: Obj, kind: str, holds: str, reason: str, message: str, now: str) -> None:
    others = [one for one in status.get("conditions") or [] if one["type"] != kind]
    condition = {
        "type": kind,
        "status": holds,
        "lastProbeTime": now,
        "lastTransitionTime": now,
        "reason": reason,
        "message": message,
    }
    status["conditions"] = [*others, condition]
