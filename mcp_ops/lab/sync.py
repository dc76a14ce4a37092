"""The sync endpoints of the runbooks: a backend that loads sales and knowledge from elsewhere.

`sales` can be started in three modes; a lock keeps it from running twice. `knowledge` is on a
schedule that can be held, and a run of it can be ended.
"""

from __future__ import annotations

import hmac
import itertools
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_ops.clock import rfc3339
from mcp_ops.lab.oauth.wire import Wire, cut_answer
from mcp_ops.lab.standin import EffectLog, Faults, StandIn

SUPPORTED: Final = (
    "hung",
    "sync-fails",
    "stale",
    "lost-request",
    "lost-response",
    "throttled",
    "unavailable",
)
MODES: Final = ("dry-run", "incremental", "full")
_STALE_S: Final = 2 * 86_400.0
_JOBS_THERE: Final = {"sales": False, "knowledge": True}


@dataclass(slots=True)
class _Job:
    """A job and its newest run; it ends by the clock."""

    name: str
    takes_s: float
    keyed: bool = False
    started: float | None = None
    ended: float | None = None
    last_success: float | None = None
    run_id: int = 0
    mode: str = ""
    error: str = ""
    hung: bool = False
    fails: bool = False
    held: bool = False
    keys: dict[str, int] = field(default_factory=dict)

    def settle(self, now: float) -> None:
        """What has ended by now has ended."""
        if self.started is None or self.ended is not None or self.hung:
            return
        if now < self.started + self.takes_s:
            return
        self.ended = self.started + self.takes_s
        if self.fails:
            self.error = "Login failed for user 'sync_reader'"
        elif self.mode != "dry-run":
            self.last_success = self.ended

    @property
    def running(self) -> bool:
        return self.started is not None and self.ended is None

    def status(self) -> str:
        """The state in the backend's words."""
        if self.running:
            return "running"
        if self.ended is None:
            return "never_run"
        return "failed" if self.error else "completed"


class _Backend:
    """The endpoints, over the faults in force."""

    def __init__(
        self,
        *,
        key: str,
        log: EffectLog,
        clock: Callable[[], float],
        takes_s: float,
        jobs: Mapping[str, bool],
    ) -> None:
        self._key = key
        self._log = log
        self._clock = clock
        self._faults = Faults()
        self._ids = itertools.count(1)
        self._jobs = {name: _Job(name, takes_s, keyed=keyed) for name, keyed in jobs.items()}
        for job in self._jobs.values():
            job.last_success = clock() - 3_600

    def found(self, *, held: Collection[str], hung: Collection[str]) -> None:
        """How jobs are when nobody has asked for anything yet."""
        for name in held:
            self._jobs[name].held = True
        for name in hung:
            job = self._jobs[name]
            job.run_id, job.started, job.hung = next(self._ids), self._clock(), True

    def inject(self, name: str) -> None:
        if name not in SUPPORTED:
            raise KeyError(name)
        self._faults.active.add(name)
        if name == "stale":
            for job in self._jobs.values():
                job.last_success = self._clock() - _STALE_S
        if name == "hung":  # one that runs, too
            for job in self._jobs.values():
                job.settle(self._clock())
                job.hung = True

    def mend(self, name: str) -> None:
        if name not in SUPPORTED:
            raise KeyError(name)
        self._faults.active.discard(name)
        if name == "hung":
            for job in self._jobs.values():
                job.hung = False

    def refusal(self) -> Response | None:
        """What stands before every endpoint."""
        for name, status, wait in (("unavailable", 503, "5"), ("throttled", 429, "30")):
            if name in self._faults:
                return JSONResponse({"detail": name}, status, headers={"Retry-After": wait})
        return None

    async def health(self, _request: Request) -> Response:
        """Open to anyone, as the platform's probe has it."""
        job = self._settled("sales")
        at = rfc3339(job.last_success) if job.last_success else None
        return JSONResponse({"status": "healthy", "data_status": {"last_sync_at": at}})

    async def status(self, request: Request) -> Response:
        if (no := self._refused(request)) is not None:
            return no
        job = self._settled(request.path_params["job"])
        return JSONResponse(
            {
                "status": job.status(),
                "run_id": f"{job.name}-{job.run_id}" if job.run_id else None,
                "mode": job.mode,
                "started_at": rfc3339(job.started) if job.started else None,
                "last_sync_at": rfc3339(job.last_success) if job.last_success else None,
                "error": job.error,
                "paused": job.held,
            }
        )

    async def start(self, request: Request) -> Response:
        """Start a run; with a key that was seen before, the run of that key is answered."""
        if (no := self._refused(request)) is not None:
            return no
        if "lost-request" in self._faults:
            return cut_answer()
        job = self._settled(request.path_params["job"])
        mode = _mode(await request.body())
        if mode not in MODES:
            return JSONResponse({"detail": f"mode must be one of {', '.join(MODES)}"}, 422)
        key = request.headers.get("idempotency-key", "") if job.keyed else ""
        if key in job.keys:
            return _started(job, job.keys[key])
        if job.running:
            return JSONResponse({"detail": "Sync already running (lock is held)"}, 409)
        self._begin(job, mode, key, request)
        return cut_answer() if "lost-response" in self._faults else _started(job, job.run_id)

    def _begin(self, job: _Job, mode: str, key: str, request: Request) -> None:
        job.run_id, job.mode, job.error = next(self._ids), mode, ""
        job.started, job.ended = self._clock(), None
        job.hung, job.fails = "hung" in self._faults, "sync-fails" in self._faults
        if key:
            job.keys[key] = job.run_id
        facts = {"mode": mode, "run": job.run_id, "key": key, "agent": _agent(request)}
        self._log.append("sync-started", job=job.name, **facts)

    async def act(self, request: Request) -> Response:
        """Cancel, pause and unpause: all but `sales` can be told to."""
        if (no := self._refused(request)) is not None:
            return no
        job, act = self._settled(request.path_params["job"]), request.path_params["act"]
        if act not in ("cancel", "pause", "unpause") or job.name == "sales":
            return JSONResponse({"detail": "Not Found"}, 404)
        changes = True
        if act == "cancel":
            if not job.running:
                return JSONResponse({"detail": "Nothing runs"}, 409)
            job.ended, job.error = self._clock(), "cancelled"
        else:
            changes, job.held = job.held != (act == "pause"), act == "pause"
        if changes:
            self._log.append(f"sync-{act}", job=job.name, agent=_agent(request))
        return cut_answer() if "lost-response" in self._faults else JSONResponse({"ok": True})

    def _settled(self, name: str) -> _Job:
        job = self._jobs[name]
        job.settle(self._clock())
        return job

    def _refused(self, request: Request) -> Response | None:
        given = request.headers.get("x-admin-key", "")
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            return JSONResponse({"detail": "Invalid admin key"}, 401)
        if request.path_params.get("job", "sales") not in self._jobs:
            return JSONResponse({"detail": "Not Found"}, 404)
        return None

    def routes(self) -> list[Route]:
        """The paths of the backend."""
        return [
            Route("/health", self.health),
            Route("/admin/sync-{job}/status", self.status),
            Route("/admin/sync-{job}", self.start, methods=["POST"]),
            Route("/admin/sync-{job}/{act}", self.act, methods=["POST"]),
        ]


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")


