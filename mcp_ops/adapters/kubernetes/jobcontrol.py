"""Holding a schedule, letting it go on, and ending what runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp_ops.adapters.kubernetes.changing import Patch, generation_of
from mcp_ops.adapters.kubernetes.fields import (
    Obj,
    flag,
    moment_of,
    schedules_of,
    text,
    uid_of,
)
from mcp_ops.adapters.kubernetes.jobruns import pods_by
from mcp_ops.adapters.kubernetes.jobs import runs_of
from mcp_ops.adapters.kubernetes.runs import PREFIX, Run, read_run, run_place, schedule_place
from mcp_ops.adapters.kubernetes.site import Handler, Place, Site
from mcp_ops.capabilities.base import Undo
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.clock import rfc3339
from mcp_ops.errors import Conflict, InvalidInput, NotFound, OpsError

SUSPEND: Final = "suspend"
UNSUSPEND: Final = "unsuspend"
STOP_JOB: Final = "stop-job"
_AT_ONCE: Final = 20
_OVER: Final = frozenset({"Succeeded", "Failed"})


async def plan_suspend(site: Site, name: str) -> Plan:
    """Start nothing on this schedule any more."""
    if name.startswith(PREFIX):
        raise InvalidInput("One run can't be held without losing its work.", hint="Use stop_job.")
    schedule = await schedule_place(name).get(site.api)
    going = sum(run.outcome == "running" for run in await runs_of(site, schedule))
    lines = [f"Hold {name}: it starts nothing until it is resumed."]
    if going:
        lines.append(f"{going} runs of it go on.")
    return _plan(
        SUSPEND,
        name,
        schedule,
        lines=lines,
        undo=Undo(tool="resume_job", arguments={"name": name}),
        nothing="it is held already" if flag(schedule, "spec", "suspend") else "",
        evidence={
            "running": going,
            "last_start": moment_of(text(schedule, "status", "lastScheduleTime")),
        },
    )


async def plan_unsuspend(site: Site, name: str) -> Plan:
    """Let a schedule, or one run that is held, go on."""
    obj = await _place_of(name).get(site.api)
    held = flag(obj, "spec", "suspend")
    single = name.startswith(PREFIX)
    lines = [f"Let {name} go on."]
    if not single:
        lines.append("A start that it missed within its deadline is made at once.")
    return _plan(
        UNSUSPEND,
        name,
        obj,
        lines=lines,
        undo=None if single else Undo(tool="suspend_job", arguments={"name": name}),
        nothing="" if held else "it is not held",
        evidence={},
        reaches=schedules_of(obj),
    )


async def plan_job_stop(site: Site, name: str) -> Plan:
    """End one run, or all runs of a schedule that go on."""
    if name.startswith(PREFIX):
        obj = await run_place(name.removeprefix(PREFIX)).get(site.api)
        going = [run for run in [read_run(obj)] if not run.over]
    else:
        obj = await schedule_place(name).get(site.api)
        going = [run for run in await runs_of(site, obj) if not run.over]
    if len(going) > _AT_ONCE:
        raise Conflict(
            f"{len(going)} runs of it go on: more than one call may end.",
            hint="End single runs by their names.",
        )
    lines = [_ended(site, run) for run in going]
    lines.append("Their pods and logs go with them, and their work is lost.")
    if not name.startswith(PREFIX) and not flag(obj, "spec", "suspend"):
        lines.append("Its schedule starts it again: suspend_job holds it.")
    return _plan(
        STOP_JOB,
        name,
        obj,
        lines=lines,
        undo=None,
        nothing="" if going else "nothing runs of it",
        evidence={"runs": {run.name: run.age_s(site.clock.now()) for run in going}},
        state={"runs": sorted(run.uid for run in going)},
        values={"runs": [[run.name, run.uid, run.selector] for run in going]},
        reaches=sorted({*schedules_of(obj), *(f"{PREFIX}{run.name}" for run in going)} - {name}),
    )


def _ended(site: Site, run: Run) -> str:
    minutes = (run.age_s(site.clock.now()) or 0) // 60
    return f"End {PREFIX}{run.name}, which runs for {minutes} minutes ({run.active} pods)."


def _place_of(name: str) -> Place:
    single = name.startswith(PREFIX)
    return run_place(name.removeprefix(PREFIX)) if single else schedule_place(name)


def _plan(
    action: str, name: str, obj: Obj, *, lines: list[str], undo: Undo | None, **more: Any
) -> Plan:
    generation = generation_of(obj)
    return Plan(
        action=action,
        name=name,
        lines=lines,
        state=more.get("state") or {"generation": generation},
        lock=generation,
        values={"uid": uid_of(obj), **(more.get("values") or {})},
        evidence={"generation_before": generation, **more["evidence"]},
        undo=undo,
        nothing=more["nothing"],
        repeatable=True,
        reaches=more.get("reaches", []),
    )


def _patch(*, suspend: bool) -> Patch:
    async def body(_site: Site, _plan: Plan, _obj: Obj, _at: str) -> Obj:
        return {"spec": {"suspend": suspend}}

    async def follow(site: Site, plan: Plan, _begun: Begun) -> Progress:
        obj = await _place_of(plan.name).get(site.api)
        evidence = {"generation": generation_of(obj), "suspended": flag(obj, "spec", "suspend")}
        if flag(obj, "spec", "suspend") is suspend:
            return Progress(state="verified", evidence=evidence)
        why = "It was changed again after this change."
        return Progress(state="superseded", why=why, evidence=evidence)

    return Patch(body=body, follow_up=follow, place=lambda plan: _place_of(plan.name))


class _Stopping:
    """The handler of a stop: each run is deleted by its name and uid, once."""

    async def rehearse(self, site: Site, plan: Plan) -> None:
        for name, uid, _ in plan.values["runs"]:
            await run_place(name).delete(site.api, uid, dry=True)

    async def begin(self, site: Site, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Delete them; one that is gone or has come to its end meanwhile is left as it is."""
        deleted = 0
        try:
            for name, uid, _ in plan.values["runs"]:
                deleted += await _end(site, name, uid)
        except OpsError as error:
            if deleted:  # whatever it says of this run, others have ended
                error.executed = "unknown"
            raise
        return _begun(site, plan)

    async def find(self, site: Site, plan: Plan, call_id: str) -> Begun | None:
        """A deleted object keeps no mark: that none goes on is the change."""
        for name, uid, _ in plan.values["runs"]:
            if await _goes_on(site, name, uid):
                return None
        return _begun(site, plan)

    async def follow(self, site: Site, plan: Plan, begun: Begun) -> Progress:
        """Verified when the runs have ended and none of their pods is at work."""
        runs = plan.values["runs"]
        left = [name for name, uid, _ in runs if not await _has_ended(site, name, uid)]
        pods = [
            pod.name
            for _, _, selector in runs
            for pod in await pods_by(site, selector)
            if pod.phase not in _OVER
        ]
        evidence = {"runs_left": left, "pods_left": sorted(pods)[:10]}
        why = f"{len(left)} runs and {len(pods)} of their pods have not ended"
        return Progress(
            state="pending" if left or pods else "verified",
            why=why if left or pods else "",
            done=len(runs) - len(left),
            wanted=len(runs),
            evidence=evidence,
        )


