"""The adapter of HTTP job endpoints: what is asked, and what the answers mean, is configuration."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final

import anyio

from mcp_ops.adapter import Adapter, AdapterSettings, Wiring
from mcp_ops.adapters.http_jobs import following
from mcp_ops.adapters.http_jobs.following import CANCEL, RESUME, RUN, SUSPEND
from mcp_ops.adapters.http_jobs.looking import Look, judge, shown
from mcp_ops.adapters.http_jobs.settings import (
    CallSettings,
    HttpJobsSettings,
    JobSettings,
    TriggerSettings,
    expression,
    pointer,
)
from mcp_ops.capabilities.base import Undo, writes
from mcp_ops.capabilities.changes import Begun, Plan, Progress
from mcp_ops.capabilities.jobs import Job, JobControl, JobPage, JobScheduler
from mcp_ops.clock import rfc3339
from mcp_ops.errors import BadAnswer, Conflict, InvalidInput, NotFound, Rejected, Upstream
from mcp_ops.redact import tame
from mcp_ops.wire.http import Answer, HttpClient, Limits, open_client

_AT_ONCE: Final = 5
_MAX_BYTES: Final = 1024 * 1024
_ENDPOINTS: Final = {CANCEL: "ends a run of it", SUSPEND: "holds it", RESUME: "lets it go on"}
_UNDO: Final = {SUSPEND: "resume_job", RESUME: "suspend_job"}


class HttpJobsAdapter(Adapter, JobScheduler, JobControl):
    """The jobs of one service."""

    kind: ClassVar[str] = "http_jobs"
    title: ClassVar[str] = "HTTP job endpoints"
    Settings: ClassVar[type[AdapterSettings]] = HttpJobsSettings

    def __init__(self, settings: HttpJobsSettings, http: HttpClient) -> None:
        self._settings = settings
        self._jobs = dict(sorted(settings.jobs.items()))
        self._http = http

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: HttpJobsSettings, wiring: Wiring
    ) -> AsyncIterator[HttpJobsAdapter]:
        """Open the client."""
        secrets = [*settings.headers.values(), *([settings.token] if settings.token else [])]
        wiring.redactor.add(*(secret.get_secret_value() for secret in secrets))
        limits = Limits(
            read_s=settings.request_timeout_s,
            total_s=settings.request_timeout_s,
            max_bytes=_MAX_BYTES,
        )
        async with open_client(
            system="the job service", clock=wiring.clock, redactor=wiring.redactor, limits=limits
        ) as http:
            yield cls(settings, http)

    async def ping(self) -> None:
        """Ask the health path; any answer but a failure of the service will do."""
        answer = await self._send("GET", self._settings.health_path)
        if answer.status >= 500:
            raise self._http.error(answer)

    async def list_jobs(self, *, limit: int, cursor: str) -> JobPage:
        """The configured jobs by name, one request each; one that can't be asked is `unknown`."""
        names = [name for name in self._jobs if name > cursor]
        chosen = names[:limit]
        found: dict[str, Job] = {}
        errors: list[Upstream] = []
        slots = anyio.CapacityLimiter(_AT_ONCE)

        async def ask(name: str) -> None:
            async with slots:
                try:
                    found[name] = shown(name, self._jobs[name], await self._look(name))
                except Upstream as error:
                    errors.append(error)
                    found[name] = Job(name=name, state="unknown", problem=error.message)

        async with anyio.create_task_group() as tasks:
            for name in chosen:
                tasks.start_soon(ask, name)
        if errors and len(errors) == len(chosen):
            raise errors[0]
        more = len(names) > len(chosen)
        return JobPage(
            items=[found[name] for name in chosen],
            next_cursor=chosen[-1] if more else "",
            truncated=more,
            searched=f"the {len(self._jobs)} jobs that the configuration describes",
        )

    async def plan_run(self, name: str, mode: str) -> Plan:
        """Start a run; raises `Conflict` while one runs, unless the job may run in parallel."""
        job = self._job(name)
        trigger = job.trigger
        if trigger is None:
            raise InvalidInput(
                "The configuration gives no endpoint that starts this job.",
                hint=f"It would be jobs.{name}.trigger of the target.",
            )
        mode = _mode(trigger, mode)
        look = await self._look(name)
        _free(job, look)
        how = f" in mode {mode}" if mode else ""
        return self._plan(
            RUN,
            name,
            look,
            lines=[f"Start a run of {name}{how}: {trigger.method} {trigger.path}."],
            mode=mode,
            repeatable=bool(trigger.idempotency_header),
        )

    async def plan_suspend(self, name: str) -> Plan:
        """Hold the schedule, where the configuration has an endpoint for it."""
        return await self._plan_hold(SUSPEND, name)

    async def plan_unsuspend(self, name: str) -> Plan:
        """Let the schedule go on, where the configuration has an endpoint for it."""
        return await self._plan_hold(RESUME, name)

    async def plan_job_stop(self, name: str) -> Plan:
        """End the run, where the configuration has an endpoint for it."""
        call = self._call(name, CANCEL)
        look = await self._look(name)
        return self._plan(
            CANCEL,
            name,
            look,
            lines=[f"End the run of {name}: {call.method} {call.path}. Its work is lost."],
            nothing="it does not run" if look.running is False else "",
        )

    async def rehearse(self, plan: Plan) -> None:
        """There is nothing to ask: the service has no rehearsal."""

    @writes
    async def begin(self, plan: Plan, *, reason: str, call_id: str) -> Begun:
        """Send the request once, if the job is still as it was looked at."""
        job = self._job(plan.name)
        look = await self._look(plan.name)
        if plan.action == RUN:
            _free(job, look)
        if plan.action in (RUN, CANCEL) and following.another_run(plan, look):
            raise Conflict(
                "Another run of the job began or ended since it was looked at; nothing was sent.",
                hint="Look with list_jobs, then decide again.",
            )
        call = self._call(plan.name, plan.action)
        at = rfc3339(self._http.clock.now())
        answer = await self._send(
            call.method,
            call.path,
            headers=_key(call, call_id),
            body=_body(call, plan.values["mode"]),
        )
        if not answer.ok:
            raise self._http.error(answer, said=_said(answer))
        told = self._accepted(call, answer)
        return Begun(
            name=plan.name,
            at=at,
            id=_run_id(call, told),
            evidence={"asked_at": at, "http_status": answer.status},
        )

    async def find(self, plan: Plan, call_id: str) -> Begun | None:
        """Look whether the status shows the effect. Who caused it the service does not say."""
        look = await self._look(plan.name)
        if not following.took(plan, look):
            return None
        return Begun(
            name=plan.name,
            at=rfc3339(self._http.clock.now()),
            id=look.run_id if plan.action == RUN else "",
            evidence={
                "found_by": "the job's status, because the answer was lost: it changed after this"
                " call asked; the service does not say who caused it"
            },
        )

    async def follow(self, plan: Plan, begun: Begun) -> Progress:
        """Ask for the status."""
        return following.follow(plan, begun, await self._look(plan.name))

    async def _plan_hold(self, action: str, name: str) -> Plan:
        call = self._call(name, action)
        look = await self._look(name)
        holds = action == SUSPEND
        what = "Hold the schedule of" if holds else "Let the schedule go on of"
        return self._plan(
            action,
            name,
            look,
            lines=[f"{what} {name}: {call.method} {call.path}."],
            undo=self._undo(action, name),
            nothing=f"it is {'held' if holds else 'not held'}" if look.suspended is holds else "",
            repeatable=True,
        )

    def _undo(self, action: str, name: str) -> Undo | None:
        job = self._job(name)
        back = job.resume if action == SUSPEND else job.suspend
        return None if back is None else Undo(tool=_UNDO[action], arguments={"name": name})

    def _plan(
        self, action: str, name: str, look: Look, *, lines: list[str], mode: str = "", **more: Any
    ) -> Plan:
        state = look.state(self._job(name).too_long_s)
        return Plan(
            action=action,
            name=name,
            lines=[*lines, f"Now: {state.replace('_', ' ')}."],
            state={"state": state, "run": list(look.marks)},
            lock=look.run_id or look.marks[1] or look.marks[2],
            values={"mode": mode, "marks": list(look.marks), "running": bool(look.running)},
            evidence={**following.seen(look, "_before"), **({"mode": mode} if mode else {})},
            **more,
        )

    def _job(self, name: str) -> JobSettings:
        if name not in self._jobs:
            raise NotFound("This target has no job of this name.", hint="list_jobs shows which.")
        return self._jobs[name]

    def _call(self, name: str, action: str) -> CallSettings:
        job = self._job(name)
        call = {RUN: job.trigger, CANCEL: job.cancel, SUSPEND: job.suspend, RESUME: job.resume}[
            action
        ]
        if call is None:
            raise InvalidInput(
                f"This job can't be told to: the configuration gives no endpoint that"
                f" {_ENDPOINTS.get(action, 'starts it')}.",
                hint=f"It would be jobs.{name}.{action} of the target.",
            )
        return call

    async def _look(self, name: str) -> Look:
        job = self._job(name)
        answer = await self._send(job.status.method, job.status.path)
        if not answer.ok:
            raise self._http.error(answer, said=_said(answer))
        # Ages are counted on the service's own clock, which may differ from ours.
        now = answer.date()
        return judge(job, answer.json(), now=self._http.clock.now() if now is None else now)

    def _accepted(self, call: CallSettings, answer: Answer) -> Any:
        """What the service answered; raises `Rejected` when it says that it did not accept."""
        wanted = expression(call.accepted)
        if wanted is None:
            try:
                return answer.json() if answer.body else None
            except BadAnswer:
                return None  # any 2xx was to be taken, whatever it says
        told = answer.json()
        holds = wanted.holds(told, self._http.clock.now())
        if holds is None:
            raise BadAnswer("The answer does not say whether the job service accepted it.")
        if not holds:
            raise Rejected("The job service did not accept it.", said=self._masked(_said(answer)))
        return told

    async def _send(self, method: str, path: str, **more: Any) -> Answer:
        headers = {k: v.get_secret_value() for k, v in self._settings.headers.items()}
        headers.update(more.pop("headers", {}))
        return await self._http.send(
            method, self._settings.url + path, bearer=self._settings.token, headers=headers, **more
        )

    def _masked(self, text: str) -> str:
        return tame(self._http.redactor.text(text), 300)