def _mode(body: bytes) -> str:
    try:
        asked = json.loads(body or b"{}")
    except ValueError:
        return ""
    return str(asked.get("mode", "incremental")) if isinstance(asked, dict) else ""


def _started(job: _Job, run: int) -> Response:
    said = {"status": "sync_started", "run_id": f"{job.name}-{run}", "message": "Sync started"}
    return JSONResponse(said, 202)


def sync_backend(
    *,
    directory: Path,
    key: str,
    clock: Callable[[], float] = time.time,
    takes_s: float = 20.0,
    jobs: Mapping[str, bool] = _JOBS_THERE,
    held: Collection[str] = (),
    hung: Collection[str] = (),
) -> StandIn:
    """Build the stand-in; `key` is what its admin endpoints ask for, a run takes `takes_s`.
    `jobs` says of each whether it starts one run for one idempotency key; those of `held` are held
    when it starts, those of `hung` run without end."""
    log = EffectLog(directory / "sync.effects.jsonl", now=clock)
    app = _Backend(key=key, log=log, clock=clock, takes_s=takes_s, jobs=jobs)
    app.found(held=held, hung=hung)
    return StandIn(
        name="sync",
        app=Wire(Starlette(routes=app.routes()), now=clock, refuse=app.refusal),
        log=log,
        supported=SUPPORTED,
        inject=app.inject,
        mend=app.mend,
    )


def jobs_toml() -> str:
    """How the target of these endpoints is configured, after its url and headers."""
    return _JOBS


_STATUS: Final = """\
running = '$.status == "running"'
succeeded = '$.status == "completed"'
failed = '$.status == "failed"'
suspended = '$.paused'
stale = 'age($.last_sync_at) > 86400'
run_id = "$.run_id"
last_start = "$.started_at"
last_success = "$.last_sync_at"
problem = "$.error"
"""

_JOBS: Final = f"""\
[targets.syncs.jobs.sales]
too_long_s = 600
[targets.syncs.jobs.sales.status]
path = "/admin/sync-sales/status"
{_STATUS}\
[targets.syncs.jobs.sales.trigger]
path = "/admin/sync-sales"
modes = {{ dry-run = {{ mode = "dry-run" }}, incremental = {{ mode = "incremental" }}, \
full = {{ mode = "full" }} }}
default_mode = "incremental"
accepted = '$.status == "sync_started"'
run_id = "$.run_id"

[targets.syncs.jobs.knowledge]
too_long_s = 600
schedule = "daily 02:00"
cancel = {{ path = "/admin/sync-knowledge/cancel" }}
suspend = {{ path = "/admin/sync-knowledge/pause" }}
resume = {{ path = "/admin/sync-knowledge/unpause" }}
[targets.syncs.jobs.knowledge.status]
path = "/admin/sync-knowledge/status"
{_STATUS}\
[targets.syncs.jobs.knowledge.trigger]
path = "/admin/sync-knowledge"
idempotency_header = "Idempotency-Key"
run_id = "$.run_id"
"""
