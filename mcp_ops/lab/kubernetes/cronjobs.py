"""Cron jobs: what they tell of their jobs, and which they keep. No clock runs them."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Final

from mcp_ops.lab.kubernetes.defaults import apply_defaults
from mcp_ops.lab.kubernetes.jobs import COMPLETE, FAILED, outcome
from mcp_ops.lab.kubernetes.kinds import CRON_JOB, JOB, Obj
from mcp_ops.lab.kubernetes.store import from_rfc3339, new_uid
from mcp_ops.lab.kubernetes.world import World, controller_uid, owner_reference

SCHEDULED: Final = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_SOURCE: Final = "cronjob-controller"


class CronJobs:
    """The cron job controller, without the schedule: jobs start by hand, or with the seed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._strangers: set[str] = set()

    def sync(self) -> None:
        """Bring every cron job up to date with its jobs."""
        owned: dict[str, list[Obj]] = defaultdict(list)
        for job in self._world.store.all(JOB):
            owned[controller_uid(job)].append(job)
        for cron_job in self._world.store.all(CRON_JOB):
            if "deletionTimestamp" not in cron_job["metadata"]:
                self._sync(cron_job, owned[cron_job["metadata"]["uid"]])

    def start(self, cron_job: Obj, at: float) -> Obj:
        """Start a job as the schedule would at that time, a Unix time in seconds."""
        world, meta = self._world, cron_job["metadata"]
        template = copy.deepcopy(cron_job["spec"]["jobTemplate"])
        job: Obj = {
            "apiVersion": JOB.api_version,
            "kind": JOB.name,
            "metadata": {
                "name": f"{meta['name']}-{int(at // 60)}",
                "namespace": meta["namespace"],
                "uid": new_uid(),
                "generation": 1,
                "creationTimestamp": world.store.timestamp(),
                "labels": template["metadata"].get("labels") or {},
                "annotations": {SCHEDULED: world.store.timestamp(at - world.store.now())},
                "ownerReferences": [owner_reference(CRON_JOB, cron_job)],
            },
            "spec": template["spec"],
            "status": {},
        }
        apply_defaults(JOB, job)
        made = world.store.put(JOB, job)
        world.effect("controller.job_created", JOB, made)
        message = f"Created job {made['metadata']['name']}"
        world.event(CRON_JOB, cron_job, "SuccessfulCreate", message, component=_SOURCE)

        def tell(edited: Obj) -> None:
            status = edited.setdefault("status", {})
            status["active"] = [*(status.get("active") or []), _reference(made)]
            status["lastScheduleTime"] = made["metadata"]["annotations"][SCHEDULED]

        world.edit(CRON_JOB, cron_job, tell)
        return made

    def _sync(self, cron_job: Obj, jobs: list[Obj]) -> None:
        status = copy.deepcopy(cron_job.get("status") or {})
        listed = {one["uid"]: one for one in status.get("active") or []}
        active = []
        for job in jobs:
            known, how = job["metadata"]["uid"] in listed, outcome(job)
            if known and not how:
                active.append(listed[job["metadata"]["uid"]])
            elif known:
                self._saw(cron_job, job, how, status)
            elif not how and job["metadata"]["uid"] not in self._strangers:
                self._strangers.add(job["metadata"]["uid"])
                message = "Saw a job that the controller did not create or forgot: "
                self._event(cron_job, "UnexpectedJob", message + job["metadata"]["name"], "Warning")
        status.pop("active", None)
        if active:
            status["active"] = active
        self._world.edit(CRON_JOB, cron_job, lambda one: one.update(status=status))
        spec = cron_job["spec"]
        self._forget(cron_job, jobs, COMPLETE, spec["successfulJobsHistoryLimit"])
        self._forget(cron_job, jobs, FAILED, spec["failedJobsHistoryLimit"])

    def _saw(self, cron_job: Obj, job: Obj, how: str, status: Obj) -> None:
        name = job["metadata"]["name"]
        message = f"Saw completed job: {name}, condition: {how}"
        self._event(cron_job, "SawCompletedJob", message)
        if how == COMPLETE:
            status["lastSuccessfulTime"] = job["status"]["completionTime"]

    def _forget(self, cron_job: Obj, jobs: list[Obj], how: str, limit: int) -> None:
        """Delete the oldest finished jobs over the limit; their pods go with them."""
        ended = [job for job in jobs if outcome(job) == how]
        ended.sort(key=lambda job: from_rfc3339(job["metadata"]["creationTimestamp"]))
        for job in ended[: max(len(ended) - limit, 0)]:
            self._world.store.remove(JOB, job)
            self._world.effect("controller.job_deleted", JOB, job)
            self._event(cron_job, "SuccessfulDelete", f"Deleted job {job['metadata']['name']}")

    def _event(self, cron_job: Obj, reason: str, message: str, kind: str = "Normal") -> None:
        self._world.event(CRON_JOB, cron_job, reason, message, component=_SOURCE, type=kind)


def _reference(job: Obj) -> Obj:
    meta = job["metadata"]
    return {
        "kind": JOB.name,
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
        "apiVersion": JOB.api_version,
        "resourceVersion": meta["resourceVersion"],
    }