def _mode(trigger: TriggerSettings, asked: str) -> str:
    mode = asked or trigger.default_mode
    if mode in trigger.modes or (not mode and not trigger.modes):
        return mode
    known = ", ".join(trigger.modes)
    if not known:
        raise InvalidInput("This job has no modes.", hint="Call run_job without mode.")
    raise InvalidInput(
        "This job has no such mode." if mode else "This job has to be told in which mode.",
        hint=f"Its modes: {known}.",
    )


def _free(job: JobSettings, look: Look) -> None:
    if job.parallel:
        return
    if look.running is None:
        raise Conflict(
            "The job's status does not say whether it runs; nothing was sent.",
            hint="Compare the expression `running` of the configuration with the real answer.",
        )
    if look.running:
        age = look.age_s()
        since = f" since {age} seconds" if age is not None else ""
        raise Conflict(
            f"The job runs already{since}; nothing was sent.",
            hint="Wait for its end; stop_job ends one that hangs, where it is configured.",
        )


def _key(call: CallSettings, call_id: str) -> dict[str, str]:
    if isinstance(call, TriggerSettings) and call.idempotency_header:
        return {call.idempotency_header: call_id}
    return {}


def _body(call: CallSettings, mode: str) -> dict[str, Any] | None:
    of_mode = call.modes[mode] if isinstance(call, TriggerSettings) and mode else None
    if call.body is None and of_mode is None:
        return None
    return {**(call.body or {}), **(of_mode or {})}


def _run_id(call: CallSettings, told: Any) -> str:
    path = pointer(call.run_id) if isinstance(call, TriggerSettings) else None
    value = None if path is None else path.value(told)
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return tame(str(value), 200)
    return ""


def _said(answer: Answer) -> str:
    return answer.body[:300].decode("utf-8", "replace")
