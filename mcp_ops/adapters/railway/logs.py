"""Build and runtime logs of a service's deployments: bounded, filtered and merged here.

Railway has a filter language of its own; what a caller greps for is never put into it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any, Final

from mcp_ops.adapters.railway.api import Api
from mcp_ops.adapters.railway.operations import Query
from mcp_ops.adapters.railway.state import (
    Deployment,
    Service,
    objects,
    seconds,
    text,
)
from mcp_ops.capabilities.deployments import DeploymentLogs, LogLevel, LogLine
from mcp_ops.clock import rfc3339
from mcp_ops.errors import BadAnswer, Conflict, NotFound
from mcp_ops.redact import tame

FILTER_LINES: Final = 2_000
PAGE_CHARS: Final = 12_000
STARTING: Final = "Starting Container"
_LINE_CHARS: Final = 300
_LINE_COST: Final = 90
_MATCHED_CHARS: Final = 4_000
_LEVELS: Final = {
    **dict.fromkeys(("trace", "debug", "verbose"), 0),
    **dict.fromkeys(("info", "notice", ""), 1),
    **dict.fromkeys(("warn", "warning"), 2),
    **dict.fromkeys(("error", "err", "fatal", "critical", "panic", "alert", "emerg"), 3),
}
_LOWEST: Final[dict[str, int]] = {"": 0, "debug": 0, "info": 1, "warn": 2, "error": 3}
_BUILT: Final = frozenset({"SUCCESS", "SLEEPING", "REMOVED", "REMOVING", "CRASHED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines. `grep` is a literal, or several with | between; case does not matter."""

    since: float
    tail: int
    grep: str
    level: LogLevel
    previous: bool

    @property
    def lines(self) -> int:
        """How many lines of each log are read: more than are shown where they are chosen here."""
        return max(FILTER_LINES, self.tail) if self.grep or self.level else self.tail


@dataclass(slots=True)
class _Found:
    keep: int
    newest: list[tuple[float, int, str, str]] = field(default_factory=list)
    matched: int = 0
    count: int = 0
    read: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def add(self, at: float, instance: str, line: str) -> None:
        self.matched += 1
        self.count += 1
        entry = (at, self.count, instance, line)
        push = heapq.heappush if len(self.newest) < self.keep else heapq.heappushpop
        push(self.newest, entry)


async def read_logs(api: Api, service: Service, wanted: Wanted) -> DeploymentLogs:
    """The newest matching lines, oldest first.

    Of the newest deployment and of the one that runs; the build log too while a deployment is
    built or when it failed. With `previous`, of the deployment before the newest one. Raises
    `Conflict` where there is none.
    """
    found = _Found(keep=wanted.tail)
    for one in _chosen(service, wanted):
        if one.status not in _BUILT:
            await _read(api, one, wanted, found, build=True)
        await _read(api, one, wanted, found, build=False)
    return _page(found, wanted)


async def last_start(api: Api, deployment: str) -> float:
    """When Railway last started a container of a deployment, as its log says; 0 where it does not.

    A restart changes neither the deployment nor its instances: only this line shows it.
    """
    data = await api.ask(
        Query.RUNTIME_LOGS,
        {"deployment": deployment, "limit": 100, "filter": f'"{STARTING}"'},
    )
    times = [
        seconds(text(line, "timestamp")) or 0.0
        for line in objects(data, "deploymentLogs")
        if text(line, "message").strip() == STARTING
    ]
    return max(times, default=0.0)


def _chosen(service: Service, wanted: Wanted) -> list[Deployment]:
    newest, current = service.latest, service.current
    if newest is None:
        raise Conflict("It was never deployed, so it has no logs.")
    if wanted.previous:
        before = [one for one in service.history if one.created < newest.created]
        if not before:
            raise Conflict("There was no deployment before the newest one.")
        return before[:1]
    return list({one.id: one for one in (newest, current) if one is not None}.values())


async def _read(api: Api, one: Deployment, wanted: Wanted, found: _Found, *, build: bool) -> None:
    shown = f"{'build' if build else 'logs'} of {one.id}"
    lines = wanted.lines
    try:
        raw = await _fetch(api, one.id, wanted, lines, build=build)
    except NotFound:
        return
    except BadAnswer:  # too large, or not what it should be: the newest of it may still be
        lines = max(lines // 10, 10)
        raw = await _fetch(api, one.id, wanted, lines, build=build)
        found.cut.append(shown)
    if len(raw) >= lines:
        found.cut.append(shown)
    found.read.append(shown)
    _pick(raw, one, wanted, found, build=build)


async def _fetch(
    api: Api, deployment: str, wanted: Wanted, lines: int, *, build: bool
) -> list[Any]:
    query = Query.BUILD_LOGS if build else Query.RUNTIME_LOGS
    variables = {"deployment": deployment, "limit": lines, "since": rfc3339(wanted.since)}
    data = await api.ask(query, variables)
    return list(objects(data, "buildLogs" if build else "deploymentLogs"))


def _pick(raw: list[Any], one: Deployment, wanted: Wanted, found: _Found, *, build: bool) -> None:
    literals = [part.lower() for part in wanted.grep.split("|") if part]
    lowest = _LOWEST[wanted.level]
    for line in raw:
        at = seconds(text(line, "timestamp"))
        if at is None or at < wanted.since:
            continue
        message = tame(text(line, "message")[: _MATCHED_CHARS * 2], _MATCHED_CHARS)
        if lowest and _LEVELS.get(text(line, "severity").lower(), 1) < lowest:
            continue
        if literals and not any(part in message.lower() for part in literals):
            continue
        instance = "build" if build else text(line, "tags", "deploymentInstanceId") or one.id
        found.add(at, f"{one.id[:8]}/{instance[:64]}", message)


def _page(found: _Found, wanted: Wanted) -> DeploymentLogs:
    lines: list[LogLine] = []
    room = PAGE_CHARS
    for at, _, instance, line in sorted(found.newest, reverse=True):
        room -= min(len(line), _LINE_CHARS) + len(instance) + _LINE_COST
        if room < 0:
            break
        lines.append(LogLine(at=rfc3339(at), instance=instance, text=line))
    lines.reverse()
    return DeploymentLogs(
        items=lines,
        matched=found.matched,
        truncated=len(lines) < found.matched or bool(found.cut),
        searched=_searched(found, wanted),
    )


def _searched(found: _Found, wanted: Wanted) -> str:
    what = ", ".join(found.read) or "nothing: Railway keeps no such log"
    run = "of the deployment before the newest, " if wanted.previous else ""
    parts = [f"{run}since {rfc3339(wanted.since)}, at most {wanted.lines} lines of each: {what}"]
    if found.cut:
        parts.append(f"only the newest part of {', '.join(dict.fromkeys(found.cut))}")
    return "; ".join(parts)
