"""Running a schedule's job now, as `kubectl create job --from` does.

The run's name is made of the call's id: however often the request arrives, there is one run.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from mcp_ops.adapters.kubernetes.changing import CALL_ID, CHANGED_AT, REASON, generation_of
from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import Obj, mapping, moment_of, name_of, text, uid_of
from mcp_ops.adapters.kubernetes.jobs import runs_of
from mcp_ops.adapters.kubernetes.pods import Pod, read_pod
from mcp_ops.adapters.kubernetes.runs import PREFIX, Run, read_run, run_place, schedule_place
from mcp_ops.adapters.kubernetes.site import Handler, Site, written
from mcp_ops.adapters.kubernetes.workloads import image_of
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.clock import rfc3339
from mcp_ops.errors import Conflict, InvalidInput, NotFound
from mcp_ops.redact import tame

RUN: Final = "run"
_BY_HAND: Final = "cronjob.kubernetes.io/instantiate"
_STEM: Final = 46
_PODS: Final = 50
_REASON_CHARS: Final = 200


async def plan_run(site: Site, name: str, mode: str) -> Plan:
    """Run the job of a schedule now; see `JobScheduler`."""
    if mode:
        raise InvalidInput("The jobs of this target take no mode.")
    if name.startswith(PREFIX):
        raise InvalidInput(
            "That is one run, which has its end in itself.", hint="Name a schedule of list_jobs."
        )
    schedule = await schedule_place(name).get(site.api)
    going = await _going(site, schedule)
    _allow(schedule, going)
    image = image_of(mapping(schedule, "spec", "jobTemplate"))
    lines = [f"Start a run of {name} now, as its schedule would."]
    if going:
        lines.append(f"{len(going)} runs of it are going on already; it may run beside them.")
    return Plan(
        action=RUN,
        name=name,
        lines=lines,
        state={"generation": generation_of(schedule)},
        lock=generation_of(schedule),
        values={"uid": uid_of(schedule)},
        evidence={"image": tame(image, 200), "running_before": len(going)},
        # Once a run has ended it may be cleared away, and its name is free again.
        repeatable=False,
    )


async def _going(site: Site, schedule: Obj) -> list[Run]:
    return [run for run in await runs_of(site, schedule) if run.outcome == "running"]


def _allow(schedule: Obj, going: list[Run]) -> None:
    policy = text(schedule, "spec", "concurrencyPolicy")
    if going and policy in ("Forbid", "Replace"):
        raise Conflict(
            f"It runs already, and may not run twice at a time ({policy}); nothing was done.",
            hint=f"stop_job name={PREFIX}{going[0].name} ends the run that goes on.",
        )


class _Running:
    """The handler of a run."""

    async def rehearse(self, site: Site, plan: Plan) -> None:
        schedule = await self._schedule(site, plan)
        await self._create(site, schedule, call_id="dry-run", note="dry run", dry=True)

    async def begin(self, site: Site, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Create the run; one that this call created already is answered."""
        schedule = await self._schedule(site, plan)
        note = tame(site.redactor.text(reason), _REASON_CHARS)
        try:
            made = await self._create(site, schedule, call_id=call_id, note=note, dry=False)
        except Conflict:
            found = await self.find(site, plan, call_id)
            if found is None:
                raise
            return found
        return _begun(plan, made)

    async def find(self, site: Site, plan: Plan, call_id: str) -> Begun | None:
        """The run that has the name of this call, and its mark."""
        try:
            job = await run_place(run_name(plan.name, call_id)).get(site.api)
        except NotFound:
            return None
        mine = text(mapping(job, "metadata", "annotations"), CALL_ID) == call_id
        return _begun(plan, job) if mine else None

    async def follow(self, site: Site, plan: Plan, begun: Begun) -> Progress:
        """Verified when it succeeded."""
        try:
            job = await run_place(begun.id.removeprefix(PREFIX)).get(site.api)
        except NotFound:
            return Progress(state="superseded", why="The run was deleted before its end was seen.")
        if uid_of(job) != begun.evidence["uid"]:
            return Progress(state="superseded", why="Another run has its name now.")
        run = read_run(job)
        return _progress(run, await pods_by(site, run.selector))

    async def _schedule(self, site: Site, plan: Plan) -> Obj:
        schedule = await schedule_place(plan.name).get(site.api)
        if uid_of(schedule) != plan.values["uid"] or generation_of(schedule) != plan.lock:
            raise Conflict(
                f"{plan.name} was changed since it was looked at; nothing was done.",
                hint="Look with list_jobs, then decide again.",
            )
        _allow(schedule, await _going(site, schedule))
        return schedule

    async def _create(
        self, site: Site, schedule: Obj, *, call_id: str, note: str, dry: bool
    ) -> Obj:
        body = _job_of(schedule, call_id=call_id, note=note, at=rfc3339(site.clock.now()))
        ask = Ask(verb="create", resource="jobs.batch", dry=dry)
        return await site.api.create(site.api.path("batch", "jobs"), ask, body, **written(dry=dry))