def _begun(site: Site, plan: Plan) -> Begun:
    at = rfc3339(site.clock.now())
    return Begun(name=plan.name, at=at, evidence={"changed_at": at})


async def _end(site: Site, name: str, uid: str) -> bool:
    """Delete that run, and whether it was there to be deleted."""
    if not await _goes_on(site, name, uid):
        return False
    try:
        await run_place(name).delete(site.api, uid, dry=False)
    except (NotFound, Conflict):
        if await _goes_on(site, name, uid):
            raise
        return False
    return True


async def _goes_on(site: Site, name: str, uid: str) -> bool:
    """Whether that run is at work and not on its way out."""
    job = await _run(site, name, uid)
    return job is not None and not text(job, "metadata", "deletionTimestamp")


async def _has_ended(site: Site, name: str, uid: str) -> bool:
    return await _run(site, name, uid) is None


async def _run(site: Site, name: str, uid: str) -> Obj | None:
    """That run, unless it is gone or over."""
    try:
        job = await run_place(name).get(site.api)
    except NotFound:
        return None
    return job if uid_of(job) == uid and not read_run(job).over else None


HANDLERS: Final[Mapping[str, Handler]] = {
    SUSPEND: _patch(suspend=True),
    UNSUSPEND: _patch(suspend=False),
    STOP_JOB: _Stopping(),
}
