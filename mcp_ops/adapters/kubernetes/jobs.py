"""The list of jobs: schedules by name, then the runs that no schedule made."""

from __future__ import annotations

import re
from typing import Final

from mcp_ops.adapters.kubernetes.failures import Ask
from mcp_ops.adapters.kubernetes.fields import Obj, uid_of
from mcp_ops.adapters.kubernetes.runs import Run, listed_run, listed_schedule, read_run
from mcp_ops.adapters.kubernetes.site import Site
from mcp_ops.capabilities.jobs import Job, JobPage
from mcp_ops.errors import Conflict, InvalidInput, Rejected

_CURSOR: Final = re.compile(r"([cr])\.([A-Za-z0-9_=+/.-]{0,500})")
_SCHEDULES: Final = "c"
_RUNS: Final = "r"
_RUNS_READ: Final = 250
_PAGES: Final = 8
_STALE: Final = "The cursor is too old or not one of this list."


async def list_jobs(site: Site, *, limit: int, cursor: str) -> JobPage:
    """One page; see `JobScheduler`. At most 2,000 runs are looked at for it."""
    part, token = _parse(cursor)
    items: list[Job] = []
    looked = ""
    if part == _SCHEDULES:
        found, token = await _page(site, "cronjobs", limit=limit, token=token)
        runs, cut = (
            await _owned_runs(site, {uid_of(one) for one in found}) if found else ({}, False)
        )
        now = site.clock.now()
        for one in found:
            owned = runs.get(uid_of(one), [])
            items.append(listed_schedule(one, owned, site.bounds.too_long, now))
        looked = f"; of the runs only the first {_RUNS_READ * _PAGES} were looked at" if cut else ""
        part = _SCHEDULES if token else _RUNS
    if part == _RUNS and len(items) < limit:
        more, token = await _unowned(site, limit=limit - len(items), token=token)
        items += more
        part = _RUNS if token else ""
    next_cursor = f"{part}.{token}" if part else ""
    return JobPage(
        items=items,
        next_cursor=next_cursor,
        truncated=bool(next_cursor),
        searched=f"cron jobs and jobs of the target's namespace{looked}",
    )


async def runs_of(site: Site, schedule: Obj) -> list[Run]:
    """The runs that a schedule has, those that people started included."""
    found, cut = await _owned_runs(site, {uid_of(schedule)})
    if cut:
        raise Conflict(
            "The namespace has more jobs than can be looked at; nothing was done.",
            hint="A person has to clear jobs that have ended.",
        )
    return found.get(uid_of(schedule), [])


async def _owned_runs(site: Site, owners: set[str]) -> tuple[dict[str, list[Run]], bool]:
    """The runs of these schedules by uid, and whether there were more than are looked at."""
    found: dict[str, list[Run]] = {}
    token = ""
    for _ in range(_PAGES):
        page, token = await _page(site, "jobs", limit=_RUNS_READ, token=token)
        for run in map(read_run, page):
            if run.owner in owners:
                found.setdefault(run.owner, []).append(run)
        if not token:
            break
    return found, bool(token)


async def _unowned(site: Site, *, limit: int, token: str) -> tuple[list[Job], str]:
    """Up to `limit` runs without a schedule, and the token of where to go on."""
    items: list[Job] = []
    for _ in range(_PAGES):
        page, token = await _page(site, "jobs", limit=limit - len(items), token=token)
        now = site.clock.now()
        runs = [run for run in map(read_run, page) if not run.owner]
        items += [listed_run(run, site.bounds.too_long, now) for run in runs]
        if not token or len(items) >= limit:
            break
    return items, token


async def _page(site: Site, plural: str, *, limit: int, token: str) -> tuple[list[Obj], str]:
    query: dict[str, str | int] = {"limit": limit}
    if token:
        query["continue"] = token
    ask = Ask(verb="list", resource=f"{plural}.batch")
    try:
        return await site.api.list_page(site.api.path("batch", plural), ask, **query)
    except (Conflict, Rejected) as exc:
        if not token:
            raise
        raise InvalidInput(_STALE, hint="Call list_jobs again without a cursor.") from exc


def _parse(cursor: str) -> tuple[str, str]:
    if not cursor:
        return _SCHEDULES, ""
    found = _CURSOR.fullmatch(cursor)
    if not found:
        raise InvalidInput("cursor must be the next_cursor of an earlier page.")
    return found[1], found[2]