def run_name(schedule: str, call_id: str) -> str:
    """The name of a call's run: at most 63 characters, so that its pods can be named after it."""
    digest = hashlib.sha256(call_id.encode()).hexdigest()[:12]
    return f"{schedule[:_STEM].rstrip('-.')}-ops-{digest}"


def _job_of(schedule: Obj, *, call_id: str, note: str, at: str) -> Obj:
    template = mapping(schedule, "spec", "jobTemplate")
    annotations = {
        **mapping(template, "metadata", "annotations"),
        _BY_HAND: "manual",
        CALL_ID: call_id,
        CHANGED_AT: at,
        REASON: note,
    }
    owner = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "name": name_of(schedule),
        "uid": uid_of(schedule),
        "controller": True,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": run_name(name_of(schedule), call_id),
            "labels": copy.deepcopy(mapping(template, "metadata", "labels")),
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": copy.deepcopy(mapping(template, "spec")),
    }


def _begun(plan: Plan, job: Obj) -> Begun:
    marks = mapping(job, "metadata", "annotations")
    at = moment_of(text(marks, CHANGED_AT)) or ""
    name = f"{PREFIX}{name_of(job)}"
    evidence = {"run": name, "uid": uid_of(job), "changed_at": at}
    return Begun(name=plan.name, at=at, id=name, evidence=evidence)


async def pods_by(site: Site, selector: str) -> list[Pod]:
    """The first fifty pods of a run."""
    if not selector:
        return []
    ask = Ask(verb="list", resource="pods")
    path = site.api.path("", "pods")
    found, _ = await site.api.list_page(path, ask, labelSelector=selector, limit=_PODS)
    return [read_pod(pod, now=site.clock.now()) for pod in found]


def _progress(run: Run, pods: list[Pod]) -> Progress:
    shown = sorted(pods, key=lambda pod: pod.name)[:10]
    evidence: dict[str, Any] = {
        "pods": {pod.name: pod.phase for pod in shown},
        "ages_s": {pod.name: pod.age_s for pod in shown},
        "succeeded": run.succeeded,
        "failed": run.failed,
    }
    told: dict[str, Any] = {"done": run.succeeded, "wanted": run.wanted, "evidence": evidence}
    if run.outcome == "succeeded":
        return Progress(state="verified", **told)
    if run.outcome == "failed":
        evidence["why"] = run.why
        why = f"The run failed after {run.failed} tries: {run.why or 'no reason given'}."
        return Progress(state="failed", why=why, **told)
    if run.outcome == "suspended":
        return Progress(state="pending", why="it is suspended", **told)
    return Progress(state="pending", why=f"it runs, {run.active} pods at work", **told)


HANDLERS: Final[Mapping[str, Handler]] = {RUN: _Running()}
